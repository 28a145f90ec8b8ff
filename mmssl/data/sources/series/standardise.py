"""A recording in units of its own deviation, cut out of one that need not be in memory."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from mmssl.data.groups import Moments
from mmssl.data.sources.series.resample import Signal

#: Samples in time that are measured at once.
BLOCK = 1 << 18


class Standardised:
    """A signal less its mean, over its deviation, each channel by that of the whole recording. No paper: ours.

    Measured once, when first cut, in blocks. A moment at which any channel is no finite number does not count; a
    constant channel becomes zeros.

    Args:
        signal: of one recording.
    """

    def __init__(self, signal: Signal) -> None:
        self._signal = signal

    def __len__(self) -> int:
        return len(self._signal)

    def __getitem__(self, part: slice) -> np.ndarray:
        """(T, C) float64, without a unit."""
        if self._moments is None:
            return self._signal[part].astype(np.float64)
        return (self._signal[part].astype(np.float64) - self._moments.mean) / self._moments.std

    @cached_property
    def _moments(self) -> Moments | None:
        """Of all finite moments; None where there is none."""
        found = None
        for start in range(0, len(self._signal), BLOCK):
            block = self._signal[start:min(start + BLOCK, len(self._signal))]
            block = block[np.isfinite(block).all(axis=1)]
            if len(block):
                part = Moments.of(block.T)
                found = part if found is None else found + part
        return found
