"""Splits by group: lists, folds, one left out; chosen when training, with the statistics of whoever trains."""

import dataclasses
import json
import re

import numpy as np
import pytest
import torch
from small_sets import Wave, make_set, modalities, signal

from mmssl import build, completing
from mmssl.config import load
from mmssl.data import DataModule, Manifest, Split, assignment_hash
from mmssl.data.folds import SplitRule, by_name, deal, read_rule
from mmssl.data.groups import Moments
from mmssl.errors import ConfigError, DataError
from mmssl.forecast import forecast

WESAD = [f"S{n}" for n in (2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16, 17)]
USERS = [str(n) for n in range(101, 109)]


def test_five_folds_of_fifteen_are_those_of_the_released_loader():
    for fold, h in enumerate((0, 3, 6, 9, 12)):  # test h..h+2, validate h+3, h+4, or 0, 1 at the end
        got = deal(SplitRule(folds=5, fold=fold, val=2), WESAD[::-1], "s")
        val = WESAD[h + 3:h + 5] or WESAD[:2]
        assert got["test"] == WESAD[h:h + 3] and got["val"] == val
        assert got["train"] == [s for s in WESAD if s not in got["test"] + val]


def test_leave_one_out_validates_on_the_one_before():
    for h in range(8):
        got = deal(SplitRule(folds="each", fold=h, val=-1), USERS, "s")
        before = USERS[h - 1] if h else USERS[7]
        assert got["test"] == [USERS[h]] and got["val"] == [before] and len(got["train"]) == 6


@pytest.mark.parametrize("count, folds, seed", [(7, 3, None), (15, 5, 4), (23, 10, 1), (6, "each", 0)])
def test_every_group_tests_once_and_trains_in_no_fold_in_which_it_tests(count, folds, seed):
    groups = [f"g{n}" for n in range(count)]
    many = count if folds == "each" else folds
    dealt = [deal(SplitRule(folds=folds, fold=fold, val=2, seed=seed), groups, "s") for fold in range(many)]
    assert sorted(g for d in dealt for g in d["test"]) == sorted(groups)
    for d in dealt:
        assert sorted(d["train"] + d["val"] + d["test"]) == sorted(groups) and len(d["val"]) == 2
    sizes = {len(d["test"]) for d in dealt}
    assert max(sizes) - min(sizes) <= 1
    if seed is not None:
        other = deal(SplitRule(folds=folds, val=2, seed=seed + 1), groups, "s")
        assert other != dealt[0] == deal(SplitRule(folds=folds, val=2, seed=seed), groups[::-1], "s")


def test_lists_may_be_patterns_and_leave_groups_out():
    nights = [f"SC{n:02d}" for n in range(24)]
    rule = read_rule({"test": ["SC1[6-9]"], "val": ["SC1[2-5]"], "train": ["SC0?", "SC1[01]"]}, "s")
    got = deal(rule, nights, "s")
    assert [len(got[name]) for name in ("train", "val", "test")] == [12, 4, 4] and "SC20" not in got["train"]
    assert deal(read_rule({"test": [108], "val": [107]}, "s"), USERS, "s")["train"] == USERS[:6]
    assert by_name(["S10", "S9", "a", "S2"]) == ["S2", "S9", "S10", "a"]


@pytest.mark.parametrize("node, words", [
    ({"test": ["109"]}, "data.split.test: no group is called '109'; did you mean '10"),
    ({"test": ["101"], "val": ["10[12]"]}, "group '101' is in test and in val; keep one"),
    ({"tets": ["101"]}, "data.split.tets: no such setting; did you mean 'test'?"),
    ({"test": ["101"], "folds": 3}, "has lists (folds, test) and folds; choose one of them"),
    ({"fold": 2}, "data.split.folds: missing"),
    ({"folds": 9}, "data.split.folds: 9 folds of 8 groups"),
    ({"folds": 4, "fold": 4}, "data.split.fold: 4, but there are 4 folds; expected 0 to 3"),
    ({"folds": 2, "val": 4}, "data.split.val: 4 of the 4 groups that do not test"),
    ({"test": ["10?"]}, "no group is left to train on"),
    ({"folds": "some"}, "data.split.folds: expected one of each or int or null, got 'some'"),
    (["101"], "data.split: expected lists like"),
])
def test_rules_that_do_not_fit_are_one_line(node, words):
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        deal(read_rule(node, "data.split"), USERS, "data.split")
    assert "\n" not in str(caught.value)


def test_a_fold_alone_takes_the_rest_from_the_manifest(tmp_path):
    manifest = Manifest.load(make_set(tmp_path / "set"))
    manifest.assign(SplitRule(folds="each", val=-2))
    manifest.save(tmp_path / "set")
    manifest = Manifest.load(tmp_path / "set")  # as it reads back
    assert manifest.assignment["test"] == ["train-0"] and manifest.split_hash == assignment_hash(manifest.assignment)
    moved = manifest.deal({"fold": 2})
    assert moved["test"] == ["train-2"] and moved["val"] == ["train-0", "train-1"]
    assert assignment_hash(moved) != manifest.split_hash
    assert manifest.deal({"test": ["val-1"]})["val"] == []  # lists stand alone


def test_a_split_of_groups_holds_exactly_their_records_from_every_shard(tmp_path):
    root = make_set(tmp_path / "set", {"train": 22, "val": 9})
    every = {}
    for name in ("train", "val"):
        split = Split(root, name)
        for shard, count in enumerate(split.counts):
            for record in range(count):
                key = split.where(shard, record)[1]
                every[key] = split.read(shard, record, ["imu.npy", "labels.json"])
    wanted = ["train-1", "val-0", "train-3"]
    part = Split(root, "test", wanted)
    found = {part.where(s, r)[1]: part.read(s, r, ["imu.npy", "labels.json"])
             for s, count in enumerate(part.counts) for r in range(count)}
    assert found == {k: v for k, v in every.items() if json.loads(v["labels.json"])["group"] in wanted}
    assert len(part) == len(found) and part.index_hash() != Split(root, "test", ["train-1"]).index_hash()
    for path in root.glob("*.index.npz"):  # shards that were indexed before, or elsewhere
        with np.load(path) as file:
            old = {name: file[name] for name in file.files if name != "groups"}
        np.savez(path, **old)
    assert Split(root, "test", wanted).index_hash() == part.index_hash()
    with pytest.raises(DataError, match=r"split 'test': its groups train-9 are not there; change data\.split"):
        Split(root, "test", ["train-1", "train-9"])
    with pytest.raises(DataError, match="split 'val': it has no group"):
        Split(root, "val", [])


def test_the_order_and_the_place_to_resume_at_are_those_of_the_chosen_groups(tmp_path):
    root = make_set(tmp_path / "set")
    groups = {"train": ["train-0", "train-2", "val-1"], "test": ["train-1"]}
    module = DataModule(root, modalities(), batch_size=4, seed=5, groups=groups)
    loader = module.train_dataloader()
    batches = list(loader)
    assert {g for b in batches for g in b.groups} == set(groups["train"])
    assert len({k for b in batches for k in b.keys}) == 4 * len(batches)
    again = DataModule(root, modalities(), batch_size=4, seed=5, groups=groups).train_dataloader()
    first = iter(again)
    taken, state = next(first).keys, again.state_dict()
    assert taken == batches[0].keys
    resumed = DataModule(root, modalities(), batch_size=4, seed=5, groups=groups).train_dataloader()
    resumed.load_state_dict(state)
    assert [b.keys for b in resumed] == [b.keys for b in batches[1:]]
    other = DataModule(root, modalities(), batch_size=4, seed=5, groups={"train": ["train-0", "train-2", "val-0"]})
    with pytest.raises(DataError, match="other data or settings"):
        other.train_dataloader().load_state_dict(state)


def test_moments_add_up_to_those_of_all_samples_at_once():
    rng = np.random.default_rng(0)
    parts = [1e4 + rng.normal(size=(3, n)) * [[1], [10], [0]] for n in (5, 1, 40, 17)]
    together = np.concatenate(parts, axis=1)
    first, *rest = map(Moments.of, parts)
    for part in rest:
        first = first + Moments.from_json(json.loads(json.dumps(part.as_json())))
    np.testing.assert_allclose(first.mean, together.mean(1), rtol=1e-13)
    np.testing.assert_allclose(first.std, np.where(together.std(1) > 1e-9, together.std(1), 1), rtol=1e-9)


RECIPE = """
name: small
method: crossl
data: {root: ROOT, batch_per_device: 4, split: {test: [train-1], val: [val-0], train: [train-0, train-2]}}
modalities:
  imu: {name: series, channels: 2, rate: 10, seconds: 2}
  ecg: {name: series, channels: 1, rate: 10, seconds: 2}
encoders: {imu: {name: conv, width: 8}, ecg: {name: conv, width: 8}}
aggregator: mlp
mask: modality
loss: vicreg
"""


def test_a_run_is_normalised_by_the_groups_it_trains_on_and_keeps_its_split(tmp_path):
    root = make_set(tmp_path / "set")
    (tmp_path / "small.yaml").write_text(RECIPE.replace("ROOT", str(root)))
    recipe = completing.complete(load(tmp_path / "small.yaml"))
    mine = np.concatenate([signal(n) for n in range(22) if n % 4 in (0, 2)], axis=1)
    np.testing.assert_allclose(recipe.modalities["imu"]["mean"], mine.mean(1), rtol=1e-6)
    np.testing.assert_allclose(recipe.modalities["imu"]["std"], mine.std(1), rtol=1e-6)
    assert recipe.data.split == {"train": ["train-0", "train-2"], "val": ["val-0"], "test": ["train-1"]}
    assert completing.split_hash(recipe) == assignment_hash(recipe.data.split) != Manifest.load(root).split_hash
    data = build.datamodule(recipe, {"imu": Wave(2)})
    assert {g for b in data.test_dataloader() for g, v in zip(b.groups, b.valid) if v} == {"train-1"}
    folds = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, split={"folds": 2, "seed": 1}))
    moved = completing.split_hash(folds)
    assert completing.split_hash(completing.complete(folds)) == moved != completing.split_hash(recipe)
    with pytest.raises(ConfigError, match=r"data\.split\.tset: no such setting"):
        load(tmp_path / "small.yaml", ["data.split={tset: [a]}"])


def test_a_recipe_without_its_data_says_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, words in (("crossl_pamap2", "UCI"), ("crossl_wesad", "data set 465"), ("crossl_sleep_edf", "sleep-edfx")):
        with pytest.raises(DataError) as caught:
            completing.complete(load(name))
        text, source = str(caught.value), name.removeprefix("crossl_")
        assert "\n" not in text and words in text and f"mmssl data pack {source} --source" in text


def test_a_sensor_that_no_training_sample_has_is_no_number_in_the_units_of_its_files(tmp_path):
    root = make_set(tmp_path / "set", lacks=lambda number: () if number % 2 else ("ecg",))  # of those who train
    (tmp_path / "small.yaml").write_text(RECIPE.replace("ROOT", str(root)))

    def told(words):
        recipe = completing.complete(load(tmp_path / "small.yaml", words))
        return [line for line in forecast(recipe, build.rehearse(recipe), torch.device("cpu")) if "ecg" in line]

    with pytest.raises(ConfigError) as caught:
        told([])
    assert caught.value.problems == [
        "modalities.ecg: none of the 11 training samples (of train-0, train-2) has it, so its encoder learns nothing, "
        "and nothing tells its mean and std; leave it out of the recipe, choose another data.split, or say "
        "modalities.ecg.mean and .std"]
    line, = told(["modalities.ecg.mean=[0.5]", "modalities.ecg.std=[2.0]"])
    assert line.startswith("NEVER THERE: ecg: none of the 11 training samples (of train-0, train-2) has it")
    assert not told(["data.split.train=[train-0,train-3]"])
