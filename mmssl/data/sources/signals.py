"""The source "signals": sensors at rates of their own, cut into labelled windows, to shards. No paper: ours."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmssl.data import codecs, schema
from mmssl.data.progress import progress_line
from mmssl.data.sources.description import Description, load_description
from mmssl.data.sources.packer import Item, Packer, PackReport
from mmssl.data.sources.stores import CsvStore, NpzStore, open_store
from mmssl.errors import ConfigError, DataError
from mmssl.registry import SOURCES

SLACK = 1e-6  # seconds; rates such as 1/3 Hz must not lose a window to rounding


@dataclass(frozen=True)
class Recording:
    """An unbroken stretch of one subject: (T, C) samples by modality, and its labels (T,), or a single one (1,)."""

    subject: str
    name: str
    signals: dict[str, np.ndarray]
    labels: np.ndarray | None


@dataclass(frozen=True)
class Window:
    """Part of a recording: seconds from its start, and its class number (None: no label)."""

    recording: Recording
    start: float
    label: int | None
    key: str


@SOURCES.register("signals")
def pack_signals(source: str, description: str, out: str, workers: int = 1) -> PackReport:
    """Pack the signals of wearable or bedside sensors, window by window, split by subject.

    A window never crosses a change of label or the end of a recording; all its sensors start at the same time. Mean
    and spread of each channel over the training windows go into the manifest. A window with values that are not
    numbers is a bad one, which is listed and left out.

    Args:
        source: an npz file, a CSV file, or a folder of CSV files.
        description: YAML file that says which array is which sensor (see docs/examples/stress_signals.yaml).
        out: folder of the new data set.
        workers: threads.

    Raises:
        ConfigError: the description does not fit itself or the data, or `out` holds something else.
        DataError: an array is missing or cannot be read, or no window is left. StorageError: a full disk.
    """
    plan = load_description(description)
    found = list(recordings(open_store(source), plan))
    check_subjects(plan, found, str(description))
    classes = list(dict.fromkeys(plan.label.classes.values())) if plan.label else []
    windows: dict[str, list[Window]] = {name: [] for name in ("train", "val", "test")}
    home = {subject: name for name, subjects in plan.split.items() for subject in subjects}
    for recording in found:
        windows[home.get(recording.subject, "train")] += cut(recording, plan, classes)
    packer = Packer(out, {"source": "signals", "description": asdict(plan), "data": fingerprint(found)}, workers)
    show, before = progress_line(f"packing {out}"), 0
    total = sum(map(len, windows.values()))
    for name, rows in windows.items():
        items = [Item(row.key, lambda row=row: record(row, plan)) for row in rows]
        packer.write(name, items, lambda done, start=before: show(start + done, total))
        before += len(items)
    report = packer.close()
    schema.finish(out, name=Path(out).resolve().name, modalities=infos(windows["train"], plan),
                  labels={plan.label.name: classes} if plan.label else {}, notes=plan.notes)
    return report


def recordings(store: NpzStore | CsvStore, plan: Description) -> Iterator[Recording]:
    """All recordings of a store, in order. Raises DataError naming the array that is missing or does not fit."""
    if plan.recordings is not None:
        yield from cut_recordings(store, plan)
        return
    subjects = plan.subjects if plan.subjects is not None else find_subjects(store, plan)
    for subject in subjects:
        signals = {name: read_signal(store, info, subject) for name, info in plan.modalities.items()}
        labels = None
        if plan.label is not None:
            column = None if plan.label.column is None else [plan.label.column]
            labels = one_column(store.read(plan.label.key.replace("{subject}", subject), column), plan.label.key)
        yield Recording(subject, subject, signals, labels)


def cut_recordings(store: NpzStore | CsvStore, plan: Description) -> Iterator[Recording]:
    """Recordings that stand one after the other in the same arrays."""
    offsets = one_column(store.read(plan.recordings.offsets), plan.recordings.offsets).astype(int)
    subjects = one_column(store.read(plan.recordings.subject), plan.recordings.subject)
    signals = {name: read_signal(store, info, "") for name, info in plan.modalities.items()}
    labels = one_column(store.read(plan.label.key), plan.label.key) if plan.label is not None else None
    lengths = {len(s) for s in signals.values()}
    if len(subjects) != len(offsets) - 1 or np.any(np.diff(offsets) < 0) or lengths != {int(offsets[-1])}:
        raise DataError(f"{store.path}: '{plan.recordings.offsets}' has {len(offsets)} positions up to {offsets[-1]}, "
                        f"which does not fit {len(subjects)} subjects and arrays of {sorted(lengths)} samples")
    if plan.label is not None and (plan.label.rate is not None or len(labels) != len(subjects)):
        raise DataError(f"{store.path}: '{plan.label.key}' has {len(labels)} labels for {len(subjects)} recordings; "
                        f"expected one for each, and no label.rate")
    for number, (start, end) in enumerate(zip(offsets[:-1], offsets[1:])):
        yield Recording(str(subjects[number]), f"{subjects[number]}-r{number:04d}",
                        {name: s[start:end] for name, s in signals.items()},
                        None if labels is None else labels[number:number + 1])


def read_signal(store: NpzStore | CsvStore, info: Any, subject: str) -> np.ndarray:
    """The samples (T, C) of one modality. Raises DataError where the description names another number of channels."""
    key = info.key.replace("{subject}", subject)
    array = store.read(key, info.columns)
    if array.shape[1] != len(info.channels):
        raise DataError(f"{store.path}: '{key}' has {array.shape[1]} columns, but the description names "
                        f"{len(info.channels)} channels ({', '.join(info.channels)}); correct `channels`, or choose "
                        f"`columns`")
    return array


def one_column(array: np.ndarray, key: str) -> np.ndarray:
    """(T, 1) as (T,). Raises DataError where there are more columns."""
    if array.shape[1] != 1:
        raise DataError(f"'{key}' has {array.shape[1]} columns, expected one; choose it with `column`")
    return array[:, 0]


def find_subjects(store: NpzStore | CsvStore, plan: Description) -> list[str]:
    """The subjects for whom a store has the first modality. Raises DataError where nothing fits its key."""
    key = next(iter(plan.modalities.values())).key
    before, mark, after = key.partition("{subject}")
    if not mark:
        return ["all"]
    shape = re.compile(re.escape(before) + "(?P<subject>.+)" + re.escape(after))
    found = sorted(match["subject"] for name in store.names if (match := shape.fullmatch(name)))
    if not found:
        raise DataError(f"{store.path}: no array fits '{key}'; it has {', '.join(store.names[:8])}")
    return found


def check_subjects(plan: Description, found: list[Recording], where: str) -> None:
    """Raises ConfigError where `split` names a subject who is not there or one twice, or leaves none to train on."""
    have, named = {r.subject for r in found}, [s for subjects in plan.split.values() for s in subjects]
    problems = [f"{where}: split: no subject '{s}'; known: {', '.join(sorted(have))}" for s in named if s not in have]
    twice = sorted({s for s in named if named.count(s) > 1})
    problems += [f"{where}: split: subject '{s}' is named twice; keep one" for s in twice]
    if not have - set(named):
        problems.append(f"{where}: split: no subject is left to train on")
    if problems:
        raise ConfigError(problems)


def stretches(recording: Recording, plan: Description) -> Iterator[tuple[float, float, int | None]]:
    """Start and end in seconds, and label, of each longest stretch of one label that all sensors cover."""
    end = min(len(s) / plan.modalities[name].rate for name, s in recording.signals.items())
    if plan.label is None or recording.labels is None:
        yield 0.0, end, None
        return
    values = recording.labels
    if plan.label.rate is None and len(values) != 1:
        raise DataError(f"'{plan.label.key}' has {len(values)} labels for recording '{recording.name}'; give "
                        f"`label.rate` in Hz")
    edges = np.flatnonzero(np.diff(values)) + 1
    for first, last in zip([0, *edges], [*edges, len(values)]):
        if plan.label.rate is None:
            yield 0.0, end, int(values[0])
        elif np.isfinite(values[first]):
            yield first / plan.label.rate, min(last / plan.label.rate, end), int(values[first])


def cut(recording: Recording, plan: Description, classes: list[str]) -> list[Window]:
    """The windows of a recording, in order. Raises ConfigError at a label that is neither named nor dropped."""
    rows = []
    for start, end, value in stretches(recording, plan):
        if plan.label is not None and value in plan.label.drop:
            continue
        if value is not None and value not in plan.label.classes:
            raise ConfigError(f"recording '{recording.name}': label {value} is neither in label.classes nor in "
                              f"label.drop; add it to one")
        label = None if value is None else classes.index(plan.label.classes[value])
        while start + plan.window.seconds <= end + SLACK:
            rows.append(Window(recording, start, label, f"{slug(recording.name)}-w{len(rows):05d}"))
            start += plan.window.step
    return rows


def slug(name: str) -> str:
    """A name as part of a key: letters, digits, "-" and "_"."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:60]


def samples(window: Window, name: str, plan: Description) -> np.ndarray:
    """One modality of a window as (C, T) float32; T is the same in every window."""
    rate = plan.modalities[name].rate
    count, array = round(plan.window.seconds * rate), window.recording.signals[name]
    first = min(round(window.start * rate), len(array) - count)
    return np.ascontiguousarray(array[first:first + count].T, dtype=np.float32)


def record(window: Window, plan: Description) -> tuple[dict[str, bytes], dict[str, dict[str, Any]]]:
    """The files of one window. Raises DataError where a value is not a finite number."""
    files = {}
    for name in plan.modalities:
        values = samples(window, name, plan)
        if not np.isfinite(values).all():
            raise DataError(f"{name}: {int((~np.isfinite(values)).sum())} values are not finite numbers")
        files[f"{name}.npy"] = codecs.encode_npy(values)
    labels = {} if window.label is None else {plan.label.name: window.label}
    files["labels.json"] = codecs.encode_json({"labels": labels, "group": window.recording.subject})
    return files, {}


def infos(train: list[Window], plan: Description) -> dict[str, schema.ModalityInfo]:
    """What the manifest says of each modality, with mean and spread per channel over the training windows."""
    made = {}
    for name, info in plan.modalities.items():
        count, total, squares = 0, np.zeros(len(info.channels)), np.zeros(len(info.channels))
        for window in train:
            values = samples(window, name, plan).astype(np.float64)
            if np.isfinite(values).all():
                count, total, squares = count + values.shape[1], total + values.sum(1), squares + (values**2).sum(1)
        mean = total / max(count, 1)
        std = np.sqrt(np.maximum(squares / max(count, 1) - mean**2, 0))
        made[name] = schema.ModalityInfo(
            codec="npy", rate=info.rate, channels=info.channels, units=info.units,
            shape=[len(info.channels), round(plan.window.seconds * info.rate)],
            mean=mean.tolist() if count else None, std=np.where(std > 0, std, 1.0).tolist() if count else None)
    return made


def fingerprint(found: list[Recording]) -> str:
    """SHA-256 over all samples and labels, so that an interrupted packing does not go on with other data."""
    digest = hashlib.sha256()
    for recording in found:
        for name, array in {**recording.signals, "labels": recording.labels}.items():
            if array is not None:
                digest.update(f"{recording.name}/{name}{array.shape}{array.dtype}".encode())
                digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
