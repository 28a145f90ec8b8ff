"""Recordings that become one data set: what is read of each, and what the data set is to be. No paper: ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmssl.data.folds import SplitRule
from mmssl.data.sources.recordings.windows import Layout, Stretch, slug
from mmssl.errors import ConfigError, DataError, few


@dataclass(frozen=True)
class Unit:
    """One recording: what is read at a time, and what an interrupted packing reads again at most.

    Args:
        name: in messages and keys; each its own.
        group: subject.
        files: raw files by the name that the manifest gives them.
        read: called with a list for lines on what it leaves out; gives the stretches in order, and may raise DataError.
    """

    name: str
    group: str
    files: Mapping[str, Path]
    read: Callable[[list[str]], Iterator[Stretch]]

    @property
    def key(self) -> str:
        """What the keys of its records begin with."""
        return slug(self.name, self.group)

    def sizes(self) -> dict[str, int]:
        """Bytes of each file; 0 of one that cannot be looked at, e.g. behind a link to nowhere, and so not be read."""
        return {name: path.stat().st_size if path.exists() else 0 for name, path in self.files.items()}


@dataclass(frozen=True)
class Collection:
    """Recordings that become one data set.

    Args:
        source: name of the packer.
        layout: of its records.
        units: its recordings, in the order in which they will stand.
        rule: given the groups there are, which train, validate and test unless a recipe says otherwise. Asked before
            packing and after it, since a recording may turn out to be unreadable.
        settings: whatever else the records depend on, as JSON values.
        notes: licence and origin, for people.
        checksums: SHA-256 in hex that files must have, by their name or the end of it.
        messages: lines for people, e.g. what was not found.
    """

    source: str
    layout: Layout
    units: list[Unit]
    rule: Callable[[Sequence[str]], SplitRule]
    settings: dict[str, Any] = field(default_factory=dict)
    notes: str = ""
    checksums: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def wanted(self, name: str) -> list[str]:
        """The sums that the list has for a file, by the end of either's name: several where that fits several lines."""
        return [digest for listed, digest in self.checksums.items()
                if f"/{name}".endswith(f"/{listed}") or f"/{listed}".endswith(f"/{name}")]

    def unlisted(self) -> list[str]:
        """The files that a list of checksums does not name; none without a list.

        Raises:
            ConfigError: it names not one of them.
        """
        names = list(dict.fromkeys(name for unit in self.units for name in unit.files)) if self.checksums else []
        missing = [name for name in names if not self.wanted(name)]
        if names and len(missing) == len(names):
            raise ConfigError(f"--checksums: the list names none of the files that are packed; it has "
                              f"{few(list(self.checksums))}, expected {few(names)}")
        return missing

    def named_apart(self) -> Collection:
        """Itself with units of different names: where several have one name, that of their group is added.

        Raises:
            DataError: two units with one name and one group.
        """
        counts = Counter(unit.name for unit in self.units)
        units = [unit if counts[unit.name] == 1 else replace(unit, name=f"{unit.name} (of {unit.group})")
                 for unit in self.units]
        first: dict[str, Unit] = {}
        for unit in units:
            if first.setdefault(unit.name, unit) is not unit:
                raise DataError(f"recording '{unit.name}' is there twice, in {few(list(first[unit.name].files))} and "
                                f"in {few(list(unit.files))}; give each a name of its own")
        return replace(self, units=units)
