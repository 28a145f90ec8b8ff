"""A table of media files: reading it, and finding which column holds what. No paper: ours."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmssl.errors import ConfigError, DataError
from mmssl.registry import nearest

KINDS = {"video": ("mp4", "mkv", "webm", "mov", "avi"), "audio": ("flac", "wav", "ogg", "mp3", "m4a"),
         "image": ("jpg", "jpeg", "png")}
TEXT_COLUMN = re.compile(r"(caption|text|sentence|description|title)s?[_ ]?\d*", re.IGNORECASE)
JSONL = (".jsonl", ".ndjson")
NONE = "none"


@dataclass
class Columns:
    """Which column of a table holds what; None or empty where nothing does.

    Args:
        video, audio, image: paths of media files. `audio` equal to `video` means its sound track.
        text: captions; each may hold several, parted by "|".
        labels: classes.
        split, group: the stated split; what must not straddle a split.
        guessed: one line on each column that was found by its content, and one on those that are not read.
    """

    video: str | None = None
    audio: str | None = None
    image: str | None = None
    text: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    split: str | None = None
    group: str | None = None
    guessed: list[str] = field(default_factory=list)

    def media(self) -> list[str]:
        """The columns of media files, each once."""
        return list(dict.fromkeys(c for c in (self.video, self.audio, self.image) if c))


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV (with a header line) or JSONL file as text by column, all with the same columns.

    A list in JSONL is joined by "|", null is empty.

    Raises:
        DataError: no such file, not UTF-8, no rows, or a line that does not fit its header.
    """
    rows = list(stream_rows(path))
    if not rows:
        raise DataError(f"{path}: has no rows; expected a header line and one line for each record")
    names = dict.fromkeys(key for row in rows for key in row)
    return [{name: row.get(name, "") for name in names} for row in rows]


def stream_rows(path: Path, show: Callable[[int, int], None] = lambda done, total: None) -> Iterator[dict[str, str]]:
    """The same rows, one after another; a row of JSONL has its own columns only.

    Args:
        path: as for `read_rows`.
        show: told of the bytes read, and of all.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows, size = (stream_jsonl if path.suffix in JSONL else stream_csv)(path, file), path.stat().st_size
            for number, row in enumerate(rows):
                if number % 1000 == 0:
                    show(min(file.buffer.tell(), size), size)
                yield row
            show(size, size)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); name a CSV or JSONL file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None


def stream_csv(path: Path, file: Iterable[str]) -> Iterator[dict[str, str]]:
    """The rows of an open CSV file; see `stream_rows`."""
    reader = csv.DictReader(file)
    try:
        twice = [title for title, count in Counter(reader.fieldnames or []).items() if count > 1]
        if twice:
            raise DataError(f"{path}, line {reader.line_num}: the title '{twice[0]}' stands over "
                            f"{reader.fieldnames.count(twice[0])} columns; give each its own")
        for row in reader:
            if None in row or None in row.values():
                cells = sum(cell is not None for title, cell in row.items() if title is not None)
                raise DataError(f"{path}, line {reader.line_num}: {cells + len(row.get(None, []))} cells, expected "
                                f"{len(reader.fieldnames)}; put quotes around a cell with a comma in it")
            yield row
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}; save it again as CSV") from None


def stream_jsonl(path: Path, file: Iterable[str]) -> Iterator[dict[str, str]]:
    """The rows of an open JSONL file; see `stream_rows`."""
    def words(value: object) -> str:
        return "|".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)

    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            raw = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: not JSON ({error})") from None
        if not isinstance(raw, dict):
            raise DataError(f"{path}, line {number}: a JSON {type(raw).__name__}, expected an object")
        yield {key: words(value) for key, value in raw.items()}


def find_columns(rows: list[dict[str, str]], named: Columns) -> Columns:
    """Complete what the user named: media columns by the extensions in them, captions and split by their titles.

    "none" switches a column off. Where no column holds sound, it is taken from the video.

    Raises:
        ConfigError: a named column that the table lacks, or no media and no text at all; one line each.
    """
    titles, found = list(rows[0]), Columns(labels=named.labels, guessed=[])
    given = {kind: getattr(named, kind) for kind in (*KINDS, "split", "group")}
    listed = [c for c in [*given.values(), *named.text, *named.labels] if c not in (None, NONE)]
    problems = [f"no column '{name}'{nearest(name, titles)}" for name in dict.fromkeys(listed) if name not in titles]
    if problems:
        raise ConfigError(problems)
    for kind, column in given.items():
        guess = None if column is not None else guess_media(rows, KINDS[kind]) if kind in KINDS else \
            "split" if kind == "split" and "split" in titles else None
        setattr(found, kind, None if column == NONE else column or guess)
        if guess:
            found.guessed.append(f"{kind}: column '{guess}'")
    found.text = [c for c in named.text if c != NONE] if named.text else [t for t in titles if TEXT_COLUMN.fullmatch(t)]
    if found.text and not named.text:
        found.guessed.append(f"text: column {', '.join(repr(t) for t in found.text)}")
    if found.audio is None and named.audio is None:
        found.audio = found.video
    if not found.media() and not found.text:
        raise ConfigError(f"no column holds media files or captions; name them, e.g. --video COLUMN --text COLUMN; "
                          f"columns: {', '.join(titles)}")
    read = {*(getattr(found, kind) for kind in given), *found.text, *found.labels}
    if unread := [title for title in titles if title not in read and title not in listed]:
        found.guessed.append(f"not read: {', '.join(unread)} (columns of classes are named with --labels)")
    return found


def guess_media(rows: list[dict[str, str]], extensions: Sequence[str]) -> str | None:
    """The column in which most of the first rows name a file with one of `extensions`; None where there is none."""
    votes = Counter(title for row in rows[:100] for title, cell in row.items()
                    if cell.rpartition(".")[2].lower() in extensions and "." in cell)
    best = votes.most_common(1)
    return best[0][0] if best and 2 * best[0][1] > min(len(rows), 100) else None


def class_names(values: Sequence[str]) -> list[str]:
    """The different values of a label in order: by number where all are whole numbers, else by alphabet. "" is none."""
    different = {value for value in values if value}
    whole = all(re.fullmatch(r"-?\d+", value) for value in different)
    return sorted(different, key=(lambda v: (int(v), v)) if whole else None)
