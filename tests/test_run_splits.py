"""A run's own split by group, and what is done with the run later: nobody tests who has trained."""

import json
import shutil

import pytest
import torch
from finetune_common import TASK
from small_runs import SIGNALS, make_signals, mmssl, one_message, write_recipe

from mmssl import build, completing
from mmssl.cli import main
from mmssl.data import training_statistics
from mmssl.forecast import forecast
from mmssl.run import tuning
from mmssl.rundir import RunDir

pytestmark = pytest.mark.filterwarnings("ignore")
#: Beside the stored split, in which train0 to train4 train and test0 to test4 test.
OWN = "data.split={test: [train1, test0], val: [train2], train: [train0, train3, test1, test2]}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run trained on groups of its own choice, and a task."""
    folder = tmp_path_factory.mktemp("splits")
    recipe = write_recipe(folder, SIGNALS, make_signals(folder / "set"))
    (folder / "act.yaml").write_text(TASK % ("all", "act", "cross_entropy", "val/accuracy"))
    assert main(["fit", "--recipe", str(recipe), "--run-dir", str(folder / "run"), "trainer.max_steps=2", OWN]) == 0
    return folder


def later(folder, *words, **settings):
    """The recipe of a classifier on the run, complete."""
    return completing.complete(tuning(folder / "run", str(folder / "act.yaml"), list(words), **settings))


def told(recipe):
    lines = forecast(recipe, build.rehearse(recipe), torch.device("cpu"))
    return [line for line in lines if line.startswith("TESTED ON")]


def split_of(folder):
    return RunDir(folder / "run").load_recipe().data.split


# fine-tuning

@pytest.mark.parametrize("scratch", [False, True])
def test_a_classifier_learns_and_tests_by_the_split_of_its_run(folder, scratch):
    own, run = split_of(folder), RunDir(folder / "run").load_recipe()
    assert own["test"] == ["test0", "train1"]
    recipe = later(folder, from_scratch=scratch)
    assert recipe.data.split == own and recipe.modalities["acc"]["mean"] == run.modalities["acc"]["mean"]
    again = later(folder, f"data.root={folder}/./set", from_scratch=scratch)  # the same data, typed anew
    assert again.data.split == own


def test_another_split_takes_the_whole_place_of_the_runs(folder, tmp_path):
    typed = ["data.split.folds=3", "data.split.fold=1"]  # lists and folds together would be refused
    recipe = later(folder, *typed)
    assert recipe.data.split == completing.inspect(folder / "set").deal({"folds": 3, "fold": 1})
    ours = RunDir(folder / "run").load_recipe().modalities["acc"]["mean"]
    assert recipe.modalities["acc"]["mean"] == ours  # what the weights know
    fresh = later(folder, *typed, from_scratch=True)
    manifest, (root, trains) = completing.inspect(folder / "set"), (folder / "set", fresh.data.split["train"])
    assert fresh.modalities["acc"]["mean"] == training_statistics(root, manifest, ["acc"], trains)["acc"][0] != ours
    task = tmp_path / "own.yaml"
    task.write_text((folder / "act.yaml").read_text().replace("data: {", "data: {split: {test: [val1]}, "))
    named = completing.complete(tuning(folder / "run", str(task)))
    assert named.data.split["test"] == ["val1"] and named.data.split["val"] == []
    assert completing.complete(tuning(folder / "run", str(task), ["data.split=null"])).data.split is None


def test_other_data_have_a_split_of_their_own_even_where_groups_bear_the_same_names(folder, tmp_path):
    shutil.copytree(folder / "set", tmp_path / "other")
    assert later(folder, f"data.root={tmp_path / 'other'}").data.split is None
    assert later(folder, f"data.root={tmp_path / 'other'}", "data.split={test: [train1]}").data.split["val"] == []


def test_it_is_told_who_tests_and_has_been_trained_on(folder, tmp_path, capsys):
    words = ["finetune", "--run", folder / "run", "--task", folder / "act.yaml", "--run-dir", tmp_path / "run"]
    code, out, _ = mmssl(capsys, *words, "trainer.max_steps=1", "data.split={test: [train0, train1], val: [train2]}")
    line = (f"TESTED ON WHAT IT HAS SEEN: {folder / 'run'} was trained, without labels, on 1 of the 2 groups that "
            "test: train0\n")
    assert code == 0 and out.count(line) == 1 and line in (tmp_path / "run" / "log.txt").read_text()
    fresh = later(folder, "data.split={test: [train0], val: [train2]}", from_scratch=True)
    assert told(later(folder)) == told(fresh) == []
    line, = told(later(folder, "data.split=null"))
    assert line.endswith("on 2 of the 5 groups that test: test1, test2")


# probes

@pytest.mark.parametrize("words", [[], ["--missing", "all"]])
def test_a_probe_learns_from_nothing_that_it_tests(folder, capsys, words):
    words = ["probe", "--run", folder / "run", *words, "probe.labels=[act]", "probe.seeds=1"]
    code, out, err = mmssl(capsys, *words, "data.test=val", "probe.train=[train,val]")
    assert code == 2 and not out
    one_message(err, "probe.train: 9 of the 9 samples of 'val', which is tested on, are learned from, in 'val'; take "
                     "other splits or groups, so that none is in both")
    assert mmssl(capsys, *words, "probe.train=[train,val]")[0] == 0


def test_a_run_whose_probe_would_test_what_it_learned_is_not_begun(folder, tmp_path, capsys):
    words = ["probe.labels=[act]", "probe.train=[train,test]", "trainer.max_steps=1"]
    code, _, err = mmssl(capsys, "fit", "--recipe", folder / "recipe.yaml", "--run-dir", tmp_path / "run", *words)
    assert code == 2 and not (tmp_path / "run").exists()
    one_message(err, "probe.train: 10 of the 10 samples of 'test', which is tested on, are learned from, in 'test'")


def test_a_suite_learns_from_nothing_that_it_tests(folder, tmp_path, capsys):
    (tmp_path / "suite.yaml").write_text(f"""
data: {{root: {folder}}}
tasks: {{act: {{root: set, label: act, features: [all], train: [train, val]}}}}
""")
    words = ["bench", "--suite", tmp_path / "suite.yaml", "--run", folder / "run", "--out", tmp_path / "out",
             "--seeds", 1]
    for change, said in (
            ("tasks.act.test=[val]", "tasks.act: 10 of the 10 samples of 'val', which is tested on, are learned from"),
            ("tasks.act.groups={test: [train1, test0]}", "tasks.act: 9 of the 11 samples of 'test', which is tested "
             "on, are learned from, in 'train'")):
        code, out, _ = mmssl(capsys, *words, change)
        assert code == 2 and said in out.replace("\n", " "), out
    assert mmssl(capsys, *words, "tasks.act.groups={test: [train1], train: [train0]}")[0] == 0
    assert mmssl(capsys, *words, "tasks.act.test=[val]", "tasks.act.folds={by: group}")[0] == 0  # these keep them apart


# other data

@pytest.mark.parametrize("words", [["probe"], ["probe", "--missing", "all"], ["score"]])
def test_the_same_root_typed_again_opens_nothing_and_others_have_their_split(folder, tmp_path, capsys, caplog, words):
    if words == ["score"]:
        assert main(["finetune", "--run", str(folder / "run"), "--task", str(folder / "act.yaml"), "--run-dir",
                     str(tmp_path / "run"), "trainer.max_steps=1"]) == 0
    else:
        shutil.copytree(folder / "run", tmp_path / "run")
        words = [*words, "probe.labels=[act]", "probe.seeds=1"]

    def tested():  # 3 of 15 samples have no gyroscope, so nothing to retrieve
        if words[0] == "score":
            return json.loads((tmp_path / "run" / "score-other-test.json").read_text())["scores"]["rows"]
        if "--missing" in words:
            results = json.loads((tmp_path / "run" / "missing" / "bench.json").read_text())["results"]
            return len(results[0]["samples"]["key"])
        return json.loads((tmp_path / "run" / "probe.json").read_text())["retrieval"]["acc_to_gyro"]["rows"] + 3

    words = [*words[:1], "--run", tmp_path / "run", *words[1:]]
    code, _, err = mmssl(capsys, *words, f"data.root={folder}/./set", "data.split={test: [train0]}")
    assert code == 2
    one_message(err, "'data.split={test: [train0]}': the run was trained on its own split")

    def named(split, number, files):  # test0 is not there, train1 is, and did not test here
        return {**files, "labels.json": files["labels.json"].replace(b'"test', b'"tset')}

    make_signals(tmp_path / "other", {"train": 20, "val": 10, "test": 15}, named)
    other = RunDir(tmp_path / "run"), words[0], [f"data.root={tmp_path / 'other'}"]
    assert completing.reopened(*other).data.split is None
    caplog.clear()
    assert mmssl(capsys, *words, *other[2])[0] == 0 and tested() == 15
    line, = (r.getMessage() for r in caplog.records if "not the data" in r.getMessage())
    assert line.startswith(f"data.root: {tmp_path / 'other'} is not the data that the run was trained on")
    folds = ["data.split.folds=5", "data.split.fold=1"]
    assert completing.reopened(*other[:2], other[2] + folds).data.split == {"folds": 5, "fold": 1}
    assert completing.reopened(*other[:2], [f"data.root={folder}/./set"]).data.split == split_of(folder)
