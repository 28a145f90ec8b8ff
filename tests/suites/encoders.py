"""Features made by hand of real recordings, for the suites beside this file: what a trained encoder is held against."""

import torch
from torch import Tensor, nn

from mmssl.modalities import Mel, Series, Video


class Level(nn.Module):
    """Of a signal's magnitude over its channels: mean, deviation and slope, (B, C, T) to (B, 3)."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.norm(dim=1) if x.shape[1] > 1 else x[:, 0]
        return torch.stack([x.mean(1), x.std(1), (x * torch.linspace(-1, 1, x.shape[1])).mean(1)], dim=1)


def wristband():
    """Twelve numbers of a minute of acceleration, blood volume pulse, skin conductance and skin temperature."""
    rates = {"acc": (3, 16), "bvp": (1, 32), "eda": (1, 4), "temp": (1, 4)}
    return {name: (Series(channels=c, rate=rate, seconds=60), Level()) for name, (c, rate) in rates.items()}


class Pooled(nn.Module):
    """A spectrogram (B, frames, mels) or a film (B, T, H, W, 3) in so many steps of time, flat."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean(dim=-1) if x.ndim == 5 else x
        pool = nn.functional.adaptive_avg_pool2d if x.ndim == 3 else nn.functional.adaptive_avg_pool3d
        return pool(x[:, None], self.shape).flatten(1)


def talking():
    """Sound and mouth over time in a fixed window, as a sentence of a fixed grammar has its words in fixed places."""
    mel = Mel(rate=16000, seconds=2.56, window=400, hop=160, mels=40, level="bands")
    return {"audio": (mel, Pooled(32, 40)), "video": (Video(frames=64, size=24, rate=25), Pooled(16, 8, 8))}
