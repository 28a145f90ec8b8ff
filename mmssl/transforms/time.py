"""Which steps of a sample make its window: pure functions of lengths and rates."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

#: Two rates whose ratio is this close to a whole number count as such: NTSC's 29.97 Hz passes for 30 Hz.
RATIO_TOLERANCE = 2e-3


def whole_ratio(have: float, want: float) -> int | None:
    """How many steps of rate `have` make one of rate `want`; None where that is no whole number. No paper: ours."""
    ratio = have / want
    nearest = round(ratio)
    return nearest if nearest >= 1 and abs(ratio - nearest) <= RATIO_TOLERANCE * nearest else None


def window_indices(length: int, first: int, count: int, stride: int = 1) -> Int64[Tensor, "count"]:
    """Positions of `count` steps, `stride` apart, from `first` on.

    A window that fits but would run over the end by rounding is moved back; a sample that is too short is looped.

    Args:
        length: steps that the sample has, at least 1.

    Source: temporal sampling of the released code of arXiv:2104.11178 (too short: repeat).
    """
    span = (count - 1) * stride + 1
    first = min(max(first, 0), length - span) if length >= span else max(first, 0)
    return (first + stride * torch.arange(count)) % length


def window_steps(start: float, rate: float, have: float, length: int, count: int) -> Int64[Tensor, "count"]:
    """Positions nearest in time to `count` steps of rate `rate` from `start` on, in a sample of another rate `have`.

    Args:
        start: seconds.
        rate: Hz that is wanted.
        have: Hz of the sample.
        length: steps that the sample has; beyond it, it is looped.

    No paper: ours.
    """
    span = math.floor((count - 1) * have / rate + 0.5) + 1
    start = min(start, (length - span) / have) if length >= span else start
    steps = np.floor((start + np.arange(count) / rate) * have + 0.5).astype(np.int64)
    return torch.from_numpy(steps % length)


def cut(x: Shaped[Tensor, "..."], first: int, count: int, stride: int = 1, axis: int = 0) -> Shaped[Tensor, "..."]:
    """The window of `window_indices` out of a sample along an axis; where it fits, a view without any list. Ours."""
    span, length = (count - 1) * stride + 1, x.shape[axis]
    if length < span:
        return take(x, window_indices(length, first, count, stride), axis)
    first = min(max(first, 0), length - span)
    return x[(slice(None),) * axis + (slice(first, first + span, stride),)]


def take(x: Shaped[Tensor, "..."], index: Int64[Tensor, "count"], axis: int = 0) -> Shaped[Tensor, "..."]:
    """The steps at `index` along an axis; a view where they are evenly spaced, as they mostly are. Ours."""
    step = int(index[1] - index[0]) if len(index) > 1 else 1
    if step > 0 and bool((index.diff() == step).all()):
        return x[(slice(None),) * axis + (slice(int(index[0]), int(index[-1]) + 1, step),)]
    return x.index_select(axis, index)
