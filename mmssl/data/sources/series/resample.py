"""Series at another rate, cut out of a recording that need not be in memory. The door to scipy's filters.

A signal here is anything with a length and slices: `len(signal)` samples in time, `signal[a:b]` as (b - a, C) float.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Protocol, runtime_checkable

import numpy as np

from mmssl.errors import ConfigError

#: Reach of the filter in samples of the slower side: scipy's own choice for `resample_poly`.
REACH = 10
LARGEST = 1000  # the larger of both sides of the ratio; beyond, the filter is longer than most recordings


@runtime_checkable
class Signal(Protocol):
    """What a recording gives of one sensor: an array, or a file that is read where it is sliced."""

    def __len__(self) -> int:
        """Samples in time."""

    def __getitem__(self, part: slice) -> np.ndarray:
        """(T, C) float of a part given as `start:stop`, both inside."""


class Resampled:
    """A signal at another rate, through an anti-alias filter; the same numbers however it is cut into slices.

    Polyphase FIR filter (Kaiser window, beta 5, cut off at half the lower rate), `scipy.signal.resample_poly`. Outside
    the recording, its first and last samples are held. A sample that is not finite makes those near it not finite.
    No paper: ours.

    Args:
        signal: at `rate` Hz.
        rate, wanted: Hz.

    Raises:
        ConfigError: a ratio that is no fraction of numbers up to 1000.
    """

    def __init__(self, signal: Signal, rate: float, wanted: float) -> None:
        ratio = Fraction(wanted).limit_denominator(10**6) / Fraction(rate).limit_denominator(10**6)
        if max(ratio.numerator, ratio.denominator) > LARGEST:
            raise ConfigError(f"{rate:g} Hz cannot be resampled to {wanted:g} Hz, a ratio of {ratio}; choose a rate "
                              f"whose ratio is a fraction of numbers up to {LARGEST}")
        self._signal, self._up, self._down = signal, ratio.numerator, ratio.denominator

    def __len__(self) -> int:
        return len(self._signal) * self._up // self._down

    def __getitem__(self, part: slice) -> np.ndarray:
        """(T, C) float64 at the wanted rate."""
        from scipy.signal import resample_poly
        start, stop, _ = part.indices(len(self))
        margin = -(-REACH * max(self._up, self._down) // self._up) + 1  # samples in that one sample out may depend on
        first = (start * self._down // self._up - margin) // self._down * self._down  # lies on the grid of both rates
        last = (stop - 1) * self._down // self._up + margin + 1
        inside = self._signal[max(first, 0):min(last, len(self._signal))]
        beyond = ((max(-first, 0), max(last - len(self._signal), 0)), (0, 0))
        made = resample_poly(np.pad(inside.astype(np.float64), beyond, mode="edge"), self._up, self._down, axis=0)
        skip = start - first * self._up // self._down
        return made[skip:skip + stop - start]


class Joined:
    """A slow signal at a multiple of its rate: straight lines between its samples, the last one held. No paper: ours.

    For envelopes, which have no content between their samples that a filter could bring back.

    Args:
        signal: the slow one.
        factor: samples out for each sample in.
    """

    def __init__(self, signal: Signal, factor: int) -> None:
        self._signal, self._factor = signal, factor

    def __len__(self) -> int:
        return len(self._signal) * self._factor

    def __getitem__(self, part: slice) -> np.ndarray:
        """(T, C) float64 at the higher rate."""
        start, stop, _ = part.indices(len(self))
        first, last = start // self._factor, min((stop - 1) // self._factor + 2, len(self._signal))
        slow = self._signal[first:last].astype(np.float64)
        at, known = np.arange(start, stop) / self._factor, np.arange(first, last)
        return np.stack([np.interp(at, known, column) for column in slow.T], axis=1)
