"""What fine-tuning learns from, how it is scored, and what it refuses."""

import json

import numpy as np
import pytest
import torch
from finetune_common import clips, finetune, signals, tuned
from small_runs import make_signals, mmssl, one_message

import mmssl as package
from mmssl import build, completing, labelled
from mmssl.config import compose
from mmssl.data import Split, encode_json
from mmssl.eval import extract, label_draw, label_fraction, rarest_class
from mmssl.rng import Rng
from mmssl.rundir import RunDir
from mmssl.types import View

__all__ = ["clips", "signals", "tuned"]
pytestmark = pytest.mark.filterwarnings("ignore")


# shares of the labels

def test_a_share_of_the_labels_is_the_one_that_the_probe_takes(signals):
    recipe = completing.complete(package.load_recipe(signals / "recipe.yaml"))
    parts = build.modalities(recipe)
    features = extract(build.method(recipe, parts), build.datamodule(recipe, parts).loader("train"))
    there = features.present["gyro"]
    for draw in (0, 2):
        rows = label_fraction(features.labels["act"][there], 0.3, label_draw(recipe.seed, "act", draw))
        words = ["finetune.features=gyro", "finetune.fraction=0.3", f"finetune.draw={draw}"]
        tuning = completing.complete(compose(signals / "run" / "recipe.yaml", str(signals / "act.yaml"), words))
        own = {"gyro": parts["gyro"]}
        part = labelled.learned(Split(signals / "set", "train"), tuning, own)
        mine = [part.where(s, r)[1] for s, n in enumerate(part.counts) for r in range(n)]
        assert mine == features.keys[there][rows].tolist() and 9 <= len(mine) <= 12


def told(recipe):
    """What a complete recipe learns, as a run says it."""
    return labelled.summary(Split(recipe.data.root, "train"), recipe, build.modalities(recipe))


def test_a_small_share_makes_a_small_batch_and_is_learned_from_alone(signals):
    words = ["finetune.fraction=0.1", "finetune.draw=1"]
    recipe = completing.complete(compose(signals / "run" / "recipe.yaml", str(signals / "act.yaml"), words))
    assert told(recipe) == ["learns act, 3 classes, from 5 of 44 samples of 'train' (10 % of the labels, draw 1), "
                            "1 to 2 of a class; 5 at once"]
    data = build.datamodule(recipe, build.modalities(recipe))
    assert recipe.data.batch_per_device == 5 and len(data.train_dataloader().reader.split) == 5
    assert len(data.val_dataloader().reader.split) == 3 and len(data.loader("test").reader.split) == 13
    assert len(data.loader("train").reader.split) == 44, "for a probe it is whole"


def test_of_several_classes_a_record_counts_for_the_rarest():
    rows = [[0], [0], [0, 1], [0, 2], [2, 1], []]
    assert rarest_class(rows, 3).tolist() == [0, 0, 1, 2, 1, 3]
    hot = np.array([[int(c in row) for c in range(3)] for row in rows] + [[-1] * 3])
    assert sorted(label_fraction(hot, 0.3, Rng()).tolist())[-1] == 5 and len(label_fraction(hot, 0.3, Rng())) == 4


# the score

def test_the_score_is_that_of_the_mean_over_views(capsys, tmp_path, tuned):
    out = tmp_path / "said.npz"
    code, text, _ = mmssl(capsys, "score", "--run", tuned, "--split", "train", "--out", out, "finetune.windows=3")
    assert code == 0 and "44 samples, 3 × 1 views each" in text
    said, recipe = np.load(out), RunDir(tuned).load_recipe()
    model, parts = package.load(tuned, "best"), build.modalities(recipe)
    model.modalities, sums, labels = parts, {}, {}
    for batch in build.datamodule(recipe, parts).loader("train", views=View.grid(3)):
        with torch.no_grad():
            logits, _ = model.classify(batch)
        for i, key in enumerate(batch.keys):
            if batch.valid[i]:
                sums.setdefault(key, []).append(logits[i].double().numpy())
                labels[key] = int(batch.labels["act"][i])
    assert said["keys"].tolist() == list(sums) and said["classes"].tolist() == ["sit", "stand", "walk"]
    means = np.stack([np.mean(rows, axis=0) for rows in sums.values()])
    assert np.allclose(said["logits"], means) and max(len(rows) for rows in sums.values()) == 3
    assert np.abs(np.stack([rows[0] - rows[2] for rows in sums.values()])).max() > 1e-3, "views differ"
    right = np.mean(means.argmax(1) == np.array(list(labels.values())))
    assert json.loads((tuned / "score-train.json").read_text())["scores"]["values"]["accuracy"] == pytest.approx(right)


def test_what_has_no_label_is_left_out_of_the_score(capsys, tmp_path, signals, tuned):
    def some(split, number, files):
        return {**files, "labels.json": encode_json({"labels": {}})} if number % 4 == 1 else files
    root = make_signals(tmp_path / "set", {"test": 8}, some)
    code, out, _ = mmssl(capsys, "score", "--run", tuned, f"data.root={root}")
    assert code == 0 and "6 samples; 2 left out" in out


# what cannot be

@pytest.mark.parametrize("words, code, said", [
    (["finetune.label=[]"], 2, ("finetune.label: missing; ", "set has act, tags")),
    (["finetune.label=akt"], 2, ("has no label 'akt'; did you mean 'act'?",)),
    (["finetune.label=tags"], 2, ("loss: of 'tags' a sample may have several classes, but 'cross_entropy' learns",)),
    (["finetune.label=[act,act]"], 2, ("loss: 2 labels are learned side by side",)),
    (["finetune.features=video"], 2, ("has no modality 'video' (it has acc, gyro)", "take another task")),
    (["finetune.fractoin=1"], 2, ("finetune.fractoin: no such setting; did you mean 'fraction'?",)),
    (["finetune.fraction=2"], 2, ("finetune.fraction: expected a share above 0",)),
    (["encoders.acc.width=16"], 2, ("that the encoders need are not in it, or of another shape: encoders.acc.",)),
    (["loss=vicreg"], 2, ("loss: 'VICReg' is not for a classifier",)),
    (["trainer.monitor=null", "trainer.patience=3"], 2, ("trainer.patience: expected at least 1",)),
    (["data.test=tset"], 4, ("no split 'tset'",)),
    (["--checkpoint", "nowhere.ckpt"], 4, ("nowhere.ckpt: no such checkpoint",)),
    (["--from-scratch", "--checkpoint", "best"], 2, ("--from-scratch takes no weights",))])
def test_what_cannot_be_learned_is_said_before_anything_is_written(capsys, tmp_path, signals, words, code, said):
    found, _, err = finetune(capsys, signals, "act.yaml", tmp_path / "run", *words)
    assert found == code and not (tmp_path / "run").exists()
    one_message(err, *said)


def test_a_task_and_a_run_that_do_not_fit(capsys, tmp_path, signals, clips):
    for run, task, said in ((signals, "video", "has no modality 'video' (it has acc, gyro)"),
                            (clips, "series", "has no aggregator, so no global embedding; take all, or one of video"),
                            (clips, "image", "finetune.label: missing"),
                            (clips, "vidoe", "no task is called 'vidoe'; did you mean 'video'?"),
                            (clips, tmp_path / "none.yaml", "none.yaml'; expected a YAML file, or one of audio"),
                            (clips, clips / "recipe.yaml", "no section `finetune`")):
        code, _, err = mmssl(capsys, "finetune", "--run", run / "run", "--task", task, "--run-dir", tmp_path / "run")
        assert code == 2 and not (tmp_path / "run").exists()
        one_message(err, said)
    words = ("--run", clips / "run", "--task", "video", "finetune.features=audio", "finetune.label=way")
    code, _, err = mmssl(capsys, "finetune", *words, "--run-dir", tmp_path / "run")
    assert code == 2
    one_message(err, "modalities.video: the task 'video' is about video, but finetune.features is audio")


def test_no_run_no_classifier_other_classes(capsys, tmp_path, signals, tuned):
    code, _, err = mmssl(capsys, "finetune", "--run", tmp_path, "--task", "video")
    assert code == 4
    one_message(err, "not a run directory (no recipe.yaml in it)")
    code, _, err = mmssl(capsys, "finetune", "--task", "video")
    assert code == 2
    one_message(err, "give --run RUN and --task NAME to start a run, or --resume D to continue one")
    code, _, err = mmssl(capsys, "finetune", "--resume", tuned, "--task", "video")
    assert code == 2
    one_message(err, "leave out --task")
    code, _, err = mmssl(capsys, "score", "--run", signals / "run")
    assert code == 2
    one_message(err, "has no classifier (its method is 'crossl')", "mmssl finetune --run")
    root = make_signals(tmp_path / "set", {"test": 4})
    text = (root / "manifest.json").read_text()
    (root / "manifest.json").write_text(text.replace('"walk"', '"walk", "run"'))
    code, _, err = mmssl(capsys, "score", "--run", tuned, f"data.root={root}")
    assert code == 4
    one_message(err, "label 'act' has 4 classes (sit, stand, walk, run), but the classifier knows 3")
    code, _, err = mmssl(capsys, "score", "--run", tuned, "optim.lr=1")
    assert code == 2
    one_message(err, "score: 'optim.lr=1': only finetune.windows")


def test_a_class_that_nobody_shows_is_told(tmp_path, signals):
    root = make_signals(tmp_path / "set", {"train": 20}, lambda split, n, files: {
        **files, "labels.json": encode_json({"labels": {"act": n % 2} if n else {}})})
    words = [f"data.root={root}"]
    recipe = completing.complete(compose(signals / "run" / "recipe.yaml", str(signals / "act.yaml"), words))
    first, second = told(recipe)
    assert "from 19 of 20 samples of 'train', 0 to 10 of a class" in first
    assert second == "NEVER SEEN: 1 of 3 classes have no sample to learn from: walk"


def test_the_dry_run_counts_what_would_be_trained(capsys, tmp_path, signals):
    code, out, _ = mmssl(capsys, "finetune", "--run", signals / "run", "--task", signals / "act.yaml", "--dry-run",
                         "--run-dir", tmp_path / "run")
    assert code == 0 and not (tmp_path / "run").exists()
    head = 32 * 16 + 16 + 16 * 3 + 3  # two encoders of 16 features
    assert f" {head:,}\n" in out.partition("parameters")[2].partition("tokens")[0] and "one step: loss" in out
