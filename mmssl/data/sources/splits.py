"""Which record belongs to which split: stated by the user, or drawn by group, the same for the same seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

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
