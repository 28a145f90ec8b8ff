"""Raw input to tokens: patches of any grid, and words. No positions here; see `positions`.

A tokenizer is a module with `shape` (of the one item it takes), `grid` (tokens per axis), `dim` and
`forward(x (B, *shape), keep) -> (tokens (B, n, D), valid (B, n) | None)`; `keep` numbers the tokens to make: (n,) for
all samples, or (B, n), which a tokenizer need not know unless its encoder is told to draw per sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl.errors import ConfigError
from mmssl.nn.init import dense


class PatchTokenizer(nn.Module):
    """Cuts an array into equal patches along one to three axes, and projects each: a strided convolution as one GEMM.

    Source: arXiv 2104.11178, section 3.1. Weights are drawn Glorot-uniform for the matrix (patch values to D); the
    released code's draw, for the convolution, is narrower and starts with content far below positions.

    Args:
        shape: of one sample, e.g. video (T, H, W, 3), series (C, T), wave (S,), log-mel (T, F).
        patch: size along each cut axis; a remainder at the end of an axis is left out.
        dim: D.
        channels: whether `shape` has an axis of channels, which is not cut.
        channels_last: whether that axis comes last; None: first in a series (one axis to cut), last otherwise.

    Raises:
        ConfigError: shape and patch do not fit.
    """

    def __init__(self, shape: Sequence[int], patch: Sequence[int], dim: int, channels: bool = True,
                 channels_last: bool | None = None) -> None:
        super().__init__()
        self.shape, self.patch, self.dim = tuple(shape), tuple(patch), dim
        if len(self.shape) != len(self.patch) + channels or not 1 <= len(self.patch) <= 3:
            raise ConfigError(f"patch: {list(patch)} does not fit samples of shape {list(shape)}; "
                              "expected one number per axis to cut, channels aside")
        last = len(self.patch) > 1 if channels_last is None else channels_last
        self.channel_axis = None if not channels else len(self.patch) if last else 0
        self.grid = self._cut(self.shape)
        if 0 in self.grid:
            raise ConfigError(f"patch: {list(patch)} is larger than a sample of {list(self.shape)}; choose a smaller "
                              "patch")
        depth = self.shape[self.channel_axis] if channels else 1
        self.projection = dense(math.prod(self.patch) * depth, dim)

    def forward(self, x: Float[Tensor, "B ..."], keep: Int[Tensor, "*K n"] | None = None
                ) -> tuple[Float[Tensor, "B n D"], None]:
        """Tokens of the patches numbered `keep` (None: all), row-major over the grid; only those are projected.

        Args:
            x: (B, *shape), float; other sizes along the cut axes make other grids, see `grid_of`.
            keep: patch numbers, (n,), the same for all B, or (B, n).

        Returns:
            tokens (B, n, D), and None: every patch is valid.
        """
        return self.projection(self.patches(x, keep)).transpose(0, 1), None

    def grid_of(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Tokens per axis of samples (shape) that may be of another size than those it was built for: an image instead
        of a film, a longer sound. Raises ValueError where axes or channels differ, or a patch does not fit in."""
        shape, axis = tuple(shape), self.channel_axis
        if shape == self.shape:
            return self.grid
        alike = len(shape) == len(self.shape) and (axis is None or shape[axis] == self.shape[axis])
        if not alike or 0 in self._cut(shape):
            raise ValueError(f"samples have shape {shape}, the tokenizer was built for {self.shape} in patches of "
                             f"{self.patch}; give it as many axes and channels, and at least one patch along each axis")
        return self._cut(shape)

    @property
    def remainder(self) -> tuple[int, ...]:
        """How much at the end of each axis that is cut lies in no patch."""
        return tuple(size % p for size, p in zip(self._axes(self.shape), self.patch, strict=True))

    def _axes(self, shape: tuple[int, ...]) -> list[int]:
        return [size for axis, size in enumerate(shape) if axis != self.channel_axis]

    def _cut(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(size // p for size, p in zip(self._axes(shape), self.patch, strict=True))

    def patches(self, x: Float[Tensor, "B ..."], keep: Int[Tensor, "*K n"] | None = None) -> Float[Tensor, "n B p"]:
        """The kept patches, (n, B, p), patch-major; p runs over the patch's axes, then the channels."""
        grid = self.grid_of(x.shape[1:])
        if self.channel_axis is None:
            x = x.unsqueeze(-1)
        elif self.channel_axis == 0:
            x = x.movedim(1, -1)
        axes = len(grid)
        for axis, (n, p) in enumerate(zip(grid, self.patch, strict=True)):
            x = x.narrow(2 * axis + 1, 0, n * p).unflatten(2 * axis + 1, (n, p))
        order = [*range(1, 2 * axes + 1, 2), 0, *range(2, 2 * axes + 1, 2), 2 * axes + 1]
        if keep is None:
            return x.permute(order).flatten(axes + 1).flatten(0, axes - 1)
        # Indices on the grid axes alone copy just the kept patches; being apart, they put their axes first.
        index: list = [slice(None)] * (2 * axes + 2)
        if keep.ndim == 2:
            index[0], keep = torch.arange(len(x), device=x.device), keep.T
        for axis in reversed(range(axes)):
            index[2 * axis + 1], keep = keep % grid[axis], keep.div(grid[axis], rounding_mode="floor")
        kept = x[tuple(index)]
        return (kept.transpose(0, 1) if axes == 1 and keep.ndim == 1 else kept).flatten(2)


class WordTokenizer(nn.Module):
    """Word numbers to tokens: a table of word vectors, then Dense and GELU; or the vectors as they are.

    Source: released VATT-MA code (its text "pre-projection"); vectors as they are: arXiv 2104.11178, section 3.1, where
    the table is a projection of one-hot words.

    Args:
        table: (vocabulary, width) word vectors; frozen or trainable as it comes. Word 0 is the pad.
        words: L.
        dim: D.
        project: False leaves Dense and GELU out; the table is D wide then.
    """

    #: No encoder's `pre_projection` comes on top: where words need one, they have it.
    projected = True

    def __init__(self, table: nn.Embedding, words: int, dim: int, project: bool = True) -> None:
        super().__init__()
        self.shape, self.grid, self.dim = (words,), (words,), dim
        self.table = table
        self.projection = dense(table.embedding_dim, dim) if project else None

    def forward(self, x: Int[Tensor, "B L"], keep: Int[Tensor, "*K n"] | None = None
                ) -> tuple[Float[Tensor, "B n D"], Bool[Tensor, "B n"]]:
        """Tokens of the words at the places `keep` (None: all).

        Args:
            x: (B, L) word numbers, 0 for pad.
            keep: places to make tokens of, (n,), the same for all B, or (B, n).

        Returns:
            tokens (B, n, D), and valid (B, n), False at pads.
        """
        if keep is not None:
            x = x.index_select(1, keep) if keep.ndim == 1 else x.gather(1, keep)
        words = self.table(x)
        return words if self.projection is None else F.gelu(self.projection(words)), x != 0


def frozen_table(vectors: Float[Tensor, "V W"]) -> nn.Embedding:
    """A word table that is not trained: (vocabulary, width) vectors, moved and saved with the model."""
    return nn.Embedding.from_pretrained(torch.as_tensor(vectors), freeze=True)
