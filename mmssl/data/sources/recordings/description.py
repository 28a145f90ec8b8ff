"""What raw signals mean, as a small YAML file says it: which array is which sensor, at which rate. No paper: ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mmssl.data.folds import SplitRule, read_rule
from mmssl.errors import ConfigError, DataError
from mmssl.registry import check_settings, signature_of


@dataclass(frozen=True)
class SignalInfo:
    """One modality.

    Args:
        key: name of its array (npz) or file (CSV, EDF, the `.hea` of a WFDB record); "{subject}" stands for the
            subject, and "{recording}" for what tells apart the recordings of one.
        rate: Hz, of the file.
        channels, units: of its columns, in order. Of EDF and WFDB the file says the unit too: a multiple is brought to
            the one that stands here, and what is none is refused.
        columns: numbers (npz), titles (CSV) or channels (EDF, WFDB) of the columns to take; default: all.
        resample: Hz to bring it to, through an anti-alias filter; default: as it is.
        standardise: each channel less its mean over the whole recording, in units of its deviation there: what differs
            from wearer to wearer, not from minute to minute, goes. Uses no label, but all of a recording.
    """

    key: str
    rate: float
    channels: list[str]
    units: list[str]
    columns: list[str] | None = None
    resample: float | None = None
    standardise: bool = False

    @property
    def stored_units(self) -> list[str]:
        """Units of what is packed: 1 for what has none."""
        return ["1"] * len(self.units) if self.standardise else self.units

    @property
    def stored_rate(self) -> float:
        """Hz of what is packed."""
        return self.rate if self.resample is None else self.resample


@dataclass(frozen=True)
class LabelInfo:
    """What the classes are.

    Args:
        key: name of the array or file, as in SignalInfo; of an EDF+ file its annotations count, of a WFDB annotation
            file (such as `100.atr`) the rhythms.
        classes: class name by the value in the array, or by the text of the annotation.
        name: of the label in the data set.
        rate: Hz; default: one value for each recording. Annotations say their time themselves.
        column: of the array or file; default: the only one.
        drop: values or texts that are no class; their stretches are left out. "*" stands for all others.
    """

    key: str
    classes: dict[int, str] | dict[str, str]
    name: str = "class"
    rate: float | None = None
    column: str | None = None
    drop: list[int] | list[str] = field(default_factory=list)

    def number(self, value: str, where: str) -> int | None:
        """The class number of a value; None for one that is dropped. Raises ConfigError for any other."""
        known = {str(key): name for key, name in self.classes.items()}
        if value in known:
            return self.names.index(known[value])
        if value in [str(key) for key in self.drop] or "*" in self.drop:
            return None
        raise ConfigError(f"recording '{where}': label {value} is neither in label.classes nor in label.drop; add it "
                          f"to one")

    @property
    def names(self) -> list[str]:
        """The classes in order of their numbers."""
        return list(dict.fromkeys(self.classes.values()))


@dataclass(frozen=True)
class RecordingInfo:
    """Arrays that hold many recordings one after the other (npz).

    Args:
        offsets: key of the (R + 1,) positions where each recording begins, and the last one ends.
        subject: key of the (R,) subjects.
    """

    offsets: str
    subject: str


@dataclass(frozen=True)
class WindowInfo:
    """Length of a window and the step to the next one, both in seconds."""

    seconds: float
    step: float


@dataclass(frozen=True)
class Description:
    """A whole YAML file; see its parts.

    Args:
        subjects: names that "{subject}" stands for; default: all that are found. Not used with `recordings`.
        split: the subjects of "test" and "val", all others train; or folds: see `mmssl.data.folds.SplitRule`.
    """

    modalities: dict[str, SignalInfo]
    window: WindowInfo
    split: SplitRule
    label: LabelInfo | None = None
    recordings: RecordingInfo | None = None
    subjects: list[str] | None = None
    notes: str = ""


def load_description(path: str | Path) -> Description:
    """Read and check a description.

    Raises:
        DataError: the file cannot be read. ConfigError: one line for each thing in it that does not fit.
    """
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); name a YAML file with --description") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    problems: list[str] = []
    try:
        made = _description(raw if isinstance(raw, Mapping) else {}, problems)
    except (TypeError, KeyError):
        made = None  # a part is missing, and `problems` says which
    if problems or made is None:
        raise ConfigError([f"{path}: {line}" for line in problems])
    return made


def _description(raw: Mapping[str, Any], problems: list[str]) -> Description:
    nested = {"modalities", "window", "label", "recordings", "split"}
    rest = {k: v for k, v in raw.items() if k not in nested}
    plain, found = check_settings(signature_of(Description), rest, "", nested)
    problems += found
    problems += [f"{k}: missing, or no mapping" for k in ("modalities", "window", "split")
                 if not isinstance(raw.get(k), Mapping)]
    modalities = {name: _part(SignalInfo, node, f"modalities.{name}", problems)
                  for name, node in (raw.get("modalities") or {}).items()}
    for name, info in modalities.items():
        if info is not None and len(info.channels) != len(info.units):
            problems.append(f"modalities.{name}: {len(info.channels)} channels but {len(info.units)} units; expected "
                            f"as many")
        if info is not None and "{subject}{recording}" in info.key:
            problems.append(f"modalities.{name}.key: something must stand between {{subject}} and {{recording}}, or "
                            f"nobody can tell where the one ends")
        if info is not None and min(info.rate, info.stored_rate) <= 0:
            problems.append(f"modalities.{name}.rate: expected a positive number of Hz, got {info.rate:g}")
    window = _part(WindowInfo, raw.get("window") or {}, "window", problems)
    if window is not None and min(window.seconds, window.step) <= 0:
        problems.append(f"window: seconds and step must be positive, got {window.seconds:g} and {window.step:g}")
    try:
        split = read_rule({k: [] if v is None else v for k, v in (raw.get("split") or {}).items()}, "split")
    except ConfigError as error:
        split = None
        problems += error.problems
    parts = {name: _part(kind, raw[name], name, problems) if name in raw else None
             for name, kind in (("label", LabelInfo), ("recordings", RecordingInfo))}
    if parts["label"] is not None and parts["label"].rate is not None and parts["label"].rate <= 0:
        problems.append(f"label.rate: expected a positive number of Hz, got {parts['label'].rate:g}")
    return Description(modalities=modalities, window=window, split=split, **parts, **plain)


def _part(kind: type, node: Any, where: str, problems: list[str]) -> Any:
    """One part of the description; None, with lines added to `problems`, where it does not fit."""
    if not isinstance(node, Mapping):
        problems.append(f"{where}: expected a mapping, got {node!r}")
        return None
    settings, found = check_settings(signature_of(kind), node, where)
    problems += found
    return None if found else kind(**settings)
