"""What a modality promises, for those who write one."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mmssl.rng import Rng
from mmssl.types import Clip


class Modality(Protocol):
    """One kind of signal: how a clip becomes a tensor of promised shape, and how that becomes tokens.

    A plug-in subclasses this, registers itself in `MODALITIES`, sets `codecs` and `shape`, and writes `transform` and
    `tokenizer`. Its constructor's typed arguments are its settings in a recipe. It holds no parameters and may be
    copied to loader processes.

    Attributes:
        codecs: extensions of the files it reads, first choice first, e.g. ("flac", "wav"). A single one may be given
            as `codec = "npy"` instead.
        shape: of one sample as `transform` gives it, without B: what travels to the device.
        dtype: of that sample.
        seconds: length of the window that `transform` cuts; None where there is no time axis.

    Optional members:
        input_shape: of one sample after `on_device`, where that differs from `shape`; read it with `input_shape_of`.
        items(data): for samples that hold K things each (texts), (B, K) bool, True where there is one.
        transform_view(clip, start, view): `transform` in evaluation for one of several crops (`View.crop`); without it
            all crops of a sample are alike.
        describe(): one line about what the modality brings along, for the log of a run.

    No paper: ours.
    """

    codecs: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    seconds: float | None = None

    @abstractmethod
    def transform(self, clip: Clip, start: float, rng: Rng | None) -> Tensor:
        """The window of `clip` that begins `start` seconds in, as a tensor of exactly `shape` and `dtype`.

        Args:
            clip: as the codec read it, with its rate in Hz.
            start: seconds; the same for all modalities of a sample. Where `seconds` is None: the middle of the window.
            rng: this sample's own randomness for augmentation; None: evaluation, nothing random.

        Raises:
            DataError: the clip is not what the modality was told to expect, e.g. another rate.
        """

    @abstractmethod
    def tokenizer(self, dim: int) -> nn.Module:
        """A new module that turns `on_device`'s result into tokens `dim` wide (see `mmssl.nn.tokenizers`)."""

    def on_device(self, data: Tensor, rng: Rng | None) -> Tensor:
        """A batch (B, *shape) as the encoders want it: normalised, on the device it is on. Default: float32."""
        return data.float()


def codecs_of(modality: Any) -> tuple[str, ...]:
    """The file extensions that a modality reads, whether it says `codecs` or `codec`. No paper: ours."""
    if getattr(modality, "codecs", None):
        return tuple(modality.codecs)
    return (modality.codec,)


def input_shape_of(modality: Any) -> tuple[int, ...]:
    """Shape of one sample as encoders see it: after `on_device`, without B. No paper: ours."""
    return tuple(getattr(modality, "input_shape", modality.shape))
