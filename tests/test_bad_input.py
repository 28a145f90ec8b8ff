"""Whatever is wrong with what it was given: one message that says where, what and what to do, and nothing lost."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_runs import CLIPS, SIGNALS, checkpoint, make_clips, make_signals, metrics, mmssl, same_run, write_recipe

from mmssl.data import Order, encode_npy
from mmssl.rundir import RunDir

pytestmark = pytest.mark.filterwarnings("ignore")
SIZES = {"train": 44, "val": 8, "test": 8}
BAD_AT = 25  # a position of the first epoch, in the fourth batch


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A data set, a recipe over it, and a short run of it."""
    folder = tmp_path_factory.mktemp("good")
    recipe = write_recipe(folder, SIGNALS.replace("max_steps: 18", "max_steps: 6"), make_signals(folder / "set", SIZES))
    from mmssl.cli import main
    assert main(["fit", "--recipe", str(recipe), "--run-dir", str(folder / "run")]) == 0
    return folder


@pytest.fixture
def run_copy(good, tmp_path):
    shutil.copytree(good / "run", tmp_path / "run")
    return tmp_path / "run"


def fit(capsys, folder, recipe, *words):
    return mmssl(capsys, "fit", "--recipe", recipe, "--run-dir", folder / "run", *words)


def one_message(err: str, *said: str) -> None:
    """What went wrong is told on lines of its own that hold all of `said`."""
    lines = [line for line in err.splitlines() if line.startswith("mmssl: ")]
    assert lines, err
    for text in said:
        assert any(text in line for line in lines), (text, lines)


def bad_rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "bad_samples.jsonl").read_text().splitlines()]


def spoiled_at(counts: list[int], per_shard: int, position: int) -> int:
    shard, record = Order(counts, 0, 0).at(position)
    return per_shard * shard + record


def with_bad(root: Path, how, size: int = 44, position: int = BAD_AT) -> tuple[Path, str]:
    """A set of which one training record is spoiled, the one that the first epoch reads at `position`; and its key."""
    counts = [20] * (size // 20) + [size % 20] * (size % 20 > 0)
    number = spoiled_at(counts, 20, position)
    make_signals(root, {**SIZES, "train": size},
                 lambda split, n, files: how(files) if (split, n) == ("train", number) else files)
    return root, f"train{number:03d}"


# what was typed

def test_an_unknown_recipe_or_setting_is_named_with_the_nearest(capsys, tmp_path, good):
    code, _, err = mmssl(capsys, "fit", "--recipe", "crossl_tinny", "--run-dir", tmp_path / "run")
    assert code == 2
    one_message(err, "no recipe is called 'crossl_tinny'", "did you mean 'crossl_tiny'")
    code, _, err = mmssl(capsys, "fit", "--recipe", tmp_path / "none.yaml")
    assert code == 2
    one_message(err, f"no file '{tmp_path / 'none.yaml'}'; expected a YAML file")
    code, _, err = fit(capsys, tmp_path, good / "recipe.yaml", "optim.lrr=1", "trainer.max_steps=many", "optim.lr=fast")
    assert code == 2 and not (tmp_path / "run").exists()
    one_message(err, "optim.lrr: no such setting; did you mean 'lr'", "trainer.max_steps: expected", "optim.lr: expected")


@pytest.mark.parametrize("override, code, said", [
    ("data.root=/nowhere", 4, ("/nowhere: no such folder", "mmssl data pack")),
    ("data.val=vale", 4, ("no split 'vale'", "it has test, train, val")),
    ("data.test=tset", 4, ("no split 'tset'",)),
    ("data.batch_per_device=64", 2, ("44 records, fewer than one batch of 64", "data.batch_per_device")),
    ("probe.labels=[akt]", 2, ("has no label 'akt'; did you mean 'act'",)),
    ("probe.features=[acce]", 2, ("probe.features: no feature is called 'acce'; did you mean 'acc'",)),
    ("encoders.gyro.width=4", 2, ("encoders: an aggregator needs one width",))])
def test_what_cannot_work_is_said_before_anything_is_written(capsys, tmp_path, good, override, code, said):
    found, _, err = fit(capsys, tmp_path, good / "recipe.yaml", "probe.labels=[act]", override)
    assert found == code and not (tmp_path / "run").exists()
    one_message(err, *said)


def test_a_missing_shard_is_named(capsys, tmp_path, good):
    shutil.copytree(good / "set", tmp_path / "set")
    (tmp_path / "set" / "train-000001.tar").unlink()
    code, _, err = fit(capsys, tmp_path, good / "recipe.yaml", f"data.root={tmp_path / 'set'}")
    assert code == 4 and not (tmp_path / "run").exists()
    one_message(err, "the manifest names train-000001.tar", "Copy them again")


def test_a_run_is_never_written_over(capsys, tmp_path, good, run_copy):
    before = sorted((p, p.stat().st_mtime_ns) for p in run_copy.rglob("*"))
    code, _, err = fit(capsys, tmp_path, good / "recipe.yaml")
    assert code == 2 and sorted((p, p.stat().st_mtime_ns) for p in run_copy.rglob("*")) == before
    one_message(err, f"{run_copy}: not empty", f"mmssl fit --resume {run_copy}")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    code, _, err = mmssl(capsys, "fit", "--recipe", good / "recipe.yaml", "--run-dir", tmp_path / "mine")
    assert code == 2 and os.listdir(tmp_path / "mine") == ["thesis.txt"] and "--resume" not in err
    code, _, err = mmssl(capsys, "fit", "--recipe", good / "recipe.yaml", "--run-dir", tmp_path / "mine/thesis.txt/run")
    assert code == 5
    one_message(err, "thesis.txt/run: could not be written (Not a directory)", "choose another folder")


def test_a_folder_that_is_no_run_and_a_change_that_would_make_another_run(capsys, tmp_path, run_copy):
    for verb in (["fit", "--resume", tmp_path], ["probe", "--run", tmp_path], ["fit", "--resume", tmp_path / "none"],
                 ["embed", "--run", tmp_path, "--data", "x.npy", "--out", tmp_path / "f.npz"]):
        code, _, err = mmssl(capsys, *verb)
        assert code == 4
        one_message(err, "not a run directory (no recipe.yaml in it)", "expected one that `mmssl fit` made")
    code, _, err = mmssl(capsys, "fit", "--resume", run_copy, "optim.lr=1")
    assert code == 2
    one_message(err, "'optim.lr=1' would make it another run", "--init-from")


def test_one_process_at_a_time(capsys, run_copy):
    with RunDir(run_copy).locked():
        code, _, err = mmssl(capsys, "fit", "--resume", run_copy, "trainer.max_steps=9")
    assert code == 2 and checkpoint(run_copy)["global_step"] == 6
    one_message(err, f"{run_copy}: another process is training in this folder; wait for it or stop it")
    assert mmssl(capsys, "fit", "--resume", run_copy, "trainer.max_steps=9")[0] == 0
    assert checkpoint(run_copy)["global_step"] == 9


# bad samples

def cut_off(name):
    return lambda files: {**files, name: files[name][:len(files[name]) // 2]} if name in files else files


def two_channels(files):
    return {**files, "acc.npy": encode_npy(torch.randn(2, 60).numpy())}


@pytest.mark.parametrize("how, reason", [(cut_off("acc.npy"), "needs 720 bytes, the file holds"),
                                         (two_channels, "array of shape (2, 60), expected 3 channels (x, y, z)")])
@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_bad_samples_stop_with_a_checkpoint_and_go_on_when_more_are_allowed(capsys, tmp_path, workers, how, reason):
    """A share of 1/44 is more than 1 %; the run that goes on is the one that had allowed it from the start."""
    root, key = with_bad(tmp_path / "set", how)
    recipe = write_recipe(tmp_path, SIGNALS, root)
    same = ("trainer.checkpoint_every=100", f"data.workers={workers}")
    code, _, err = fit(capsys, tmp_path, recipe, *same)
    run = tmp_path / "run"
    step = checkpoint(run)["global_step"]
    assert code == 3 and (step == 3 if workers == 0 else 1 <= step <= 3)
    one_message(err, f"{root}: 1 of 44 samples of split 'train' are bad, more than data.bad_samples = 0.01 allows", key,
                str(run / "bad_samples.jsonl"), reason, "or raise data.bad_samples",
                f"stopped after step {step}; when that is mended, continue with: mmssl fit --resume {run}")
    assert [(row["key"], row["shard"]) for row in bad_rows(run)] == [(key, f"train-{int(key[5:]) // 20:06d}.tar")]
    assert reason in bad_rows(run)[0]["reason"]
    code, out, _ = mmssl(capsys, "fit", "--resume", run, "data.bad_samples=0.1", *same)
    assert code == 0 and len(bad_rows(run)) == 1
    assert f"1 bad sample was left out; {run / 'bad_samples.jsonl'} says which and why" in out
    assert mmssl(capsys, "fit", "--recipe", recipe, "--run-dir", tmp_path / "whole", "data.bad_samples=0.1")[0] == 0
    assert not same_run(tmp_path / "whole", run)


def test_a_few_bad_samples_are_left_out_counted_and_listed(capsys, tmp_path):
    root, key = with_bad(tmp_path / "set", cut_off("acc.npy"), size=104, position=10)
    code, out, _ = fit(capsys, tmp_path, write_recipe(tmp_path, SIGNALS, root), "trainer.max_steps=4")
    assert code == 0 and checkpoint(tmp_path / "run")["global_step"] == 4
    assert "1 bad sample was left out" in out and [row["key"] for row in bad_rows(tmp_path / "run")] == [key]
    assert "1 bad sample was left out" in (tmp_path / "run" / "log.txt").read_text()


def test_a_truncated_film_is_named(capsys, tmp_path):
    make_clips(tmp_path / "whole")
    root = tmp_path / "set"
    shutil.copytree(tmp_path / "whole", root)
    shard, names = root / "train-000000.tar", []
    data = bytearray(shard.read_bytes())
    place = data.index(b"train003.video.mp4")
    size = int(data[place + 124:place + 135], 8)
    data[place + 512 + size // 2:place + 512 + size] = bytes(size - size // 2)  # as a broken download leaves it
    shard.write_bytes(data)
    recipe = write_recipe(tmp_path, CLIPS, root)
    code, _, err = fit(capsys, tmp_path, recipe, "data.workers=0")
    assert code == 3
    one_message(err, f"{root}: 1 of 36 samples of split 'train' are bad", "train-000000.tar 'train003': video: ")
    names = [row["key"] for row in bad_rows(tmp_path / "run")]
    code, _, _ = mmssl(capsys, "fit", "--resume", tmp_path / "run", "data.bad_samples=0.05", "trainer.max_steps=6")
    assert code == 0 and names == ["train003"] and metrics(tmp_path / "run")[-1]["step"] == 6


@pytest.mark.parametrize("place, bad", [("header", 1), ("end", 4)])
def test_a_corrupt_tar_costs_what_is_broken(capsys, tmp_path, good, place, bad):
    """A header in the middle that is no header, or a shard that was cut off: the records behind it still count."""
    root = tmp_path / "set"
    shutil.copytree(good / "set", root)
    shard = root / "train-000001.tar"
    data = bytearray(shard.read_bytes())
    if place == "header":
        start = data.index(b"train027.acc.npy")
        data[start:start + 512] = os.urandom(512)
    else:
        del data[data.index(b"train036."):]
    shard.write_bytes(data)
    code, _, err = fit(capsys, tmp_path, good / "recipe.yaml", f"data.root={root}")
    assert code == 3
    one_message(err, "train-000001.tar", f"mmssl data verify {root}", "data.bad_samples")
    assert all(row["shard"] == "train-000001.tar" for row in bad_rows(tmp_path / "run"))
    code, out, err = mmssl(capsys, "fit", "--resume", tmp_path / "run", "data.bad_samples=0.5")
    assert code == 0 and f"{len(bad_rows(tmp_path / 'run'))} bad sample" in out and len(bad_rows(tmp_path / "run")) >= bad
    code, out, _ = mmssl(capsys, "data", "verify", root)
    assert code == 4 and "train-000001.tar" in out


def test_a_recipe_that_fits_no_sample_is_told_after_the_first_ones(capsys, tmp_path, good):
    code, _, err = fit(capsys, tmp_path, good / "recipe.yaml", "modalities.acc.rate=25", "data.bad_samples=1.0")
    assert code == 3
    one_message(err, "the first 16 samples of split 'train' are all bad", "20", "the recipe expects 25 Hz. Set `rate`")


# the disk

def test_a_full_disk_stops_with_its_name_and_the_run_goes_on(capsys, tmp_path, good):
    size = (good / "run" / "checkpoints" / "last.ckpt").stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1000, limits[1]))
    try:
        code, _, err = fit(capsys, tmp_path, good / "recipe.yaml")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 5
    one_message(err, "last.ckpt: could not be written (File too large)", "Free some space",
                f"continue with: mmssl fit --resume {tmp_path / 'run'}")
    assert mmssl(capsys, "fit", "--resume", tmp_path / "run")[0] == 0
    assert not same_run(good / "run", tmp_path / "run")


@pytest.fixture
def tiny_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48k", "none", disk],
                                      capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.parametrize("kib", [8, 24, 60, 130, 260, 520])
def test_a_disk_that_is_full_at_any_point(capsys, tiny_disk, good, kib):
    """Real file system, full while the folder is made, while metrics, TensorBoard's events or a checkpoint is written."""
    subprocess.run(["mount", "-o", f"remount,size={kib}k", tiny_disk], check=True)
    code, _, err = mmssl(capsys, "fit", "--recipe", good / "recipe.yaml", "--run-dir", tiny_disk / "run")
    assert code == 5 and "Logging error" not in err
    one_message(err, str(tiny_disk / "run"), "No space left on device")
    if (tiny_disk / "run" / "checkpoints" / "last.ckpt").exists():
        assert 0 < checkpoint(tiny_disk / "run")["global_step"] <= 6
    subprocess.run(["mount", "-o", "remount,size=8m", tiny_disk], check=True)
    if (tiny_disk / "run" / "recipe.yaml").exists():
        assert mmssl(capsys, "fit", "--resume", tiny_disk / "run")[0] == 0
        assert not same_run(good / "run", tiny_disk / "run")


def test_output_that_nobody_can_take(good):
    command = [sys.executable, "-m", "mmssl", "recipes", "list"]
    here = Path(__file__).parents[1]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=here, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 5 and done.stderr.startswith("mmssl: the output: No space left on device; free some")
    assert done.stderr.count("\n") == 1


# checkpoints

class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def bad_checkpoints(folder: Path, good: Path) -> dict[str, tuple[Path, str]]:
    data = good.read_bytes()
    found = {name: folder / f"{name}.ckpt" for name in ("truncated", "pickled", "none", "list", "other")}
    found["truncated"].write_bytes(data[:len(data) // 2])
    torch.save({"state_dict": Bomb(folder / "ran")}, found["pickled"])
    torch.save([1, 2], found["list"])
    torch.save({"format_version": 1, "state_dict": {"w": torch.zeros(2)}}, found["other"])
    said = {"truncated": "cut short", "pickled": "holds objects that only code could restore", "none": "no such checkpoint",
            "list": "checkpoint", "other": "fit"}
    return {name: (path, said[name]) for name, path in found.items()}


@pytest.mark.parametrize("name", ["truncated", "pickled", "none", "list", "other"])
def test_a_checkpoint_that_is_none_is_refused_and_runs_nothing(capsys, tmp_path, good, run_copy, name):
    path, said = bad_checkpoints(tmp_path, good / "run" / "checkpoints" / "last.ckpt")[name]
    code, _, err = mmssl(capsys, "fit", "--recipe", good / "recipe.yaml", "--run-dir", tmp_path / "new", "--init-from", path)
    assert code == (2 if name == "other" else 4) and not (tmp_path / "new").exists()
    one_message(err, f"{path}: ", said if name != "list" else "holds no weights by name")
    out = tmp_path / "f.npz"
    code, _, err = mmssl(capsys, "embed", "--run", run_copy, "--data", good / "set", "--checkpoint", path, "--out", out)
    assert code == 4 and not out.exists()
    one_message(err, f"{path}: ", said)
    if name != "none":
        last = run_copy / "checkpoints" / "last.ckpt"
        shutil.copy(path, last)
        code, _, err = mmssl(capsys, "fit", "--resume", run_copy)
        assert code == 4 and last.read_bytes() == path.read_bytes()
        one_message(err, f"{last}: ")
    assert not (tmp_path / "ran").exists()


def test_init_from_says_what_matched(capsys, tmp_path, good):
    last = good / "run" / "checkpoints" / "last.ckpt"
    code, out, _ = fit(capsys, tmp_path, good / "recipe.yaml", "--init-from", last, "trainer.max_steps=1",
                       "modalities.gyro.channels=2", "data.bad_samples=1.0", "modalities.gyro.seconds=1.0")
    total = len(checkpoint(good / "run")["state_dict"])
    assert code == 3 or code == 0
    assert f"weights from {last}: {total - 1} of {total} tensors matched" in out
    assert "1 of another shape, kept as drawn: encoders.gyro." in out
    torch.save({"something": torch.zeros(3)}, tmp_path / "x.pt")
    code, _, err = mmssl(capsys, "fit", "--recipe", good / "recipe.yaml", "--run-dir", tmp_path / "no",
                         "--init-from", tmp_path / "x.pt")
    assert code == 2 and not (tmp_path / "no").exists()
    one_message(err, f"{tmp_path / 'x.pt'}: none of its 1 tensors fits this model ({total} tensors)")


# what is embedded

@pytest.mark.parametrize("data, code, said", [
    ("gone.npy", 4, ("gone.npy",)), ("notes.xyz", 4, ("notes.xyz: no modality finds anything", "acc reads npy")),
    ("acc=broken.npy", 4, ("broken.npy: not a NumPy array file",)), ("acc=two.npy", 4, ("two.npy", "expected (3, T), got (2, 60)")),
    ("acce=two.npy", 2, ("no modality is called 'acce'; did you mean 'acc'",)),
    ("two.npy", 2, ("acc and gyro read .npy; write e.g. acc=",))])
def test_a_file_that_cannot_be_embedded(capsys, tmp_path, good, monkeypatch, data, code, said):
    monkeypatch.chdir(tmp_path)
    Path("notes.xyz").write_text("hello")
    Path("broken.npy").write_bytes(b"junk")
    Path("two.npy").write_bytes(two_channels({})["acc.npy"])
    found, _, err = mmssl(capsys, "embed", "--run", good / "run", "--data", data, "--out", "f.npz")
    assert found == code and not Path("f.npz").exists()
    one_message(err, *said)
