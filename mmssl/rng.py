"""Randomness as a pure function of where it is used: (seed, step or epoch, purpose, global position).

No draw depends on what was drawn before it, so ranks, workers and a resumed process all see the same numbers.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Word = int | str


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

    def numpy(self) -> np.random.Generator:
        """A fresh NumPy generator of this place; two calls give the same stream."""
        return np.random.Generator(np.random.PCG64(self.key))

    def torch(self) -> torch.Generator:
        """A fresh CPU generator of this place. On the CPU always, so that devices draw the same numbers."""
        return torch.Generator().manual_seed(self.key)
