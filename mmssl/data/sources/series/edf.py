"""EDF and EDF+ files: signals at their own rates, read where they are sliced, and annotations. The door to edfio."""

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

#: Onset in seconds from the beginning of the recording, duration (None: none is given), text.
Annotation = tuple[float, float | None, str]


class EdfSignal:
    """One channel of an EDF file as (T, 1) float64 in `unit`; only the part that is sliced is read.

    Args:
        signal: edfio's. scale: what its physical values are multiplied by.
    """

    def __init__(self, signal: Any, scale: float, length: int) -> None:
        self.rate = float(signal.sampling_frequency)
        self._signal, self._scale, self._length = signal, scale, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, part: slice) -> np.ndarray:
        """(T, 1) float64."""
        start, stop, _ = part.indices(len(self))
        if stop <= start:
            return np.zeros((0, 1))
        with _explained(self._signal.label):
            return self._signal.get_data_slice(start / self.rate, stop / self.rate)[:, None] * self._scale


class EdfFile:
    """An EDF or EDF+ file, opened; what it holds is read only when asked for. No paper: ours.

    Args:
        path: the file.

    Attributes:
        seconds: length of its whole data records.
        notes: one line where the file is shorter than its header says, e.g. because a copy was cut off.

    Raises:
        ConfigError: edfio is not installed. DataError: no EDF file, or one whose recording was interrupted.
    """

    def __init__(self, path: Path) -> None:
        try:
            import edfio
        except ImportError:
            raise ConfigError(f'{path}: EDF files are read with the package edfio, which is not installed; run: '
                              f'pip install "mmssl[edf]"') from None
        self.path = path
        with _explained(str(path)) as said:
            self._file = edfio.read_edf(path, lazy_load_data=True)
            self.seconds = float(self._file.duration)
            if self._file.reserved.startswith("EDF+D") and not self._file.is_continuous:
                raise DataError(f"{path}: its recording was interrupted (EDF+D); cut it into files without gaps")
        cut = any("truncated" in str(w.message) or "header indicates" in str(w.message) for w in said)
        kept = f"{path.name}: shorter than its header says; {self.seconds:g} s are whole and kept"
        self.notes = [kept] if cut else []

    @property
    def labels(self) -> list[str]:
        """Names of the channels."""
        return [str(label) for label in self._file.labels]

    def signal(self, label: str, unit: str) -> EdfSignal:
        """A channel in a unit. Raises DataError where it is not there, twice there, or in a unit that does not fit."""
        found = [signal for signal in self._file.signals if signal.label == label]
        if len(found) != 1:
            raise DataError(f"{self.path}: {'two channels are' if found else 'no channel is'} called '{label}'"
                            f"{nearest(label, self.labels) if not found else ''}")
        with _explained(f"{self.path}: '{label}'"):
            scale = factor(found[0].physical_dimension, unit, f"{self.path}: '{label}'")
            length = self._file.num_data_records * found[0].samples_per_data_record
            return EdfSignal(found[0], scale, length)

    def annotations(self) -> list[Annotation]:
        """All annotations in order of their onsets. Raises DataError where they cannot be read."""
        with _explained(str(self.path)):
            return [(float(a.onset), None if a.duration is None else float(a.duration), a.text.strip())
                    for a in self._file.annotations if a.text.strip()]

    def begins(self) -> datetime.datetime | None:
        """When the recording began; None where the header does not say it in a readable way."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return self._file.startdatetime
        except Exception:  # dates that were blanked out raise errors of several kinds
            return None


@contextmanager
def _explained(where: str) -> Iterator[list[warnings.WarningMessage]]:
    """Warnings of the library are collected; whatever a broken file makes it raise becomes one line."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            yield said
        except (DataError, ConfigError):
            raise
        except OSError as error:
            raise DataError(f"{where}: cannot be read ({error.strerror or error})") from None
        except Exception as error:
            raise DataError(f"{where}: not a readable EDF file ({type(error).__name__}: {error}); the file may be cut "
                            f"off or damaged, copy it again") from None
