"""CroSSL: one global embedding of all sensors, learned by masking their latents (arXiv 2307.16847)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmssl.distributed import rank, world_size
from mmssl.errors import ConfigError
from mmssl.methods.base import Method
from mmssl.methods.base import Pair as Names
from mmssl.nn.conv import l2_penalty
from mmssl.nn.heads import Expander
from mmssl.optim import Optim
from mmssl.registry import METHODS
from mmssl.rng import Rng
from mmssl.types import Batch, LossOutput

log = logging.getLogger("mmssl")
#: What to do where an encoder cannot have blocks of time hidden.
ON_TIME = "take the encoder 'conv', or 'tokens' with pool=mean on a series, or another mask"


@METHODS.register("crossl")
class CroSSL(Method):
    """Cross-modal SSL: two masked views of the sensors' latents, one aggregator, one loss between the two results.

    Source: arXiv 2307.16847, figure 1. Encoders run once a step; both views carry gradient; inputs are not augmented
    unless a modality says so. A missing sensor is a row that no view shows.

    Args:
        modalities, encoders, optim, seed: see Method. All encoders have the same width K.
        aggregator: called as `aggregator(latents (B, M, K), seen (B, M)) -> (B, D)`.
        mask: see `mmssl.nn.views`; one that hides time before it is pooled needs encoders with `steps`.
        loss: of two views (`takes` "views" or "pair"), compares what the aggregator makes of them; of "latents",
            compares the sensors' latents themselves, all that are present, under no mask but one over time, and needs
            an aggregator without weights, which would not learn.
        l2: weight of the squared convolution kernels in the loss; 1e-4 in the released code.
        expander: width of the space in which a loss of views compares them, which training alone uses: see `Expander`;
            0: the embeddings themselves are compared, as in the released code. A loss of latents has none.

    Raises:
        ConfigError: parts that do not fit together.
    """

    def __init__(self, modalities: Mapping[str, Any], encoders: Mapping[str, nn.Module], aggregator: nn.Module,
                 mask: Any, loss: nn.Module, optim: Optim, seed: int = 0, l2: float = 0.0,
                 expander: int = 0) -> None:
        super().__init__(modalities, encoders, optim, seed)
        self.aggregator, self.mask, self.loss, self.l2 = aggregator, mask, loss, l2
        self.takes = getattr(loss, "takes", "views")
        self.told = False
        expands = expander > 0 and self.takes != "latents"  # weights without a gradient would stop several processes
        self.expander = Expander(aggregator.dim, expander) if expands else None
        problems = [f"encoders.{name}: gives no states over time, which the mask hides; {ON_TIME}"
                    for name, encoder in encoders.items() if self.hides_time and not (
                        getattr(encoder, "steps", None) and getattr(modalities[name], "seconds", None))]
        if self.takes == "latents" and any(p.requires_grad for p in aggregator.parameters()):
            problems.append("aggregator: would not learn, for the loss compares the sensors' latents before it; set "
                            "aggregator=concat, or a loss of two views such as vicreg")
        if expander < 0:
            problems.append(f"method.expander: {expander}; expected a width, e.g. 256, or 0 for none")
        if problems:
            raise ConfigError(problems)

    @property
    def hides_time(self) -> bool:
        """Whether the mask hides states over time before they are pooled."""
        return getattr(self.mask, "stage", "latents") == "states"

    @property
    def kept_wide(self) -> tuple[str, ...]:
        """Watched embeddings whose standard deviation per dimension the loss holds up."""
        return ("global",) if self.takes == "views" and self.expander is None else ()

    def encode(self, inputs: dict[str, Tensor], batch: Batch, rng: Rng | None = None
               ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """See Method.encode; in training with a mask over time, latents are those of the two views, (B, 2, K)."""
        if rng is None or not self.hides_time:
            return super().encode(inputs, batch, rng)
        latents, present = {}, {name: batch.streams[name].present for name in self.encoders}
        for name, encoder in self.encoders.items():
            x, here = inputs[name], rng.at(name).for_rows(batch.rows)
            seen = self.mask.over_time(name, len(x), encoder.steps, self.modalities[name].seconds, here, x.device)
            latents[name] = encoder(x, here, seen) * present[name][:, None, None]
        return latents, present

    def loss_of(self, batch: Batch, rng: Rng) -> LossOutput:
        """See Method.loss_of. Says once, and loudly, where a batch is too small for what the loss estimates of it."""
        rows, dim = len(batch) * world_size(), getattr(self.aggregator, "dim", 0)
        if self.takes == "views" and rows <= dim and not self.told:
            tell = log.warning if rank() == 0 else log.debug
            tell("SMALL BATCH: %d rows cannot show the variance and covariance of embeddings %d wide; they will shrink "
                 "or collapse. What helps: data.batch_per_device above %d, better %d or more, or a smaller "
                 "aggregator.dim.", rows, dim, dim, 4 * dim)
        self.told = True
        return super().loss_of(batch, rng)

    def objective(self, latents: dict[str, Tensor], present: dict[str, Tensor], valid: Tensor, rng: Rng) -> LossOutput:
        """The loss of the whole batch, between its two masked views or over its latents. See Method.objective."""
        stacked, there = self.stack(latents, present)
        pooled = stacked.unbind(dim=2) if stacked.ndim == 4 else (stacked,) * 2
        if self.takes == "latents":
            loss = self.over_latents(pooled if stacked.ndim == 4 else pooled[:1], there & valid[:, None])
        else:
            seen = self.mask(there & valid[:, None], stacked.shape[-1], rng.at("mask"))
            views = [self.aggregator(z * s, s.any(dim=-1)) for z, s in zip(pooled, seen, strict=True)]
            loss = self.between(*views, valid & there.any(dim=1))
        if not self.l2:
            return loss
        penalty = l2_penalty(self.encoders)
        return LossOutput(total=loss.total + self.l2 * penalty, parts={**loss.parts, "l2": penalty})

    def between(self, z_a: Tensor, z_b: Tensor, rows: Tensor) -> LossOutput:
        """The loss between two views (B, D), over the rows (B,) that count."""
        if self.expander is not None:
            z_a, z_b = self.expander(z_a, rows), self.expander(z_b, rows)
        return LossOutput(total=self.loss(z_a, z_b, rows, rows)) if self.takes == "pair" else self.loss(z_a, z_b, rows)

    def over_latents(self, views: Sequence[Tensor], present: Tensor) -> LossOutput:
        """The loss over the sensors' latents (B, M, K), averaged over the views."""
        found = [self.loss(view, present) for view in views]
        return LossOutput(total=torch.stack([f.total for f in found]).mean(),
                          parts={k: torch.stack([f.parts[k] for f in found]).mean() for k in found[0].parts})

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
