"""The source "pamap2": PAMAP2 Physical Activity Monitoring, from the `.dat` files that people download.

The data set is number 231 of the UCI Machine Learning Repository (doi 10.24432/C5NW2H). Nine subjects with inertial
units on hand, chest and ankle at 100 Hz and a heart rate monitor. No paper prescribes this preparation: ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

from mmssl.data.folds import SplitRule
from mmssl.data.sources.packer import PackReport
from mmssl.data.sources.recordings.packing import Collection, Unit, pack_recordings, read_checksums
from mmssl.data.sources.recordings.protocols import chosen_rule, find_once, source_folder, still_zipped, wanted_subjects
from mmssl.data.sources.recordings.windows import Layout, Sensor, Stretch
from mmssl.data.sources.series.dat import segments
from mmssl.data.sources.series.gaps import bridge, fill_back
from mmssl.errors import ConfigError, DataError
from mmssl.registry import SOURCES

RATE = 100.0
COLUMNS = 54
#: Class name by the number in the file, in order of our class numbers; 0 is between activities, others are rare.
ACTIVITIES = {1: "lying", 2: "sitting", 3: "standing", 4: "walking", 5: "running", 6: "cycling", 7: "nordic walking",
              12: "ascending stairs", 13: "descending stairs", 16: "vacuum cleaning", 17: "ironing", 24: "rope jumping"}
#: First column, from 0, of each sensor's three: the accelerometer is the one of 16 g, which does not saturate.
AXES = {"hand_acc": 4, "hand_gyro": 10, "ankle_acc": 38, "ankle_gyro": 44, "chest_acc": 21, "chest_gyro": 27}
HEART = 2
FILE = re.compile(r"subject(\d+)\.dat\Z")
#: Subject 109 did only one of the twelve activities; the usual protocol has the other eight.
USUAL = "10[1-8]"
NOTES = "PAMAP2 Physical Activity Monitoring (UCI data set 231, doi 10.24432/C5NW2H); rights as those of the source."


@SOURCES.register("pamap2")
def pack_pamap2(source: str, out: str, subjects: list[str] = [USUAL], seconds: float = 5.12,  # noqa: B006
                step: float = 5.12, gap: float = 0.2, heart_gap: float = 2.0, test_subjects: list[str] = [],  # noqa: B006
                val_subjects: list[str] = [], folds: Literal["each"] | int | None = None, fold: int | None = None,  # noqa: B006
                seed: int | None = None, checksums: str | None = None) -> PackReport:
    """Pack PAMAP2 (UCI data set 231): six sensors named by where they are worn, heart rate, twelve activities.

    A window lies inside one activity and crosses no gap. Where an inertial unit lost samples for up to `gap` seconds,
    straight lines bridge them; heart rate, which comes about nine times a second, is at every step the next value
    that was measured. A sensor with a longer gap is missing from the windows it falls into. Interrupted, the same
    call goes on where it stopped.

    Args:
        source: folder of the unpacked download; its folder `Protocol` may lie deeper.
        out: folder of the new data set.
        subjects: names or patterns; default: 101 to 108.
        seconds, step: length of a window, and from one to the next.
        gap, heart_gap: seconds without a sample that are bridged, of the inertial units and of the heart rate.
        test_subjects, val_subjects: who tests and validates; all others train.
        folds, fold: or: into how many groups subjects are dealt, and which one tests; the subject before it validates.
            Default: "each" subject is a fold, and the last one tests.
        seed: of drawing the folds; default: in order of their names.
        checksums: file of SHA-256 sums, as `sha256sum` writes it, that the raw files must have.

    Raises:
        ConfigError: settings that do not fit. DataError: no such files, or nothing in them. StorageError: a full disk.
    """
    if min(seconds, step) <= 0 or min(gap, heart_gap) < 0:
        raise ConfigError(f"--seconds {seconds:g}, --step {step:g}, --gap {gap:g}, --heart-gap {heart_gap:g}: expected "
                          f"positive numbers of seconds, and gaps of 0 or more")
    files, folder = find_files(source), source_folder(source)
    names = wanted_subjects(list(files), subjects)
    limits = round(gap * RATE), round(heart_gap * RATE)
    units = [Unit(f"subject{name}", name, {str(files[name].relative_to(folder)): files[name]},
                  lambda notes, path=files[name]: stretches(path, *limits, notes)) for name in names]
    usual = SplitRule(folds="each", fold=-1, val=-1)
    rule = partial(chosen_rule, usual, test_subjects, val_subjects, folds, fold, seed)
    left = ", ".join(sorted(set(files) - set(names)))
    return pack_recordings(Collection(
        "pamap2", layout(seconds, step), units, rule, {"gap": gap, "heart_gap": heart_gap}, NOTES,
        read_checksums(checksums), [f"not packed: subject {left}; --subjects names them"] if left else []), out)


def layout(seconds: float, step: float) -> Layout:
    """What the records are made of."""
    sensors = {name: Sensor(RATE, [f"{name}_{axis}" for axis in "xyz"], ["m/s^2" if "acc" in name else "rad/s"] * 3)
               for name in AXES}
    return Layout({**sensors, "heart_rate": Sensor(RATE, ["heart_rate"], ["bpm"])}, seconds, step, "activity",
                  list(ACTIVITIES.values()), needed=list(AXES))


def find_files(source: str) -> dict[str, Path]:
    """The recordings of the protocol by subject. Raises DataError where there are none."""
    folder = source_folder(source)
    found = find_once(folder, "*.dat", lambda path: match[1] if path.parent.name != "Optional" and (
        match := FILE.match(path.name)) else None)
    if not found:
        raise DataError(f"{folder}: holds no Protocol/subject1??.dat; expected the unpacked PAMAP2 (UCI data set 231)"
                        + still_zipped(folder, "pamap2"))
    return found


def stretches(path: Path, limit: int, heart_limit: int, notes: list[str]) -> Iterator[Stretch]:
    """Each unbroken run of one activity, read as it comes; `notes` gets a line for each thing that is left out.

    Args:
        path: the file. limit, heart_limit: samples of a gap that are bridged.
    """
    numbers = {activity: number for number, activity in enumerate(ACTIVITIES)}
    columns = [HEART, *(first + axis for first in AXES.values() for axis in range(3))]
    strange: dict[int, int] = {}
    for found in segments(path, COLUMNS, columns, RATE, max(limit, heart_limit), notes):
        if found.label not in numbers:
            strange[found.label] = strange.get(found.label, 0) + found.count
            continue
        heart, axes = fill_back(found.rows[:, :1], heart_limit), bridge(found.rows[:, 1:], limit)
        part = slice(found.before, found.before + found.count)
        signals = {name: axes[part, 3 * i:3 * i + 3] for i, name in enumerate(AXES)}
        yield Stretch({**signals, "heart_rate": heart[part]}, 0.0, found.count / RATE, numbers[found.label])
    notes += [f"{path.name}: {n / RATE:.1f} s of activity {a}, which is none of the twelve" for a, n in strange.items()
              if a != 0]
