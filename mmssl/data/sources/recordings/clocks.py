"""Sensors of one recording on one clock: those that began at different times, and those that end apart. Ours."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mmssl.data.sources.series.resample import Signal
from mmssl.errors import DataError

#: Samples by which a beginning may miss the grid of a signal: headers give times to a microsecond.
OFF_GRID = 1e-2
#: Part of the longest by which the shortest may end earlier before it is told.
SHORTER = 0.02


class Later:
    """A signal less its first samples. No paper: ours.

    Args:
        signal: any.
        skip: samples.
    """

    def __init__(self, signal: Signal, skip: int) -> None:
        self._signal, self._skip = signal, skip

    def __len__(self) -> int:
        return max(len(self._signal) - self._skip, 0)

    def __getitem__(self, part: slice) -> np.ndarray:
        """(T, C) as the signal has it."""
        start, stop, _ = part.indices(len(self))
        return self._signal[start + self._skip:stop + self._skip]


@dataclass(frozen=True)
class Start:
    """When a file begins: its name, and the time in its header; None: it says none."""

    file: str
    time: datetime.datetime | None


def differ(starts: Mapping[str, Start]) -> bool:
    """Whether two files say different times; one that says none is taken to begin with the others."""
    return len({start.time for start in starts.values()} - {None}) > 1


def to_cut(starts: Mapping[str, Start], signals: Mapping[str, Signal], rates: Mapping[str, float]) -> dict[str, float]:
    """Seconds to cut off the beginning of each so that all begin with the signal that began last.

    Args:
        starts: by modality, and of the labels if they have times; theirs is negative where they begin even later.
        signals, rates: by modality; Hz.

    Raises:
        DataError: a file that does not say when it begins, a time between two samples of a signal, or a signal that
            ends before another one begins.
    """
    said = "; ".join(dict.fromkeys(f"{s.file} begins at {s.time or 'a time it does not say'}" for s in starts.values()))
    remedy = "correct the times in the headers, or cut the files so that they begin together"
    if any(start.time is None for start in starts.values()):
        raise DataError(f"{said}; these cannot be laid side by side, {remedy}")
    last = max(starts[name].time for name in signals)
    cut = {name: (last - start.time).total_seconds() for name, start in starts.items()}
    for name, rate in rates.items():
        if abs(cut[name] * rate - round(cut[name] * rate)) > OFF_GRID:
            raise DataError(f"{said}; {cut[name]:g} s are no whole samples of {name} at {rate:g} Hz, {remedy}")
        if round(cut[name] * rate) >= len(signals[name]):
            raise DataError(f"{said}; {name} has ended by {last}, {remedy}")
    return cut


def uneven(seconds: Mapping[str, float], window: float) -> str | None:
    """What there is to tell where the shortest of all ends much earlier than the longest; else None.

    Args:
        seconds: by modality, and of the labels. window: seconds; less than one of them is no loss.
    """
    least, most = min(seconds.values()), max(seconds.values())
    if most - least <= max(window, SHORTER * most):
        return None
    lasting = ", ".join(f"{name} {value:g} s" for name, value in seconds.items())
    return (f"{lasting}: what lies beyond {least:g} s is left out; check `rate` in the description if none of them was "
            f"cut off")
