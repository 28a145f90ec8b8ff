"""What a manifest knows of each group (subject): its records, its classes, and the sums that make mean and spread."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

#: Deviation in parts of the mean up to which a channel is constant.
ROUNDING = 4 * np.finfo(np.float64).eps


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations of each channel, which add up over parts of the data.

    Source: T. F. Chan et al., "Updating formulae and a pairwise algorithm for computing sample variances" (1979).

    Args:
        count: samples in time.
        mean, squares: (C,) float64; `squares` is the sum of (x - mean)^2.
    """

    count: int
    mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, x: Float[np.ndarray, "C T"]) -> Moments:
        """Of one window (C, T)."""
        x = x.astype(np.float64)
        first = x[:, :1]  # what a channel begins with; the mean of a constant one is then exactly that
        mean = first[:, 0] + (x - first).mean(axis=1)
        return cls(x.shape[1], mean, ((x - mean[:, None]) ** 2).sum(axis=1))

    def __add__(self, other: Moments) -> Moments:
        total, apart = self.count + other.count, other.mean - self.mean
        return Moments(total, self.mean + apart * (other.count / total),
                       self.squares + other.squares + apart**2 * (self.count * other.count / total))

    @property
    def std(self) -> np.ndarray:
        """(C,) population standard deviation; 1 where a channel is constant, so that it can divide.

        What differs in the last bits of float64 only is constant: that is rounding, no signal.
        """
        std = np.sqrt(self.squares / self.count)
        return np.where(std > ROUNDING * np.abs(self.mean), std, 1.0)

    def as_json(self) -> list[Any]:
        """[count, means, squares], which `from_json` reads back bit for bit."""
        return [self.count, self.mean.tolist(), self.squares.tolist()]

    @classmethod
    def from_json(cls, row: Any) -> Moments:
        """See `as_json`. Raises ValueError where it is not of that form."""
        try:
            count, mean, squares = row
            made = cls(int(count), np.array(mean, dtype=np.float64), np.array(squares, dtype=np.float64))
        except (TypeError, ValueError):
            raise ValueError(f"expected [count, means, squares], got {str(row)[:80]}") from None
        if made.count < 1 or made.mean.ndim != 1 or made.mean.shape != made.squares.shape:
            raise ValueError(f"expected [count, means, squares], got {str(row)[:80]}")
        return made


@dataclass
class GroupInfo:
    """One group (subject) of a data set. No paper: ours.

    Args:
        records: how many it has.
        classes: by label, its records of each class, in order of the class numbers.
        moments: by modality, as `Moments.as_json` writes them.
    """

    records: int = 0
    classes: dict[str, list[int]] = field(default_factory=dict)
    moments: dict[str, list[Any]] = field(default_factory=dict)

    def add(self, other: GroupInfo) -> None:
        """Take in what another part of the data holds of the same group."""
        self.records += other.records
        for label, counts in other.classes.items():
            mine = self.classes.get(label, [0] * len(counts))
            self.classes[label] = [a + b for a, b in zip(mine, counts, strict=True)]
        for name, row in other.moments.items():
            self.moments[name] = total([self.moments[name], row]).as_json() if name in self.moments else row


def total(rows: Iterable[Any]) -> Moments:
    """The moments of several parts together, added in their order; each part as `as_json` wrote it."""
    first, *rest = (Moments.from_json(row) for row in rows)
    for part in rest:
        first = first + part
    return first


def parse_groups(raw: Any) -> dict[str, GroupInfo]:
    """The groups of a manifest. Raises ValueError naming what does not fit."""
    if not isinstance(raw, Mapping):
        raise ValueError(f"groups: expected an object, got {type(raw).__name__}")
    found = {}
    for name, node in raw.items():
        if not isinstance(node, Mapping) or set(node) != {"records", "classes", "moments"}:
            raise ValueError(f"groups.{name}: expected an object with records, classes and moments")
        records, classes, moments = node["records"], node["classes"], node["moments"]
        if type(records) is not int or not isinstance(classes, Mapping) or not isinstance(moments, Mapping):
            raise ValueError(f"groups.{name}: expected a number of records, and objects for classes and moments")
        for label, counts in classes.items():
            if not isinstance(counts, list) or not all(type(n) is int for n in counts):
                raise ValueError(f"groups.{name}.classes.{label}: expected a list of numbers, got {str(counts)[:80]}")
        for modality, row in moments.items():
            try:
                Moments.from_json(row)
            except ValueError as error:
                raise ValueError(f"groups.{name}.moments.{modality}: {error}") from None
        found[name] = GroupInfo(records, dict(classes), dict(moments))
    return found
