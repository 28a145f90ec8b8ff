"""The source "signals": sensors at rates of their own, cut into labelled windows, to shards. No paper: ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache, partial

import numpy as np

from mmssl.data.folds import by_name
from mmssl.data.sources.packer import PackReport
from mmssl.data.sources.recordings.clocks import Later, Start, differ, to_cut, uneven
from mmssl.data.sources.recordings.description import Description, SignalInfo, load_description
from mmssl.data.sources.recordings.packing import Collection, Unit, pack_recordings, read_checksums
from mmssl.data.sources.recordings.spans import Labels, find_spans
from mmssl.data.sources.recordings.stores import FolderStore, NpzStore, open_store
from mmssl.data.sources.recordings.windows import Layout, Sensor, Stretch
from mmssl.data.sources.series.resample import Resampled, Signal
from mmssl.data.sources.series.standardise import Standardised
from mmssl.errors import ConfigError, DataError
from mmssl.registry import SOURCES, nearest

Store = NpzStore | FolderStore
PLACEHOLDER = re.compile(r"\{subject\}|\{recording\}")
#: The labels beside the modalities; no modality is called so.
LABELS = "the labels"


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

    A window never crosses a change of class or the end of a recording; all its sensors start at the same time, which
    is that in their headers where files have one. A sensor with values that are not numbers is missing from its window,
    one whose file or array is not there from all windows of its recording. Records are stored once for all subjects;
    the description's split is the one that is used unless a recipe says another (`data.split`). A recording that cannot
    be read is listed and left out. Interrupted, the same call goes on where it stopped.

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
    settings = {k: v for k, v in asdict(plan).items() if k not in ("split", "notes", "subjects")}
    units = joined_units(store, plan) if plan.recordings is not None else units_of(store, plan)
    return pack_recordings(Collection("signals", layout, units, lambda groups: plan.split, settings,
                                      plan.notes, read_checksums(checksums)), out)


def units_of(store: Store, plan: Description) -> list[Unit]:
    """One recording for each place that a key fits."""
    keys = [info.key for info in plan.modalities.values()] + ([plan.label.key] if plan.label else [])
    units = []
    for place in find_places(store, plan):
        names = [name for name in dict.fromkeys(place.key(key) for key in keys) if name in store.names]
        files = {store.file(name).relative_to(store.path).as_posix() if isinstance(store, FolderStore)
                 else store.path.name: store.file(name) for name in names}
        units.append(Unit(place.name, place.subject, files, partial(stretches, store, plan, place)))
    return units


def find_places(store: Store, plan: Description) -> list[Place]:
    """The subjects, and recordings of each, for whom a store has at least one modality, or the labels.

    A name that fits several keys belongs to the one with the most text of its own: "a_eda.csv" to "{subject}_eda.csv"
    rather than to "{subject}.csv".

    Raises:
        DataError: nothing fits the key of a modality, or a subject that is asked for.
    """
    keys = {info.key for info in plan.modalities.values()} | ({plan.label.key} if plan.label else set())
    own = {key: len(PLACEHOLDER.sub("", key)) for key in keys}
    fitting, found = set(), set()
    for name in store.names:
        matches = {key: match for key in keys if (match := _shape(key).fullmatch(name))}
        most = max((own[key] for key in matches), default=0)
        closest = {key: match.groupdict("") for key, match in matches.items() if own[key] == most}
        fitting |= closest.keys()
        found |= {Place(**groups) for groups in closest.values() if "subject" in groups}
    known = {place.subject for place in found if place.recording}
    found = {place for place in found if place.recording or place.subject not in known} or {Place("all")}
    for modality, info in plan.modalities.items():
        if info.key not in fitting:
            example = min(found, key=lambda place: place.name).key(info.key)
            raise DataError(f"{store.path}: nothing fits '{info.key}', the key of {modality}"
                            f"{nearest(example, store.names)}; it has {', '.join(store.names[:8])}")
    wanted = plan.subjects if plan.subjects is not None else by_name({place.subject for place in found})
    unknown = sorted(set(wanted) - {place.subject for place in found})
    if unknown:
        raise DataError(f"{store.path}: no key fits anything of subject {', '.join(unknown)}")
    return [place for subject in wanted for place in sorted(found, key=lambda place: place.recording)
            if place.subject == subject]


@cache
def _shape(key: str) -> re.Pattern[str]:
    """What the names look like that a key with placeholders fits."""
    shape = re.escape(key).replace(r"\{subject\}", "(?P<subject>[^/]+?)", 1).replace(r"\{subject\}", "(?P=subject)")
    shape = shape.replace(r"\{recording\}", "(?P<recording>[^/]+)", 1).replace(r"\{recording\}", "(?P=recording)")
    return re.compile(shape)


def stretches(store: Store, plan: Description, place: Place, notes: list[str]) -> Iterator[Stretch]:
    """The stretches of one class in one recording; `notes` gets a line for each thing that is not there or left out.

    Raises:
        DataError: not one modality is there, or what is there cannot be read or laid side by side.
    """
    keys = {name: place.key(info.key) for name, info in plan.modalities.items()}
    here = {name: key for name, key in keys.items() if key in store.names}
    if not here:
        raise DataError(f"there is none of {', '.join(dict.fromkeys(keys.values()))}")
    notes += [f"{place.name}: there is no {key}, so {name} is missing from all its windows"
              for name, key in keys.items() if name not in here]
    signals, starts = {}, {}
    for name, key in here.items():
        signals[name] = read_signal(store, plan.modalities[name], key)
        starts[name] = Start(key, store.begins(key))
    labels = read_labels(store, plan, place)
    if labels is not None and not labels.whole:
        key = place.key(plan.label.key)
        starts[LABELS] = Start(key, store.begins(key))
    notes += store.take_notes()
    if differ(starts):
        rates = {name: plan.modalities[name].rate for name in signals}
        cut = to_cut(starts, signals, rates)
        signals = {name: Later(signal, round(cut[name] * rates[name])) for name, signal in signals.items()}
        labels = labels.later(cut[LABELS]) if LABELS in cut else labels
        notes += [f"{place.name}: {starts[name].file} begins {cut[name]:g} s before the last signal does; so much of "
                  f"{name} is left out" for name in signals if cut[name] > 0]
    yield from labelled({name: as_stored(signal, plan.modalities[name]) for name, signal in signals.items()}, labels,
                        plan, place.name, notes)


def joined_units(store: Store, plan: Description) -> list[Unit]:
    """One recording for each part of arrays in which they stand one after the other."""
    offsets = one_column(store.read(plan.recordings.offsets), plan.recordings.offsets)
    if not len(offsets) or offsets.dtype.kind not in "iuf" or not np.array_equal(offsets, np.round(offsets)) \
            or offsets[0] < 0:
        raise DataError(f"{store.path}: '{plan.recordings.offsets}' holds {len(offsets)} values of type "
                        f"{offsets.dtype}; expected whole numbers, the positions where recordings begin")
    offsets = offsets.astype(int)
    subjects = [subject.decode("utf-8", errors="replace") if isinstance(subject, bytes) else str(subject)
                for subject in one_column(store.read(plan.recordings.subject), plan.recordings.subject)]
    if "" in subjects:
        raise DataError(f"{store.path}: '{plan.recordings.subject}' has no name for recording {subjects.index('')}")

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
        where = f"'{plan.label.key}'" if plan.label is not None else ""
        part = slice(offsets[number], offsets[number + 1])
        yield from labelled({m: as_stored(s[part], plan.modalities[m]) for m, s in signals.items()},
                            None if labels is None else Labels.of(labels[number:number + 1], None, where), plan, name,
                            notes)

    names = [f"{subject}-r{number:04d}" for number, subject in enumerate(subjects)]
    return [Unit(name, subjects[number], {store.path.name: store.path}, partial(read, number, name))
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


def read_labels(store: Store, plan: Description, place: Place) -> Labels | None:
    """The labels of a recording, from annotations or from an array; None where there are to be none."""
    if plan.label is None:
        return None
    key = place.key(plan.label.key)
    annotations = store.annotations(key)
    if annotations is not None:
        return Labels(annotations)
    values = one_column(store.read(key, None if plan.label.column is None else [plan.label.column]), key)
    return Labels.of(values, plan.label.rate, f"'{key}'")


def labelled(signals: dict[str, Signal], labels: Labels | None, plan: Description, name: str, notes: list[str]
             ) -> Iterator[Stretch]:
    """Each longest stretch of one class that all sensors cover, and a line in `notes` where they end far apart.

    Raises:
        ConfigError: a label that is neither a class nor dropped.
    """
    rates = {m: plan.modalities[m].stored_rate for m in signals}
    seconds = {m: len(signal) / rates[m] for m, signal in signals.items()}
    end, spans = min(seconds.values()), [(0.0, min(seconds.values()), None)]
    if labels is not None:
        spans = find_spans(labels, plan.label, name, end, 1 / max(rates.values()), notes)
        reach = max([stop for _, stop, _ in spans], default=0.0)
        if labels.seconds is not None or reach > end:  # annotations may well end early
            seconds[LABELS] = reach if labels.seconds is None else labels.seconds
    if said := uneven(seconds, plan.window.seconds):
        notes.append(f"{name}: {said}")
    for start, stop, number in spans:
        yield Stretch(signals, start, min(stop, end), number)
