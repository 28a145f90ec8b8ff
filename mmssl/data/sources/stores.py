"""Raw arrays by name: the arrays of one npz file, or the CSV files of a folder. No paper: ours."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from mmssl.errors import DataError
from mmssl.registry import nearest


class NpzStore:
    """The arrays of an npz file by key; never pickled ones. Raises DataError where the file cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = np.load(path, allow_pickle=False)
            self.names = list(self._file.files)
        except (OSError, ValueError, AttributeError) as error:
            raise DataError(f"{path}: not a readable npz file ({error})") from None

    def read(self, name: str, columns: list[str] | None = None) -> np.ndarray:
        """An array as (T, C); `columns` are column numbers. Raises DataError naming the key that is missing or bad."""
        if name not in self.names:
            raise DataError(f"{self.path}: no array '{name}'{nearest(name, self.names)}")
        try:
            array = self._file[name]
        except Exception as error:  # zipfile, zlib and NumPy each have their own, and one for object arrays
            raise DataError(f"{self.path}: array '{name}' cannot be read ({error}); arrays of Python objects never "
                            f"are, save it again as numbers") from None
        array = array[:, None] if array.ndim == 1 else array
        if array.ndim != 2:
            raise DataError(f"{self.path}: array '{name}' has shape {array.shape}, expected (samples,) or "
                            f"(samples, channels)")
        return array if columns is None else array[:, self._numbers(name, columns, array.shape[1])]

    def _numbers(self, name: str, columns: list[str], width: int) -> list[int]:
        if not all(c.isdigit() and int(c) < width for c in columns):
            raise DataError(f"{self.path}: array '{name}' has columns 0 to {width - 1}, asked for {', '.join(columns)}")
        return [int(c) for c in columns]


class CsvStore:
    """CSV files with a header line by their path inside a folder (or the one file that is named)."""

    def __init__(self, path: Path) -> None:
        self.path = path if path.is_dir() else path.parent
        files = sorted(path.rglob("*.csv")) if path.is_dir() else [path]
        self.names = [str(file.relative_to(self.path)) for file in files]
        self._last: tuple[str, list[str], np.ndarray] | None = None

    def read(self, name: str, columns: list[str] | None = None) -> np.ndarray:
        """Columns of a file as (T, C) float64, by title; None: all. An empty cell is NaN.

        Raises:
            DataError: no such file or column, or a cell that is no number; with its line.
        """
        if name not in self.names:
            raise DataError(f"{self.path}: no file '{name}'{nearest(name, self.names)}")
        if self._last is None or self._last[0] != name:
            self._last = (name, *self._parse(self.path / name))
        titles, values = self._last[1:]
        unknown = [c for c in columns or [] if c not in titles]
        if unknown:
            raise DataError(f"{self.path / name}: no column '{unknown[0]}'{nearest(unknown[0], titles)}")
        return values if columns is None else values[:, [titles.index(c) for c in columns]]

    def _parse(self, path: Path) -> tuple[list[str], np.ndarray]:
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                lines = csv.reader(file)
                titles, rows = next(lines, []), []
                for row in lines:
                    if len(row) != len(titles):
                        raise DataError(f"{path}, line {lines.line_num}: {len(row)} cells, expected {len(titles)}")
                    rows.append([float(cell) if cell.strip() else np.nan for cell in row])
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path}: cannot be read as CSV ({error})") from None
        except ValueError as error:
            raise DataError(f"{path}, line {lines.line_num}: {error}; expected numbers below one header line") from None
        if not rows:
            raise DataError(f"{path}: holds no samples; expected numbers below one header line")
        return titles, np.array(rows, dtype=np.float64)


def open_store(path: str | Path) -> NpzStore | CsvStore:
    """The store in an npz file, a CSV file, or a folder of CSV files. Raises DataError where there is none."""
    path = Path(path)
    if path.is_file() and path.suffix == ".npz":
        return NpzStore(path)
    if path.is_dir() or (path.is_file() and path.suffix == ".csv"):
        return CsvStore(path)
    state = "is neither" if path.exists() else "does not exist; expected"
    raise DataError(f"{path}: {state} an npz file, a CSV file or a folder of CSV files")
