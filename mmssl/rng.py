"""Randomness as a pure function of where it is used: (seed, step or epoch, purpose, global position).

No draw depends on what was drawn before it, so ranks, workers and a resumed process all see the same numbers.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Word = int | str


def signed(word: int) -> int:
    """The 64 bits of `word` as the int64 that torch takes."""
    word &= (1 << 64) - 1
    return word - (1 << 64) if word >> 63 else word


GOLDEN, FIRST, SECOND = (signed(w) for w in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def scramble(word: Tensor) -> Tensor:
    """SplitMix64's output function on int64, wrapping: a bijection in which every input bit reaches every output bit.

    Source: Steele, Lea and Flood 2014 (SplittableRandom), with the constants of its published variant 13.
    """
    # Torch shifts int64 arithmetically; the bitwise-and clears the copies of the sign.
    word = (word ^ ((word >> 30) & ((1 << 34) - 1))) * FIRST
    word = (word ^ ((word >> 27) & ((1 << 37) - 1))) * SECOND
    return word ^ ((word >> 31) & ((1 << 33) - 1))


@dataclass(frozen=True)
class Rng:
    """A place in the tree of all random draws. No paper: ours.

    Args:
        path: the words that lead here, e.g. `(seed, "step", 12)`. Equal paths give equal draws, on every machine.
        rows: global numbers (B,), int64, of the rows of the batch at hand, for draws that differ by row; None
            where every draw is for the batch as a whole.
    """

    path: tuple[Word, ...] = ()
    rows: Tensor | None = None

    def at(self, *words: Word) -> Rng:
        """The place further down the tree that `words` name; `rows` come along."""
        return Rng((*self.path, *words), self.rows)

    def for_rows(self, rows: Tensor) -> Rng:
        """The same place, for a batch whose rows have these global numbers (B,)."""
        return Rng(self.path, rows)

    @property
    def key(self) -> int:
        """63 bits that stand for the path (BLAKE2b of its words)."""
        text = "\x1f".join(f"{type(word).__name__[0]}{word}" for word in self.path)
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1

    def words(self, sites: int, rows: int, device: torch.device | str | None = None) -> Tensor:
        """64 random bits for each site and row, (sites, rows) int64: a function of path, site and global number of row.

        Args:
            sites: how many draws a row needs.
            rows: how many rows are at hand; numbered 0..rows-1 where the place has no `rows`.
            device: where to; None: where the rows' numbers are.
        """
        numbers = torch.arange(rows, device=device) if self.rows is None else self.rows.to(device or self.rows.device)
        if len(numbers) != rows:
            raise ValueError(f"rng.rows numbers {len(numbers)} rows, but the tensor has {rows}; use rng.for_rows")
        stream = scramble(torch.arange(sites, device=numbers.device) * GOLDEN + signed(self.key))
        return scramble(stream[:, None] + scramble(numbers * GOLDEN))

    def uniform(self, sites: int, rows: int) -> Tensor:
        """Numbers in [0, 1), (rows, sites) float32, in steps of 2^-24: `words` as draws that differ by row."""
        return ((self.words(sites, rows) >> 40) & ((1 << 24) - 1)).float().mul_(2.0 ** -24).T

    def normal(self, sites: int, rows: int) -> Tensor:
        """Standard normal numbers, (rows, sites) float32, none beyond 5.8: draws that differ by row.

        Source: Box and Muller 1958, on the upper and the middle 24 of each of the `words`' bits.
        """
        words = self.words((sites + 1) // 2, rows)
        part = (1 << 24) - 1
        radius = (((words >> 40) & part) + 1).float().mul_(2.0 ** -24).log_().mul_(-2).sqrt_()  # of (0, 1]
        angle = ((words >> 16) & part).float().mul_(2 * math.pi * 2.0 ** -24)
        return torch.cat([radius * angle.cos(), radius * angle.sin()]).T[:, :sites]

    def numpy(self) -> np.random.Generator:
        """A fresh NumPy generator of this place; two calls give the same stream."""
        return np.random.Generator(np.random.PCG64(self.key))

    def torch(self) -> torch.Generator:
        """A fresh CPU generator of this place. On the CPU always, so that devices draw the same numbers."""
        return torch.Generator().manual_seed(self.key)
