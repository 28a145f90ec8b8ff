"""Runs of equal values, as labels of each sample have them. No paper: ours."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def runs(values: np.ndarray) -> Iterator[tuple[int, int]]:
    """First and one past the last position of each longest run of equal values."""
    if not len(values):
        return
    edges = np.flatnonzero(values[1:] != values[:-1]) + 1
    yield from zip([0, *edges.tolist()], [*edges.tolist(), len(values)])
