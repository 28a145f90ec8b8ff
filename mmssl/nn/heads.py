"""Where modalities are compared: VATT's two nested common spaces, and further ones for further pairs; and views."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl.errors import ConfigError
from mmssl.nn.init import dense
from mmssl.registry import HEADS

Pair = tuple[str, str]


class PresentBatchNorm(nn.BatchNorm1d):
    """BatchNorm whose statistics come from the rows that are present, and no others; all rows are normalised.

    With fewer than two present rows the running statistics serve, and stay as they are. Nothing here depends on how
    many rows there are but numbers, so shapes are static and no device waits. No paper: ours.
    """

    def forward(self, x: Float[Tensor, "B D"], present: Bool[Tensor, "B"]) -> Float[Tensor, "B D"]:
        """(B, D), normalised."""
        if not self.training:
            mean, var = self.running_mean, self.running_var
        else:
            mean, var = self.batch_statistics(x, present)
        return (x - mean) * torch.rsqrt(var + self.eps) * self.weight + self.bias

    def batch_statistics(self, x: Float[Tensor, "B D"], present: Bool[Tensor, "B"]
                         ) -> tuple[Float[Tensor, "D"], Float[Tensor, "D"]]:
        """Mean and biased variance of the present rows; takes them into the running ones (unbiased, as torch does)."""
        count = present.sum()
        enough, some = count >= 2, count.clamp(min=1)
        mean = torch.where(present[:, None], x, 0).sum(dim=0) / some
        var = torch.where(present[:, None], x - mean, 0).square().sum(dim=0) / some
        with torch.no_grad():
            step = torch.where(enough, self.momentum, 0.0).to(x.dtype)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), step)
            self.running_var.lerp_((var * some / (some - 1).clamp(min=1)).to(self.running_var.dtype), step)
            self.num_batches_tracked += enough
        return torch.where(enough, mean, self.running_mean), torch.where(enough, var, self.running_var)


class NormedLinear(nn.Module):
    """BN(W x) over all rows that are present, items included; no bias, which the norm would take off again.

    Source: arXiv 2104.11178, section 3.3.

    Args:
        inputs, outputs: widths.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear, self.norm = dense(inputs, outputs, bias=False), PresentBatchNorm(outputs)

    def forward(self, x: Float[Tensor, "*B D"], present: Bool[Tensor, "*B"]) -> Float[Tensor, "*B E"]:
        """(..., inputs) to (..., outputs)."""
        return self.norm(self.linear(x).flatten(0, -2), present.flatten()).unflatten(0, present.shape)


class Expander(nn.Module):
    """From an embedding to the wide space where a loss compares views: W2 ReLU(BN(W1 z)), without biases.

    What the loss asks for (variance, no covariance, likeness of the views) is asked of this space, which nothing else
    uses, so that the embedding before it may keep what the views do not share. Source: the expander of
    arXiv 2105.04906, which has three layers; two are ours.

    Args:
        dim: D of the embedding.
        width: E, of both layers.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.first, self.last, self.dim = NormedLinear(dim, width), dense(width, width, bias=False), width

    def forward(self, z: Float[Tensor, "B D"], valid: Bool[Tensor, "B"]) -> Float[Tensor, "B E"]:
        """(B, D) to (B, E), in the precision of the weights; only the valid rows enter BatchNorm's statistics."""
        with torch.autocast(z.device.type, enabled=False):
            return self.last(F.relu(self.first(z.to(self.last.weight.dtype), valid)))


class AnchorTower(nn.Module):
    """The anchor's way down both spaces: fine = BN(W2 ReLU(BN(W1 v))), coarse = BN(W3 ReLU(fine)); no biases.

    Source: released VATT code (its "FAC" bridge); the paper's section 3.3 has no ReLU before W3.

    Args:
        dim: D of the anchor's latents.
        fine: width of the first space.
        coarse: width of the second; 0: there is none.
        coarse_relu: whether the ReLU stands before W3.
    """

    def __init__(self, dim: int, fine: int, coarse: int, coarse_relu: bool = True) -> None:
        super().__init__()
        self.coarse_relu = coarse_relu
        self.hidden, self.hidden_norm = dense(dim, fine, bias=False), PresentBatchNorm(fine)
        self.fine, self.fine_norm = dense(fine, fine, bias=False), PresentBatchNorm(fine)
        self.coarse = dense(fine, coarse, bias=False) if coarse else None
        self.coarse_norm = PresentBatchNorm(coarse) if coarse else None

    def forward(self, v: Float[Tensor, "B D"], present: Bool[Tensor, "B"]
                ) -> tuple[Float[Tensor, "B F"], Float[Tensor, "B C"] | None]:
        """The fine and the coarse embedding (None where there is no such space)."""
        fine = self.fine_norm(self.fine(F.relu(self.hidden_norm(self.hidden(v), present))), present)
        if self.coarse is None:
            return fine, None
        return fine, self.coarse_norm(self.coarse(F.relu(fine) if self.coarse_relu else fine), present)


@HEADS.register("common_space")
class CommonSpace(nn.Module):
    """Projects latents so that the modalities of a pair can be compared: VATT's two nested spaces, for any pairs.

    The anchor's tower gives its fine embedding to the pair with `fine_with`, and the coarse one made of it to the pair
    with `coarse_with`; their partners are projected by a Linear layer each. Any other pair gets a space of its own, a
    Linear layer on each side. Source: arXiv 2104.11178, section 3.3, as released; other pairs are ours.

    Args:
        dims: D by modality.
        pairs: which two modalities are compared; the results come under these names.
        fine: width of the fine space.
        coarse: width of the coarse one.
        other: width of every other pair's space.
        anchor: modality in the middle.
        fine_with, coarse_with: the anchor's partner in either space.
        coarse_relu: whether a ReLU stands between the fine and the coarse embedding (released code; not in the paper).
        linear_norm: BatchNorm after every Linear layer, not in the anchor's tower alone (the paper; not the code).

    Raises:
        ConfigError: a pair names a modality that is not in `dims`.
    """

    def __init__(self, dims: dict[str, int], pairs: list[Pair], fine: int = 512, coarse: int = 256, other: int = 256,
                 anchor: str = "video", fine_with: str = "audio", coarse_with: str = "text", coarse_relu: bool = True,
                 linear_norm: bool = False) -> None:
        super().__init__()
        unknown = {name for pair in pairs for name in pair} - set(dims)
        if unknown:
            raise ConfigError(f"pairs: no modality is called {', '.join(sorted(unknown))}; known: {', '.join(dims)}")
        self.anchor, self.partners = anchor, {fine_with: "fine", coarse_with: "coarse"}
        self.kinds = {pair: self.kind(pair) for pair in pairs}
        widths, partner_of = {"fine": fine, "coarse": coarse, "own": other}, self.partner
        kinds = set(self.kinds.values())
        self.tower = None
        if kinds - {"own"}:
            self.tower = AnchorTower(dims[anchor], fine, coarse if "coarse" in kinds else 0, coarse_relu)
        self.linears, layer = nn.ModuleDict(), NormedLinear if linear_norm else dense
        for pair, kind in self.kinds.items():
            for name in pair if kind == "own" else [partner_of(pair)]:
                self.linears[f"{'-'.join(pair)}:{name}"] = layer(dims[name], widths[kind])

    def kind(self, pair: Pair) -> str:
        """Which space a pair meets in: "fine", "coarse", or "own"."""
        return self.partners.get(self.partner(pair), "own") if self.anchor in pair else "own"

    def partner(self, pair: Pair) -> str:
        """The one of a pair that is not the anchor."""
        return pair[1] if pair[0] == self.anchor else pair[0]

    def forward(self, latents: dict[str, Tensor], present: dict[str, Tensor]) -> dict[Pair, tuple[Tensor, Tensor]]:
        """The two embeddings of every pair, each (B, E) or (B, K, E), not normalised, zero where absent.

        Args:
            latents: by modality, (B, D), or (B, K, D) for K items per sample.
            present: by modality, (B,) or (B, K) bool. Absent rows touch neither the others nor BatchNorm's statistics.
        """
        with torch.autocast(next(iter(latents.values())).device.type, enabled=False):
            shown = {name: torch.where(there[..., None], latents[name], 0).to(self.dtype)
                     for name, there in present.items() if name in latents}
            towers = {} if self.tower is None else self.climb(shown[self.anchor], present[self.anchor])
            return {pair: tuple(self.project(pair, name, shown, present, towers) for name in pair)
                    for pair in self.kinds}

    def climb(self, v: Tensor, present: Tensor) -> dict[str, Tensor]:
        """The anchor's fine and coarse embeddings; K items per sample count as rows."""
        fine, coarse = self.tower(v.flatten(0, -2), present.flatten())
        return {"fine": fine.unflatten(0, present.shape),
                **({} if coarse is None else {"coarse": coarse.unflatten(0, present.shape)})}

    def project(self, pair: Pair, name: str, shown: dict[str, Tensor], present: dict[str, Tensor],
                towers: dict[str, Tensor]) -> Tensor:
        """One side of one pair, zero where it is absent."""
        kind = self.kinds[pair]
        if kind != "own" and name == self.anchor:
            z = towers[kind]
        else:
            layer = self.linears[f"{'-'.join(pair)}:{name}"]
            z = layer(shown[name], present[name]) if isinstance(layer, NormedLinear) else layer(shown[name])
        return torch.where(present[name][..., None], z, 0)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, in which everything here is computed, also under autocast: the head is small."""
        return next(self.parameters()).dtype
