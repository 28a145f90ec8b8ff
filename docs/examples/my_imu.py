"""Six-axis inertial windows for mmssl: accelerometer (m/s²) and gyroscope (rad/s)."""
from torch import Tensor, nn

from mmssl import MODALITIES, Clip, Rng
from mmssl.modalities import Modality
from mmssl.nn import PatchTokenizer


@MODALITIES.register("imu")
class Imu(Modality):
    """Reads `<key>.imu.npy`, float32 (6, T) at `rate` Hz; gives (6, rate * seconds), in units of `scale`."""

    codec = "npy"

    def __init__(self, rate: int = 50, seconds: float = 2.0, patch: int = 10, scale: float = 1.0) -> None:
        self.shape, self.seconds = (6, round(rate * seconds)), seconds
        self.rate, self.patch, self.scale = rate, patch, scale

    def transform(self, clip: Clip, start: float, rng: Rng | None) -> Tensor:
        """The window that begins `start` seconds in."""
        first = round(start * self.rate)
        return clip.data[:, first:first + self.shape[1]] / self.scale

    def tokenizer(self, dim: int) -> nn.Module:
        """One token for each `patch` steps of all six axes."""
        return PatchTokenizer(self.shape, [self.patch], dim)
