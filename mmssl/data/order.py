"""The order of all samples of an epoch: a pure function of (seed, epoch, position), looked up, never stored.

Shards are permuted and dealt into groups of at least 128; inside a group the records of all its shards are permuted
together. Ranks and workers only take positions of this order, so it does not depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmssl.rng import Rng

GROUP = 128  # shards at least, whose records are mixed; a batch of 16 then meets 94 % of the shards it could
ROUNDS = 6
WORD = (1 << 64) - 1


def permute(index: int, size: int, keys: Sequence[int]) -> int:
    """Where a keyed permutation of 0..size-1 sends `index`, in O(1) memory and expected O(1) time.

    A balanced Feistel network over the next even power of two, walked until it lands inside. No paper: ours.

    Args:
        keys: one integer below 2^64 for each round.
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    low = (1 << half) - 1
    while True:
        left, right = index >> half, index & low
        for key in keys:
            left, right = right, left ^ (_scramble(right ^ key) & low)
        index = left << half | right
        if index < size:
            return index


def _scramble(word: int) -> int:
    """64 bits mixed so that every bit of `word` reaches every bit of the result (multiply and shift, twice)."""
    word = (word ^ word >> 32) * 0xD6E8FEB86659FD93 & WORD
    word = (word ^ word >> 29) * 0x9E3779B97F4A7C15 & WORD
    return word ^ word >> 32


class Order:
    """The shuffled order of one epoch: each record exactly once. No paper: ours.

    Args:
        counts: records of each shard, in stored order.
        seed, epoch: what the order is a function of.
    """

    def __init__(self, counts: Sequence[int], seed: int, epoch: int) -> None:
        rng = Rng((seed, "order", epoch))
        counts = np.asarray(counts, dtype=np.int64)
        shards = rng.at("shards").numpy().permutation(len(counts))
        self._groups = np.array_split(shards, max(1, len(shards) // GROUP))
        self._ends = [np.cumsum(counts[group]) for group in self._groups]  # by group, running count of its records
        self._group_ends = np.cumsum([counts[group].sum() for group in self._groups])
        self._keys = [rng.at("records", g).numpy().integers(0, 1 << 63, ROUNDS).tolist()
                      for g in range(len(self._groups))]

    def __len__(self) -> int:
        return int(self._group_ends[-1])

    def at(self, position: int) -> tuple[int, int]:
        """(shard, record) at a position. Raises IndexError outside 0..len-1."""
        if not 0 <= position < len(self):
            raise IndexError(f"position {position} of {len(self)}")
        group = int(np.searchsorted(self._group_ends, position, side="right"))
        ends = self._ends[group]
        inside = permute(position - int(self._group_ends[group] - ends[-1]), int(ends[-1]), self._keys[group])
        return _locate(self._groups[group], ends, inside)


class StoredOrder:
    """The order of evaluation: as the records are stored. `counts` as in Order. No paper: ours."""

    def __init__(self, counts: Sequence[int]) -> None:
        self._shards = np.arange(len(counts))
        self._ends = np.cumsum(np.asarray(counts, dtype=np.int64))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def at(self, position: int) -> tuple[int, int]:
        """(shard, record) at a position. Raises IndexError outside 0..len-1."""
        if not 0 <= position < len(self):
            raise IndexError(f"position {position} of {len(self)}")
        return _locate(self._shards, self._ends, position)


def _locate(shards: np.ndarray, ends: np.ndarray, inside: int) -> tuple[int, int]:
    """The shard, among `shards` laid end to end, that holds record `inside`, and the record's number there."""
    which = int(np.searchsorted(ends, inside, side="right"))
    return int(shards[which]), inside - (int(ends[which - 1]) if which else 0)


def batch_positions(batch: int, rank: int, world: int, size: int) -> range:
    """The positions of global batch number `batch` that one rank takes: `g*B + rank*b + j`, with B = world * b.

    Args:
        size: B, rows of the global batch; a multiple of `world`.
    """
    local = size // world
    start = batch * size + rank * local
    return range(start, start + local)


def replacement(position: int, attempt: int, seed: int, epoch: int, total: int) -> int:
    """Which record, counted in stored order, stands in for a bad one at `position`. No paper: ours.

    Args:
        attempt: 1, 2, ...; the next one is asked for where the record before was bad too.
        total: records of the split.
    """
    return int(Rng((seed, "replacement", epoch, position, attempt)).numpy().integers(total))
