"""Packing that can be interrupted: shards appear whole, and the next attempt goes on after them. No paper: ours."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmssl.data.shards import ShardIndex, ShardWriter, list_splits
from mmssl.data.sources.folder import PackFolder
from mmssl.errors import DataError
from mmssl.storage import write_whole
from mmssl.threads import lone_threads

LEFT_OUT = "left_out.txt"
SHARD_RECORDS = 500
BAD_SHOWN = 10


@dataclass
class Item:
    """One record to be made: its key, and a call that gives its files and what it learnt of each modality.

    `make` returns ({"video.mp4": bytes, ...}, {"video": {"rate": 25.0, ...}}) and raises DataError for a bad row.
    """

    key: str
    make: Callable[[], tuple[dict[str, bytes], dict[str, dict[str, Any]]]]


@dataclass
class PackReport:
    """What packing did; `str` of it is for people.

    Args:
        root: the data set.
        records: by split, how many it holds now.
        kept: records that an earlier attempt had packed.
        bad: one line for each row, file or part of a file that was left out.
        seconds: that this attempt took.
        size: bytes of all shards.
        notes: lines worth telling, e.g. which columns were guessed.
    """

    root: Path
    records: dict[str, int] = field(default_factory=dict)
    kept: int = 0
    bad: list[str] = field(default_factory=list)
    seconds: float = 0.0
    size: int = 0
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {n}" for name, n in self.records.items())
        lines = [*self.notes, f"{self.root}: {counts} records, {self.size / 1e6:.1f} MB, {self.seconds:.1f} s"]
        if self.kept:
            lines.append(f"{self.kept} records were there from an earlier attempt")
        if self.bad:
            lines += [f"left out {len(self.bad)} (all in {self.root / LEFT_OUT}):", *self.first_bad()]
        return "\n".join(lines)

    def first_bad(self) -> list[str]:
        """The first few lines of `bad`, and how many there are beyond."""
        more = len(self.bad) - BAD_SHOWN
        return [*(f"  {line}" for line in self.bad[:BAD_SHOWN]), *([f"  and {more} more"] if more > 0 else [])]

    def close(self, begun: float) -> PackReport:
        """Itself, with size and time filled in, after the last shard. Writes or removes `left_out.txt`.

        Args:
            begun: what `time.monotonic` said then.

        Raises:
            DataError: not one record could be made.
        """
        shards = [path for paths in list_splits(self.root).values() for path in paths]
        self.size, self.seconds = sum(path.stat().st_size for path in shards), time.monotonic() - begun
        if self.bad:
            write_whole(self.root / LEFT_OUT, ("\n".join(self.bad) + "\n").encode())
        else:
            (self.root / LEFT_OUT).unlink(missing_ok=True)
        if not shards:
            lines = "\n".join(self.first_bad())
            raise DataError(f"{self.root}: not one record could be packed. What was left out first:\n{lines}" if lines
                            else f"{self.root}: there was nothing to pack")
        return self


class Packer:
    """Writes the records of a data set into the folder `root`, whole shards at a time. A context manager.

    Args:
        root: the folder; made where it is missing.
        recipe: what the result depends on (settings, hashes of the sources), as JSON values. An interrupted attempt
            goes on only with the same one.
        workers: threads that make records; 0: as many as there are processors, at most 8.

    Raises:
        ConfigError: the folder holds another data set. StorageError: it cannot be written.
    """

    def __init__(self, root: str | Path, recipe: dict[str, Any], workers: int = 0) -> None:
        self.folder, self.workers = PackFolder(root, recipe, {"facts": {}}), workers or min(os.cpu_count() or 1, 8)
        self.root = self.folder.root
        self.facts: dict[str, dict[str, list]] = self.folder.state["facts"]
        self.report, self._begun = PackReport(self.root), time.monotonic()

    def __enter__(self) -> Packer:
        return self

    def __exit__(self, *error: object) -> None:
        self.folder.__exit__(*error)

    def write(self, split: str, items: Sequence[Item], progress: Callable[[int], None] = lambda done: None) -> None:
        """Write the records of one split that are not there yet. A bad row is noted in the report and left out.

        Args:
            split: its name.
            items: its records, in the order in which they will stand.
            progress: called after each record with how many of `items` are done.

        Raises:
            StorageError: the disk refuses; shards that were complete stay.
        """
        have = self._keys(split)
        todo = [item for item in items if item.key not in have]
        self.report.kept += len(items) - len(todo)
        done = len(items) - len(todo)
        with ShardWriter(self.folder.stage, split, shard_records=SHARD_RECORDS) as writer:
            for item, result in ahead(todo, self.workers):
                done += 1
                try:
                    files, facts = checked(writer, item, result)
                except DataError as error:
                    self.report.bad.append(f"{item.key}: {error}")
                else:
                    self._learn(facts)
                    writer.add(item.key, files)
                    self._publish(writer, split)
                progress(done)
        self._publish(writer, split)

    def close(self) -> PackReport:
        """The report, after the last split. Writes or removes `left_out.txt`.

        Raises:
            DataError: not one record could be made.
        """
        self.report.records = {split: sum(len(ShardIndex.load(path)) for path in paths)
                               for split, paths in list_splits(self.root).items()}
        self.report.records = {k: self.report.records[k] for k in ("train", "val", "test") if k in self.report.records}
        return self.report.close(self._begun)

    def fact(self, modality: str, name: str) -> Any:
        """What all records of a modality have in common, e.g. its rate; None where they differ or none has it."""
        values = self.facts.get(modality, {}).get(name, [])
        return values[0] if len(values) == 1 else None

    def _learn(self, facts: dict[str, dict[str, Any]]) -> None:
        for modality, values in facts.items():
            for name, value in values.items():
                known = self.facts.setdefault(modality, {}).setdefault(name, [])
                if value not in known and len(known) < 2:  # two different ones say all there is to say
                    known.append(value)

    def _publish(self, writer: ShardWriter, split: str) -> None:
        """Move shards that are complete out of the stage."""
        for path in writer.shards:
            if path.exists():
                self.folder.save()
                taken = [int(p.stem.rpartition("-")[2]) for p in list_splits(self.root).get(split, [])]
                self.folder.publish(path, f"{split}-{max(taken, default=-1) + 1:06d}.tar")

    def _keys(self, split: str) -> set[str]:
        shards = [ShardIndex.load(path) for path in list_splits(self.root).get(split, [])]
        return {index.key(i) for index in shards for i in range(len(index))}


def checked(writer: ShardWriter, item: Item, result: Any) -> tuple[dict[str, bytes], dict[str, dict[str, Any]]]:
    """What `make` gave for an item. Raises DataError where it raised one, or where it is no record to write."""
    if isinstance(result, DataError):
        raise result
    writer.check(item.key, result[0])
    return result


def ahead(items: Iterable[Item], workers: int) -> Iterator[tuple[Item, Any]]:
    """Each item with what its `make` gave, or the DataError it raised: in order, made by threads a few items ahead."""
    def attempt(item: Item) -> Any:
        try:
            return item.make()
        except DataError as error:
            return error

    with lone_threads(workers, "mmssl-pack") as pool:
        waiting: deque = deque()
        try:
            for item in items:
                waiting.append((item, pool.submit(attempt, item)))
                if len(waiting) > 2 * workers:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:  # an error or Ctrl-C: start nothing more
                future.cancel()
