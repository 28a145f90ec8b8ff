"""Tasks on features given by hand: several labels, devices dropped in training, folds by columns, windows compared."""

from pathlib import Path

import numpy as np
import pytest

from mmssl.bench.bank import Bank
from mmssl.bench.kept import Latents
from mmssl.bench.probing import probe_task
from mmssl.bench.results import Result
from mmssl.bench.retrieving import retrieval_task
from mmssl.bench.setting import settle
from mmssl.bench.subject import Subject
from mmssl.bench.suite import Folds, NotServed, Task, Views
from mmssl.errors import ConfigError, DataError
from mmssl.eval import Labelled, Linear, Ridge, Stacked, label_draw, run_probe, scores


class Hand(Subject):
    """Compares a with b as they are; its embedding of all modalities is their sum."""

    aggregates = True

    def __init__(self):
        super().__init__("hand", "", "", {}, {}, Path())

    def aggregate(self, latents, present):
        return sum(latents.values())

    def pair(self, a, b):
        return ("a", "b") if {a, b} == {"a", "b"} else None

    def project(self, latents, present, pair):
        return latents[pair[0]], latents[pair[1]], present[pair[0]] & present[pair[1]]


def lot(n=60, views=1, seed=0, width=4, labels=None, lacks=True):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    present = {m: np.repeat(rng.random(n) > 0.2 * lacks, views) for m in "ab"}
    present["a"] |= ~present["b"]
    centres = np.random.default_rng(99).normal(size=(2, 3, width))
    x = {m: ((centres[i][np.repeat(y, views)] + 0.7 * rng.normal(size=(n * views, width))) * present[m][:, None]
             ).astype(np.float32) for i, m in enumerate("ab")}
    keys, groups = np.array([f"{seed}-{i}" for i in range(n)]), np.array([f"g{i % 5}" for i in range(n)])
    return Latents(x, present, {"y": y, **(labels(y, rng) if labels else {})}, keys, groups, views)


def run(task, train, test, seeds=1, classes=None):
    result = Result(task.name, "hand", "", "", "", False, "done", protocol=task.protocol(), shown=task.shown)
    setting = settle(task, Bank(Hand(), train), Bank(Hand(), test), classes or {})
    result.classes = setting.classes
    probe_task(setting, seeds, result)
    return result


def test_several_labels_go_through_and_are_scored_class_by_class():
    def several(y, rng):
        hot = np.stack([y == 0, y > 0, rng.random(len(y)) < 0.3], 1).astype(int)
        hot[5] = -1  # unknown
        return {"kinds": hot}
    train, test = lot(80, labels=several), lot(50, seed=1, labels=several)
    task = Task("t", "r", "multi_label", "kinds", features=["a"], probe={"name": "linear", "penalties": [1.0]})
    result = run(task, [train], [test], classes={"kinds": ["zero", "other", "noise"]})
    rows = [b.present["a"] & (b.labels["kinds"] >= 0).all(1) for b in (train, test)]
    direct = run_probe(Linear([1.0]), *(Labelled(b.latents["a"][r], b.labels["kinds"][r])
                                        for b, r in zip((train, test), rows, strict=True)))
    cell = result.cells[0]
    assert cell.runs[0]["values"] == direct.score.values and not cell.drawn
    assert cell.chance["map"] == pytest.approx(test.labels["kinds"][rows[1]].mean(0).mean())
    assert result.samples["truth"][cell.rows[0]] == np.flatnonzero(test.labels["kinds"][rows[1]][0]).tolist()
    assert len(result.samples["key"]) == 49 and result.outputs["0"].shape == (1, rows[1].sum(), 3)
    with pytest.raises(ConfigError, match="samples have several classes of 'kinds'; expected multi_label"):
        run(Task("t", "r", label="kinds"), [train], [test])


def test_features_are_standardised_within_each_group():
    """Against a loop over groups: absent rows stay zero and count for no mean, also where a device is missing."""
    lots = [lot(60, views=2), lot(30, views=2, seed=1)]
    lots[0].latents["b"][:, 0] = 3.5 * lots[0].present["b"]  # constant within the first split
    bank = Bank(Hand(), lots, within=True)
    groups = np.repeat(np.concatenate([part.groups for part in lots]), 2)

    def by_hand(x, there):
        found = np.zeros_like(x, dtype=float)
        for g in set(groups):
            rows = (groups == g) & there
            mean, std = x[rows].astype(float).mean(0), x[rows].astype(float).std(0)
            found[rows] = (x[rows] - mean) / np.where(std > 0, std, np.inf)
        return found

    x = {m: np.concatenate([part.latents[m] for part in lots]) for m in "ab"}
    there = {m: np.concatenate([part.present[m] for part in lots]) for m in "ab"}
    want = {m: by_hand(x[m], there[m]) for m in "ab"}
    assert 0 < there["b"].mean() < 1 and np.allclose(bank.rows("b").block(0, 180), want["b"], atol=1e-5)
    assert np.allclose(bank.rows("all").take(np.arange(7, 90)).block(3, 50),
                       np.concatenate([want["a"], want["b"]], 1)[10:57], atol=1e-5)
    assert np.allclose(bank.rows("all", ["a"]).block(0, 180)[:, :4], 0)
    assert np.allclose(bank.rows("global", ["a"]).block(0, 180), want["b"], atol=1e-5)
    assert np.allclose(bank.rows("global").block(0, 180), by_hand(x["a"] + x["b"], there["a"] | there["b"]), atol=1e-5)
    lots[1].groups[0] = ""
    with pytest.raises(ConfigError, match="some samples have no group"):
        Bank(Hand(), lots, within=True)


def test_each_training_sample_lacks_what_it_drew():
    train, test = lot(lacks=False), lot(40, seed=1, lacks=False)
    task = Task("t", "r", label="y", features=["all", "global"], probe={"name": "ridge", "penalties": [1.0]},
                missing="all", drop_train=True)
    result = run(task, [train], [test], seeds=2)
    scenarios = [(), ("a",), ("b",)]
    for name in ("all", "global"):
        drawn = label_draw(0, "y", 1).at("drop").numpy().integers(3, size=60)
        gone = {m: np.array([m in scenarios[d] for d in drawn])[:, None] for m in "ab"}
        parts = [np.where(gone[m], 0, train.latents[m]) for m in "ab"]
        x = np.concatenate(parts, 1) if name == "all" else sum(parts)
        for missing in scenarios:
            left = [test.latents[m] * (m not in missing) for m in "ab"]
            z = np.concatenate(left, 1) if name == "all" else sum(left)
            direct = run_probe(Ridge([1.0]), Labelled(x.astype(np.float32), train.labels["y"]),
                               Labelled(z, test.labels["y"]))
            cell = next(c for c in result.cells if (c.features, c.missing) == (name, list(missing)))
            assert cell.runs[1]["confusion"] == direct.score.confusion, (name, missing)
    assert result.cells[0].drawn and len(result.cells) == 6


def test_columns_of_a_published_split_with_views():
    def splits(y, rng):
        return {"s1": rng.integers(0, 3, len(y)), "s2": rng.integers(0, 2, len(y))}
    train, test = lot(labels=splits, lacks=False), lot(views=4, labels=splits, lacks=False)
    test.labels, test.keys = train.labels, train.keys
    task = Task("t", "r", label="y", features=["a"], probe={"name": "ridge", "penalties": [1.0]},
                folds=Folds(columns=["s1", "s2"], average=True), views=Views(1, 4))
    result = run(task, [train], [test], classes={name: ["train", "test", "unused"] for name in ("s1", "s2")})
    values = []
    for name in ("s1", "s2"):
        a, b = (train.labels[name] == k for k in (0, 1))
        direct = run_probe(Ridge([1.0]), Labelled(train.latents["a"][a], train.labels["y"][a]),
                           Labelled(test.latents["a"][np.repeat(b, 4)], test.labels["y"][b]), 3)
        values.append(direct.score.accuracy)
    run_ = result.cells[0].runs[0]
    assert run_["values"]["accuracy"] == pytest.approx(np.mean(values))
    assert [fold["name"] for fold in run_["folds"]] == ["s1", "s2"]
    test.keys = test.keys[::-1]
    with pytest.raises(DataError, match="could be read in one set of views only"):
        run(task, [train], [test], classes={"s1": ["train", "test"], "s2": ["train", "test"]})


def test_windows_are_compared_by_their_mean_or_by_the_mean_of_their_cosines():
    test = lot(30, views=3, seed=2)
    a, b = (test.latents[m].reshape(30, 3, 4).astype(np.float64) for m in "ab")
    both = test.present["a"].reshape(30, 3)[:, 0] & test.present["b"].reshape(30, 3)[:, 0]
    a, b = a[both] * np.geomspace(0.1, 10, 3)[None, :, None], b[both]
    test.latents["a"] = (test.latents["a"].reshape(30, 3, 4) * np.geomspace(0.1, 10, 3)[None, :, None]
                         ).reshape(90, 4).astype(np.float32)
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    by_hand = {"embedding": unit(a.mean(1)) @ unit(b.mean(1)).T,
               "similarity": np.einsum("ivd,jwd->ij", unit(a), unit(b)) / 9}
    ranks = {}
    for match, table in by_hand.items():
        task = Task("t", "r", "retrieval", pairs=["a>b", "b>a", "a>c"], match=match, test=["test"])
        result = Result("t", "hand", "", "", "", False, "done")
        retrieval_task(task, Hand(), [test], result)
        for cell, scored in zip(result.cells, (table, table.T), strict=True):
            ranks[match] = [int((row >= row[i] - 1e-9).sum() - 1) for i, row in enumerate(scored)]
            assert cell.runs[0]["rank"] == ranks[match] and cell.rows == np.flatnonzero(both).tolist()
        assert result.notes == ["a > c: hand does not compare them here"]
    assert ranks["embedding"] != ranks["similarity"]
    with pytest.raises(NotServed, match="compares none of c>d"):
        retrieval_task(Task("t", "r", "retrieval", pairs=["c>d"]), Hand(), [test], result)


def test_classes_can_say_what_belongs_together():
    test = lot(30, lacks=False)
    result = Result("t", "hand", "", "", "", False, "done")
    retrieval_task(Task("t", "r", "retrieval", label="y", pairs=["a>b"]), Hand(), [test], result)
    cell, counts = result.cells[0], np.bincount(test.labels["y"])
    by_hand = np.mean([1 - np.prod([(30 - counts[y] - k) / (30 - k) for k in range(5)]) for y in test.labels["y"]])
    assert cell.chance["R@5"] == pytest.approx(by_hand) and "mAP" not in cell.chance
    assert cell.metrics["mAP"]["mean"] == pytest.approx(np.mean(cell.runs[0]["precision"]), abs=1e-6)


def test_splits_stand_one_below_the_other_without_a_copy():
    a, b = lot(20), lot(15, seed=3)
    bank = Bank(Hand(), [a, b])
    whole = np.concatenate([np.concatenate([p.latents[m] for m in "ab"], 1) for p in (a, b)])
    rows = bank.rows("all")
    assert all(isinstance(part, Stacked) for part in rows.parts)
    index = np.array([34, 0, 19, 20, 5, 21])
    assert np.array_equal(rows.take(index).block(0, 6), whole[index])
    assert np.array_equal(rows.block(18, 23), whole[18:23]) and bank.present("a+b").all()
    assert np.array_equal(bank.present("all", ["a"]), np.r_[a.present["b"], b.present["b"]])
    names, lines = bank.expand(["each", "pairs", "all", "global", "c", "a+d"])
    assert names == ["a", "b", "all", "global"] and lines[0] == "c: no c among what hand reads here (a, b)"
    assert lines[1] == "a+d: no d among what hand reads here (a, b)"


def test_a_class_that_training_lacks_and_a_label_that_is_not_there():
    train, test = lot(), lot(seed=1)
    train.labels["y"] = np.minimum(train.labels["y"], 1)
    result = run(Task("t", "r", label="y", features=["a"], metric="macro_f1"), [train], [test], seeds=2)
    run_ = result.cells[0].runs[0]
    assert run_["per_class"][2]["recall"] == 0 and 2 not in run_["guess"] and result.classes == ["0", "1", "2"]
    truth = np.array([result.samples["truth"][i] for i in result.cells[0].rows])
    assert run_["values"] == scores("single_label", truth, result.outputs["0"][0], 3).values
    common = np.bincount(train.labels["y"]).argmax()
    assert result.cells[0].chance["accuracy"] == pytest.approx(np.mean(truth == common))
    with pytest.raises(ConfigError, match="no label is called 'z'; known: y"):
        run(Task("t", "r", label="z"), [train], [test])
    with pytest.raises(NotServed, match="no c among"):
        run(Task("t", "r", label="y", features=["c"]), [train], [test])
