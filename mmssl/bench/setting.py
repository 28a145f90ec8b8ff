"""What a classification task is about for one subject: labels, folds, and the devices that may be missing."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from mmssl.bench.bank import Bank
from mmssl.bench.folds import Fold, make_folds
from mmssl.bench.suite import Task
from mmssl.errors import ConfigError, DataError
from mmssl.eval.rows import known
from mmssl.registry import nearest

Scenario = tuple[str, ...]


@dataclass
class Setting:
    """A task on the samples of one subject.

    Args:
        task: what is asked.
        train, test: features to learn from and to test on; with folds, of the same samples.
        folds: who learns and who tests.
        classes: names.
        y_train, y_test: labels of their samples.
    """

    task: Task
    train: Bank
    test: Bank
    folds: list[Fold]
    classes: list[str]
    y_train: np.ndarray
    y_test: np.ndarray

    @property
    def devices(self) -> dict[str, list[str]]:
        """Modalities by device, as far as they are there."""
        named = self.task.devices or {m: [m] for m in self.test.modalities}
        there = {d: [m for m in ms if m in self.test.modalities] for d, ms in named.items()}
        return {d: ms for d, ms in there.items() if ms}

    def scenarios(self, members: list[str]) -> list[Scenario]:
        """Sets of devices that may be missing: none, then every other one that leaves something of `members`."""
        devices = [d for d, ms in self.devices.items() if set(ms) & set(members)]
        return [lot for size in range(len(devices)) for lot in combinations(devices, size)]

    def tested(self, name: str) -> list[Scenario]:
        """Sets of devices that are missing where a feature set is tested: none, unless the task asks for all."""
        return self.scenarios(self.test.members(name)) if self.task.missing == "all" else [()]

    def left(self, name: str, scenario: Scenario, fold: Fold) -> np.ndarray:
        """Numbers of a fold's test samples that have the label and any of a feature set's modalities left."""
        return np.flatnonzero(fold.test & self.test.present(name, self.missing(scenario)) & known(self.y_test))

    def missing(self, scenario: Scenario) -> list[str]:
        """The modalities of the devices that are missing."""
        return [m for d in scenario for m in self.devices[d]]


def settle(task: Task, train: Bank, test: Bank, classes: dict[str, list[str]]) -> Setting:
    """Find labels and folds.

    Args:
        task: what is asked.
        train, test: features; with folds, of the same samples in the same order.
        classes: names of the classes by label, as far as the data set says them.

    Raises:
        ConfigError: no such label, one of another kind, or folds that cannot be made.
        DataError: training and test features are of different samples where folds need the same.
    """
    for bank in (train, test):
        if task.label not in bank.labels:
            raise ConfigError(f"tasks.{task.name}.label: no label is called '{task.label}'"
                              f"{nearest(task.label, bank.labels)}")
    y_train, y_test = train.labels[task.label], test.labels[task.label]
    if (y_train.ndim == 2) != (task.kind == "multi_label"):
        holds = "several classes" if y_train.ndim == 2 else "one class"
        raise ConfigError(f"tasks.{task.name}.kind: samples have {holds} of '{task.label}'; expected "
                          f"{'multi_label' if y_train.ndim == 2 else 'single_label'}")
    names = classes.get(task.label) or [str(n) for n in range(
        y_train.shape[1] if y_train.ndim == 2 else int(max(y_train.max(initial=0), y_test.max(initial=0))) + 1)]
    if task.folds is None:
        folds = [Fold("", np.ones(len(train), bool), np.ones(len(test), bool))]
    else:
        if not np.array_equal(train.keys, test.keys):
            raise DataError(f"tasks.{task.name}: some samples could be read in one set of views only, so that folds "
                            "cannot be made; repair the data set (`mmssl data verify`)")
        folds = make_folds(task.folds, train.groups, train.labels, classes)
    return Setting(task, train, test, folds, names, y_train, y_test)
