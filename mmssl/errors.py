"""What can go wrong for a user, each with its exit code. Anything else that reaches the shell is a bug of ours."""

from collections.abc import Iterable, Sequence
from typing import Any


class MmsslError(Exception):
    """A failure with a message for the user: where, what, what was expected, what to do; `exit_code` is the shell's."""

    exit_code = 1


class ConfigError(MmsslError):
    """A recipe, an override or a command that cannot be carried out as written. Holds one line per problem."""

    exit_code = 2

    def __init__(self, problems: str | list[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class TooManyBadSamples(MmsslError):
    """More samples could not be read than `data.bad_samples` allows."""

    exit_code = 3


class DataError(MmsslError):
    """A file, shard, sample or checkpoint that is missing or cannot be read as what it claims to be."""

    exit_code = 4


class StorageError(MmsslError):
    """The disk refused a write (full, read-only, over quota)."""

    exit_code = 5


def few(names: Sequence[str], most: int = 4, mark: str = ", ") -> str:
    """The first names for a message, with a mark between them, and a sign where there are more."""
    return mark.join([*names[:most], *(["…"] if len(names) > most else [])])


def check_ranges(section: str, rows: Iterable[tuple[str, bool, str, Any]]) -> None:
    """Hold the settings of a section against what they may be.

    Args:
        section: of the recipe, for messages.
        rows: a setting's name, whether its value is good, what is expected, and the value.

    Raises:
        ConfigError: with one line for each that is not good.
    """
    wrong = [f"{section}.{key}: expected {what}, got {value!r}" for key, good, what, value in rows if not good]
    if wrong:
        raise ConfigError(wrong)
