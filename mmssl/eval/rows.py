"""Rows of features and their classes, read in blocks: a million of them need no more memory than one block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mmssl.errors import DataError

#: Bytes of one block of float32 rows.
BLOCK = 32 << 20


class Stacked:
    """Arrays (R_i, D) one below the other, read as one (R, D) without copying any. No paper: ours."""

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self.parts, self.ends = list(parts), np.cumsum([len(part) for part in parts])
        self.shape = (int(self.ends[-1]), self.parts[0].shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        numbers = np.arange(len(self))[rows] if isinstance(rows, slice) else rows
        found = np.empty((len(numbers), self.shape[1]), dtype=np.float32)
        home = np.searchsorted(self.ends, numbers, side="right")
        for i in np.unique(home):
            here = home == i
            found[here] = self.parts[i][numbers[here] - (self.ends[i] - len(self.parts[i]))]
        return found


class WithinGroups:
    """Rows (R, D), each less the mean of its group and divided by the group's standard deviation, feature by feature.

    Where people differ more than what is to be told of them. Constant features and absent rows are 0. Ours.

    Args:
        rows: what is to be standardised; nothing of it is copied.
        groups: (R,) names.
        present: (R,) bool; rows that are not count for no mean.
    """

    def __init__(self, rows: np.ndarray | Stacked, groups: np.ndarray, present: np.ndarray) -> None:
        self.rows, self.present, self.shape = rows, present, rows.shape
        names, self.home = np.unique(groups, return_inverse=True)
        found = [moments(Rows([rows]).take((self.home == g) & present)) for g in range(len(names))]
        self.mean, self.std = (np.stack([pair[i] for pair in found]) for i in (0, 1))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        home = self.home[rows]
        return np.where(self.present[rows, None], (self.rows[rows] - self.mean[home]) / self.std[home], 0)


class Rows:
    """N rows of several arrays side by side, some of them or all, without copying any until they are asked for.

    No paper: ours.

    Args:
        parts: arrays of floats (R, D_i), in memory, `np.memmap`, Stacked or WithinGroups, all of R rows; side by side D
            wide.
        index: (N,) numbers of the rows, in the order wanted; None: all R.
    """

    def __init__(self, parts: Sequence[np.ndarray | Stacked | WithinGroups], index: np.ndarray | None = None) -> None:
        self.parts, self.index = list(parts), index
        heights = {len(part) for part in self.parts}
        if len(heights) != 1:
            raise DataError(f"features: arrays of {sorted(heights)} rows cannot stand side by side")
        self.shape = (heights.pop() if index is None else len(index), sum(part.shape[1] for part in self.parts))

    def __len__(self) -> int:
        return self.shape[0]

    def take(self, rows: np.ndarray) -> Rows:
        """Some of the rows: numbers (n,), or (N,) bool."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        return Rows(self.parts, rows if self.index is None else self.index[rows])

    def block(self, start: int, stop: int) -> np.ndarray:
        """Rows start .. stop - 1, (n, D) float32."""
        rows = slice(start, stop) if self.index is None else self.index[start:stop]
        found = [np.asarray(part[rows], dtype=np.float32) for part in self.parts]
        return found[0] if len(found) == 1 else np.concatenate(found, axis=1)

    def blocks(self, multiple: int = 1) -> Iterator[tuple[slice, np.ndarray]]:
        """All rows, as (which, block), each block of at most `BLOCK` bytes and of a multiple of so many rows."""
        size = max(1, BLOCK // (4 * max(1, self.shape[1])) // multiple) * multiple
        for start in range(0, len(self), size):
            where = slice(start, min(start + size, len(self)))
            yield where, self.block(where.start, where.stop)


def rows_of(x: np.ndarray | Rows) -> Rows:
    """An array (N, D) as Rows."""
    return x if isinstance(x, Rows) else Rows([x])


@dataclass
class Labelled:
    """Samples with a class, or with several.

    Args:
        x: (N * V, D) float features, V views of each sample one after another; mostly V is 1.
        y: (N,) int class numbers, rows with -1 have none and are left out; or (N, C) of 0 and 1 for several labels,
            rows with -1 likewise.
        groups: (N,) names of groups whose rows must not be on both sides of a split; None or all "": no groups.
    """

    x: np.ndarray | Rows
    y: np.ndarray
    groups: np.ndarray | None = None

    @property
    def views(self) -> int:
        """V."""
        return len(self.x) // max(1, len(self.y))

    @property
    def kind(self) -> str:
        """"single_label" or "multi_label"."""
        return "single_label" if self.y.ndim == 1 else "multi_label"

    @property
    def known(self) -> np.ndarray:
        """(N,) bool: which samples are labelled."""
        return known(self.y)

    @property
    def targets(self) -> np.ndarray:
        """`y` once for every row of `x`."""
        return self.y if self.views == 1 else np.repeat(self.y, self.views, axis=0)

    def take(self, samples: np.ndarray) -> Labelled:
        """Some of the samples: numbers (n,), or (N,) bool."""
        samples = np.flatnonzero(samples) if samples.dtype == bool else samples
        views = self.views
        rows = samples if views == 1 else (samples[:, None] * views + np.arange(views)).ravel()
        # An array in memory is cut at once, which is cheap; what lies on a disk is only pointed to.
        x = self.x[rows] if type(self.x) is np.ndarray else rows_of(self.x).take(rows)
        return Labelled(x, self.y[samples], None if self.groups is None else self.groups[samples])


def known(y: np.ndarray) -> np.ndarray:
    """(N,) bool: which samples are labelled, given their classes (N,) or labels (N, C)."""
    return y >= 0 if y.ndim == 1 else (y >= 0).all(axis=1)


def moments(x: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (D,) float64 of each feature, in one pass over blocks (Chan's update). Ours.

    A constant feature has deviation infinity: divided by it, it becomes zero, not rounding noise blown up.
    """
    count, mean, total = 0, np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for _, block in x.blocks():
        block = block.astype(np.float64)
        n, middle = len(block), block.mean(axis=0)
        shift = middle - mean
        total += np.square(block - middle).sum(axis=0) + np.square(shift) * (count * n / (count + n))
        mean += shift * (n / (count + n))
        count += n
    std = np.sqrt(total / max(1, count))
    std[std <= 1e-6 * np.maximum(np.abs(mean), std.max(initial=0))] = np.inf
    return mean, std


def not_finite(x: Rows) -> int:
    """How many rows hold NaN or infinity."""
    return sum(int((~np.isfinite(block).all(axis=1)).sum()) for _, block in x.blocks())
