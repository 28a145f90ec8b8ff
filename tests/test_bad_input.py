"""Whatever is wrong with what it was given: one message that says where, what and what to do, and nothing lost."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from small_runs import (
    CLIPS,
    SIGNALS,
    SIZES,
    checkpoint,
    fit,
    good,
    make_clips,
    make_signals,
    metrics,
    mmssl,
    one_message,
    run_copy,
    same_run,
    write_recipe,
)

from mmssl.data import Order, Split, encode_npy
from mmssl.errors import DataError
from mmssl.rundir import RunDir

__all__ = ["good", "run_copy"]
pytestmark = pytest.mark.filterwarnings("ignore")
BAD_AT = 25  # a position of the first epoch, in the fourth batch


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
    wrong = ("optim.lrr=1", "trainer.max_steps=many", "optim.lr=fast")
    code, _, err = fit(capsys, tmp_path, good / "recipe.yaml", *wrong)
    assert code == 2 and not (tmp_path / "run").exists()
    one_message(err, "optim.lrr: no such setting; did you mean 'lr'", "trainer.max_steps: expected",
                "optim.lr: expected")


@pytest.mark.parametrize("override, code, said", [
    ("data.root=/nowhere", 4, ("/nowhere: no such folder", "mmssl data pack")),
    ("data.val=vale", 4, ("no split 'vale'", "it has test, train, val")),
    ("data.test=tset", 4, ("no split 'tset'",)),
    ("data.batch_per_device=64", 2, ("44 records, fewer than one batch of 64", "data.batch_per_device")),
    ("probe.labels=[akt]", 2, ("has no label 'akt'; did you mean 'act'",)),
    ("probe.features=[acce]", 2, ("probe.features: no feature is called 'acce'; did you mean 'acc'",)),
    ("trainer.accelerator=tpuu", 2, ("trainer: accelerator tpuu, devices 1, precision 32-true: not on this machine (",
                                     "trainer.accelerator=auto takes what there is")),
    ("trainer.precision=bf16-true", 2, ("trainer.precision: expected one of 32-true, bf16-mixed, 16-mixed",)),
    ("encoders.gyro.width=4", 2, ("encoders: an aggregator needs one width",))])
def test_what_cannot_work_is_said_before_anything_is_written(capsys, tmp_path, good, override, code, said):
    found, _, err = fit(capsys, tmp_path, good / "recipe.yaml", "probe.labels=[act]", override)
    assert found == code and not (tmp_path / "run").exists()
    one_message(err, *said)


def test_a_probe_of_what_is_not_there_is_told_before_anything_is_computed(capsys, run_copy, monkeypatch):
    monkeypatch.setattr("mmssl.evaluate.probing.extract", None)
    code, _, err = mmssl(capsys, "probe", "--run", run_copy, "probe.labels=[akt]", "probe.features=[acce]")
    assert code == 2 and len(err.splitlines()) == 2
    one_message(err, "has no label 'akt'; did you mean 'act'?", "probe.features: no feature is called 'acce'; did you")


def test_groups_that_a_cut_shard_has_lost_are_no_fault_of_the_split(tmp_path):
    root = make_signals(tmp_path / "set", {"train": 5, "val": 5})
    shard = next(root.glob("train*.tar"))
    shard.write_bytes(shard.read_bytes()[:shard.stat().st_size // 2])
    assert len(Split(root, "train", ["train0"])) == 1
    with pytest.raises(DataError, match=r"train4 are not there, and train-000000\.tar cannot be read whole; copy that"):
        Split(root, "train", ["train0", "train4"])
    with pytest.raises(DataError, match=r"val9 are not there; change data\.split"):
        Split(make_signals(tmp_path / "whole", {"val": 5}), "val", ["val9"])


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


def test_a_run_that_holds_a_setting_of_another_version(capsys, tmp_path, run_copy):
    file = run_copy / "recipe.yaml"
    whole = file.read_text()
    for typo in ("trainer.max_stepz=7", "optim.lr=fast"):  # the fault of who typed it, not of the run
        code, _, err = mmssl(capsys, "probe", "--run", run_copy, typo)
        assert code == 2 and "recipe.yaml" not in err and len(err.splitlines()) == 1
    file.write_text(whole.replace("optim:\n", "optim:\n  speed: 2\n").replace("name: vicreg", "name: vicregg"))
    for verb in (["fit", "--resume", run_copy], ["probe", "--run", run_copy, "probe.seeds=1"],
                 ["finetune", "--run", run_copy, "--task", "series", "finetune.label=act"],
                 ["embed", "--run", run_copy, "--data", "x.npy", "--out", tmp_path / "f.npz"]):
        code, _, err = mmssl(capsys, *verb)
        first, *lines = err.splitlines()
        assert code == 2 and first == (
            f"mmssl: {run_copy}: this mmssl cannot read the run's recipe.yaml, for what follows; use the version that "
            "made the run (environment.json names it), or mend recipe.yaml")
        assert sorted(lines) == ["mmssl: loss: no loss is called 'vicregg'; did you mean 'vicreg'?",
                                 "mmssl: optim.speed: no such setting; did you mean 'shape'?"], err
    file.write_text("name: [")
    one_message(mmssl(capsys, "report", "--run", run_copy)[2], f"{run_copy}: this mmssl cannot read", f"{file}: not")


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


@pytest.mark.parametrize("workers, how, reason", [
    (0, cut_off("acc.npy"), "needs 720 bytes, the file holds"),
    (2, two_channels, "array of shape (2, 60), expected 3 channels (x, y, z)")])
def test_too_many_bad_samples_stop_and_go_on_when_more_are_allowed(capsys, tmp_path, workers, how, reason):
    """With a checkpoint; 1 of 44 is more than 1 %. What goes on is the run that had allowed it from the start."""
    root, key = with_bad(tmp_path / "set", how)
    recipe = write_recipe(tmp_path, SIGNALS.replace("max_steps: 18", "max_steps: 8"), root)
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
    root = make_clips(tmp_path / "set")
    shard = root / "train-000000.tar"
    data = bytearray(shard.read_bytes())
    place = data.index(b"train003.video.mp4")
    size = int(data[place + 124:place + 135], 8)
    data[place + 512 + size // 2:place + 512 + size] = bytes(size - size // 2)  # as a broken download leaves it
    shard.write_bytes(data)
    recipe = write_recipe(tmp_path, CLIPS.replace("max_steps: 13", "max_steps: 6"), root)
    code, _, err = fit(capsys, tmp_path, recipe, "data.workers=0")
    assert code == 3
    one_message(err, f"{root}: 1 of 36 samples of split 'train' are bad", "train-000000.tar 'train003': video: ")
    names = [row["key"] for row in bad_rows(tmp_path / "run")]
    code, _, _ = mmssl(capsys, "fit", "--resume", tmp_path / "run", "data.bad_samples=0.05")
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
    code, out, err = mmssl(capsys, "fit", "--resume", tmp_path / "run", "data.bad_samples=0.5", "trainer.max_steps=3")
    count = len(bad_rows(tmp_path / "run"))
    assert code == 0 and f"{count} bad sample" in out and count >= bad
    code, out, _ = mmssl(capsys, "data", "verify", root)
    assert code == 4 and "train-000001.tar" in out


def test_a_recipe_that_fits_no_sample_is_told_after_the_first_ones(capsys, tmp_path, good):
    code, _, err = fit(capsys, tmp_path, good / "recipe.yaml", "modalities.acc.rate=25", "data.bad_samples=1.0")
    assert code == 3
    one_message(err, "the first 16 samples of split 'train' are all bad", "20", "the recipe expects 25 Hz. Set `rate`")


# what is embedded

@pytest.mark.parametrize("data, code, said", [
    ("gone.npy", 4, ("gone.npy",)), ("notes.xyz", 4, ("notes.xyz: no modality finds anything", "acc reads npy")),
    ("acc=broken.npy", 4, ("broken.npy: npy: not a NumPy array file",)),
    ("acc=two.npy", 4, ("two.npy: series: expected (3, T), got (2, 60)",)),
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
