"""Online probes: their values against slow references; a run is the same with and without them, resumed or not."""

import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from small_runs import (
    CLIPS,
    SIGNALS,
    checkpoint,
    differences,
    make_clips,
    make_signals,
    metrics,
    mmssl,
    same_run,
    write_recipe,
)

from mmssl import build
from mmssl.callbacks.online import known
from mmssl.eval import OnlineLinear, extract
from mmssl.evaluate.loading import open_model
from mmssl.methods import CroSSL
from mmssl.rundir import RunDir

pytestmark = pytest.mark.filterwarnings("ignore")
ONLINE = "online: {labels: [act], features: [global, all, gyro], every: 2, k: 3, batch: 6}\n"
NORMED = '''
import torch
from mmssl import ENCODERS

@ENCODERS.register("normed")
class Normed(torch.nn.Module):
    """The mean of a series after BatchNorm, whose moments a pass in training mode would move."""
    def __init__(self, modality, width: int = 16):
        super().__init__()
        self.dim, self.project, self.norm = width, torch.nn.Linear(3, width), torch.nn.BatchNorm1d(width)
    def forward(self, x, rng):
        return self.norm(self.project(x.std(dim=2)))
'''


def learned_by_hand(batches, classes, several, lr):
    """Weights, bias, mean and variance after Adam on logistic regression, one batch after another, in NumPy."""
    width = batches[0][0].shape[1]
    w, m, v = np.zeros((classes, width + 1)), np.zeros((classes, width + 1)), np.zeros((classes, width + 1))
    mean, var = np.zeros(width), np.ones(width)
    for t, (x, y) in enumerate(batches, 1):
        share = max(0.1, 1 / t)
        mean, var = (1 - share) * mean + share * x.mean(0), (1 - share) * var + share * x.var(0, ddof=1)
        z = np.concatenate([(x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5), np.ones((len(x), 1))], axis=1)
        said = z @ w.T
        if several:
            slope = (1 / (1 + np.exp(-said)) - y) / y.size
        else:
            share_of = np.exp(said) / np.exp(said).sum(1, keepdims=True)
            slope = (share_of - np.eye(classes)[y]) / len(x)
        g = slope.T @ z
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g ** 2
        w = w - lr * (m / (1 - 0.9 ** t)) / (np.sqrt(v / (1 - 0.999 ** t)) + 1e-8)
    return w[:, :-1], w[:, -1], mean, var


@pytest.mark.parametrize("several", [False, True])
def test_a_linear_probe_learns_as_the_formulas_say_and_goes_on_from_its_state(several):
    rng = np.random.default_rng(0)
    batches = [(rng.normal(2, 3, (13, 5)), rng.integers(0, 2, (13, 4)) if several else rng.integers(0, 4, 13))
               for _ in range(13)]
    probe = OnlineLinear(5, 4, several, lr=0.05)
    for x, y in batches:
        probe.learn(torch.from_numpy(x).float(), torch.from_numpy(y))
    w, b, mean, var = learned_by_hand(batches, 4, several, 0.05)
    norm = probe.norm
    for got, want in ((probe.weight, w), (probe.bias, b), (norm.running_mean, mean), (norm.running_var, var)):
        torch.testing.assert_close(got.detach(), torch.from_numpy(want).float(), rtol=2e-3, atol=2e-4)
    x = torch.from_numpy(batches[0][0]).float()
    said = torch.from_numpy((batches[0][0] - mean) / np.sqrt(var + 1e-5) @ w.T + b)
    want = said.sigmoid() if several else said.softmax(1)
    torch.testing.assert_close(probe.outputs(x), want.float(), rtol=2e-3, atol=2e-3)
    half = OnlineLinear(5, 4, several, lr=0.05)
    for x, y in batches[:6]:
        half.learn(torch.from_numpy(x).float(), torch.from_numpy(y))
    again = OnlineLinear(5, 4, several, lr=0.05)
    again.load_state_dict(half.state_dict())
    for x, y in batches[6:]:
        again.learn(torch.from_numpy(x).float(), torch.from_numpy(y))
    assert not differences(again.state_dict(), probe.state_dict())


def test_one_sample_and_no_sample_teach_nothing():
    probe = OnlineLinear(3, 2)
    probe.learn(torch.ones(1, 3), torch.zeros(1, dtype=torch.int64))
    probe.learn(torch.ones(0, 3), torch.zeros(0, dtype=torch.int64))
    assert not probe.weight.any() and probe.batches == 0


def test_which_samples_have_a_label():
    assert known(torch.tensor([0, -1, 3])).tolist() == [True, False, True]
    assert known(torch.tensor([[0, 1], [-1, -1], [0, 0]])).tolist() == [True, False, True]


# Whole runs -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def signals(tmp_path_factory):
    """A data set of its own for the run, and a labelled one of which some lack the label."""
    folder = tmp_path_factory.mktemp("signals")
    make_signals(folder / "set")

    def change(split, number, files):
        return {k: v for k, v in files.items() if k != "labels.json"} if number % 4 == 0 else files
    make_signals(folder / "labelled", {"teach": 30, "ask": 17}, change)
    return folder


def fit(folder, name, recipe, *words):
    """A run from a fixed place of every random stream; where those stand when it is done."""
    torch.manual_seed(5)
    np.random.seed(5)
    from mmssl.cli import main
    assert main(["fit", "--recipe", str(recipe), "--run-dir", str(folder / name), *words]) == 0
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()


def without_probes(run):
    """The last checkpoint and the metrics, without what online probes add."""
    last = checkpoint(run)
    found = last["callbacks"].pop("OnlineProbes", None)
    rows = [{k: v for k, v in row.items() if "/online/" not in k} for row in metrics(run)]
    return found, {"last": last, "metrics": rows}


@pytest.fixture(scope="module")
def watched(signals):
    """The same run without and with online probes on the other data set."""
    (signals / "normed.py").write_text(NORMED)
    text = SIGNALS.replace("max_steps: 18", "max_steps: 10").replace("acc: {name: conv, width: 8, pool: mean_std}",
                                                                     "acc: {name: normed}") + "plugins: [normed.py]\n"
    plain = write_recipe(signals, text, signals / "set")
    streams = [fit(signals, "plain", plain)]
    extra = ONLINE.replace("{", "{root: labelled, train: teach, val: ask, ")
    streams.append(fit(signals, "watched", write_recipe(signals, text, signals / "set", extra)))
    assert streams[0] == streams[1]
    return signals


def test_a_run_is_the_same_to_the_bit_with_and_without_online_probes(watched):
    (nothing, plain), (probes, seen) = without_probes(watched / "plain"), without_probes(watched / "watched")
    assert nothing is None and set(probes["probes"]) == {"act/global", "act/all", "act/gyro"}
    assert any(name.endswith("acc.norm.running_mean") for name in plain["last"]["state_dict"])
    assert not differences(plain, seen)


def test_what_is_logged_is_what_the_probes_say_of_the_held_out_samples(watched):
    run = RunDir(watched / "watched")
    recipe = run.load_recipe()
    assert recipe.online.root == str(watched / "labelled")
    model, parts = open_model(run, recipe, "last")
    data = build.datamodule(build.moved(recipe, recipe.online.root), parts)
    gallery, test = (extract(model, data.loader(split)) for split in ("teach", "ask"))
    logged = [row for row in metrics(run.root) if row.get("split") == "val"][-1]
    states = checkpoint(run.root)["callbacks"]["OnlineProbes"]["probes"]
    for name in ("global", "all", "gyro"):
        rows, asked = (f.present[name] & (f.labels["act"] >= 0) for f in (gallery, test))
        x, y = gallery.x[name][rows], gallery.labels["act"][rows]
        hits, right = 0, 0
        state = states[f"act/{name}"]
        w, b, mean, var = (state[k].double().numpy() for k in (
            "weight", "bias", "norm.running_mean", "norm.running_var"))
        for query, truth in zip(test.x[name][asked], test.labels["act"][asked], strict=True):
            cosines = x @ query / np.linalg.norm(x, axis=1) / np.linalg.norm(query)
            near = y[np.argsort(-cosines, kind="stable")[:3]].tolist()
            votes = {c: (near.count(c), -near.index(c)) for c in near}
            hits += max(votes, key=votes.get) == truth
            right += np.argmax(w @ ((query - mean) / np.sqrt(var + 1e-5)) + b) == truth
        count = asked.sum()
        assert 0 < count < len(test) and 0 < hits and 0 < right < count
        assert logged[f"val/online/act/{name}/knn_accuracy"] == pytest.approx(hits / count)
        assert logged[f"val/online/act/{name}/linear_accuracy"] == pytest.approx(right / count)
    truths = test.labels["act"][test.labels["act"] >= 0]
    common = np.bincount(gallery.labels["act"][gallery.labels["act"] >= 0]).argmax()
    assert logged["val/online/act/chance"] == pytest.approx(np.mean(truths == common))


def test_a_stopped_run_goes_on_with_its_probes_and_its_place_in_the_labelled_data(watched, capsys, monkeypatch):
    step = CroSSL.training_step

    def interrupted(self, batch, batch_idx):
        if self.global_step == 6:
            signal.raise_signal(signal.SIGINT)
        return step(self, batch, batch_idx)
    monkeypatch.setattr(CroSSL, "training_step", interrupted)
    assert mmssl(capsys, "fit", "--recipe", watched / "recipe.yaml", "--run-dir", watched / "stopped")[0] == 130
    assert checkpoint(watched / "stopped")["global_step"] == 7
    monkeypatch.undo()
    assert mmssl(capsys, "fit", "--resume", watched / "stopped")[0] == 0
    assert not same_run(watched / "watched", watched / "stopped")
    place = checkpoint(watched / "stopped")["callbacks"]["OnlineProbes"]["train"]
    assert (place["epoch"], place["consumed"]) == (0, 5)  # of 30 records, in batches of six


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return make_clips(tmp_path_factory.mktemp("clips") / "set")


@pytest.mark.parametrize("method", ["vatt", "vatt_ma"])
def test_films_and_texts_are_watched_on_the_runs_own_splits_and_name_the_best(clips, tmp_path, method):
    text = CLIPS.replace("method: vatt", f"method: {method}").replace("max_steps: 13", "max_steps: 3")
    text = text.replace("val_every: 4", "val_every: 3")
    fit(tmp_path, "plain", write_recipe(tmp_path, text, clips))
    extra = "online: {labels: [way], features: [text, all], every: 1}\n"
    best = "trainer.monitor=val/online/way/text/knn_accuracy"
    fit(tmp_path, "watched", write_recipe(tmp_path, text, clips, extra), best)
    plain, seen = (checkpoint(tmp_path / run)["state_dict"] for run in ("plain", "watched"))
    assert not differences(plain, seen)
    row = [row for row in metrics(tmp_path / "watched") if row.get("split") == "val"][-1]
    kept = checkpoint(tmp_path / "watched", "best")["callbacks"]
    assert next(v for k, v in kept.items() if k.startswith("Checkpoints"))["best_value"] == pytest.approx(
        row["val/online/way/text/knn_accuracy"])
    assert row["val/online/way/text/knn_accuracy"] == 1 and row["val/online/way/chance"] == 0.5  # captions tell the way


def test_what_cannot_be_watched_is_said_at_once(signals, tmp_path, capsys):
    words = ["online.labels=[acct]", "online.features=[golbal]"]
    plain = write_recipe(tmp_path, SIGNALS, signals / "set")
    code, _, err = mmssl(capsys, "fit", "--recipe", plain, "--run-dir", tmp_path / "run", *words)
    assert code == 2 and "has no label 'acct'; did you mean 'act'?" in err and "did you mean 'global'?" in err
    code, _, err = mmssl(capsys, "fit", "--recipe", plain, "online.every=0", "online.k=0")
    assert code == 2 and "online.every" in err and "online.k" in err
    code, _, err = mmssl(capsys, "fit", "--recipe", plain, "--run-dir", tmp_path / "run", "online.labels=[act]",
                         "online.root=nowhere")
    assert code == 4 and "nowhere" in err and not (tmp_path / "run").exists()


def test_samples_without_the_label_are_told_of_once_and_the_run_goes_on(signals, tmp_path, capsys):
    bare = make_signals(tmp_path / "bare", {"val": 4}, lambda split, number, files: {"acc.npy": files["acc.npy"]})
    recipe = write_recipe(tmp_path, SIGNALS.replace("max_steps: 18", "max_steps: 10"), signals / "set",
                          "online: {labels: [act], every: 5}\n")
    words = [f"online.root={bare}", "online.train=val", "trainer.monitor=null"]
    code, out, _ = mmssl(capsys, "fit", "--recipe", recipe, "--run-dir", tmp_path / "run", *words)
    assert code == 0 and out.count("ONLINE: no sample of split 'val'") == 1
    assert not any("/online/" in k for row in metrics(tmp_path / "run") for k in row)


@pytest.mark.slow
def test_two_processes_share_the_labelled_batch_and_leave_the_run_as_it_was(signals, tmp_path):
    text = SIGNALS.replace("max_steps: 18", "max_steps: 10")

    def command(name, extra, devices):
        recipe = write_recipe(tmp_path, text, signals / "set", extra)
        words = [f"trainer.devices={devices}", f"data.batch_per_device={8 // devices}",
                 "optim.lr=1e-9", "optim.final_lr=0"]  # what rounding does to the weights is not to grow
        done = subprocess.run([sys.executable, "-m", "mmssl", "fit", "--recipe", str(recipe), "--run-dir",
                               str(tmp_path / name), *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return tmp_path / name
    online = ONLINE.replace("batch: 6", f"batch: %d, root: {signals / 'labelled'}, train: teach, val: ask")
    plain, two, one = command("plain", "", 2), command("two", online % 3, 2), command("one", online % 6, 1)
    assert not differences(without_probes(plain)[1], without_probes(two)[1])
    mine, alone = (checkpoint(run)["callbacks"]["OnlineProbes"] for run in (two, one))
    assert mine["train"] == alone["train"]
    for name, probe in alone["probes"].items():
        got = mine["probes"][name]
        assert probe["weight"].any() and got["_extra_state"]["batches"] == probe["_extra_state"]["batches"] == 5
        for moment in ("norm.running_mean", "norm.running_var"):  # of the whole batch, not of a share of it
            torch.testing.assert_close(got[moment], probe[moment], rtol=1e-4, atol=1e-5)
    a, b = ([row for row in metrics(run) if row.get("split") == "val"][-1] for run in (two, one))
    assert [k for k in a if "/online/" in k] == [k for k in b if "/online/" in k] and len(b) > 12
    assert a["val/online/act/all/knn_accuracy"] == b["val/online/act/all/knn_accuracy"] > 0
