"""The source "signals": sensors at rates of their own, cut into labelled windows, to shards. No paper: ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache, partial

import numpy as np

from mmssl.data.folds import by_name
from mmssl.data.sources.description import Description, SignalInfo, load_description
from mmssl.data.sources.packer import PackReport
from mmssl.data.sources.recordings import Collection, Unit, pack_recordings, read_checksums
from mmssl.data.sources.resample import Resampled, Signal
from mmssl.data.sources.standardise import Standardised
from mmssl.data.sources.stores import FolderStore, NpzStore, open_store
from mmssl.data.sources.windows import Layout, Sensor, Stretch, runs
from mmssl.errors import ConfigError, DataError
from mmssl.registry import SOURCES

Store = NpzStore | FolderStore


@dataclass(frozen=True)
class Place:
    """What "{subject}" and "{recording}" stand for in one recording; `recording` may be ""."""

    subject: str
    recording: str = ""

    @property
    def name(self) -> str:
        """In keys and messages."""
        return f"{self.subject}-{self.recording}" if self.recording else self.subject

    def key(self, pattern: str) -> str:
        """The key of this recording."""
        return pattern.replace("{subject}", self.subject).replace("{recording}", self.recording)


@SOURCES.register("signals")
def pack_signals(source: str, description: str, out: str, checksums: str | None = None) -> PackReport:
    """Pack the signals of wearable or bedside sensors, window by window, with the subject of each.

    A window never crosses a change of label or the end of a recording; all its sensors start at the same time. A
    sensor with values that are not numbers is missing from its window. Records are stored once for all subjects; the
    description's split is the one that is used unless a recipe says another (`data.split`). A recording that cannot be
    read is listed and left out. Interrupted, the same call goes on where it stopped.

    Args:
        source: an npz file, a CSV file, or a folder of CSV, EDF (extra `edf`) or WFDB files (extra `wfdb`).
        description: YAML file that says which array is which sensor (see docs/biosignals.md).
        out: folder of the new data set.
        checksums: file of SHA-256 sums, as `sha256sum` writes it, that the raw files must have.

    Raises:
        ConfigError: the description does not fit itself or the data, or `out` holds something else.
        DataError: an array is missing or cannot be read, or no window is left. StorageError: a full disk.
    """
    plan = load_description(description)
    store = open_store(source)
    sensors = {name: Sensor(info.stored_rate, info.channels, info.stored_units)
               for name, info in plan.modalities.items()}
    for info in plan.modalities.values():
        as_stored(np.zeros((1, 1)), info)  # an impossible ratio is said before anything is read
    label = plan.label
    layout = Layout(sensors, plan.window.seconds, plan.window.step, label.name if label else None,
                    label.names if label else [])
    settings = {k: v for k, v in asdict(plan).items() if k not in ("split", "notes")}
    units = joined_units(store, plan) if plan.recordings is not None else units_of(store, plan)
    return pack_recordings(Collection("signals", layout, units, lambda groups: plan.split, settings,
                                      plan.notes, read_checksums(checksums)), out)


def units_of(store: Store, plan: Description) -> list[Unit]:
    """One recording for each place that the keys fit."""
    keys = [info.key for info in plan.modalities.values()] + ([plan.label.key] if plan.label else [])
    units = []
    for place in find_places(store, plan):
        names = [name for name in dict.fromkeys(place.key(key) for key in keys) if name in store.names]
        files = {store.file(name).relative_to(store.path).as_posix() if isinstance(store, FolderStore)
                 else store.path.name: store.file(name) for name in names}
        units.append(Unit(place.name, place.subject, files, partial(stretches, store, plan, place)))
    return units


def find_places(store: Store, plan: Description) -> list[Place]:
    """The subjects, and recordings of each, for whom a store has the first modality. DataError where none fits."""
    key = next(iter(plan.modalities.values())).key
    if "{subject}" not in key:
        return [Place("all")]
    shape = re.escape(key).replace(r"\{subject\}", "(?P<subject>[^/]+?)", 1).replace(r"\{subject\}", "(?P=subject)")
    shape = shape.replace(r"\{recording\}", "(?P<recording>[^/]+)", 1).replace(r"\{recording\}", "(?P=recording)")
    found = {name: Place(**match.groupdict("")) for name in store.names if (match := re.fullmatch(shape, name))}
    if not found:
        raise DataError(f"{store.path}: nothing fits '{key}'; it has {', '.join(store.names[:8])}")
    wanted = plan.subjects if plan.subjects is not None else by_name({p.subject for p in found.values()})
    unknown = sorted(set(wanted) - {p.subject for p in found.values()})
    if unknown:
        raise DataError(f"{store.path}: nothing fits '{key}' for subject {', '.join(unknown)}")
    return [place for subject in wanted for _, place in sorted(found.items()) if place.subject == subject]


def stretches(store: Store, plan: Description, place: Place, notes: list[str]) -> Iterator[Stretch]:
    """The stretches of one label in one recording; `notes` gets a line where a file is shorter than it says."""
    signals = {name: as_stored(read_signal(store, info, place.key(info.key)), info)
               for name, info in plan.modalities.items()}
    labels = read_labels(store, plan, place)
    notes += store.take_notes()
    yield from labelled(signals, labels, plan, place.name)


def joined_units(store: Store, plan: Description) -> list[Unit]:
    """One recording for each part of arrays in which they stand one after the other."""
    offsets = one_column(store.read(plan.recordings.offsets), plan.recordings.offsets).astype(int)
    subjects = one_column(store.read(plan.recordings.subject), plan.recordings.subject)

    @cache
    def load() -> tuple[dict[str, Signal], np.ndarray | None]:
        signals = {name: read_signal(store, info, info.key) for name, info in plan.modalities.items()}
        labels = one_column(store.read(plan.label.key), plan.label.key) if plan.label is not None else None
        lengths = {len(s) for s in signals.values()}
        if len(subjects) != len(offsets) - 1 or np.any(np.diff(offsets) < 0) or lengths != {int(offsets[-1])}:
            raise ConfigError(f"{store.path}: '{plan.recordings.offsets}' has {len(offsets)} positions up to "
                              f"{offsets[-1]}, which does not fit {len(subjects)} subjects and arrays of "
                              f"{sorted(lengths)} samples")
        if plan.label is not None and (plan.label.rate is not None or len(labels) != len(subjects)):
            raise ConfigError(f"{store.path}: '{plan.label.key}' has {len(labels)} labels for {len(subjects)} "
                              f"recordings; expected one for each, and no label.rate")
        return signals, labels

    def read(number: int, name: str, notes: list[str]) -> Iterator[Stretch]:
        signals, labels = load()
        part = slice(offsets[number], offsets[number + 1])
        yield from labelled({m: as_stored(s[part], plan.modalities[m]) for m, s in signals.items()},
                            None if labels is None else labels[number:number + 1], plan, name)

    names = [f"{subject}-r{number:04d}" for number, subject in enumerate(subjects)]
    return [Unit(name, str(subjects[number]), {store.path.name: store.path}, partial(read, number, name))
            for number, name in enumerate(names)]


def read_signal(store: Store, info: SignalInfo, key: str) -> Signal:
    """One modality as it is. Raises DataError where the description names another number of channels."""
    signal = store.signal(key, info)
    channels = signal[0:1].shape[1]
    if channels != len(info.channels):
        raise DataError(f"{store.path}: '{key}' has {channels} columns, but the description names "
                        f"{len(info.channels)} channels ({', '.join(info.channels)}); correct `channels`, or choose "
                        f"`columns`")
    return signal


def as_stored(signal: Signal, info: SignalInfo) -> Signal:
    """A modality of a recording at the rate, and in the units, that the description wants it stored with."""
    signal = Standardised(signal) if info.standardise else signal
    return signal if info.resample is None else Resampled(signal, info.rate, info.resample)


def one_column(array: np.ndarray, key: str) -> np.ndarray:
    """(T, 1) as (T,). Raises DataError where there are more columns."""
    if array.shape[1] != 1:
        raise DataError(f"'{key}' has {array.shape[1]} columns, expected one; choose it with `column`")
    return array[:, 0]


def read_labels(store: Store, plan: Description, place: Place) -> np.ndarray | list | None:
    """The label's values (T,), its annotations, or None where there is no label."""
    if plan.label is None:
        return None
    key = place.key(plan.label.key)
    annotations = store.annotations(key)
    if annotations is not None:
        return annotations
    return one_column(store.read(key, None if plan.label.column is None else [plan.label.column]), key)


def labelled(signals: dict[str, Signal], labels: np.ndarray | list | None, plan: Description, name: str
             ) -> Iterator[Stretch]:
    """Each longest stretch of one label that all sensors cover. Raises ConfigError at an unknown label."""
    end = min(len(s) / plan.modalities[m].stored_rate for m, s in signals.items())
    if labels is None:
        yield Stretch(signals, 0.0, end)
        return
    for start, stop, value in spans(labels, plan, name, end):
        number = plan.label.number(value, name)
        if number is not None:
            yield Stretch(signals, start, min(stop, end), number)


def spans(labels: np.ndarray | list, plan: Description, name: str, end: float) -> Iterator[tuple[float, float, str]]:
    """Start and end in seconds, and value, of each run of one label; annotations hold until the next, or their end."""
    rate = plan.label.rate
    if isinstance(labels, list):
        for (onset, duration, text), following in zip(labels, [*labels[1:], (end, None, "")]):
            yield onset, following[0] if duration is None else onset + duration, text
    elif rate is not None:
        for first, last in runs(labels):
            if np.isfinite(labels[first]):
                yield first / rate, last / rate, str(int(labels[first]))
    elif len(labels) == 1:
        yield 0.0, end, str(int(labels[0]))
    else:
        raise DataError(f"'{plan.label.key}' has {len(labels)} labels for recording '{name}'; give `label.rate` in Hz")
