"""Positions to batches: every rank takes its part of one global order, with threads that decode ahead."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from itertools import groupby
from typing import Any

from mmssl.data.order import Order, StoredOrder, batch_positions, replacement
from mmssl.data.quarantine import Quarantine
from mmssl.data.samples import Draft, Reader, transform_clips
from mmssl.distributed import rank, world_size
from mmssl.errors import ConfigError, DataError, TooManyBadSamples
from mmssl.rng import Rng
from mmssl.threads import lone_threads
from mmssl.types import MIDDLE, Batch, View

#: What a broken sample may raise on its way; anything else is a mistake in the program and stops it.
BAD = (DataError, ValueError, RuntimeError, IndexError, OSError, ArithmeticError)
ATTEMPTS = 256
#: Tasks that a batch is at most cut into for each thread: one for each sample of a sensor costs more than the sample.
TASKS = 16


class StreamLoader:
    """Batches of a split, the same for any number of ranks and workers, resumable at any batch. No paper: ours.

    In training each epoch is a shuffled order in which every record comes once; the tail that fills no global batch is
    left out, and a bad sample is replaced by another record. In evaluation records come as stored; the last batch is
    filled up, and bad samples stand, as rows with `valid` False. Each `iter()` after the first batch of an epoch begins
    the next epoch; right after `load_state_dict` it goes on where the state was taken.

    Args:
        reader: of the split.
        batch_size: B, rows over all ranks; a multiple of their number.
        train: shuffled and random, or stored order and nothing random.
        seed: of order, windows and augmentation.
        workers: threads that read and decode; 0: the caller's.
        prefetch: batches that are prepared beyond the one asked for, with workers.
        quarantine: where bad samples are written down; None: at most 1 % may be bad, nothing is written.
        place: (rank, number of ranks); None: as torch.distributed says when iteration begins.
        views: V looks at each sample, for evaluation; empty: one, at its middle. Each is a row of its own and those of
            a sample follow each other (also into the next batch): row r is sample r // V, view r % V, and all of them
            have the sample's key.

    Attributes:
        wait_seconds: how long the consumer has waited for batches so far.
        views: the V views, at least one.

    Raises:
        ConfigError: sizes that do not fit each other or the split.
    """

    batch_sampler = None  # Lightning asks for it wherever it finds a `sampler`

    def __init__(self, reader: Reader, batch_size: int, train: bool = False, seed: int = 0, workers: int = 0,
                 prefetch: int = 2, quarantine: Quarantine | None = None, place: tuple[int, int] | None = None,
                 views: Sequence[View] = ()) -> None:
        split = reader.split
        if train and views:
            raise ConfigError("views: several looks at a sample are for evaluation; training draws its own")
        if batch_size < 1 or workers < 0 or prefetch < 1:
            raise ConfigError(f"batch size {batch_size}, workers {workers}, prefetch {prefetch}: expected at least 1, "
                              "0, 1")
        if train and len(split) < batch_size:
            raise ConfigError(f"split '{split.name}' of {split.root} has {len(split)} records, fewer than one batch of "
                              f"{batch_size}; lower data.batch_per_device")
        self.reader, self.batch_size, self.train, self.seed = reader, batch_size, train, seed
        self.workers, self.prefetch, self._place = workers, prefetch, place
        self.views = tuple(views) or (MIDDLE,)
        self.quarantine = quarantine or Quarantine(split.root, split.name, len(split), 0.01)
        self.wait_seconds = 0.0
        self.epoch, self.consumed = 0, 0
        self._placed = self._begun = False  # whether the epoch is known; whether it has been iterated since
        self._hash: str | None = None
        self._rank_and_world()

    def __len__(self) -> int:
        """Global batches of an epoch; the same on every rank."""
        rows = len(self.reader.split) * len(self.views)
        return rows // self.batch_size if self.train else -(-rows // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the next epoch, or the rest of the one that was resumed. Nothing happens before the first."""
        if not self.train:
            yield from self._batches(0, 0)
            return
        if self.consumed >= len(self) or (self._begun and self.consumed):
            self.epoch, self.consumed = self.epoch + 1, 0
        self._placed = self._begun = True
        yield from self._batches(self.epoch, self.consumed)

    @property
    def sampler(self) -> StreamLoader:
        """Itself: the object whose `set_epoch` a trainer calls before each epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """A trainer is about to begin this epoch. Begins the next one here if the present one was left early.

        The number itself only counts for a loader that has no place yet: a trainer that resumes at the end of an epoch
        may count one epoch more than it ran.
        """
        if self.consumed and epoch > self.epoch:
            self.epoch, self.consumed, self._placed = self.epoch + 1, 0, True
        elif not self._placed:
            self.epoch = epoch

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs to go on from here: the batches handed out, not those prepared."""
        return {"epoch": self.epoch, "consumed": self.consumed, "seed": self.seed, "batch_size": self.batch_size,
                "index_hash": self._index_hash()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on, at the next `iter()`, where `state` was taken; on any number of ranks and workers.

        Raises:
            DataError: the data set, the seed or the global batch is another one.
        """
        mine, root = self.state_dict(), self.reader.split.root
        named = {"index_hash": f"records of {root}", "seed": "seed", "batch_size": "global batch"}
        wrong = [f"{what}: then {state.get(key)}, now {mine[key]}" for key, what in named.items()
                 if state.get(key) != mine[key]]
        if wrong:
            raise DataError(f"the checkpoint was made with other data or settings ({'; '.join(wrong)}), so its "
                            "place in the order means nothing here. Resume with the recipe and data of the run, or "
                            "start a new run from its weights.")
        self.epoch, self.consumed, self._placed, self._begun = int(state["epoch"]), int(state["consumed"]), True, False

    def _index_hash(self) -> str:
        if self._hash is None:
            self._hash = self.reader.split.index_hash()
        return self._hash

    def _rank_and_world(self) -> tuple[int, int]:
        place = self._place or (rank(), world_size())
        if self.batch_size % place[1]:
            raise ConfigError(f"a global batch of {self.batch_size} cannot be dealt to {place[1]} ranks; make it a "
                              f"multiple of {place[1]}")
        return place

    def _batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """Batches from number `start` on. Counts what is handed out, and how long that took."""
        for shard, key, reason in self.reader.split.lost():
            self.quarantine.note(shard, key, reason, epoch, tried=False)
        counts = self.reader.split.counts
        order = Order(counts, self.seed, epoch) if self.train else StoredOrder(counts)
        place = self._rank_and_world()
        rows = (batch_positions(g, *place, self.batch_size) for g in range(start, len(self)))
        drafts = self._ahead(order, epoch, rows) if self.workers else self._inline(order, epoch, rows)
        try:
            while True:
                asked = time.perf_counter()
                batch = next(drafts, None)
                self.wait_seconds += time.perf_counter() - asked
                if batch is None:
                    return
                if self.train:
                    self.consumed += 1
                yield batch
        finally:
            drafts.close()

    def _inline(self, order: Order | StoredOrder, epoch: int, rows: Iterator[range]) -> Iterator[Batch]:
        for positions in rows:
            draft = self._draft(positions)
            self._fill_all(draft, self._by_sample(positions), order, epoch)
            yield draft.finish()

    def _ahead(self, order: Order | StoredOrder, epoch: int, rows: Iterator[range]) -> Iterator[Batch]:
        """The same with threads: a task for a few samples, at most `prefetch` batches beyond the one asked for."""
        pool = lone_threads(self.workers, "mmssl-data")
        queue: deque[tuple[Draft, list[Future]]] = deque()
        try:
            while True:
                while len(queue) <= self.prefetch and (positions := next(rows, None)) is not None:
                    draft = self._draft(positions)
                    samples = self._by_sample(positions)
                    few = -(-len(samples) // (TASKS * self.workers))
                    queue.append((draft, [pool.submit(self._fill_all, draft, samples[i:i + few], order, epoch)
                                          for i in range(0, len(samples), few)]))
                if not queue:
                    return
                draft, tasks = queue.popleft()
                for task in tasks:
                    task.result()
                yield draft.finish()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _draft(self, positions: range) -> Draft:
        return Draft(positions, self.reader.modalities, list(self.reader.split.labels), self.reader.split.several)

    def _by_sample(self, positions: range) -> list[range]:
        """The rows of a batch, those of one sample together."""
        runs = (list(run) for _, run in groupby(range(len(positions)), lambda row: positions[row] // len(self.views)))
        return [range(rows[0], rows[-1] + 1) for rows in runs]

    def _fill_all(self, draft: Draft, samples: list[range], order: Order | StoredOrder, epoch: int) -> None:
        """`_fill` for some samples."""
        for rows in samples:
            self._fill(draft, rows, order, epoch)

    def _fill(self, draft: Draft, rows: range, order: Order | StoredOrder, epoch: int) -> None:
        """Put the views of one sample into their rows; in training another sample where it is bad."""
        numbers = draft.batch.rows[rows.start:rows.stop].tolist()
        position, views = numbers[0] // len(self.views), [self.views[n % len(self.views)] for n in numbers]
        if position >= len(order):
            return
        shard, record = order.at(position)
        rng = Rng((self.seed, "sample", epoch, position)) if self.train else None
        for attempt in range(1, ATTEMPTS + 1):
            name, key = self.reader.split.where(shard, record)
            try:
                sample = self.reader.read(shard, record)
                seen = [transform_clips(sample.clips, self.reader.modalities, rng, view) for view in views]
            except BAD as error:
                self.quarantine.note(name, key, str(error) or type(error).__name__, epoch)
            else:
                self.quarantine.good()
                for row, tensors in zip(rows, seen, strict=True):
                    draft.put(row, tensors, key, sample.labels, sample.group)
                return
            if not self.train:
                for row in rows:
                    draft.batch.keys[row] = key
                return
            shard, record = StoredOrder(self.reader.split.counts).at(
                replacement(position, attempt, self.seed, epoch, len(order)))
        raise TooManyBadSamples(f"{self.reader.split.root}: {ATTEMPTS} records in a row could not stand in for a bad "
                                f"one. Repair the data set: `mmssl data verify {self.reader.split.root}` names what is "
                                "bad.")
