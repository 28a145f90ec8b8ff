"""WFDB records (PhysioNet's own format): signals read where they are sliced, and annotations. The door to wfdb."""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mmssl.data.sources.series.units import factor
from mmssl.errors import ConfigError, DataError
from mmssl.registry import nearest


class WfdbSignal:
    """One channel of a record as (T, 1) float64 in a unit; only the part that is sliced is read.

    Args:
        record: its record.
        channel: number.
        scale: what its physical values are multiplied by.
    """

    def __init__(self, record: WfdbRecord, channel: int, scale: float) -> None:
        self._record, self._channel, self._scale = record, channel, scale
        self._many = record.per_frame[channel]
        self.rate = record.rate * self._many

    def __len__(self) -> int:
        return self._record.frames * self._many

    def __getitem__(self, part: slice) -> np.ndarray:
        """(T, 1) float64; NaN where the record says that a sample is not valid."""
        start, stop, _ = part.indices(len(self))
        if stop <= start:
            return np.zeros((0, 1))
        first, last = start // self._many, -(-stop // self._many)
        values = self._record.read(first, last, self._channel)[start - first * self._many:][:stop - start]
        if len(values) != stop - start:
            raise DataError(f"{self._record.path}: its signals end before sample {stop} that the header promises; the "
                            f"copy was cut off")
        return values[:, None] * self._scale


class WfdbRecord:
    """A record, opened by its header; what it holds is read only when asked for. No paper: ours.

    Args:
        path: the header, `.hea`.

    Attributes:
        labels: names of the channels. rate: Hz of frames. per_frame: samples of each channel in a frame.
        frames: how many.

    Raises:
        ConfigError: wfdb is not installed. DataError: no readable record.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._wfdb = path, _library(path)
        with _explained(path):
            header = self._wfdb.rdheader(self._base)
            self.frames, self._begins = int(header.sig_len), header.base_datetime
            first = self._wfdb.rdrecord(self._base, sampfrom=0, sampto=1, smooth_frames=True)
            self.labels, self.units = list(first.sig_name), list(first.units)
            self.rate, self.per_frame = float(first.fs), [int(n or 1) for n in first.samps_per_frame]

    def begins(self) -> datetime.datetime | None:
        """When the recording began; None where the header does not say both date and time."""
        return self._begins

    @property
    def _base(self) -> str:
        return str(self.path.with_suffix("").absolute())

    def signal(self, label: str, unit: str) -> WfdbSignal:
        """A channel in a unit. Raises DataError where it is not there, or in a unit that does not fit."""
        if label not in self.labels:
            raise DataError(f"{self.path}: no channel is called '{label}'{nearest(label, self.labels)}")
        channel = self.labels.index(label)
        return WfdbSignal(self, channel, factor(self.units[channel], unit, f"{self.path}: '{label}'"))

    def read(self, first: int, last: int, channel: int) -> np.ndarray:
        """Physical samples (T,) of some frames of a channel. Raises DataError where they cannot be read."""
        many = self.per_frame[channel] > 1
        with _explained(self.path):
            record = self._wfdb.rdrecord(self._base, sampfrom=first, sampto=last, channels=[channel],
                                         smooth_frames=not many)
            return np.asarray(record.e_p_signal[0] if many else record.p_signal[:, 0], dtype=np.float64)


def read_rhythms(path: Path, rate: float | None = None) -> list[tuple[float, None, str]]:
    """Onset in seconds and text of each annotation that begins a rhythm, e.g. "(AFIB"; beats are passed over.

    Args:
        path: the annotation file, e.g. `100.atr`, beside its header.
        rate: Hz; None: as the file or the header says.

    Raises:
        ConfigError: wfdb is not installed. DataError: it cannot be read.
    """
    library = _library(path)
    with _explained(path):
        found = library.rdann(str(path.with_suffix("").absolute()), path.suffix[1:])
        rate = rate or found.fs or library.rdheader(str(path.with_suffix("").absolute())).fs
        notes = [note.strip("\0 ") for note in found.aux_note or []]
        return [(float(at) / rate, None, note) for at, note in zip(found.sample.tolist(), notes) if note[:1] == "("]


def _library(path: Path) -> Any:
    try:
        import wfdb
    except ImportError:
        raise ConfigError(f'{path}: WFDB records are read with the package wfdb, which is not installed; run: '
                          f'pip install "mmssl[wfdb]"') from None
    return wfdb


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Whatever a broken record makes the library raise becomes one line; its own deprecations are no user's matter."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (DataError, ConfigError):
        raise
    except OSError as error:
        raise DataError(f"{error.filename or path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:
        raise DataError(f"{path}: not a readable WFDB file ({type(error).__name__}: {error}); copy it again") from None
