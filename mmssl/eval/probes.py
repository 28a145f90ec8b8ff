"""Probes: how much a simple classifier reads out of frozen features. What all of them share; each kind has its file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from mmssl.errors import ConfigError, DataError
from mmssl.eval.rows import Labelled, Rows, not_finite, rows_of
from mmssl.eval.scores import Scores, score_guesses, scores
from mmssl.eval.threads import side_by_side
from mmssl.rng import Rng

T, R = TypeVar("T"), TypeVar("R")

#: Share of the training samples, or of their groups, on which a penalty is chosen.
VALIDATION = 0.25


@dataclass(frozen=True)
class Fitted:
    """A classifier that was fitted.

    Args:
        predict: features (n, D) float32 to scores (n, C) float, larger is more likely; probabilities where it has any.
        setting: what was chosen on a validation part (C of a penalty), or what counts (k of neighbours).
        note: "" or why nothing was chosen.
    """

    predict: Callable[[np.ndarray], np.ndarray]
    setting: float
    note: str = ""

    def output(self, x: np.ndarray | Rows, views: int = 1) -> np.ndarray:
        """Scores (N, C) float32 of N samples, in blocks; of several views of a sample, their mean.

        Args:
            x: (N * views, D) features, the views of a sample one after another.
            views: of each sample.
        """
        parts = []
        for _, block in rows_of(x).blocks(multiple=views):
            found = self.predict(block).astype(np.float32)
            parts.append(found.reshape(-1, views, found.shape[1]).mean(axis=1) if views > 1 else found)
        return np.concatenate(parts)


@runtime_checkable
class Probe(Protocol):
    """A kind of probe with its settings; built by name from `PROBES`. A plug-in writes this one method. Ours.

    It may have `concurrent = True` where `fit` and what it gives may run on several threads at once, `draws = False`
    where nothing is drawn, and `least`, the classes that there must be (2).
    """

    def fit(self, train: Labelled, classes: int, rng: Rng) -> Fitted:
        """Fit a classifier.

        Args:
            train: labelled samples, all of them with a class, at least two classes among them, all features finite.
            classes: C, size of the label set; some may not be among them.
            rng: of all that is drawn; equal places give equal results.
        """


@dataclass(frozen=True)
class ProbeResult:
    """What one probe reached on the test samples.

    Args:
        score: of the test samples.
        rows: training samples used.
        test_rows: test samples used.
        penalty: see `Fitted.setting`.
        note: see `Fitted`.
    """

    score: Scores
    rows: int
    test_rows: int
    penalty: float
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def run_probe(probe: Probe, train: Labelled, test: Labelled, classes: int | None = None,
              rng: Rng | None = None) -> ProbeResult:
    """Fit a probe on training samples and score it on test samples, which take part in nothing else. No paper: ours.

    Args:
        probe: built.
        train, test: those without a class are left out.
        classes: size of the label set; default, one more than the largest class number of both.
        rng: of what is drawn; None: always the same place, not a lack of draws.

    Raises:
        DataError: no samples, one class only, widths that differ, class numbers outside the set, or values not finite.
    """
    train, test, classes = checked(train, test, classes, getattr(probe, "least", 2))
    fitted = probe.fit(train, classes, rng or Rng(("probe",)))
    result = scores(test.kind, test.y, fitted.output(test.x, test.views), classes)
    return ProbeResult(result, len(train.y), len(test.y), fitted.setting, fitted.note)


def carry_out(probe: Probe, act: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`map` over what has `probe` fitted: on several threads at once where it is `concurrent`, else one by one."""
    if getattr(probe, "concurrent", False):
        return side_by_side(act, items, getattr(probe, "device", "cpu"))
    return map(act, items)


def label_draw(seed: int, label: str, draw: int) -> Rng:
    """Where draw number `draw` (from 0) of a label's rows is made, by a probe and by fine-tuning alike."""
    return Rng((seed, "probe", label, draw))


def label_fraction(labels: np.ndarray, fraction: float, rng: Rng) -> np.ndarray:
    """Samples whose labels a probe may see: of each class the rounded share, at least one. No paper: ours.

    A larger fraction at the same place of `rng` holds the smaller one.

    Args:
        labels: (N,) int class numbers; samples with -1 are never drawn. Of several labels (N, C), a sample counts for
            its rarest class.
        fraction: in (0, 1].
        rng: where the draw is made.

    Returns:
        (n,) numbers, ascending.

    Raises:
        ConfigError: a fraction outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ConfigError(f"fraction of the labels: expected shares above 0 and up to 1, got {fraction}")
    if labels.ndim == 2:
        known, several = (labels >= 0).all(axis=1), labels
        labels = np.full(len(several), -1)
        labels[known] = rarest_class([np.flatnonzero(row).tolist() for row in several[known]],
                                     several.shape[1])
    drawn = []
    for c in np.unique(labels[labels >= 0]):
        rows = rng.at("class", int(c)).numpy().permutation(np.flatnonzero(labels == c))
        drawn.append(rows[:max(1, round(fraction * len(rows)))])
    return np.sort(np.concatenate(drawn)) if drawn else np.zeros(0, dtype=np.int64)


def rarest_class(classes: Sequence[Sequence[int]], count: int) -> np.ndarray:
    """The class that each sample of several classes counts for, (N,): the rarest of its own; `count` where it has none.

    Args:
        classes: the class numbers of each sample.
        count: size of the label set.
    """
    numbers = [c for row in classes for c in row]
    frequency = np.bincount(np.array(numbers, dtype=np.int64), minlength=count)
    return np.array([min(row, key=lambda c: (frequency[c], c), default=count) for row in classes], dtype=np.int64)


def chance(labels: np.ndarray, classes: int | None = None, train: np.ndarray | None = None) -> dict[str, float]:
    """What needs no features. No paper: ours.

    Args:
        labels: (N,) int class numbers of the test samples; -1 left out.
        classes: size of the label set; default, one more than the largest number.
        train: labels whose most frequent class is always guessed; default, `labels`.

    Returns:
        "uniform": 1 / classes; "majority": accuracy of that guess; "majority_f1": its macro-F1.
    """
    labels, train = labels[labels >= 0], (labels if train is None else train)
    train = train[train >= 0]
    if not len(labels) or not len(train):
        raise DataError("probe: no test row has this label; check its name and the split")
    classes = classes or int(max(labels.max(), train.max())) + 1
    said = score_guesses(labels, np.full(len(labels), np.bincount(train).argmax()), classes)
    return {"uniform": 1 / classes, "majority": said.accuracy, "majority_f1": said.macro_f1}


def checked(train: Labelled, test: Labelled, classes: int | None, least: int = 2) -> tuple[Labelled, Labelled, int]:
    """Both without the samples that have no class, and the size of the label set; see the errors of `run_probe`."""
    train, test = usable(train, "training"), usable(test, "test")
    if train.x.shape[1] != test.x.shape[1]:
        raise DataError(f"probe: training features are {train.x.shape[1]} wide, test features {test.x.shape[1]}; "
                        "take both from one checkpoint")
    if classes is None:
        classes = train.y.shape[1] if train.y.ndim == 2 else int(max(train.y.max(), test.y.max())) + 1
    for part in (train, test):
        if part.kind == "single_label" and part.y.max() >= classes:
            raise DataError(f"probe: class number {int(part.y.max())} in a label set of {classes}; correct the "
                            "manifest's class names")
    learnable(train, least)
    return train, test, classes


def usable(part: Labelled, what: str) -> Labelled:
    """The labelled ones of some samples. Raises DataError where there are none, or features that are not finite."""
    part = part if part.known.all() else part.take(part.known)
    if not len(part.y):
        raise DataError(f"probe: no {what} row has this label; check its name and the split")
    if bad := not_finite(rows_of(part.x)):
        raise DataError(f"probe: {bad} of {len(part.x)} {what} features hold NaN or infinity; the checkpoint is "
                        "broken or diverged, take an earlier one")
    return part


def learnable(train: Labelled, least: int = 2) -> None:
    """See that training samples have enough classes. Raises DataError."""
    if train.kind == "single_label" and len(np.unique(train.y)) < least:
        raise DataError(f"probe: all {len(train.y)} training rows are of class {int(train.y[0])}; a classifier needs "
                        "two classes: take more rows, or another label")


def validation_rows(y: np.ndarray, groups: np.ndarray | None, rng: Rng) -> np.ndarray | None:
    """Which training samples a penalty is chosen on, (N,) bool; None where no class has two samples. No paper: ours.

    Whole groups where there are at least 3 and what stays holds two classes; else a quarter of each class, at least one
    sample of it, and never its last. Of several labels (N, C): a quarter of all samples.
    """
    y = np.zeros(len(y), dtype=np.int64) if y.ndim == 2 else y
    names = np.unique(groups) if groups is not None else np.zeros(0)
    if len(names) >= 3:
        chosen = rng.at("groups").numpy().permutation(names)[:max(1, round(VALIDATION * len(names)))]
        held = np.isin(groups, chosen)
        if len(np.unique(y[~held])) >= min(2, len(np.unique(y))):
            return held
    held = np.zeros(len(y), dtype=bool)
    for c in np.unique(y):
        rows = rng.at("rows", int(c)).numpy().permutation(np.flatnonzero(y == c))
        if len(rows) >= 2:
            held[rows[:max(1, round(VALIDATION * len(rows)))]] = True
    return held if held.any() else None
