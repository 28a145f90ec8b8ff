"""Bad samples: written down once each, counted, and a stop when there are too many."""

from __future__ import annotations

import fcntl
import json
import threading
from pathlib import Path

from mmssl.errors import TooManyBadSamples
from mmssl.storage import refused

FIRST = 16  # samples; when all of these are bad, the fault is not in the samples


class Quarantine:
    """The bad records of one split as this process meets them. Safe for threads. No paper: ours.

    Args:
        root: folder of the data set, for messages.
        split: name of the split.
        records: how many the split has.
        limit: share of them, 0 to 1, that may be bad.
        file: one JSON line `{"shard", "key", "reason", "epoch"}` is appended for each bad record, once, whichever
            process meets it first; None keeps them in memory.
    """

    def __init__(self, root: str | Path, split: str, records: int, limit: float,
                 file: str | Path | None = None) -> None:
        self.root, self.split, self.records, self.limit = str(root), split, records, limit
        self.file = Path(file) if file is not None else None
        self.bad: dict[tuple[str, str], str] = {}
        self._tried, self._good, self._lock = 0, 0, threading.Lock()

    def good(self) -> None:
        """Count a sample that could be read."""
        with self._lock:
            self._tried, self._good = self._tried + 1, self._good + 1

    def note(self, shard: str, key: str, reason: str, epoch: int, tried: bool = True) -> None:
        """Write down a bad sample; `tried` is False for one that is known to be lost before anybody asked for it.

        Raises:
            TooManyBadSamples: more than `limit` of the split is bad, or the first 16 samples all were.
            StorageError: the file cannot be written.
        """
        with self._lock:
            self._tried += tried
            if (shard, key) not in self.bad:
                self.bad[shard, key] = reason
                self._write({"shard": shard, "key": key, "reason": reason, "epoch": epoch})
            self._check()

    def _check(self) -> None:
        first = next(iter(self.bad.items()))
        example = f"The first one, {first[0][0]} '{first[0][1]}': {first[1]}"
        where = f" They are listed in {self.file}." if self.file else ""
        if not self._good and self._tried >= FIRST:
            raise TooManyBadSamples(f"{self.root}: the first {self._tried} samples of split '{self.split}' are all "
                                    f"bad.{where} {example}. Fix the recipe or the data; `mmssl data verify "
                                    f"{self.root}` checks every sample.")
        if len(self.bad) > self.limit * self.records:
            raise TooManyBadSamples(
                f"{self.root}: {len(self.bad)} of {self.records} samples of split '{self.split}' are bad, more than "
                f"data.bad_samples = {self.limit:g} allows.{where} {example}. Repair the data set (`mmssl data verify "
                f"{self.root}` names every bad sample), or raise data.bad_samples.")

    def _write(self, row: dict[str, str | int]) -> None:
        """Append one line, unless another process, or a run before, has written this record down."""
        if self.file is None:
            return
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a+", encoding="utf-8") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed
                file.seek(0)
                lines = file.readlines()
                if not any(_same(line, row) for line in lines):
                    cut_off = bool(lines) and not lines[-1].endswith("\n")  # by a crash: its line is closed here
                    file.write("\n" * cut_off + json.dumps(row, ensure_ascii=False) + "\n")
        except OSError as error:
            raise refused(self.file, error) from None


def _same(line: str, row: dict[str, str | int]) -> bool:
    """Whether a line of the file is about the record of `row`; a line cut off by a crash is about none."""
    try:
        old = json.loads(line)
        return old["shard"] == row["shard"] and old["key"] == row["key"]
    except (ValueError, KeyError, TypeError):
        return False
