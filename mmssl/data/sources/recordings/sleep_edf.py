"""The source "sleep_edf": Sleep-EDF Expanded, nights of polysomnography with sleep stages, from PhysioNet's files.

PhysioNet, sleep-edfx 1.0.0 (doi 10.13026/C2X676). Stages are joined and wake is trimmed as most published work does
it; no paper prescribes this preparation: ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from mmssl.data.folds import SplitRule
from mmssl.data.sources.packer import PackReport
from mmssl.data.sources.recordings.packing import Collection, Unit, pack_recordings, read_checksums
from mmssl.data.sources.recordings.protocols import chosen_rule, find_once, source_folder, still_zipped, wanted_subjects
from mmssl.data.sources.recordings.windows import Layout, Sensor, Stretch
from mmssl.data.sources.series.edf import EdfFile, EdfSignal
from mmssl.data.sources.series.resample import Joined, Resampled, Signal
from mmssl.errors import ConfigError, DataError
from mmssl.registry import SOURCES

RATE = 100.0
EPOCH = 30.0
CHANNELS = {"eeg_fpz": "EEG Fpz-Cz", "eeg_pz": "EEG Pz-Oz", "eog": "EOG horizontal", "emg": "EMG submental"}
STAGES = ["W", "N1", "N2", "N3", "R"]
#: Class number by the text of the hypnogram; the two deepest stages of the older rules are one in the newer.
TEXTS = {"Sleep stage W": 0, "Sleep stage 1": 1, "Sleep stage 2": 2, "Sleep stage 3": 3, "Sleep stage 4": 3,
         "Sleep stage R": 4}
DROPPED = ("Sleep stage ?", "Movement time")
#: By study: two letters, and what the name of a recording looks like: subject, night, then what belongs to the file.
STUDIES = {"cassette": ("SC", re.compile(r"(?P<night>SC4(?P<subject>\d\d)\d).{2}-(?P<kind>PSG|Hypnogram)\.edf\Z")),
           "telemetry": ("ST", re.compile(r"(?P<night>ST7(?P<subject>\d\d)\d).{2}-(?P<kind>PSG|Hypnogram)\.edf\Z"))}
#: The protocol of the first twenty subjects: 0 to 11 train, 12 to 15 validate, 16 to 19 test; later ones train too.
USUAL = SplitRule(test=["SC1[6-9]"], val=["SC1[2-5]"])
NOTES = ("Sleep-EDF Expanded (PhysioNet sleep-edfx 1.0.0, doi 10.13026/C2X676), Open Data Commons Attribution License; "
         "cite Kemp et al. 2000 and PhysioNet.")


@dataclass(frozen=True)
class Night:
    """One recording: its name, e.g. SC4001, its subject, e.g. SC00, and its two files, of which one may be missing."""

    name: str
    subject: str
    psg: Path | None
    hypnogram: Path | None


@SOURCES.register("sleep_edf")
def pack_sleep_edf(source: str, out: str, study: Literal["cassette", "telemetry"] = "cassette",
                   subjects: list[str] = [], wake_minutes: float | None = 30.0,  # noqa: B006 (never changed)
                   emg: Literal["lines", "native"] = "lines", test_subjects: list[str] = [],  # noqa: B006
                   val_subjects: list[str] = [], folds: Literal["each"] | int | None = None,  # noqa: B006
                   fold: int | None = None, seed: int | None = None, checksums: str | None = None) -> PackReport:
    """Pack Sleep-EDF Expanded: two EEG channels, EOG and chin EMG in epochs of 30 s, stages W, N1, N2, N3 and R.

    Signals are read at their own rates and epoch by epoch. In the cassette study the EMG is an envelope at 1 Hz; it is
    brought to 100 Hz by straight lines between its samples. Stages 3 and 4 are N3; epochs without a stage and movement
    are left out. A night without a hypnogram is left out and listed; of a file that was cut off, whole epochs are kept;
    a hypnogram that goes on past the signals is cut there. Needs the extra `edf`. Interrupted, the same call goes on
    where it stopped.

    Args:
        source: folder of the download; the `.edf` files may lie deeper.
        out: folder of the new data set.
        study: cassette (healthy subjects, SC) or telemetry (ST).
        subjects: names or patterns, e.g. "SC0?" for SC00 to SC09; default: all.
        wake_minutes: minutes awake that are kept before the first and after the last epoch of sleep; null: all.
        emg: "lines" for 100 Hz as above, "native" for the rate it has in the files.
        test_subjects, val_subjects: who tests and validates; all others train. Default: SC16 to SC19 and SC12 to SC15.
        folds, fold: or: into how many groups subjects are dealt, and which one tests; the next one validates.
        seed: of drawing the folds; default: in order of their names.
        checksums: file of SHA-256 sums (PhysioNet's SHA256SUMS.txt) that the files must have.

    Raises:
        ConfigError: settings that do not fit, or edfio is missing. DataError: no such files, or nothing in them.
        StorageError: a full disk.
    """
    if wake_minutes is not None and wake_minutes < 0:
        raise ConfigError(f"--wake-minutes {wake_minutes:g}: expected minutes of 0 or more, or null for all")
    folder, nights = source_folder(source), find_nights(source, study)
    names = wanted_subjects([night.subject for night in nights], subjects)
    slow = emg == "native" and study == "cassette"
    layout = Layout({name: Sensor(1.0 if slow and name == "emg" else RATE, [channel], ["uV"])
                     for name, channel in CHANNELS.items()}, EPOCH, EPOCH, "stage", STAGES)
    units = [Unit(night.name, night.subject, {str(path.relative_to(folder)): path
                                              for path in (night.psg, night.hypnogram) if path is not None},
                  lambda notes, night=night: stretches(night, layout, wake_minutes, notes))
             for night in nights if night.subject in names]
    rule = partial(chosen_rule, USUAL, test_subjects, val_subjects, folds, fold, seed)
    return pack_recordings(Collection("sleep_edf", layout, units, rule, {"wake_minutes": wake_minutes}, NOTES,
                                      read_checksums(checksums)), out)


def find_nights(source: str, study: str) -> list[Night]:
    """The recordings of a study, by name. Raises DataError where there are none."""
    folder, (letters, shape) = source_folder(source), STUDIES[study]
    files = find_once(folder, "*.edf", lambda path: match.group("night", "kind") if (match := shape.match(path.name))
                      else None)
    if not files:
        raise DataError(f"{folder}: holds no {letters}*-PSG.edf; expected the {study} study of Sleep-EDF Expanded "
                        f"(PhysioNet, sleep-edfx 1.0.0){still_zipped(folder, 'sleep')}")
    return [Night(name, f"{letters}{name[3:5]}", files.get((name, "PSG")), files.get((name, "Hypnogram")))
            for name in sorted({name for name, _ in files})]


def stretches(night: Night, layout: Layout, wake_minutes: float | None, notes: list[str]) -> Iterator[Stretch]:
    """Each stretch of one stage, in epochs. Raises DataError where a file is missing or cannot be read."""
    for kind, path in (("PSG", night.psg), ("Hypnogram", night.hypnogram)):
        if path is None:
            raise DataError(f"there is no {night.name}*-{kind}.edf")
    recording, scored = EdfFile(night.psg), EdfFile(night.hypnogram)
    notes += recording.notes + scored.notes
    begins = recording.begins(), scored.begins()
    if None not in begins and begins[0] != begins[1]:
        raise DataError(f"{night.hypnogram.name} begins at {begins[1]}, but {night.psg.name} at {begins[0]}; they are "
                        f"of different nights")
    signals: dict[str, Signal] = {}
    for name, channel in CHANNELS.items():
        try:
            signals[name] = at_rate(recording.signal(channel, "uV"), layout.modalities[name].rate)
        except DataError as error:
            notes.append(str(error))
    stages = trimmed(read_stages(scored, notes), wake_minutes)
    beyond = sum(end - max(start, recording.seconds) for start, end, _ in stages if end > recording.seconds)
    if beyond > 0:
        notes.append(f"{night.hypnogram.name}: {beyond / EPOCH:g} epochs lie past the end of the signals and are cut")
    for start, end, stage in stages:
        yield Stretch(signals, start, min(end, recording.seconds), stage)


def at_rate(signal: EdfSignal, rate: float) -> Signal:
    """A channel at the rate of the layout: as it is, by straight lines from an envelope, or through a filter."""
    if signal.rate == rate:
        return signal
    if signal.rate == 1.0:
        return Joined(signal, round(rate))
    return Resampled(signal, signal.rate, rate)


def read_stages(scored: EdfFile, notes: list[str]) -> list[tuple[float, float, int]]:
    """Start, end and class number of each annotation that is a stage. Raises DataError where there is none."""
    found, strange = [], set()
    for onset, duration, text in scored.annotations():
        if text in TEXTS and duration:
            found.append((onset, onset + duration, TEXTS[text]))
        elif text not in DROPPED:
            strange.add(text)
    if strange:
        notes.append(f"{scored.path.name}: no stages, and left out: {', '.join(sorted(strange))}")
    if not found:
        raise DataError(f"{scored.path}: holds no sleep stages; expected annotations such as 'Sleep stage W'")
    return found


def trimmed(stages: list[tuple[float, float, int]], wake_minutes: float | None) -> list[tuple[float, float, int]]:
    """Stages from `wake_minutes` before the first epoch of sleep to as long after the last; all where nobody slept."""
    asleep = [(start, end) for start, end, stage in stages if STAGES[stage] != "W"]
    if wake_minutes is None or not asleep:
        return stages
    first, last = asleep[0][0] - 60 * wake_minutes, max(end for _, end in asleep) + 60 * wake_minutes
    kept = []
    for start, end, stage in stages:
        # whole epochs only: a start that is cut stays on the grid of its annotation
        begin = start if start >= first else start + EPOCH * -((start - first) // EPOCH)
        stop = min(end, last)
        if begin + EPOCH <= stop:
            kept.append((begin, stop, stage))
    return kept
