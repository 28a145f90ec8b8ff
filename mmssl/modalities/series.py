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
from mmssl.transforms import take, whole_ratio, window_indices
from mmssl.types import Clip


@MODALITIES.register("series")
class Series(Modality):
    """A window of a sensor, float32 (C, T), in units of the training data's standard deviation.

    Args:
        channels: C.
        rate: Hz. A file of another rate is refused: resample it with a filter when packing.
        seconds: length of a sample.
        patch: steps of one token; every token sees all channels.
        mean, std: of each channel over the training data, in the file's units; null: left as they are. Never of a
            single window: the level of a slow signal (skin conductance) tells more than its shape.
        jitter: in training, standard deviation of Gaussian noise, in units of the result.
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
        x = take(x, window_indices(x.shape[1], round(start * clip.rate), self.shape[1]), axis=1).float()
        if not torch.isfinite(x).all():
            bad = (~torch.isfinite(x)).any(dim=1).nonzero().flatten().tolist()
            raise DataError(f"series: NaN or infinity in channels {bad}; fill gaps before packing, or leave it out")
        if rng is not None and self.rotate > 0:
            x = rotation(self.rotate, rng.at("rotate").torch()) @ x
        x = self.normalise(x)
        return x if rng is None else self._vary(x, rng)

    def normalise(self, x: Float[Tensor, "*B C T"]) -> Float[Tensor, "*B C T"]:
        """From the file's units to those of the training data's standard deviation."""
        return (x - self.mean) / self.std

    def _vary(self, x: Tensor, rng: Rng) -> Tensor:
        if self.scale > 0:
            x = x * (1 + self.scale * torch.randn(len(x), 1, generator=rng.at("scale").torch()))
        if self.jitter > 0:
            x = x + self.jitter * torch.randn(x.shape, generator=rng.at("jitter").torch())
        return x

    def tokenizer(self, dim: int) -> nn.Module:
        """One token for each `patch` steps of all channels."""
        return PatchTokenizer(self.shape, (self.patch,), dim)


def rotation(degrees: float, generator: torch.Generator) -> Float[Tensor, "3 3"]:
    """A turn about an axis drawn evenly from the sphere, by `degrees` times a standard normal number. Ours.

    Rodrigues' formula in plain numbers: a tenth of what a matrix exponential costs.
    """
    x, y, z = torch.nn.functional.normalize(torch.randn(3, generator=generator), dim=0).tolist()
    angle = torch.randn((), generator=generator).item() * math.radians(degrees)
    c, s = math.cos(angle), math.sin(angle)
    t = 1 - c
    return torch.tensor([[t * x * x + c, t * x * y - s * z, t * x * z + s * y],
                         [t * x * y + s * z, t * y * y + c, t * y * z - s * x],
                         [t * x * z - s * y, t * y * z + s * x, t * z * z + c]])
