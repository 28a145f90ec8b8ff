"""When which class holds in a recording: from an array of labels, or from annotations. No paper: ours."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmssl.data.sources.recordings.description import LabelInfo
from mmssl.data.sources.series.edf import Annotation
from mmssl.data.sources.series.runs import runs
from mmssl.errors import DataError

#: Start and end in seconds, and class number.
Span = tuple[float, float, int]


@dataclass(frozen=True)
class Labels:
    """What holds when, as text: onset and duration in seconds (None: until the next); "" is no label.

    Args:
        spans: in any order.
        seconds: how long labels were given for, where they have a rate; None: nobody says.
    """

    spans: list[Annotation]
    seconds: float | None = None

    @classmethod
    def of(cls, values: np.ndarray, rate: float | None, where: str) -> Labels:
        """From an array (T,) of whole numbers or texts at `rate` Hz, or one value for a whole recording.

        Raises:
            DataError: several values without a rate, or what is neither a whole number nor a text; with `where`.
        """
        if rate is None and len(values) != 1:
            raise DataError(f"{where} has {len(values)} labels for one recording; give `label.rate` in Hz")
        if values.dtype.kind not in "biufSU":
            raise DataError(f"{where} has values of type {values.dtype}; expected whole numbers or texts as labels")
        different, codes = np.unique(values, return_inverse=True)  # what is no number is one value
        texts = [_text(value, where) for value in different]
        if rate is None:
            return cls([(0.0, None, texts[0])])
        return cls([(first / rate, (last - first) / rate, texts[codes[first]]) for first, last in runs(codes)],
                   len(values) / rate)

    @property
    def whole(self) -> bool:
        """Whether one value holds from beginning to end."""
        return [span[:2] for span in self.spans] == [(0.0, None)]

    def later(self, seconds: float) -> Labels:
        """The same for a recording whose first `seconds` are cut off."""
        return Labels([(onset - seconds, duration, text) for onset, duration, text in self.spans],
                      None if self.seconds is None else self.seconds - seconds)


def find_spans(labels: Labels, info: LabelInfo, name: str, end: float, slack: float, notes: list[str]) -> list[Span]:
    """Each longest time in which one class holds, in order.

    Neighbours of one class are one, and so is what is annotated twice. Where different classes are said of one
    time, none counts there, and `notes` gets a line.

    Args:
        labels, info: of the recording; what the description drops says nothing.
        name: of the recording, in messages.
        end: seconds, of the last annotation that has no duration.
        slack: seconds by which an end may miss the onset after it.

    Raises:
        ConfigError: a label that is neither a class nor dropped.
    """
    onsets, found = sorted({float(onset) for onset, _, _ in labels.spans}), []
    for onset, duration, text in labels.spans:
        number = info.number(text, name) if text else None
        if number is not None:
            at = bisect_right(onsets, onset)
            following = onsets[at] if at < len(onsets) else end
            stop = following if duration is None else _snapped(onset + duration, onsets, slack)
            found.append((float(onset), stop, number))
    made, disputed = _swept(found)
    if disputed:
        (first, _, classes), seconds = disputed[0], sum(stop - start for start, stop, _ in disputed)
        notes.append(f"{name}: its labels say several classes of {seconds:g} s (first at {first:g} s: "
                     f"{' and '.join(info.names[number] for number in classes)}), which are left out; name in "
                     f"label.drop what is no class")
    return made


def _snapped(stop: float, onsets: list[float], slack: float) -> float:
    """An end, or the onset next to it where that is no further than `slack`."""
    at = bisect_left(onsets, stop)
    near = min(onsets[max(at - 1, 0):at + 1], key=lambda onset: abs(onset - stop))
    return near if abs(near - stop) <= slack else stop


def _swept(found: list[Span]) -> tuple[list[Span], list[tuple[float, float, list[int]]]]:
    """The times of which one class is said, joined where they touch; and those of which several are, with these."""
    events = sorted((at, step, number) for start, stop, number in found if stop > start
                    for at, step in ((start, 1), (stop, -1)))
    holding: Counter[int] = Counter()
    made, disputed, since = [], [], 0.0
    for at, step, number in events:
        classes = sorted(+holding)
        if at > since and len(classes) == 1:
            begun = made.pop()[0] if made and made[-1][1:] == (since, classes[0]) else since
            made.append((begun, at, classes[0]))
        elif at > since and classes:
            disputed.append((since, at, classes))
        since = at
        holding[number] += step
    return made, disputed


def _text(value: Any, where: str) -> str:
    """A label as text; "" for what is no number."""
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace").strip()
    if isinstance(value, str):
        return value.strip()
    if np.isnan(value):
        return ""
    if not float(value).is_integer():
        raise DataError(f"{where} has the label {value:g}; expected whole numbers or texts")
    return str(int(value))
