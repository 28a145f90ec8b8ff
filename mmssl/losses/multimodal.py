"""Contrastive losses over all modalities at once: latents (B, M, D) and present (B, M). Absent cells are in no term."""

from __future__ import annotations

import math
from itertools import combinations
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmssl.losses.contrastive import log_sum, mean_of, nce, nce_of_scores, positive, unit
from mmssl.registry import LOSSES
from mmssl.types import LossOutput


def between_modalities(z: Float[Tensor, "B M D"], present: Bool[Tensor, "B M"]
                       ) -> tuple[Float[Tensor, "B M M"], Bool[Tensor, "B M M"]]:
    """Products of the modalities of each sample, and which of them exist. Source: arXiv:2208.00467, eq. 1."""
    return z @ z.transpose(1, 2), present[:, :, None] & present[:, None, :]


def between_samples(z: Float[Tensor, "B M D"], present: Bool[Tensor, "B M"]
                    ) -> tuple[Float[Tensor, "B M B"], Bool[Tensor, "B M B"]]:
    """Products of each cell with the other samples' cells of its modality, and which exist; itself does not.

    Source: arXiv:2208.00467, eq. 2.
    """
    other = ~torch.eye(len(z), dtype=torch.bool, device=z.device)
    exists = present[:, :, None] & present.T[None] & other[:, None, :]
    return torch.einsum("imd,jmd->imj", z, z), exists


@LOSSES.register("cocoa")
class Cocoa(nn.Module):
    """Modalities of one sample against other samples of each modality, as a ratio.

    -log (P / (P + N)) of each sample with two modalities or more, averaged over those. P sums
    exp(product / temperature) over ordered pairs of its modalities; N sums, over its modalities, the mean of the same
    over the other samples.

    Args:
        temperature: divides the cosine.

    Source: the released code of arXiv:2208.00467, loss "cocoa".
    """

    takes: ClassVar[str] = "latents"

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        self.temperature = positive("cocoa", temperature)

    def forward(self, latents: Float[Tensor, "B M D"], present: Bool[Tensor, "B M"]) -> LossOutput:
        """The loss of the batch; no parts."""
        with torch.autocast(latents.device.type, enabled=False):
            z = unit(latents)
            same, pairs = between_modalities(z, present)
            pairs = pairs & ~torch.eye(present.shape[1], dtype=torch.bool, device=z.device)
            positives = log_sum((same / self.temperature).flatten(1), pairs.flatten(1))
            across, exists = between_samples(z, present)
            others = exists.sum(dim=2)
            means = log_sum(across / self.temperature, exists) - others.clamp(min=1).to(z.dtype).log()
            negatives = log_sum(means, others > 0)
            rows = torch.logaddexp(positives, negatives) - positives
            return LossOutput(total=mean_of(rows, present.sum(dim=1) >= 2))


@LOSSES.register("cocoa2")
class Cocoa2(nn.Module):
    """The same two forces as `cocoa`, added up; a sum over samples, so it grows with the batch.

    total = scale * cross + weight * within. `cross` sums over samples with two modalities or more the mean of
    exp((1 - product) / temperature) over all pairs of their modalities, a modality with itself included; `within` sums
    over samples and modalities the mean of exp(product / temperature) over the other samples. Float32 holds it down to
    a temperature of 0.03.

    Args:
        temperature: divides the cosine.
        scale, weight: of the two terms.

    Source: the released code of arXiv:2208.00467, loss "cocoa2", the nearest to its eq. 3.
    """

    takes: ClassVar[str] = "latents"

    def __init__(self, temperature: float = 0.1, scale: float = 1 / 32, weight: float = 3.9e-3) -> None:
        super().__init__()
        self.temperature, self.scale, self.weight = positive("cocoa2", temperature), scale, weight

    def forward(self, latents: Float[Tensor, "B M D"], present: Bool[Tensor, "B M"]) -> LossOutput:
        """The loss of the batch, with parts `cross` and `within`, unweighted."""
        with torch.autocast(latents.device.type, enabled=False):
            z = unit(latents)
            same, pairs = between_modalities(z, present)
            pairs = pairs & (present.sum(dim=1) >= 2)[:, None, None]
            apart = ((1 - same) / self.temperature).masked_fill(~pairs, -math.inf).exp()
            cross = (apart.sum(dim=(1, 2)) / pairs.sum(dim=(1, 2)).clamp(min=1)).sum()
            across, exists = between_samples(z, present)
            near = (across / self.temperature).masked_fill(~exists, -math.inf).exp()
            within = (near.sum(dim=2) / exists.sum(dim=2).clamp(min=1)).sum()
            return LossOutput(total=self.scale * cross + self.weight * within, parts={"cross": cross, "within": within})


@LOSSES.register("cmc")
class CMC(nn.Module):
    """Symmetric NCE of every pair of modalities, summed; samples that lack one of the two are no anchors of that pair.

    Args:
        temperature: divides the cosine.

    Source: arXiv:1906.05849, full graph, §3.3, with the batch's other samples as negatives instead of a memory bank.
    """

    takes: ClassVar[str] = "latents"

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        self.temperature = positive("cmc", temperature)

    def forward(self, latents: Float[Tensor, "B M D"], present: Bool[Tensor, "B M"]) -> LossOutput:
        """The loss of the batch; no parts."""
        pairs = combinations(range(present.shape[1]), 2)
        return LossOutput(total=sum((nce(latents[:, a], latents[:, b, None], present[:, a], present[:, b, None],
                                         self.temperature, "symmetric") for a, b in pairs), 0.0 * latents.sum()))


@LOSSES.register("leave_one_out")
class LeaveOneOut(nn.Module):
    """Symmetric NCE of each modality with the mean of the sample's others, averaged over modalities and directions.

    Latents are brought to length 1, their mean is not. Modalities that no sample has together with another one are
    left out of the average.

    Args:
        temperature: divides the cosine. Fixed, not learned.

    Source: arXiv:2405.17766 (leave-one-out contrastive learning), which learns the temperature.
    """

    takes: ClassVar[str] = "latents"

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        self.temperature = positive("leave_one_out", temperature)

    def forward(self, latents: Float[Tensor, "B M D"], present: Bool[Tensor, "B M"]) -> LossOutput:
        """The loss of the batch; no parts."""
        with torch.autocast(latents.device.type, enabled=False):
            z = unit(latents).masked_fill(~present[:, :, None], 0)
            others = present.sum(dim=1, keepdim=True) - present.int()
            mean = (z.sum(dim=1, keepdim=True) - z) / others.clamp(min=1)[:, :, None]
            has = present & (others > 0)
            scores = torch.einsum("imd,jmd->mij", z, mean)[..., None] / self.temperature
            losses = [nce_of_scores(scores[m], has[:, m], has[:, m, None], "symmetric") for m in range(len(scores))]
            return LossOutput(total=torch.stack(losses).sum() / (2 * has.any(dim=0).sum().clamp(min=1)))
