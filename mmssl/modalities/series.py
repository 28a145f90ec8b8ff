"""Sensors: accelerometers, electrodes and other series of a few channels."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmssl.errors import ConfigError, DataError
from mmssl.modalities.base import Modality
from mmssl.nn.tokenizers import PatchTokenizer
from mmssl.registry import MODALITIES
from mmssl.rng import Rng
from mmssl.transforms import cut, noisy, scaled, turned, whole_ratio
from mmssl.types import Clip


@MODALITIES.register("series")
class Series(Modality):
    """A window of a sensor. Ships float32 (C, T) in the file's units; encoders see it in those of the training data's
    standard deviation.

    Args:
        channels: C.
        rate: Hz. A file of another rate is refused: resample it with a filter when packing.
        seconds: length of a sample.
        patch: steps of one token; every token sees all channels.
        mean, std: of each channel over the training data, in the file's units; null: left as they are. Never of a
            single window: the level of a slow signal (skin conductance) tells more than its shape.
        jitter: in training, standard deviation of Gaussian noise, in units of what encoders see.
        scale: in training, each channel is multiplied by 1 + this x a standard normal number, one for the window.
        rotate: in training, degrees: the three axes are turned about a random axis by this x a standard normal number,
            as if the sensor were worn askew.

    Source: windows and training statistics as in arXiv:2307.16847's released loaders; the rest: no paper, ours.
    """

    codecs = ("npy",)

    def __init__(self, channels: int, rate: float, seconds: float, patch: int = 16, mean: list[float] | None = None,
                 std: list[float] | None = None, jitter: float = 0.0, scale: float = 0.0,
                 rotate: float = 0.0) -> None:
        self.shape = (channels, round(rate * seconds))
        for name, values in (("mean", mean), ("std", std)):
            if values is not None and len(values) != channels:
                raise ConfigError(f"series: {name} has {len(values)} values for {channels} channels; give one for each")
        if std is not None and min(std) <= 0:
            raise ConfigError(f"series: std {list(std)} must be positive; leave a constant channel at 1")
        if rotate and channels != 3:
            raise ConfigError(f"series: rotate needs a sensor of 3 channels, got {channels}; set it to 0")
        self.rate, self.seconds, self.patch = rate, seconds, patch
        self.jitter, self.scale, self.rotate = jitter, scale, rotate
        self.mean = torch.tensor(mean or [0.0] * channels)[:, None]
        self.std = torch.tensor(std or [1.0] * channels)[:, None]

    def transform(self, clip: Clip, start: float, rng: Rng | None) -> Float[Tensor, "C T"]:
        """See `Modality.transform`. A window with NaN or infinity is refused."""
        x = clip.data
        if not isinstance(x, Tensor) or x.ndim != 2 or x.shape[0] != self.shape[0] or x.shape[1] == 0:
            found = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise DataError(f"series: expected ({self.shape[0]}, T), got {found}; set `channels` to what the file has")
        if not clip.rate or whole_ratio(clip.rate, self.rate) != 1:
            raise DataError(f"series: the file has {clip.rate or 'no known'} Hz, but the recipe expects {self.rate:g} "
                            "Hz. Set `rate` for this modality, or resample when packing.")
        x = cut(x, round(start * clip.rate), self.shape[1], axis=1).float()
        if not math.isfinite(x.sum()) and not torch.isfinite(x).all():  # one pass; finite numbers may add up to more
            bad = (~torch.isfinite(x)).any(dim=1).nonzero().flatten().tolist()
            raise DataError(f"series: NaN or infinity in channels {bad}; fill gaps before packing, or leave it out")
        return x

    def on_device(self, data: Float[Tensor, "B C T"], rng: Rng | None) -> Float[Tensor, "B C T"]:
        """From the file's units to those of the training data's standard deviation; in training varied, row by row."""
        if rng is not None and self.rotate > 0:
            data = turned(data, self.rotate, rng.at("rotate"))
        x = (data - self.mean.to(data.device)) / self.std.to(data.device)
        if rng is not None and self.scale > 0:
            x = scaled(x, self.scale, rng.at("scale"))
        if rng is not None and self.jitter > 0:
            x = noisy(x, self.jitter, rng.at("jitter"))
        return x

    def tokenizer(self, dim: int) -> nn.Module:
        """One token for each `patch` steps of all channels."""
        return PatchTokenizer(self.shape, (self.patch,), dim)

