"""Tables of numbers without a header, a row for each sample, time first and then a label: read as they come. Ours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from mmssl.data.sources.series.runs import runs
from mmssl.errors import DataError

LINES = 20_000
LONGEST = 1 << 16  # characters of a line; what is longer is no such file, and comes as lines with too few columns
SHOWN = 20  # lines of a file that are named one by one


@dataclass(frozen=True)
class Segment:
    """A longest run of one label in unbroken time.

    Args:
        label: its own.
        rows: (before + T + after, C) float64; NaN where the file has none.
        before: rows that belong to what was before.
        count: T.
    """

    label: int
    rows: np.ndarray
    before: int
    count: int


def segments(path: Path, width: int, columns: list[int], rate: float, context: int, notes: list[str]
             ) -> Iterator[Segment]:
    """The segments of a file in order, without holding all of it. No paper: ours.

    Up to `context` rows that are missing between two others are filled with NaN; a longer gap breaks time.

    Args:
        path: the file; column 0 holds seconds, column 1 the label.
        width: columns of every row.
        columns: those to keep.
        rate: Hz.
        context: rows before and after a segment to give along, where time is unbroken there.
        notes: gets a line for each row that is left out.

    Raises:
        DataError: the file cannot be read.
    """
    stream, last = _Stream(context), np.nan
    for table in _tables(path, width, [0, 1, *columns], notes):
        steps = np.round(np.diff(table[:, 0], prepend=last) * rate)
        last = table[-1, 0]
        missing = np.where((steps >= 1) & (steps <= context + 1), steps - 1, 0).astype(int)
        breaks = np.flatnonzero((steps < 1) | (steps > context + 1)).tolist()
        for start, end in zip([0, *breaks], [*breaks, len(table)]):
            if start in breaks:
                yield from stream.give(final=True)
                stream = _Stream(context)
            stream.add(*_filled(table[start:end, 1:], missing[start:end]))
            yield from stream.give(final=False)
    yield from stream.give(final=True)


def _filled(rows: np.ndarray, missing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels and values of rows, with `missing[i]` rows of NaN put in before row i, of the label after them."""
    labels = np.repeat(rows[:, 0], missing + 1).astype(int)
    values = np.repeat(rows[:, 1:], missing + 1, axis=0)
    real = np.zeros(len(labels), dtype=bool)
    real[np.cumsum(missing + 1) - 1] = True
    values[~real] = np.nan
    return labels, values


@dataclass
class _Stream:
    """Rows of unbroken time that are not given yet, and those before them that are still context."""

    context: int
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=int))
    values: np.ndarray | None = None
    done: int = 0

    def add(self, labels: np.ndarray, values: np.ndarray) -> None:
        """More rows."""
        self.labels = np.concatenate([self.labels, labels])
        self.values = values if self.values is None else np.concatenate([self.values, values])

    def give(self, final: bool) -> Iterator[Segment]:
        """The segments whose end and context are there; with `final`, all that are left."""
        if self.values is None:
            return
        total, offset = len(self.labels), self.done
        for start, end in runs(self.labels[offset:]) if offset < total else ():
            start, end = start + offset, end + offset
            if not final and (end == total or end + self.context > total):
                break
            first = max(start - self.context, 0)
            yield Segment(int(self.labels[start]), self.values[first:end + self.context], start - first, end - start)
            self.done = end
        drop = max(self.done - self.context, 0)
        self.labels, self.values, self.done = self.labels[drop:], self.values[drop:], self.done - drop


def _tables(path: Path, width: int, columns: list[int], notes: list[str]) -> Iterator[np.ndarray]:
    """The columns of all good rows, some thousand rows at a time; a line for each bad one."""
    bad: list[str] = []
    try:
        with path.open(encoding="ascii", errors="replace") as file:
            number = 0
            while lines := list(islice(iter(partial(file.readline, LONGEST), ""), LINES)):
                table = _parse(lines, number, width, columns, bad)
                number += len(lines)
                if len(table):
                    yield table
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    finally:
        notes += [f"{path.name}, {line}" for line in bad[:SHOWN]]
        notes += [f"{path.name}: {len(bad) - SHOWN} more such lines"] if len(bad) > SHOWN else []


def _parse(lines: list[str], before: int, width: int, columns: list[int], bad: list[str]) -> np.ndarray:
    """(T, columns) float64 of the good lines."""
    good = []
    for number, line in enumerate(lines, before + 1):
        cells = len(line.split())
        if cells == width:
            good.append((number, line))
        elif cells:
            bad.append(f"line {number}: {cells} columns, expected {width}")
    if not good:
        return np.zeros((0, len(columns)))
    try:
        table = np.loadtxt([line for _, line in good], usecols=columns, ndmin=2)
        if np.isfinite(table[:, :2]).all():
            return table
    except ValueError:
        pass  # one of them is not as it should be; they are taken one by one
    rows = [row for number, line in good if (row := _numbers(number, line, columns, bad)) is not None]
    return np.array(rows).reshape(-1, len(columns))


def _numbers(number: int, line: str, columns: list[int], bad: list[str]) -> list[float] | None:
    cells = line.split()
    try:
        row = [float(cells[c]) for c in columns]
    except ValueError as error:
        bad.append(f"line {number}: {error}; expected numbers")
        return None
    if not np.isfinite(row[:2]).all():
        bad.append(f"line {number}: has no time or no label")
        return None
    return row
