"""The convolutional encoder of CroSSL for sensor series, laid out (B, T, C) from end to end."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmssl.errors import ConfigError
from mmssl.nn.conv_layer import ConvLayer, lean_type
from mmssl.nn.dropout import check_rate, drop_at
from mmssl.nn.pooling import pool_time
from mmssl.registry import ENCODERS
from mmssl.rng import Rng

#: Bytes of the widest layer that are trained on at once on a CPU: small enough that memory is used again rather than
#: asked for and given back, which costs as much as the arithmetic.
PORTION = 8 << 20


@ENCODERS.register("conv")
class ConvEncoder(nn.Module):
    """Three convolution layers and the average over time: one vector per series.

    Source: arXiv 2307.16847, its released code (there called TCN): kernels 24, 16, 8 and widths K/4, K/2, K; fresh
    kernels N(0, 0.05); its layers begin alike for every sensor, ours are drawn apart unless `init_seed` is given.
    `mean_std` is ours: the spread over time beside the average tells strong motion from weak, which the average of a
    symmetric signal does not.

    Args:
        modality: gives `shape` (C, T), or `input_shape` where that differs on the device.
        width: K, a multiple of 4.
        kernels: steps of the three kernels; null: 24, 16, 8.
        pool: "mean" gives (B, K), "mean_std" (B, 2 K).
        dropout: rate after each layer; the released code sets 0.1 but leaves it off while pre-training.
        init_std: spread of fresh kernels.
        init_seed: fresh kernels are drawn from it alone, so that encoders of equally many channels begin alike, as in
            the released code (0); null: from the seed of the run, each encoder apart.
    """

    def __init__(self, modality: Any, width: int = 96, kernels: list[int] | None = None,
                 pool: Literal["mean", "mean_std"] = "mean", dropout: float = 0.0, init_std: float = 0.05,
                 init_seed: int | None = None) -> None:
        super().__init__()
        shape = getattr(modality, "input_shape", modality.shape)
        if len(shape) != 2:
            raise ConfigError(f"encoder 'conv': takes series of shape (C, T), got samples of {list(shape)}; "
                              "choose the encoder 'tokens' for other kinds of signal")
        if width % 4:
            raise ConfigError(f"width: {width} is no multiple of 4, as the encoder 'conv' needs; try {width // 4 * 4}")
        check_rate(dropout)
        kernels = [24, 16, 8] if kernels is None else kernels
        widths = [shape[0], *(width >> (len(kernels) - 1 - i) for i in range(len(kernels)))]
        self.blocks = nn.ModuleList(ConvLayer(a, b, k) for (a, b), k in zip(pairwise(widths), kernels, strict=True))
        for layer in self.blocks:
            draws = None if init_seed is None else Rng((init_seed, "conv")).torch()
            nn.init.normal_(layer.weight, std=init_std, generator=draws)
        self.pooling, self.dropout = pool, dropout
        self.width, self.steps = width, shape[1]
        self.dim = width if pool == "mean" else 2 * width

    def forward(self, x: Float[Tensor, "B C T"], rng: Rng | None = None, seen: Bool[Tensor, "V B T"] | None = None
                ) -> Float[Tensor, "B *V D"]:
        """One vector per series (B, D); or, with `seen`, one for each of V views (B, V, D).

        Args:
            x: (B, C, T), as the modality's `on_device` gives it.
            rng: of this call, with the rows' global numbers; None: no dropout.
            seen: (V, B, T), the states over time that each view pools, at least one in each row; None: all.
        """
        parts = []
        for rows, here in self.portions(x, rng):
            states = self.states(x[rows], here)
            parts.append(self.pool(states) if seen is None else
                         torch.stack([self.pool(states, view[rows]) for view in seen], dim=1))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def states(self, x: Float[Tensor, "B C T"], rng: Rng | None = None) -> Float[Tensor, "B T K"]:
        """What stands at every step before pooling. Arguments as in `forward`."""
        x = x.transpose(1, 2)
        for i, layer in enumerate(self.blocks):
            x = drop_at(layer(x), self.dropout, rng, f"layer {i}")
        return x

    def pool(self, states: Float[Tensor, "B T K"], seen: Bool[Tensor, "B T"] | None = None) -> Float[Tensor, "B D"]:
        """States over time to one vector: of those that are seen, (B, T), or of all."""
        return pool_time(states, seen, self.pooling == "mean_std")

    def portions(self, x: Tensor, rng: Rng | None) -> Iterator[tuple[slice, Rng | None]]:
        """The rows that are worked on together, and their draws: all, unless they are trained on a CPU."""
        kind = lean_type(x)
        size = PORTION // (self.width * x.shape[2] * kind.itemsize) if kind else 0
        if not kind or size >= len(x):  # in this order: export keeps the number of rows open
            yield slice(None), rng
            return
        size = max(1, size)
        for first in range(0, len(x), size):
            rows = slice(first, first + size)
            yield rows, None if rng is None else rng.for_rows(
                torch.arange(len(x))[rows] if rng.rows is None else rng.rows[rows])


def l2_penalty(module: nn.Module) -> Float[Tensor, ""]:
    """Sum of the squared convolution kernels in `module`: no biases, norms or slopes (CroSSL's released code)."""
    return sum((layer.weight.square().sum() for layer in module.modules() if isinstance(layer, ConvLayer)),
               start=torch.zeros(()))
