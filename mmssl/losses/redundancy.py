"""Losses without negatives between two views (B, D): VICReg and Barlow Twins."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmssl.losses.contrastive import at_least_float32
from mmssl.registry import LOSSES
from mmssl.types import LossOutput

Variance = Literal["population", "unbiased"]


def centred(z: Float[Tensor, "B D"], valid: Bool[Tensor, "B"]) -> Float[Tensor, "B D"]:
    """The valid rows less their mean; the others are zero, whatever they held. No paper: ours."""
    z = at_least_float32(z).masked_fill(~valid[:, None], 0)
    mean = z.sum(dim=0) / valid.sum().clamp(min=1)
    return (z - mean).masked_fill(~valid[:, None], 0)


def off_diagonal(c: Float[Tensor, "D D"]) -> Float[Tensor, ""]:
    """Sum of the squares off the diagonal. Source: arXiv:2105.04906, eq. 4."""
    return c.square().sum() - c.diagonal().square().sum()


def spread(z: Float[Tensor, "B D"], valid: Bool[Tensor, "B"], variance: Variance) -> Float[Tensor, ""]:
    """How far the standard deviations of the dimensions fall short of 1, on average.

    Source: arXiv:2105.04906, eq. 1, 2, with variance "unbiased" (over n - 1); "population" (over n) is the released
    code of arXiv:2307.16847.
    """
    count = valid.sum() - int(variance == "unbiased")
    var = centred(z, valid).square().sum(dim=0) / count.clamp(min=1)
    return torch.relu(1 - (var + 1e-4).sqrt()).mean()


def redundancy(z: Float[Tensor, "B D"], valid: Bool[Tensor, "B"]) -> Float[Tensor, ""]:
    """Sum of the squared covariances between dimensions, over D. Source: arXiv:2105.04906, eq. 3, 4."""
    z = centred(z, valid)
    return off_diagonal(z.T @ z / (valid.sum() - 1).clamp(min=1)) / z.shape[1]


def distance(z_a: Float[Tensor, "B D"], z_b: Float[Tensor, "B D"], valid: Bool[Tensor, "B"]) -> Float[Tensor, ""]:
    """Mean square of what differs between the views, over valid rows and all D. Source: arXiv:2105.04906, eq. 5."""
    both = valid[:, None]
    gap = at_least_float32(z_a).masked_fill(~both, 0) - at_least_float32(z_b).masked_fill(~both, 0)
    return gap.square().sum() / (valid.sum().clamp(min=1) * z_a.shape[1])


def cross_correlation(z_a: Float[Tensor, "B D"], z_b: Float[Tensor, "B D"],
                      valid: Bool[Tensor, "B"]) -> Float[Tensor, "D D"]:
    """Correlation of each dimension of one view with each of the other; 1e-5 is added to the population variances.

    Source: arXiv:2103.03230, eq. 2, with the batch normalisation of its released code.
    """
    count = valid.sum().clamp(min=1)
    a, b = (c * (c.square().sum(dim=0) / count + 1e-5).rsqrt() for c in (centred(z_a, valid), centred(z_b, valid)))
    return a.T @ b / count


def or_zero(value: Float[Tensor, ""], valid: Bool[Tensor, "B"]) -> Float[Tensor, ""]:
    """`value`, or 0 with a live graph and zero gradient where fewer than two rows are valid. No paper: ours."""
    return torch.where(valid.sum() >= 2, value, torch.zeros_like(value))


@LOSSES.register("vicreg")
class VICReg(nn.Module):
    """Pull two views of a sample together, keep each dimension's spread at 1, and dimensions uncorrelated.

    total = sim * distance + std * (spread_a + spread_b) / 2 + cov * (redundancy_a + redundancy_b). The parts are logged
    without their weights. Only valid rows enter; fewer than two give 0.

    Args:
        sim, std, cov: weights of the three.
        variance: how the spread is estimated, see `spread`.

    Source: arXiv:2105.04906, eq. 6 and its weights; arXiv:2307.16847's command line has 10, 10, 100.
    """

    takes: ClassVar[str] = "views"

    def __init__(self, sim: float = 25.0, std: float = 25.0, cov: float = 1.0,
                 variance: Variance = "population") -> None:
        super().__init__()
        self.sim, self.std, self.cov, self.variance = sim, std, cov, variance

    def forward(self, z_a: Float[Tensor, "B D"], z_b: Float[Tensor, "B D"], valid: Bool[Tensor, "B"]) -> LossOutput:
        """The loss of the batch, with parts `sim`, `std`, `cov`."""
        with torch.autocast(z_a.device.type, enabled=False):
            sim = or_zero(distance(z_a, z_b, valid), valid)
            std = or_zero((spread(z_a, valid, self.variance) + spread(z_b, valid, self.variance)) / 2, valid)
            cov = or_zero(redundancy(z_a, valid) + redundancy(z_b, valid), valid)
            return LossOutput(total=self.sim * sim + self.std * std + self.cov * cov,
                              parts={"sim": sim, "std": std, "cov": cov})


@LOSSES.register("barlow_twins")
class BarlowTwins(nn.Module):
    """Make the cross-correlation of two views the identity. Only valid rows enter; fewer than two give 0.

    Args:
        off_weight: weight of what is off the diagonal.

    Source: arXiv:2103.03230, eq. 1; weight 0.0051.
    """

    takes: ClassVar[str] = "views"

    def __init__(self, off_weight: float = 0.0051) -> None:
        super().__init__()
        self.off_weight = off_weight

    def forward(self, z_a: Float[Tensor, "B D"], z_b: Float[Tensor, "B D"], valid: Bool[Tensor, "B"]) -> LossOutput:
        """The loss of the batch, with parts `on` and `off`."""
        with torch.autocast(z_a.device.type, enabled=False):
            c = cross_correlation(z_a, z_b, valid)
            on = or_zero((c.diagonal() - 1).square().sum(), valid)
            off = or_zero(off_diagonal(c), valid)
            return LossOutput(total=on + self.off_weight * off, parts={"on": on, "off": off})
