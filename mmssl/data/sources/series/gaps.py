"""Samples that a sensor did not deliver (NaN): short gaps are bridged, long ones stay. No paper: ours."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def bridge(x: Float[np.ndarray, "T C"], limit: int) -> Float[np.ndarray, "T C"]:
    """Straight lines across the gaps of each channel that are at most `limit` samples long and end on both sides."""
    made, steps = x.copy(), np.arange(len(x))
    for column in made.T:
        good = np.flatnonzero(~np.isnan(column))
        if len(good) in (0, len(column)):
            continue
        left, right = _neighbours(good, len(column))
        short = np.isnan(column) & (left >= 0) & (right < len(column)) & (right - left - 1 <= limit)
        column[short] = np.interp(steps[short], good, column[good])
    return made


def fill_back(x: Float[np.ndarray, "T C"], limit: int) -> Float[np.ndarray, "T C"]:
    """The next sample of each channel if it comes within `limit` samples, else the last one within `limit`."""
    made, steps = x.copy(), np.arange(len(x))
    for column in made.T:
        good = np.flatnonzero(~np.isnan(column))
        if len(good) == 0:
            continue
        left, right = _neighbours(good, len(column))
        behind, ahead = (left >= 0) & (steps - left <= limit), (right < len(column)) & (right - steps <= limit)
        held = column.copy()
        column[behind] = held[left[behind]]
        column[ahead] = held[right[ahead]]
    return made


def _neighbours(good: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """For each position the last good one at or before it (-1: none), and the first at or after it (`length`: none)."""
    steps = np.arange(length)
    before = np.searchsorted(good, steps, side="right") - 1
    after = np.searchsorted(good, steps, side="left")
    return (np.where(before >= 0, good[np.maximum(before, 0)], -1),
            np.where(after < len(good), good[np.minimum(after, len(good) - 1)], length))
