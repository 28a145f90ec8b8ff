"""CroSSL: one global embedding of all sensors, learned by masking their latents (arXiv 2307.16847)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmssl.methods.base import Method
from mmssl.methods.base import Pair as Names
from mmssl.nn.conv import l2_penalty
from mmssl.optim import Optim
from mmssl.registry import METHODS
from mmssl.rng import Rng
from mmssl.types import Batch, LossOutput


@METHODS.register("crossl")
class CroSSL(Method):
    """Cross-modal SSL: two masked views of the sensors' latents, one aggregator, one loss between the two results.

    Source: arXiv 2307.16847, figure 1. Encoders run once a step; both views carry gradient; inputs are not augmented
    unless a modality says so. A missing sensor is a row that no view shows.

    Args:
        modalities, encoders, optim, seed: see Method. All encoders have the same width K.
        aggregator: called as `aggregator(latents (B, M, K), seen (B, M)) -> (B, D)`.
        mask: called as `mask(present (B, M), width K, rng)`, gives what each of the two views sees, (B, M, K) bool.
        loss: called as `loss(z_a, z_b, valid)`, gives a LossOutput.
        l2: weight of the squared convolution kernels in the loss; 1e-4 in the released code.
    """

    def __init__(self, modalities: Mapping[str, Any], encoders: Mapping[str, nn.Module], aggregator: nn.Module,
                 mask: Any, loss: nn.Module, optim: Optim, seed: int = 0, l2: float = 0.0) -> None:
        super().__init__(modalities, encoders, optim, seed)
        self.aggregator, self.mask, self.loss, self.l2 = aggregator, mask, loss, l2

    def objective(self, latents: dict[str, Tensor], present: dict[str, Tensor], valid: Tensor, rng: Rng) -> LossOutput:
        """The loss between the two masked views of the whole batch. See Method.objective."""
        stacked, there = self.stack(latents, present)
        views = self.mask(there & valid[:, None], stacked.shape[-1], rng.at("mask"))
        z_a, z_b = (self.aggregator(stacked * seen, seen.any(dim=-1)) for seen in views)
        loss = self.loss(z_a, z_b, valid & there.any(dim=1))
        if not self.l2:
            return loss
        penalty = l2_penalty(self.encoders)
        return LossOutput(total=loss.total + self.l2 * penalty, parts={**loss.parts, "l2": penalty})

    def stack(self, latents: dict[str, Tensor], present: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Latents (B, M, K) and present (B, M), modalities in the order of the encoders."""
        return (torch.stack([latents[m] for m in self.encoders], dim=1),
                torch.stack([present[m] for m in self.encoders], dim=1))

    def aggregate(self, latents: dict[str, Tensor], present: dict[str, Tensor],
                  seen: list[str] | None = None) -> Tensor:
        """The global embedding (B, D) of the modalities named in `seen` (None: all) that are present."""
        stacked, there = self.stack(latents, present)
        if seen is not None:
            there = there & torch.tensor([m in seen for m in self.encoders], device=there.device)
        return self.aggregator(stacked * there[..., None], there)

    def global_embedding(self, batch: Batch, seen: list[str] | None = None) -> Tensor:
        """One embedding (B, D) per sample, from the sensors it has.

        Args:
            batch: B samples.
            seen: names of the modalities that may be used; None: all. Leaving one out is the same as its absence.
        """
        return self.aggregate(*self.embed(batch), seen)

    def project_latents(self, latents: dict[str, Tensor], present: dict[str, Tensor], pair: Names
                        ) -> tuple[Tensor, Tensor, Tensor]:
        """The global embedding of one sensor alone and of the other alone. See Method.project_latents."""
        a, b = pair
        return (self.aggregate(latents, present, [a]), self.aggregate(latents, present, [b]), present[a] & present[b])

    def watched(self, latents: dict[str, Tensor], present: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """The global embedding beside those of the sensors. See Method.watched."""
        every = torch.stack(list(present.values())).any(dim=0)
        return {"global": (self.aggregate(latents, present), every), **super().watched(latents, present)}
