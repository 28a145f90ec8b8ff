"""Cuts, crops and noise: pure functions of a tensor and a NumPy generator. `None` for the generator means evaluation.

Axes: T time, H W space, C channels. Video is uint8 (T, H, W, 3), sound and series are float (C, T).
"""

from __future__ import annotations

import math
import string

import numpy as np
import torch
import torch.nn.functional as F
import torchaudio.functional
from jaxtyping import Float, Int64, Shaped, UInt8
from torch import Tensor

from mmssl.errors import DataError

#: Two rates whose ratio is this close to a whole number count as such: NTSC's 29.97 Hz passes for 30 Hz.
RATIO_TOLERANCE = 2e-3
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


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


def take(x: Shaped[Tensor, "..."], index: Int64[Tensor, "count"], axis: int = 0) -> Shaped[Tensor, "..."]:
    """The steps at `index` along an axis; a view where they are evenly spaced, as they mostly are. Ours."""
    step = int(index[1] - index[0]) if len(index) > 1 else 1
    if step > 0 and bool((index.diff() == step).all()):
        return x[(slice(None),) * axis + (slice(int(index[0]), int(index[-1]) + 1, step),)]
    return x.index_select(axis, index)


def inception_box(height: int, width: int, area: list[float], aspect: list[float],
                  generator: np.random.Generator) -> tuple[int, int, int, int]:
    """A random box of a picture, in pixels, as (top, left, height, width).

    Args:
        area: smallest and largest share of the picture's area.
        aspect: smallest and largest width / height, drawn uniformly.

    Source: arXiv:2104.11178, §A.2.1; at most 100 tries, then the whole picture, as in the released code.
    """
    for _ in range(100):
        pixels = height * width * generator.uniform(*area)
        ratio = generator.uniform(*aspect)
        h, w = round(math.sqrt(pixels / ratio)), round(math.sqrt(pixels * ratio))
        if 1 <= h <= height and 1 <= w <= width:
            return int(generator.integers(height - h + 1)), int(generator.integers(width - w + 1)), h, w
    return 0, 0, height, width


def resize(frames: UInt8[Tensor, "T H W 3"], height: int, width: int) -> UInt8[Tensor, "T H2 W2 3"]:
    """Frames at another size: bilinear, antialiased, and in uint8, which is an order faster than in float."""
    if tuple(frames.shape[1:3]) == (height, width):
        return frames
    planes = F.interpolate(frames.permute(0, 3, 1, 2), size=(height, width), mode="bilinear", antialias=True)
    return planes.permute(0, 2, 3, 1)


def resize_shorter(frames: UInt8[Tensor, "T H W 3"], size: int) -> UInt8[Tensor, "T H2 W2 3"]:
    """Frames whose shorter side is `size` pixels, shape kept."""
    height, width = frames.shape[1:3]
    scale = size / min(height, width)
    return resize(frames, max(size, round(height * scale)), max(size, round(width * scale)))


def crop_frames(frames: UInt8[Tensor, "T H W 3"], size: int, generator: np.random.Generator | None,
                area: list[float] | None = None, aspect: list[float] | None = None,
                flip: float = 0.0) -> UInt8[Tensor, "T size size 3"]:
    """Square frames, all cropped alike.

    Evaluation: shorter side to `size`, then the middle. Training: the same with a random place, or, with `area`, a box
    from `inception_box` stretched to the square; then mirrored.

    Args:
        size: pixels of a side.
        area, aspect: see `inception_box`; `area` None turns the box off, `aspect` None is 1/2 to 2.
        flip: probability that the clip is mirrored left to right.

    Source: arXiv:2104.11178, §A.2.1 and §A.3.
    """
    if generator is not None and area is not None:
        top, left, h, w = inception_box(*frames.shape[1:3], area, aspect or [0.5, 2.0], generator)
        frames = resize(frames[:, top:top + h, left:left + w], size, size)
    else:
        frames = resize_shorter(frames, size)
        room = [side - size for side in frames.shape[1:3]]
        top, left = (r // 2 if generator is None else int(generator.integers(r + 1)) for r in room)
        frames = frames[:, top:top + size, left:left + size]
    if generator is not None and flip > 0 and generator.random() < flip:
        frames = frames.flip(2)
    return frames.contiguous()


def sound_window(wave: Float[Tensor, "C T"], have: float, want: float, start: float, count: int,
                 resample: str) -> Float[Tensor, "count"]:
    """A window of mono sound at the rate `want`.

    Args:
        wave: (C, T); channels are averaged.
        have: its rate, Hz.
        want: the rate of the result, Hz.
        start: seconds.
        count: samples of the result.
        resample: "none"; "decimate" takes every k-th sample, without a filter; "sinc" resamples with a windowed sinc.

    Raises:
        DataError: the rates differ and `resample` does not allow for it.

    Source: decimation as in the released code of arXiv:2104.11178.
    """
    ratio = whole_ratio(have, want)
    if resample == "sinc" and have != want:
        raw = math.ceil(count * have / want)
        cut = take(wave, window_indices(wave.shape[-1], round(start * have), raw), axis=1).mean(dim=0)
        return torchaudio.functional.resample(cut, round(have), round(want))[:count]
    if ratio != 1 and (resample == "none" or ratio is None):
        remedy = "Set `resample: sinc`" + (" or `resample: decimate`" if ratio is not None else "")
        raise DataError(f"the sound has {have:g} Hz, but the recipe expects {want:g} Hz. {remedy} for this modality, "
                        f"or set its `rate` to {have:g}.")
    index = window_indices(wave.shape[-1], round(start * have), count, ratio)
    return take(wave, index, axis=1).mean(dim=0)


def add_noise(wave: Float[Tensor, "*shape"], level: float, generator: np.random.Generator) -> Float[Tensor, "*shape"]:
    """Gaussian noise on top, its standard deviation `level` times the largest absolute value.

    Source: the released code of arXiv:2104.11178 (level 0.01).
    """
    noise = torch.from_numpy(generator.standard_normal(wave.shape, dtype=np.float32)).to(wave.dtype)
    return wave + noise * (level * wave.abs().max())


def words_of(text: str) -> list[str]:
    """The words of a text: ASCII punctuation deleted, lower case, split at white space.

    Source: the word tokenizer of the released code of arXiv:2104.11178.
    """
    return text.translate(WITHOUT_PUNCTUATION).lower().split()
