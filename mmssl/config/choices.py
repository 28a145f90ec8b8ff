"""What a table of choices is made of: settings that a recipe may leave open, with a value for each source."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Setting:
    """One setting, and its values.

    Args:
        place: dotted place in a recipe; `*` stands for each entry of a section.
        values: one for each source of the table, in their order.
        parts: which parts have it; none for a closed section.
        null: what null means.
    """

    place: str
    values: tuple[Any, ...]
    parts: tuple[str, ...] = ()
    null: str = ""

    @property
    def section(self) -> str:
        """The section of a recipe it lies in."""
        return self.place.partition(".")[0]

    @property
    def key(self) -> str:
        """Its name within its node."""
        return self.place.rpartition(".")[2]

    def said(self, value: Any) -> str:
        """A value of it as a reader wants it."""
        if value is None:
            return f"null, {self.null}"
        return value if isinstance(value, str) else json.dumps(value)


@dataclass(frozen=True)
class Choice:
    """One thing that sources decide differently.

    Args:
        number: from 1.
        topic: what it is about.
        settings: all that follow it.
        methods: for which it arises; none: for all of the table.
        elsewhere: who decides it where no setting of the recipe does.
    """

    number: int
    topic: str
    settings: tuple[Setting, ...] = ()
    methods: tuple[str, ...] = ()
    elsewhere: str = ""


@dataclass(frozen=True)
class Table:
    """All choices of a family of methods.

    Args:
        title: what stands above it, as a reader sees it.
        sources: whose values there are; the last is ours, and named only where no other has the same value.
        methods: the family.
        choices: in order.
    """

    title: str
    sources: tuple[str, ...]
    methods: tuple[str, ...]
    choices: tuple[Choice, ...]

    def serves(self, choice: Choice, method: str | None) -> bool:
        """Whether a choice arises for a method."""
        return method in (choice.methods or self.methods)

    def whose(self, setting: Setting, value: Any, source: str | None) -> str:
        """Who has this value of a setting, and whether it was set by hand although the recipe names `source`."""
        named = [s for s, own in zip(self.sources, setting.values, strict=True) if own == value]
        words = " and ".join(s for s in named if s != self.sources[-1]) or (named[0] if named else "neither")
        return words + (", set by hand" if source and source not in named else "")
