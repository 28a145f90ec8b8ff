"""Recordings cut into windows: what a record of several sensors is made of. No paper: ours."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from mmssl.data import codecs, schema
from mmssl.data.groups import GroupInfo, Moments, total
from mmssl.data.sources.series.resample import Signal

SLACK = 1e-6  # seconds; rates such as 1/3 Hz must not lose a window to rounding


@dataclass(frozen=True)
class Sensor:
    """One modality as it is stored: Hz, and names and units of its channels, in order."""

    rate: float
    channels: list[str]
    units: list[str]


@dataclass(frozen=True)
class Layout:
    """What all records of a data set have in common.

    Args:
        modalities: by name.
        seconds, step: length of a window, and from the beginning of one to that of the next.
        label: its name; None: there is none.
        classes: names of its classes, in order of their numbers.
        needed: modalities of which a record has at least one; empty: any will do.
    """

    modalities: dict[str, Sensor]
    seconds: float
    step: float
    label: str | None = None
    classes: list[str] = field(default_factory=list)
    needed: list[str] = field(default_factory=list)

    def count(self, name: str) -> int:
        """T, samples of a window of one modality."""
        return round(self.seconds * self.modalities[name].rate)

    def infos(self) -> dict[str, schema.ModalityInfo]:
        """What the manifest says of each modality, but for mean and spread."""
        return {name: schema.ModalityInfo(codec="npy", rate=s.rate, channels=s.channels, units=s.units,
                                          shape=[len(s.channels), self.count(name)])
                for name, s in self.modalities.items()}


@dataclass(frozen=True)
class Stretch:
    """Part of a recording without a gap or a change of label.

    Args:
        signals: of the whole recording by modality, (T, C) each, beginning at the same time; may lack some.
        start, end: of the stretch, in seconds from there.
        label: class number; None: none.
    """

    signals: Mapping[str, Signal]
    start: float
    end: float
    label: int | None = None

    def starts(self, layout: Layout) -> Iterator[float]:
        """The seconds at which its windows begin: every `step`, as long as a whole one fits; none before 0."""
        count = int((self.end - self.start - layout.seconds + SLACK) / layout.step) + 1
        for number in range(count if self.end - self.start + SLACK >= layout.seconds else 0):
            if self.start + number * layout.step > -SLACK:
                yield max(self.start + number * layout.step, 0.0)

    def samples(self, name: str, start: float, layout: Layout) -> np.ndarray | None:
        """One modality of a window as (C, T) float32; None where it is missing or has values that are no numbers."""
        signal, count = self.signals.get(name), layout.count(name)
        if signal is None or len(signal) < count:
            return None
        first = min(round(start * layout.modalities[name].rate), len(signal) - count)
        values = np.ascontiguousarray(signal[first:first + count].T, dtype=np.float32)
        return values if np.isfinite(values).all() else None


@dataclass
class Tally:
    """What packing one recording taught: sums for the manifest, and lines for people.

    Args:
        info: of its group, as far as this recording goes.
        lacks: by modality, windows without it.
        empty: windows without any, which are left out.
        bad: one line for each thing that was left out.
        files: SHA-256 by raw file.
    """

    info: GroupInfo = field(default_factory=GroupInfo)
    lacks: dict[str, int] = field(default_factory=dict)
    empty: int = 0
    bad: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)


def records(stretch: Stretch, layout: Layout, group: str, tally: Tally) -> Iterator[dict[str, bytes] | None]:
    """The files of each window of a stretch, None for a window in which no modality has values; counts as it goes.

    A modality with values that are no numbers (a sensor that had dropped out) is missing from its window.
    """
    for start in stretch.starts(layout):
        values = {name: stretch.samples(name, start, layout) for name in layout.modalities}
        present = {name: x for name, x in values.items() if x is not None}
        if not present.keys() & set(layout.needed or layout.modalities):
            tally.empty += 1
            yield None
            continue
        labels = {} if stretch.label is None else {layout.label: stretch.label}
        _count(tally, layout, present, labels)
        yield {**{f"{name}.npy": codecs.encode_npy(x) for name, x in present.items()},
               "labels.json": codecs.encode_json({"labels": labels, "group": group})}


def _count(tally: Tally, layout: Layout, present: Mapping[str, np.ndarray], labels: Mapping[str, int]) -> None:
    info = tally.info
    info.records += 1
    for name in layout.modalities:
        if name not in present:
            tally.lacks[name] = tally.lacks.get(name, 0) + 1
        else:
            part = Moments.of(present[name])
            info.moments[name] = (total([info.moments[name]]) + part if name in info.moments else part).as_json()
    for label, number in labels.items():
        info.classes.setdefault(label, [0] * len(layout.classes))[number] += 1


def slug(name: str, group: str) -> str:
    """What a recording's keys begin with: its name, where that is up to 60 letters, digits, "-" and "_".

    Else what is left of the name and a hash of group and name, so that names that come to look alike stay apart.
    """
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:60]
    if plain == name and not name.startswith("__"):  # which begins no key
        return name
    digest = hashlib.sha256(json.dumps([group, name]).encode()).hexdigest()[:8]
    return f"{plain[:51].strip('_-')}-{digest}".lstrip("-")
