"""A classification task: probes on feature sets, over shares of the labels, seeds, folds, and missing devices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from mmssl.bench.folds import Fold
from mmssl.bench.results import Cell, Result, mean_of, summarise
from mmssl.bench.setting import Scenario, Setting
from mmssl.bench.suite import NotServed
from mmssl.errors import DataError, few
from mmssl.eval import (
    Fitted,
    Labelled,
    Probe,
    Rows,
    Scores,
    carry_out,
    label_draw,
    label_fraction,
    learnable,
    scores,
    usable,
)
from mmssl.eval.rows import known
from mmssl.eval.scores import TOP
from mmssl.registry import PROBES
from mmssl.rng import Rng

#: Scenarios of missing devices that a line names.
SCENARIOS = 8
#: Bytes of a cell's scores up to which they are kept, for intervals of metrics that need more than guesses.
KEPT_OUTPUT = 64 << 20


def probe_task(setting: Setting, seeds: int, result: Result) -> None:
    """Fit and test every feature set at every share of the labels, and write the numbers into `result`.

    Raises:
        NotServed: none of the feature sets is to be had. DataError: nothing to fit or to test.
    """
    task = setting.task
    names, lines = setting.train.expand(task.features)
    if not names:
        raise NotServed("; ".join(lines) or f"has none of {', '.join(task.features)} here")
    result.notes += lines + [line for name in names for line in _uneven(setting, name)]
    folds = [(f, i) for f, fold in enumerate(setting.folds)
             for i in np.flatnonzero(fold.test & known(setting.y_test)).tolist()]
    place = {pair: number for number, pair in enumerate(folds)}
    result.samples = {"key": [str(setting.test.keys[i]) for _, i in folds],
                      "group": [str(setting.test.groups[i]) for _, i in folds],
                      "fold": [setting.folds[f].name for f, _ in folds],
                      "truth": [_plain(setting.y_test[i]) for _, i in folds]}
    probe = PROBES.build(task.probe, f"tasks.{task.name}.probe")
    drawn = {fraction: fraction < 1 or getattr(probe, "draws", True) or task.drop_train for fraction in task.fractions}
    cells = [(name, fraction, seeds if drawn[fraction] else 1) for name in names for fraction in task.fractions]
    fits = (fit for cell in cells for fit in _fits(setting, getattr(probe, "least", 2), *cell))
    done = carry_out(probe, partial(_tested, probe, len(setting.classes), setting.test.views), fits)
    for name, fraction, count in cells:
        lots = list(islice(done, count * len(setting.folds)))
        for cell, output in _cells(setting, name, fraction, lots, drawn[fraction], place):
            if output.nbytes <= KEPT_OUTPUT:
                result.outputs[str(len(result.cells))] = output
            result.cells.append(cell)


def _cells(setting: Setting, name: str, fraction: float, lots: list[dict[Scenario, Part]], drawn: bool,
           place: dict[tuple[int, int], int]) -> Iterator[tuple[Cell, np.ndarray]]:
    """One feature set at one share: a cell for each scenario of missing devices, and the scores (S, N, C) behind it."""
    folds, chance = len(setting.folds), None
    for scenario in setting.tested(name):
        if not any(scenario in lot for lot in lots):
            continue  # no sample has anything left: `_uneven` tells
        runs = [Run(seed, [lot[scenario] for lot in lots[seed * folds:(seed + 1) * folds] if scenario in lot], setting)
                for seed in range(len(lots) // folds)]
        chance = chance or _chance(setting, runs[0])  # of the first scenario: nothing missing
        cell = Cell(name, fraction, list(scenario), summarise([run.values for run in runs]), chance,
                    [run.as_dict() for run in runs], [place[pair] for pair in runs[0].pairs], drawn)
        yield cell, np.stack([run.output for run in runs])


@dataclass
class Fit:
    """One classifier that is to be fitted, of one seed and one fold, and what it is tested on.

    Args:
        fold: number.
        train: what it learns from.
        place: of its draws.
        rows: training samples.
        tests: by scenario of missing devices, test samples and their features.
    """

    fold: int
    train: Labelled
    place: Rng
    rows: int
    tests: dict[Scenario, tuple[np.ndarray, Rows]]


@dataclass
class Part:
    """What one fold gave: numbers of its test samples, scores (n, C) of them, and how the classifier came about."""

    fold: int
    samples: np.ndarray
    output: np.ndarray
    fitted: Fitted
    rows: int


class Run:
    """One seed: all folds, scored together or each for itself."""

    def __init__(self, seed: int, parts: list[Part], setting: Setting) -> None:
        self.seed, self.parts = seed, parts
        self.pairs = [(part.fold, i) for part in parts for i in part.samples.tolist()]
        kind, count = setting.task.kind, len(setting.classes)
        truth = np.concatenate([setting.y_test[part.samples] for part in parts])
        self.output = np.concatenate([part.output for part in parts])
        self.together = scores(kind, truth, self.output, count)
        self.folds: list[Scores] = []
        if len(parts) > 1:
            self.folds = [scores(kind, setting.y_test[part.samples], part.output, count) for part in parts]
        average = bool(setting.task.folds and setting.task.folds.average)
        self.values = mean_of(self.folds) if average and self.folds else self.together.values
        self.single, self.truth = kind == "single_label", truth
        self.names = [setting.folds[part.fold].name for part in parts]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        scored = self.together
        found = {"seed": self.seed, "values": self.values, "per_class": scored.per_class, "left_out": scored.left_out,
                 "confusion": scored.confusion, "rows": [part.rows for part in self.parts],
                 "setting": [part.fitted.setting for part in self.parts],
                 "note": "; ".join(dict.fromkeys(part.fitted.note for part in self.parts if part.fitted.note)),
                 "folds": [{"name": name, "values": fold.values, "rows": fold.rows}
                           for name, fold in zip(self.names, self.folds, strict=False)]}
        if self.single:
            found["guess"] = self.output.argmax(axis=1).tolist()
            own = np.take_along_axis(self.output, self.truth[:, None], axis=1)
            if self.output.shape[1] > TOP:
                found["in_top5"] = ((self.output >= own).sum(axis=1) <= TOP).astype(int).tolist()
        return found


def _fits(setting: Setting, least: int, name: str, fraction: float, seeds: int) -> Iterator[Fit]:
    """All classifiers of one feature set at one share: by seed, by fold."""
    task, bank, y = setting.task, setting.train, setting.y_train
    groups = bank.groups if (bank.groups != "").any() else None
    for seed in range(seeds):
        for number, fold in enumerate(setting.folds):
            rng = label_draw(0, task.label, seed)
            rng = rng if task.folds is None else rng.at("fold", number)
            samples = np.flatnonzero(fold.train & bank.present(name) & known(y))
            samples = samples[label_fraction(y[samples], fraction, rng)]
            x = _dropped(setting, name, rng.at("drop")) if task.drop_train else bank.rows(name)
            train = usable(Labelled(x, y, groups).take(samples), "training")
            learnable(train, least)
            yield Fit(number, train, rng.at("penalty"), len(samples), _held(setting, name, fold))


def _tested(probe: Probe, classes: int, views: int, fit: Fit) -> dict[Scenario, Part]:
    """Fit, and what comes of it with each scenario's devices missing."""
    fitted = probe.fit(fit.train, classes, fit.place)
    return {scenario: Part(fit.fold, samples, fitted.output(x, views), fitted, fit.rows)
            for scenario, (samples, x) in fit.tests.items()}


def _dropped(setting: Setting, name: str, rng: Rng) -> Rows:
    """Training features in which each sample lacks one scenario's devices, drawn evenly."""
    bank, scenarios = setting.train, setting.scenarios(setting.train.members(name))
    drawn = np.repeat(rng.numpy().integers(len(scenarios), size=len(bank)), bank.views)
    whole = np.empty(bank.rows(name).shape, dtype=np.float32)
    for number, scenario in enumerate(scenarios):
        rows = np.flatnonzero(drawn == number)
        whole[rows] = bank.rows(name, setting.missing(scenario)).take(rows).block(0, len(rows))
    return Rows([whole])


def _held(setting: Setting, name: str, fold: Fold) -> dict[Scenario, tuple[np.ndarray, Rows]]:
    """By scenario, the test samples of a fold that have any of a feature set's modalities left, and their features; a
    scenario that leaves nothing of any sample is not among them."""
    lots = {scenario: setting.left(name, scenario, fold) for scenario in setting.tested(name)}
    if not len(lots[()]):
        raise DataError(f"tasks.{setting.task.name}: no test sample has {name} and the label '{setting.task.label}'"
                        + (f" in fold '{fold.name}'" if fold.name else ""))
    return {scenario: (samples, Labelled(setting.test.rows(name, setting.missing(scenario)),
                                         setting.y_test).take(samples).x)
            for scenario, samples in lots.items() if len(samples)}


def _uneven(setting: Setting, name: str) -> list[str]:
    """A line for the scenarios that no test sample can be scored in, and one for those that lack some of them."""
    counts = {scenario: sum(len(setting.left(name, scenario, fold)) for fold in setting.folds)
              for scenario in setting.tested(name)}
    none, whole = [scenario for scenario, count in counts.items() if not count], counts[()]
    fewer = {scenario: count for scenario, count in counts.items() if 0 < count < whole}
    who, lines = f"{setting.test.subject.name}: {name}", []
    if none and whole:
        lines.append(f"{who}: not measured, since no test sample has anything left: without "
                     f"{few(['+'.join(scenario) for scenario in none], SCENARIOS, '; ')}")
    if fewer:
        told = [f"{count} without {'+'.join(scenario)}" for scenario, count in fewer.items()]
        lines.append(f"{who}: samples that really lack a device are scored where they have anything left, so numbers "
                     f"are of different samples: {whole} with nothing missing, {few(told, SCENARIOS, '; ')}")
    return lines


def _chance(setting: Setting, run: Run) -> dict[str, float]:
    """What needs no features: the commonest training classes, always; of several labels, any order at all."""
    if setting.task.kind == "multi_label":
        share = run.truth.mean(axis=0)
        return {"map": float(share[(share > 0) & (share < 1)].mean()), "auc": 0.5, "d_prime": 0.0}
    outputs = []
    for part in run.parts:
        train = setting.y_train[setting.folds[part.fold].train & known(setting.y_train)]
        common = np.bincount(train, minlength=len(setting.classes))
        # Of equally common classes the first: no two outputs tie.
        outputs.append(np.tile(common - np.arange(len(common)) / len(common), (len(part.samples), 1)))
    found = scores("single_label", run.truth, np.concatenate(outputs), len(setting.classes)).values
    return {name: value for name, value in {**found, "auroc": 0.5, "kappa": 0.0}.items() if value is not None}


def _plain(y: np.ndarray | np.int64) -> int | list[int]:
    return int(y) if np.ndim(y) == 0 else np.flatnonzero(y).tolist()
