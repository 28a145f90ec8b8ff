"""What a run leaves behind, and that it is all one needs: to load, probe, embed and continue."""

import json
import platform
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from small_runs import (
    CLIPS,
    SIGNALS,
    checkpoint,
    clip_files,
    differences,
    make_clips,
    make_signals,
    metrics,
    mmssl,
    signal_files,
    write_recipe,
)

import mmssl as package
from mmssl import build, completing, plugins
from mmssl.config import load
from mmssl.data import encode_flac
from mmssl.registry import ENCODERS
from mmssl.rundir import RunDir

pytestmark = pytest.mark.filterwarnings("ignore")
PROBE = "probe: {labels: [%s], features: [all, %s], fractions: [1.0], seeds: 1}\n"
#: An encoder from outside, which tells how often its file was run.
PLUGIN = '''
import torch
from mmssl import ENCODERS

@ENCODERS.register("middle")
class Middle(torch.nn.Module):
    """The middle of a series, projected."""
    def __init__(self, modality, width: int = 4):
        super().__init__()
        self.dim, self.project = width, torch.nn.Linear(modality.shape[0], width)
    def forward(self, x, rng):
        return self.project(x.mean(dim=2))
'''


@pytest.fixture(scope="module")
def signals(tmp_path_factory):
    """A run of CroSSL from the command line, its recipe in another folder than its data and than this process."""
    folder = tmp_path_factory.mktemp("signals")
    make_signals(folder / "recipes" / "set")
    text = SIGNALS.replace("max_steps: 18", "max_steps: 10") + PROBE % ("act", "global")
    recipe = write_recipe(folder / "recipes", text, "set")  # a path relative to the recipe
    words = ["fit", "--recipe", recipe, "--run-dir", folder / "run", "seed=3", "optim.lr=0.02"]
    from mmssl.cli import main
    assert main([str(word) for word in words]) == 0
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    recipe = write_recipe(folder, CLIPS.replace("max_steps: 13", "max_steps: 4"), make_clips(folder / "set"))
    from mmssl.cli import main
    assert main(["fit", "--recipe", str(recipe), "--run-dir", str(folder / "run")]) == 0
    return folder


def test_it_holds_what_was_typed_and_what_it_meant(signals):
    run = RunDir(signals / "run")
    typed = run.typed_file.read_text().splitlines()
    recipe = signals / "recipes" / "recipe.yaml"
    assert typed[0] == f"# mmssl fit --recipe {recipe} seed=3 optim.lr=0.02"
    assert recipe.read_text().splitlines() == typed[1:-2]
    assert typed[-2:] == ["# override: seed=3", "# override: optim.lr=0.02"]
    whole = yaml.safe_load(run.recipe_file.read_text())
    assert whole["seed"] == 3 and whole["optim"]["lr"] == 0.02 and whole["optim"]["betas"]
    assert whole["data"]["root"] == str(signals / "recipes" / "set")  # so that it holds from any folder
    environment = json.loads((run.root / "environment.json").read_text())
    assert environment["mmssl"] == package.__version__ and environment["python"] == platform.python_version()
    assert torch.__version__.startswith(environment["packages"]["torch"])


def test_the_resolved_recipe_builds_the_same_model(signals):
    first = completing.complete(load(signals / "recipes" / "recipe.yaml", ["seed=3", "optim.lr=0.02"]))
    again = RunDir(signals / "run").load_recipe()
    a, b = (build.method(recipe, build.modalities(recipe)) for recipe in (first, again))
    assert not differences(dict(a.state_dict()), dict(b.state_dict())) and a.optim == b.optim and a.seed == b.seed
    twice = build.method(again, build.modalities(again))
    assert not differences(dict(b.state_dict()), dict(twice.state_dict()))
    assert again.probe == first.probe and again.trainer == first.trainer


def test_metrics_events_and_checkpoints(signals):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    run = signals / "run"
    rows = metrics(run)
    assert [(row["step"], row.get("split", "train")) for row in rows] == [
        (4, "train"), (5, "val"), (8, "train"), (10, "val"), (10, "train")]
    assert {"loss", "sim", "std", "cov", "lr", "epoch"} <= rows[0].keys()
    assert {"val/acc_to_gyro_R@10", "val/rank_acc", "val/std_acc"} <= rows[1].keys()
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    drawn = [(e.step, pytest.approx(e.value)) for e in events.Scalars("train/loss")]
    assert drawn == [(row["step"], row["loss"]) for row in rows if "split" not in row]
    ranks = [row["val/rank_acc"] for row in rows if "split" in row]
    assert [e.value for e in events.Scalars("val/rank_acc")] == pytest.approx(ranks)
    best = max((row for row in rows if "split" in row), key=lambda row: row["val/rank_acc"])
    assert checkpoint(run)["global_step"] == 10 and checkpoint(run, "best")["global_step"] == best["step"]


def test_a_run_that_ends_before_it_can_learn_or_choose_is_told_so(capsys, tmp_path, signals):
    text = SIGNALS.replace("max_steps: 18", "max_steps: 3")
    assert mmssl(capsys, "fit", "--recipe", write_recipe(tmp_path, text, signals / "recipes" / "set"),
                 "--run-dir", tmp_path / "run")[0] == 0
    log = (tmp_path / "run" / "log.txt").read_text()
    assert ("SHORT RUN: all 3 steps lie within the warm-up of 3 (optim.warmup), and the learning rate gets no further "
            "than 0.0067 of 0.01;") in log
    assert "SHORT RUN: it ends before its first validation, at step 5 (trainer.val_every)" in log
    assert not (tmp_path / "run" / "checkpoints" / "best.ckpt").exists()
    assert [row["lr"] for row in metrics(tmp_path / "run") if "split" not in row] == pytest.approx([0.02 / 3])
    assert "SHORT RUN" not in (signals / "run" / "log.txt").read_text()


def test_one_line_loads_it(signals):
    model = package.load(signals / "run")
    assert not model.training and not differences(dict(model.state_dict()), checkpoint(signals / "run")["state_dict"])
    best = package.load(signals / "run", "best")
    assert not differences(dict(best.state_dict()), checkpoint(signals / "run", "best")["state_dict"])


def test_fit_probes_at_its_end_and_probe_does_it_again(capsys, signals):
    run = signals / "run"
    first = json.loads((run / "probe.json").read_text())
    assert first["labels"]["act"].keys() == {"trained", "random weights"}
    text = (run / "probe.txt").read_text()
    assert text.strip() in (run / "log.txt").read_text()
    code, out, _ = mmssl(capsys, "probe", "--run", run)
    assert code == 0 and out == text and json.loads((run / "probe.json").read_text()) == first
    code, out, _ = mmssl(capsys, "probe", "--run", run, "--checkpoint", "best", "probe.features=[acc]")
    assert code == 0 and "acc" in out and json.loads((run / "probe.json").read_text())["checkpoint"] == "best"


def test_what_is_embedded_from_shards_is_what_is_embedded_from_the_files(capsys, tmp_path, clips, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = mmssl(capsys, "embed", "--run", clips / "run", "--data", clips / "set", "--out", "all.npz")
    assert code == 0 and "all.npz: 8 samples: " in out and "video (8, 16)" in out
    packed = np.load("all.npz")
    assert packed["keys"].tolist() == [f"test{n:03d}" for n in range(8)]
    assert packed["label.way"].tolist() == [n % 2 for n in range(8)]
    assert packed["audio.present"].tolist() == [n % 7 != 1 for n in range(8)]
    for number, name, field in ((3, "video", "video.mp4"), (3, "audio", "audio.flac"), (4, "text", "text.json")):
        Path(field).write_bytes(clip_files(number)[field])
        for source in (field, f"{name}={field}"):
            assert mmssl(capsys, "embed", "--run", clips / "run", "--data", source, "--out", "one.npz")[0] == 0
            assert np.array_equal(np.load("one.npz")[f"{name}.present"], [True])
            assert np.allclose(np.load("one.npz")[name][0], packed[name][number], atol=1e-5), name
    both = package.embed_files(clips / "run", ["video.mp4", "audio.flac"])
    assert both.present["video"].tolist() == [True, False] and both.present["audio"].tolist() == [False, True]


def test_a_file_of_another_rate_is_embedded_once_its_reading_is_said(capsys, tmp_path, clips):
    def tone(hertz, rate):
        return encode_flac(0.5 * np.sin(2 * np.pi * hertz * np.arange(round(0.4 * rate)) / rate)[None], rate)

    for name, hertz, rate in (("same", 700, 8000), ("fast", 700, 16000), ("other", 2500, 8000)):
        (tmp_path / f"{name}.flac").write_bytes(tone(hertz, rate))
    embed = ("embed", "--run", clips / "run", "--out", tmp_path / "f.npz", "--data")
    code, _, err = mmssl(capsys, *embed, tmp_path / "fast.flac")
    assert code == 4 and "has 16000 Hz, but the recipe expects 8000 Hz. Set `resample: sinc`" in err
    files = [tmp_path / f"{name}.flac" for name in ("same", "fast", "other")]
    assert mmssl(capsys, "embed", "modalities.audio.resample=sinc", *embed[1:], *files)[0] == 0
    same, fast, other = np.load(tmp_path / "f.npz")["audio"]
    assert abs(fast - same).max() < 0.1 * abs(other - same).max()
    code, _, err = mmssl(capsys, "embed", "data.root=x", *embed[1:], *files)
    assert code == 2 and "embed: 'data.root=x': only modalities.* may change" in err


def test_series_are_embedded_from_their_files_too(capsys, tmp_path, signals):
    embed = ("embed", "--run", signals / "run", "--data")
    whole = mmssl(capsys, *embed, signals / "recipes" / "set", "--split", "val", "--out", tmp_path / "all.npz")
    assert whole[0] == 0
    (tmp_path / "x.npy").write_bytes(signal_files(7, "val")["gyro.npy"])
    assert mmssl(capsys, *embed, f"gyro={tmp_path / 'x.npy'}", "--out", tmp_path / "one.npz")[0] == 0
    packed, one = np.load(tmp_path / "all.npz"), np.load(tmp_path / "one.npz")
    assert np.allclose(one["gyro"][0], packed["gyro"][7], atol=1e-5) and packed["gyro.present"][7]


def test_bad_samples_of_what_is_embedded_are_told(capsys, tmp_path, signals):
    root = make_signals(tmp_path / "set", {"test": 101}, lambda split, number, files: (
        {**files, "acc.npy": b"junk"} if number == 2 else files))
    code, out, _ = mmssl(capsys, "embed", "--run", signals / "run", "--data", root, "--out", tmp_path / "f.npz")
    assert code == 0 and "100 samples: " in out
    assert "\nleft out: test-000000.tar 'test002': acc: npy: not a NumPy" in out
    assert "test002" not in np.load(tmp_path / "f.npz")["keys"].tolist()


def test_a_plug_in_travels_with_the_run(capsys, tmp_path, monkeypatch):
    """The copy is what a resumed run and a probe use; the original may be gone, or another by then."""
    (tmp_path / "middle.py").write_text(PLUGIN)
    text = SIGNALS.replace("acc: {name: conv, width: 8, pool: mean_std}", "acc: {name: middle, width: 16}")
    extra = "plugins: [middle.py]\n" + PROBE % ("act", "acc")
    recipe = write_recipe(tmp_path, text, make_signals(tmp_path / "set"), extra)
    run = tmp_path / "run"
    assert mmssl(capsys, "fit", "--recipe", recipe, "--run-dir", run, "trainer.max_steps=3")[0] == 0
    digest = plugins.identity(str(tmp_path / "middle.py"))
    copy = run / "plugins" / f"middle-{digest[:12]}.py"
    assert copy.read_text() == PLUGIN and RunDir(run).load_recipe().plugins == [str(copy.resolve())]
    before = checkpoint(run)["state_dict"]
    (tmp_path / "middle.py").write_text("raise SystemError('the original was used')")
    monkeypatch.setattr(plugins, "_announced", {})  # as in a new process
    for name in [name for name in sys.modules if name.startswith("mmssl_plugin_middle")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(ENCODERS._parts, "middle")
    assert mmssl(capsys, "fit", "--resume", run, "trainer.max_steps=5")[0] == 0
    assert ENCODERS.find("middle").__module__.startswith("mmssl_plugin_middle")
    assert checkpoint(run)["global_step"] == 5 and differences(before, checkpoint(run)["state_dict"])
    assert mmssl(capsys, "probe", "--run", run)[0] == 0


def test_a_vocabulary_travels_with_the_run(capsys, tmp_path, clips):
    shutil.copytree(clips / "run", tmp_path / "run")
    assert (tmp_path / "run" / "text.vocab.txt").read_text() == (clips / "set" / "vocab.txt").read_text()
    (clips / "set" / "vocab.txt").rename(tmp_path / "moved")
    try:
        model = package.load(tmp_path / "run")
    finally:
        (tmp_path / "moved").rename(clips / "set" / "vocab.txt")
    assert model.modalities["text"].encode("a light") == [4, 5]


def test_started_from_python_it_is_the_same_run(signals, tmp_path):
    recipe = package.load_recipe(signals / "recipes" / "recipe.yaml", ["seed=3", "optim.lr=0.02", "probe.labels=[]"])
    run = package.fit(recipe, tmp_path / "run")
    assert run.typed_file.read_text() == "# started from Python\n" and not (tmp_path / "run" / "probe.json").exists()
    assert not differences(checkpoint(signals / "run")["state_dict"], checkpoint(tmp_path / "run")["state_dict"])
