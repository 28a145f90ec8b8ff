"""The source "wesad": WESAD, wearable stress and affect detection, from the pickles that people download.

The data set is number 465 of the UCI Machine Learning Repository. Fifteen subjects with a chest device at 700 Hz (and a
wristband, which is not packed). No paper prescribes this preparation: ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mmssl.data.folds import SplitRule
from mmssl.data.sources.packer import PackReport
from mmssl.data.sources.recordings.packing import Collection, Unit, pack_recordings, read_checksums
from mmssl.data.sources.recordings.protocols import chosen_rule, find_once, source_folder, still_zipped, wanted_subjects
from mmssl.data.sources.recordings.windows import Layout, Sensor, Stretch
from mmssl.data.sources.series.resample import Resampled
from mmssl.data.sources.series.runs import runs
from mmssl.data.unpickle import load_pickle
from mmssl.errors import ConfigError, DataError
from mmssl.registry import SOURCES

RAW_RATE = 700
#: By modality: the key in the chest device's part of the file, and its unit.
SENSORS = {"ecg": ("ECG", "mV"), "emg": ("EMG", "mV"), "eda": ("EDA", "uS")}
#: Class name by the number in the file, in order of our class numbers; 0 and 5 to 7 are between conditions.
CONDITIONS = {1: "baseline", 2: "stress", 3: "amusement", 4: "meditation"}
FILE = re.compile(r"S\d+\.pkl\Z")
NOTES = "WESAD (UCI data set 465); rights as those of the source: research use, cite Schmidt et al. 2018."


@SOURCES.register("wesad")
def pack_wesad(source: str, out: str, subjects: list[str] = [], seconds: float = 10.0, step: float = 10.0,  # noqa: B006
               rate: float = 100.0, test_subjects: list[str] = [], val_subjects: list[str] = [],  # noqa: B006
               folds: Literal["each"] | int | None = None, fold: int | None = None, seed: int | None = None,
               checksums: str | None = None) -> PackReport:
    """Pack WESAD (UCI data set 465): the chest's ECG, EMG and skin conductance, four conditions.

    The pickles are read without running anything in them: NumPy arrays and plain containers are all that is admitted,
    and a file that asks for more is refused by the name it asks for. Signals go from 700 Hz to `rate` through an
    anti-alias filter. A window lies inside one condition. One subject is in memory at a time. Interrupted, the same
    call goes on where it stopped.

    Args:
        source: folder of the unpacked download, with S2/S2.pkl and so on.
        out: folder of the new data set.
        subjects: names or patterns; default: all.
        seconds, step: length of a window, and from one to the next.
        rate: Hz of the result.
        test_subjects, val_subjects: who tests and validates; all others train.
        folds, fold: or: into how many groups subjects are dealt, and which one tests; the two subjects after it
            validate. Default: 5, and the first.
        seed: of drawing the folds; default: in order of their names.
        checksums: file of SHA-256 sums, as `sha256sum` writes it, that the pickles must have.

    Raises:
        ConfigError: settings that do not fit. DataError: no such files, or nothing in them. StorageError: a full disk.
    """
    if min(seconds, step, rate) <= 0:
        raise ConfigError(f"--seconds {seconds:g}, --step {step:g}, --rate {rate:g}: expected positive numbers")
    folder = source_folder(source)
    files = find_once(folder, "S*.pkl", lambda path: path.stem if FILE.match(path.name) else None)
    if not files:
        raise DataError(f"{folder}: holds no S2/S2.pkl or the like; expected the unpacked WESAD (UCI data set 465)"
                        + still_zipped(folder, "wesad"))
    names = wanted_subjects(list(files), subjects)
    units = [Unit(name, name, {str(files[name].relative_to(folder)): files[name]},
                  lambda notes, path=files[name]: stretches(path, rate, notes)) for name in names]
    rule = partial(chosen_rule, SplitRule(folds=5, val=2), test_subjects, val_subjects, folds, fold, seed)
    sensors = {name: Sensor(rate, [name], [unit]) for name, (_, unit) in SENSORS.items()}
    layout = Layout(sensors, seconds, step, "condition", list(CONDITIONS.values()))
    return pack_recordings(Collection("wesad", layout, units, rule, {}, NOTES, read_checksums(checksums)), out)


def stretches(path: Path, rate: float, notes: list[str]) -> Iterator[Stretch]:
    """Each run of one condition in one subject's file; `notes` gets a line for a sensor that is not there.

    Raises:
        DataError: the file cannot be read as what it should be, or asks for a name that is not admitted.
    """
    labels, raw = read_subject(path, notes)
    signals = {name: Resampled(x, RAW_RATE, rate) for name, x in raw.items()}
    numbers = {condition: number for number, condition in enumerate(CONDITIONS)}
    for start, end in runs(labels):
        if int(labels[start]) in numbers:
            # on the grid of the result, so that no sample of a window lies outside its condition
            first, last = -(-start * rate // RAW_RATE), end * rate // RAW_RATE
            yield Stretch(signals, first / rate, last / rate, numbers[int(labels[start])])


def read_subject(path: Path, notes: list[str]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Labels (T,) and (T, 1) by sensor, all at 700 Hz. Raises DataError where the file has another form."""
    tree = load_pickle(path, encoding="latin-1")
    labels, chest = _at(tree, path, "label"), _at(tree, path, "signal", "chest")
    if not isinstance(labels, np.ndarray) or labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(f"{path}: 'label' is no row of whole numbers; expected WESAD's own files")
    if not isinstance(chest, Mapping):
        raise DataError(f"{path}: 'signal.chest' holds no sensors by name; expected WESAD's own files")
    found = {}
    for name, (key, _) in SENSORS.items():
        values = chest.get(key)
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu" or values.shape != (values.size, 1):
            notes.append(f"{path.name}: signal.chest.{key} is missing, or no column of numbers")
        elif len(values) != len(labels):
            notes.append(f"{path.name}: signal.chest.{key} has {len(values)} samples for {len(labels)} labels")
        else:
            found[name] = values.reshape(-1, 1)
    if not found:
        raise DataError(f"{path}: has none of {', '.join(key for key, _ in SENSORS.values())} of the chest device")
    return labels, found


def _at(tree: Any, path: Path, *keys: str) -> Any:
    for key in keys:
        if not isinstance(tree, Mapping) or key not in tree:
            raise DataError(f"{path}: has no '{'.'.join(keys)}'; expected WESAD's own files")
        tree = tree[key]
    return tree
