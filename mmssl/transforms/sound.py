"""Sound, float (C, T): a window at another rate, and noise."""

from __future__ import annotations

import math

import numpy as np
import torch
import torchaudio.functional
from jaxtyping import Float
from torch import Tensor

from mmssl.errors import DataError
from mmssl.transforms.time import take, whole_ratio, window_indices

KERNEL_LIMIT = 1 << 20  # weights that are computed at once, of 8 bytes
ZEROS, ROLLOFF = 6, 0.99  # torchaudio's windowed sinc: zero crossings on either side, share of the band that stays


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
        return _sinc(cut, round(have), round(want))[:count]
    if ratio != 1 and (resample == "none" or ratio is None):
        remedy = "Set `resample: sinc`" + (" or `resample: decimate`" if ratio is not None else "")
        raise DataError(f"the sound has {have:g} Hz, but the recipe expects {want:g} Hz. {remedy} for this modality, "
                        f"or set its `rate` to {have:g}.")
    index = window_indices(wave.shape[-1], round(start * have), count, ratio)
    return take(wave, index, axis=1).mean(dim=0)


def _sinc(wave: Float[Tensor, "T"], have: int, want: int) -> Float[Tensor, "S"]:
    """Sound (T,) at another rate, by torchaudio; rates with no large common divisor, step by step."""
    common = math.gcd(have, want)
    if (have // common) * (want // common) > KERNEL_LIMIT:  # 44,101 Hz at 16 kHz would take gigabytes
        return _sinc_by_steps(wave, have, want)
    return torchaudio.functional.resample(wave, have, want)


def _sinc_by_steps(wave: Float[Tensor, "T"], have: int, want: int) -> Float[Tensor, "S"]:
    """What torchaudio's `resample` computes, with weights for each sample of the result, a block at a time.

    Ours: torchaudio has weights for every pair of a sample of the one rate and of the other until these meet again.
    """
    band = ROLLOFF * min(have, want) / have  # as a share of the band of `wave`
    width = math.ceil(ZEROS / band)
    taps, padded = torch.arange(-width, width + 1), torch.nn.functional.pad(wave, (width, width + 1))
    parts = []
    for steps in torch.arange(math.ceil(len(wave) * want / have)).split(max(1, KERNEL_LIMIT // len(taps))):
        near = steps * have // want
        rest = (steps * have % want).double() / want
        t = ((taps - rest[:, None]) * band).clamp(-ZEROS, ZEROS)
        weights = torch.sinc(t) * torch.cos(t * (math.pi / ZEROS / 2)) ** 2 * band
        parts.append((padded[near[:, None] + taps + width] * weights.to(wave.dtype)).sum(dim=1))
    return torch.cat(parts)


def add_noise(wave: Float[Tensor, "*shape"], level: float, generator: np.random.Generator) -> Float[Tensor, "*shape"]:
    """Gaussian noise on top, its standard deviation `level` times the largest absolute value.

    Source: the released code of arXiv:2104.11178 (level 0.01).
    """
    noise = torch.from_numpy(generator.standard_normal(wave.shape, dtype=np.float32)).to(wave.dtype)
    return wave + noise * (level * wave.abs().max())
