"""Packing that can be interrupted: shards appear whole, and the next attempt goes on after them. No paper: ours."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmssl.data.shards import ShardIndex, ShardWriter, index_path, list_splits
from mmssl.errors import ConfigError, DataError, StorageError
from mmssl.storage import write_whole

STATE = "pack.json"
STAGE = ".packing"
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
        bad: one line for each row that was left out.
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
            lines += [f"left out {len(self.bad)} bad rows (all in {self.root / 'bad_rows.txt'}):",
                      *[f"  {line}" for line in self.bad[:BAD_SHOWN]]]
            lines += [f"  and {len(self.bad) - BAD_SHOWN} more"] if len(self.bad) > BAD_SHOWN else []
        return "\n".join(lines)


class Packer:
    """Writes the records of a data set into the folder `root`, whole shards at a time.

    Args:
        root: the folder; made where it is missing.
        recipe: what the result depends on (settings, hashes of the sources), as JSON values. An interrupted attempt
            goes on only with the same one.
        workers: threads that make records; 0: as many as there are processors, at most 8.

    Raises:
        ConfigError: the folder holds another data set. StorageError: it cannot be written.
    """

    def __init__(self, root: str | Path, recipe: dict[str, Any], workers: int = 0) -> None:
        self.root, self.workers = Path(root), workers or min(os.cpu_count() or 1, 8)
        self.facts: dict[str, dict[str, list]] = {}
        self.report, self._begun = PackReport(self.root), time.monotonic()
        recipe = json.loads(json.dumps(recipe))  # as it will read back
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(self.root / STAGE, ignore_errors=True)
        except OSError as error:
            raise StorageError(f"{self.root}: cannot be made ({error.strerror}); choose another folder") from None
        self._recipe, old = recipe, self._state()
        if old is None and list_splits(self.root):
            raise ConfigError(f"{self.root}: holds shards that were not packed from here; choose an empty folder")
        if old is not None and old["recipe"] != recipe:
            other = [k for k in {**recipe, **old["recipe"]} if recipe.get(k) != old["recipe"].get(k)]
            raise ConfigError(f"{self.root}: holds a data set that was packed with other {', '.join(sorted(other))}; "
                              f"choose an empty folder, or delete this one")
        self.facts = old["facts"] if old is not None else {}
        self._save()

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
        stage, done = self.root / STAGE, len(items) - len(todo)
        with ShardWriter(stage, split, shard_records=SHARD_RECORDS) as writer:
            for item, result in ahead(todo, self.workers):
                done += 1
                if isinstance(result, DataError):
                    self.report.bad.append(f"{item.key}: {result}")
                else:
                    files, facts = result
                    self._learn(facts)
                    writer.add(item.key, files)
                    self._publish(writer, split)
                progress(done)
        self._publish(writer, split)

    def close(self) -> PackReport:
        """The report, after the last split. Writes or removes `bad_rows.txt`.

        Raises:
            DataError: not one record could be made.
        """
        splits, report = list_splits(self.root), self.report
        shutil.rmtree(self.root / STAGE, ignore_errors=True)
        report.records = {split: sum(len(ShardIndex.load(path)) for path in splits[split])
                          for split in ("train", "val", "test") if split in splits}
        report.size = sum(path.stat().st_size for paths in splits.values() for path in paths)
        report.seconds = time.monotonic() - self._begun
        if report.bad:
            write_whole(self.root / "bad_rows.txt", ("\n".join(report.bad) + "\n").encode())
        else:
            (self.root / "bad_rows.txt").unlink(missing_ok=True)
        if not splits:
            lines = "\n".join(f"  {line}" for line in report.bad[:BAD_SHOWN])
            raise DataError(f"{self.root}: not one record could be packed. The first rows say:\n{lines}" if report.bad
                            else f"{self.root}: there was nothing to pack")
        return report

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
        """Move shards that are complete out of the stage, indexes first, so that a shard is never without its own."""
        for path in writer.shards:
            if path.exists():
                self._save()
                taken = [int(p.stem.rpartition("-")[2]) for p in list_splits(self.root).get(split, [])]
                target = self.root / f"{split}-{max(taken, default=-1) + 1:06d}.tar"
                os.replace(index_path(path), index_path(target))
                os.replace(path, target)

    def _keys(self, split: str) -> set[str]:
        shards = [ShardIndex.load(path) for path in list_splits(self.root).get(split, [])]
        return {index.key(i) for index in shards for i in range(len(index))}

    def _state(self) -> dict[str, Any] | None:
        try:
            return json.loads((self.root / STATE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self.root / STATE}: cannot be read ({error}); delete the folder, pack again") from None

    def _save(self) -> None:
        state = {"recipe": self._recipe, "facts": self.facts}
        write_whole(self.root / STATE, (json.dumps(state, indent=1) + "\n").encode())


def ahead(items: Iterable[Item], workers: int) -> Iterator[tuple[Item, Any]]:
    """Each item with what its `make` gave, or the DataError it raised: in order, made by threads a few items ahead."""
    def attempt(item: Item) -> Any:
        try:
            return item.make()
        except DataError as error:
            return error

    with ThreadPoolExecutor(workers) as pool:
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
