"""How the subjects of a data set are dealt to splits: as the command line says, or as its usual protocol does."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, TypeVar

from mmssl.data.folds import SplitRule, by_name
from mmssl.errors import ConfigError, DataError
from mmssl.registry import nearest

Key = TypeVar("Key", bound=Hashable)


def chosen_rule(usual: SplitRule, test: Sequence[str], val: Sequence[str], folds: Literal["each"] | int | None,
                fold: int | None, seed: int | None, subjects: Sequence[str]) -> SplitRule:
    """The rule that the settings of a packer ask for; `usual` where they ask for none.

    Args:
        usual: protocol; adapted where there are too few subjects for it.
        test, val: settings `test_subjects` and `val_subjects`.
        folds, fold, seed: settings of the same names.
        subjects: all there are.

    Raises:
        ConfigError: lists and folds at once.
    """
    folded = any(value is not None for value in (folds, fold, seed))
    if (test or val) and folded:
        raise ConfigError("--test-subjects and --val-subjects name the splits themselves; leave out --folds, --fold "
                          "and --seed")
    if test or val:
        return SplitRule(test=list(test), val=list(val))
    if not folded:
        return fitting(usual, subjects)
    base = usual if usual.folds is not None else SplitRule(folds=5)
    asked = replace(base, folds=folds, fold=fold or 0, seed=seed) if folds is not None else replace(
        fitting(base, subjects), fold=fold or 0, seed=seed)
    return _fewer_validate(asked, len(set(subjects)))


def fitting(rule: SplitRule, subjects: Sequence[str]) -> SplitRule:
    """A rule cut down to the subjects there are: fewer folds, fewer that validate, or everybody trains."""
    count = len(set(subjects))
    if rule.folds is not None and count > 1:
        folds = rule.folds if rule.folds == "each" else min(rule.folds, count)
        return _fewer_validate(replace(rule, folds=folds), count)
    lists = {"test": rule.test, "val": rule.val if rule.folds is None else None}
    there = {split: [p for p in patterns or [] if any(fnmatchcase(s, p) for s in subjects)]
             for split, patterns in lists.items()}
    return SplitRule(**{split: patterns for split, patterns in there.items() if patterns})


def _fewer_validate(rule: SplitRule, count: int) -> SplitRule:
    """The same folds, with at least one subject left to train even where the largest fold tests."""
    largest = 1 if rule.folds == "each" else -(-count // rule.folds)
    most, many = max(count - largest - 1, 0), 1 if rule.val is None else rule.val
    return replace(rule, val=max(-most, min(most, many)))


def wanted_subjects(found: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The subjects that fit a name or a pattern such as "SC0?"; all for no patterns. Raises ConfigError."""
    problems = [f"--subjects: nobody is called '{p}'{nearest(p, found)}" for p in patterns
                if not any(fnmatchcase(s, p) for s in found)]
    if problems:
        raise ConfigError(problems)
    return by_name([s for s in set(found) if not patterns or any(fnmatchcase(s, p) for p in patterns)])


def source_folder(source: str) -> Path:
    """The folder of raw files. Raises DataError where there is none."""
    path = Path(source).expanduser()
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; give the folder of the unpacked download with --source")
    return path


def find_once(folder: Path, pattern: str, key: Callable[[Path], Key | None]) -> dict[Key, Path]:
    """The files of a pattern anywhere in a folder by what they are, None for a file that does not count.

    Raises:
        DataError: two files of one key.
    """
    found: dict[Key, Path] = {}
    for path in sorted(folder.rglob(pattern)):
        name = key(path)
        if name is not None and found.setdefault(name, path) != path:
            raise DataError(f"{path}: is there twice, also as {found[name]}; give the folder of one of them")
    return found


def still_zipped(folder: Path, word: str) -> str:
    """The end of a message on a folder in which nothing was found: the zip that may hold it; "" where there is none.

    Args:
        word: in lower case, that the name of the download has.
    """
    zips = sorted(path.name for path in folder.rglob("*.zip"))
    fitting = [name for name in zips if word in name.lower()]
    if fitting:
        return f"; unpack {', '.join(fitting[:3])} first"
    return f"; if the download is among its zips ({', '.join(zips[:3])}), unpack it first" if zips else ""
