"""Encoders of one's own for suites: `mmssl bench --encoder my_encoders.py:mel_statistics --suite ...`.

A function without arguments gives, by modality of the data set, a pair: the mmssl modality that reads its files, and a
module that maps its samples to (B, D). These two need no training: what they reach, anything learned should beat.
"""
import torch
from torch import Tensor, nn
from torchaudio.transforms import MelSpectrogram

from mmssl.modalities import Audio, Series


class MelStatistics(nn.Module):
    """Of each log-mel band its mean, deviation and mean absolute change: a sound without its order in time."""

    def __init__(self) -> None:
        super().__init__()
        self.mel = MelSpectrogram(16000, n_fft=512, hop_length=160, n_mels=40)

    def forward(self, x: Tensor) -> Tensor:
        """Waves (B, samples) to (B, 120)."""
        x = torch.log(self.mel(x) + 1e-6)
        return torch.cat([x.mean(2), x.std(2), x.diff(dim=2).abs().mean(2)], dim=1)


class Moments(nn.Module):
    """Of each channel of a sensor its mean, deviation, least, greatest and mean absolute change; and correlations."""

    def forward(self, x: Tensor) -> Tensor:
        """Windows (B, C, T) to (B, 5 C + C (C - 1) / 2)."""
        z = (x - x.mean(2, keepdim=True)) / x.std(2, keepdim=True).clamp(min=1e-6)
        row, column = torch.triu_indices(x.shape[1], x.shape[1], 1)
        return torch.cat([x.mean(2), x.std(2), x.amin(2), x.amax(2), x.diff(dim=2).abs().mean(2),
                          (z @ z.mT)[:, row, column] / x.shape[2]], dim=1)


def mel_statistics():
    """Five seconds of sound at 16 kHz."""
    return {"audio": (Audio(rate=16000, seconds=5), MelStatistics())}


def moments():
    """A watch: acceleration and angular velocity at 50 Hz, windows of 2.56 s."""
    return {name: (Series(channels=3, rate=50, seconds=2.56), Moments()) for name in ("acc", "gyro")}
