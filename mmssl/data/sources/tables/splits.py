"""Which record belongs to which split: stated by the user, or drawn by group, the same for the same seed."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mmssl.data.sources.tables.rows import Columns
from mmssl.errors import ConfigError
from mmssl.rng import Rng

SYNONYMS = {"validation": "val", "valid": "val", "dev": "val", "training": "train", "testing": "test"}


def assign_splits(groups: Sequence[str], val: float, test: float, seed: int) -> list[str]:
    """A split for each record: whole groups, in a drawn order, go to test, then to val, the rest to train.

    Args:
        groups: of each record; equal names stay together.
        val, test: share of the records if below 1, else their number. Groups of several records are taken while they
            fit, so a split never holds more than was asked for.
        seed: of the order; it depends on the names alone, so one more record moves few others.

    Raises:
        ConfigError: a negative share, or nothing left to train on. No paper: ours.
    """
    if min(val, test) < 0:
        raise ConfigError(f"val={val:g}, test={test:g}: expected a share below 1 or a number of records")
    wanted = {name: round(n * len(groups)) if n < 1 else int(n) for name, n in (("test", test), ("val", val))}
    if sum(wanted.values()) >= len(groups):
        raise ConfigError(f"test={test:g} and val={val:g} ask for {sum(wanted.values())} of {len(groups)} records and "
                          f"leave none to train on; lower them")
    sizes, home = Counter(groups), {}
    order = sorted(sizes, key=lambda name: (Rng((seed, "split", name)).key, name))
    for split, room in wanted.items():
        for name in order:
            if name not in home and sizes[name] <= room:
                home[name] = split
                room -= sizes[name]
    return [home.get(name, "train") for name in groups]


def named_split(text: str) -> str:
    """A split as the user wrote it, in mmssl's word: "validation" is "val". Raises ValueError where it is none."""
    word = SYNONYMS.get(text.strip().lower(), text.strip().lower())
    if word not in ("train", "val", "test"):
        raise ValueError(f"split '{text}', expected train, val or test")
    return word


def choose_splits(rows: list[dict[str, str]], columns: Columns, media: Path, val: float, test: float, seed: int
                  ) -> list[str]:
    """The split of each row of a table, stated or drawn. No paper: ours.

    What must lie in one split alone is the group, where a column says it, else the first media file.

    Args:
        rows, columns: of the table.
        media: folder that paths in it start from.
        val, test, seed: as for `assign_splits`, where splits are drawn.

    Raises:
        ConfigError: a word that is no split, or one group in two splits; it names the row.
    """
    if columns.group:
        what, column, groups = "group", columns.group, [row[columns.group].strip() for row in rows]
    else:
        column = next(iter(columns.media()), None)
        what, place = "file", functools.cache(lambda cell: same_file(media, cell))
        groups = [place(row[column]) if column else "" for row in rows]
    if not columns.split:
        return assign_splits([group or f"\0row{n}" if column else str(n) for n, group in enumerate(groups)],
                             val, test, seed)
    chosen = []
    try:
        for row in rows:
            chosen.append(named_split(row[columns.split]))
    except ValueError as error:
        raise ConfigError(f"row {len(chosen) + 1}, column '{columns.split}': {error}; correct it, or use "
                          f"--split none to draw splits") from None
    check_groups(groups, chosen, what, column)
    return chosen


def same_file(media: Path, cell: str) -> str:
    """One name for a file, however a cell spells the way to it; "" for an empty cell.

    It starts from the folder of media, so that what is drawn by it does not depend on where that lies.
    """
    if not cell.strip():
        return ""
    try:
        return os.path.relpath(os.path.realpath(media / cell.strip()), os.path.realpath(media))
    except ValueError:  # no path at all; its row will be a bad one
        return cell.strip()


def check_groups(groups: Sequence[str], splits: Sequence[str], what: str, column: str | None) -> None:
    """See that the rows of a group or file, if they have one, are of one split, before all is packed.

    Raises:
        ConfigError: they are not.
    """
    home: dict[str, str] = {}
    for number, (group, split) in enumerate(zip(groups, splits, strict=True), 1):
        if group and home.setdefault(group, split) != split:
            raise ConfigError(f"row {number}, column '{column}': {what} '{group}' is in {split}, in a row above in "
                              f"{home[group]}; a {what} lies in one split alone: correct it, or use --split none to "
                              "draw splits")
