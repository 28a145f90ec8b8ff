"""Raw signals by name: the arrays of one npz file, or the CSV, EDF and WFDB files of a folder. No paper: ours."""

from __future__ import annotations

import csv
import datetime
import zipfile
from array import array as packed
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmssl.data.npy import read_npy
from mmssl.data.sources.recordings.description import SignalInfo
from mmssl.data.sources.series.edf import Annotation, EdfFile
from mmssl.data.sources.series.resample import Signal
from mmssl.data.sources.series.wfdb_files import WfdbRecord, read_rhythms
from mmssl.errors import DataError
from mmssl.registry import nearest

PLAIN = "biufcmMSU"  # kinds of values that an array file can hold without pickle


class NpzStore:
    """The arrays of an npz file by key; never pickled ones. Raises DataError where the file cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = zipfile.ZipFile(path)
            self.names = [name.removesuffix(".npy") for name in self._file.namelist() if name.endswith(".npy")]
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: not a readable npz file ({error}); it may be cut off, copy it again") from None

    def read(self, name: str, columns: list[str] | None = None) -> np.ndarray:
        """An array as (T, C); `columns` are column numbers. Raises DataError naming the key that is missing or bad."""
        if name not in self.names:
            raise DataError(f"{self.path}: no array '{name}'{nearest(name, self.names)}")
        try:
            array = read_npy(self._file.read(name + ".npy"), PLAIN)
        except Exception as error:  # zipfile and zlib have many, for damaged, encrypted and unknown members
            raise DataError(f"{self.path}: array '{name}' cannot be read ({error}); arrays of Python objects never "
                            f"are, save it again as numbers") from None
        array = array[:, None] if array.ndim == 1 else array
        if array.ndim != 2:
            raise DataError(f"{self.path}: array '{name}' has shape {array.shape}, expected (samples,) or "
                            f"(samples, channels)")
        return array if columns is None else array[:, self._numbers(name, columns, array.shape[1])]

    def file(self, name: str) -> Path:
        """Where an array lies: in the one file there is."""
        return self.path

    def signal(self, name: str, info: SignalInfo) -> Signal:
        """A modality as (T, C). Raises DataError like `read`, and for what are no real numbers."""
        array = self.read(name, info.columns)
        if array.dtype.kind not in "biuf":
            raise DataError(f"{self.path}: array '{name}' has values of type {array.dtype}; expected whole or floating "
                            f"numbers, save it again as these")
        return array

    def begins(self, name: str) -> None:
        """An npz file does not say when."""

    def annotations(self, name: str) -> None:
        """An npz file has none."""

    def take_notes(self) -> list[str]:
        """Nothing to tell."""
        return []

    def _numbers(self, name: str, columns: list[str], width: int) -> list[int]:
        if not all(c.isdigit() and int(c) < width for c in columns):
            raise DataError(f"{self.path}: array '{name}' has columns 0 to {width - 1}, asked for {', '.join(columns)}")
        return [int(c) for c in columns]


class FolderStore:
    """The files of a folder by their path inside it (or the one file that is named): CSV, EDF and WFDB."""

    def __init__(self, path: Path) -> None:
        self.path = path if path.is_dir() else path.parent
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        self.names = [file.relative_to(self.path).as_posix() for file in files]
        self._last: tuple[str, Any] | None = None
        self._notes: list[str] = []

    def file(self, name: str) -> Path:
        """Where a file lies. Raises DataError naming the nearest one where there is none."""
        if name not in self.names:
            raise DataError(f"{self.path}: no file '{name}'{nearest(name, self.names)}")
        return self.path / name

    def read(self, name: str, columns: list[str] | None = None) -> np.ndarray:
        """Columns of a CSV file with a header line as (T, C) float64, by title; None: all. An empty cell is NaN.

        Raises:
            DataError: no such file or column, or a cell that is no number; with its line.
        """
        path = self.file(name)
        titles, values = self._open(name, path, self._parse)
        unknown = [c for c in columns or [] if c not in titles]
        if unknown:
            raise DataError(f"{path}: no column '{unknown[0]}'{nearest(unknown[0], titles)}")
        return values if columns is None else values[:, [titles.index(c) for c in columns]]

    def signal(self, name: str, info: SignalInfo) -> Signal:
        """A modality as (T, C); of an EDF or WFDB file only what is sliced is read.

        Raises:
            DataError: no such file or channel, or one at another rate or in another unit than described.
        """
        file = self._device_file(name)
        if file is None:
            return self.read(name, info.columns)
        labels = file.labels if info.columns is None else info.columns
        if len(labels) != len(info.channels):
            return np.zeros((0, len(labels)))  # whoever asked will say that the number of channels does not fit
        parts = [file.signal(label, unit) for label, unit in zip(labels, info.units, strict=True)]
        for label, part in zip(labels, parts, strict=True):
            if abs(part.rate - info.rate) > 1e-6 * info.rate:
                raise DataError(f"{file.path}: '{label}' has {part.rate:g} Hz, the description says {info.rate:g}; "
                                f"correct `rate`, and set `resample` to bring it to another one")
        return SideBySide(parts)

    def annotations(self, name: str) -> list[Annotation] | None:
        """Onset, duration and text of the annotations in an EDF+ or a WFDB annotation file; None for a CSV file."""
        if name.lower().endswith(".csv"):
            return None
        path = self.file(name)
        return self._open(name, path, EdfFile).annotations() if name.lower().endswith(".edf") else read_rhythms(path)

    def begins(self, name: str) -> datetime.datetime | None:
        """When a file began, of WFDB annotations that of the header beside them; None where nothing says it."""
        kind = Path(name).suffix.lower()
        header = name if kind in (".edf", ".hea", ".csv") else Path(name).with_suffix(".hea").as_posix()
        file = self._device_file(header) if header in self.names else None
        return None if file is None else file.begins()

    def _device_file(self, name: str) -> EdfFile | WfdbRecord | None:
        """An EDF file or a WFDB record, opened; None for any other."""
        opener = {".edf": EdfFile, ".hea": WfdbRecord}.get(Path(name).suffix.lower())
        return None if opener is None else self._open(name, self.file(name), opener)

    def _open(self, name: str, path: Path, opener: Callable[[Path], Any]) -> Any:
        """What an opener makes of a file; the last one is kept, since several modalities may lie in it."""
        if self._last is None or self._last[0] != name:
            self._last = (name, opener(path))
            self._notes += getattr(self._last[1], "notes", [])
        return self._last[1]

    def take_notes(self) -> list[str]:
        """What there is to tell of the files that were opened since the last call, once each."""
        notes, self._notes = list(dict.fromkeys(self._notes)), []
        return notes

    def _parse(self, path: Path) -> tuple[list[str], np.ndarray]:
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                lines = csv.reader(file)
                titles, cells = next(lines, []), packed("d")  # 8 bytes a cell, where a float in a list takes 32
                for row in lines:
                    if len(row) != len(titles):
                        raise DataError(f"{path}, line {lines.line_num}: {len(row)} cells, expected {len(titles)}")
                    cells.extend([float(cell) if cell.strip() else np.nan for cell in row])
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path}: cannot be read as CSV ({error})") from None
        except ValueError as error:
            raise DataError(f"{path}, line {lines.line_num}: {error}; expected numbers below one header line") from None
        if not cells:
            raise DataError(f"{path}: holds no samples; expected numbers below one header line")
        return titles, np.frombuffer(cells, dtype=np.float64).reshape(-1, len(titles))


class SideBySide:
    """Channels of (T, 1) each as one signal (T, C), as long as the shortest."""

    def __init__(self, parts: Sequence[Signal]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return min(len(part) for part in self._parts)

    def __getitem__(self, part: slice) -> np.ndarray:
        """(T, C) float64."""
        return np.concatenate([channel[part] for channel in self._parts], axis=1)


def open_store(path: str | Path) -> NpzStore | FolderStore:
    """The store in an npz file, a CSV file, or a folder of files. Raises DataError where there is none."""
    path = Path(path)
    if path.is_file() and path.suffix == ".npz":
        return NpzStore(path)
    if path.is_dir() or (path.is_file() and path.suffix == ".csv"):
        return FolderStore(path)
    state = "is neither" if path.exists() else "does not exist; expected"
    raise DataError(f"{path}: {state} an npz file, a CSV file or a folder of CSV, EDF or WFDB files")
