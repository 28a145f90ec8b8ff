"""What each of CroSSL's two views sees: blocks of time before they are pooled, whole modalities, single features.

A mask is called as `mask(present (B, M), width K, rng)` and gives what each view sees of the latents, two times
(B, M, K), never what is absent. One whose `stage` is "states" says first, by `over_time`, which states over time each
view pools. Without `rng` everything that is there is seen.

Draws on latents are for the whole batch, which every rank holds; those on states, which only a rank has, go by the
row's global number. So ranks that share a batch out between them hide the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmssl.errors import ConfigError
from mmssl.nn.dropout import GOLDEN, row_seeds, scramble
from mmssl.registry import MASKS, nearest
from mmssl.rng import Rng

Views = tuple[Bool[Tensor, "B M K"], Bool[Tensor, "B M K"]]


class _Drawn:
    """Settings of a mask that draws what each view sees of the latents, with a rate for all or by modality."""

    stage: ClassVar[str] = "latents"

    def __init__(self, keep_rate: float | dict[str, float] = 0.9, min_kept: int = 1, exact: bool = False,
                 names: Sequence[str] = ()) -> None:
        self.rates = rates_of(keep_rate, names)
        check_counts(min_kept, exact, keep_rate)
        self.min_kept, self.exact = min_kept, exact

    def _drawn(self, present: Bool[Tensor, "B n"], rates: Float[Tensor, "n"], rng: Rng) -> Bool[Tensor, "2 B n"]:
        """What of the present ones each of the two views sees."""
        draws = uniform((2, *present.shape), rng, present.device)
        return torch.stack([chosen(d, present, rates, self.min_kept, self.exact) for d in draws])


@MASKS.register("modality")
class ModalityMask(_Drawn):
    """Two views that each see whole modalities, drawn per sample, modality and view.

    Source: CroSSL's released code, its "spatial" masking; `exact` and `min_kept` are ours.

    Args:
        keep_rate: probability that a present modality is seen: one for all, or by modality.
        min_kept: how many present ones each view sees at least; those with the lowest draws are added. 0: as released,
            where a view may be empty.
        exact: see exactly `round(keep_rate * present ones)` instead, and at least `min_kept`.
        names: of the modalities, in the order of the latents, where rates are given by name.
    """

    def __call__(self, present: Bool[Tensor, "B M"], width: int, rng: Rng | None) -> Views:
        """What each view sees, two times (B, M, K) bool; never what is absent.

        Args:
            present: (B, M), of the whole batch over all ranks.
            width: K.
            rng: of this step, the same on every rank; None: both views see all that is present.
        """
        if rng is None:
            return (spread(present, width),) * 2
        a, b = self._drawn(present, torch.tensor(self.rates).expand(present.shape[1]), rng)
        return spread(a, width), spread(b, width)


@MASKS.register("cell")
class CellMask(_Drawn):
    """Two views that each see single features, drawn per sample, modality, feature and view.

    Source: CroSSL's released code, its "random" masking; `exact` and `min_kept` are ours.

    Args:
        keep_rate: probability that a feature of a present modality is seen: one for all, or by modality.
        min_kept: how many features each view sees at least where a modality is present; 0: as released.
        exact: see exactly `round(keep_rate * features)` of the present modalities instead, and at least `min_kept`.
        names: see ModalityMask.
    """

    def __call__(self, present: Bool[Tensor, "B M"], width: int, rng: Rng | None) -> Views:
        """What each view sees, two times (B, M, K) bool; arguments as in ModalityMask."""
        cells = spread(present, width)
        if rng is None:
            return cells, cells
        rates = torch.tensor(self.rates).expand(present.shape[1]).repeat_interleave(width)
        a, b = self._drawn(cells.flatten(1), rates, rng)
        return a.view_as(cells), b.view_as(cells)


@MASKS.register("complementary")
class ComplementaryMask:
    """Two views that share what is present out between them, so that nothing is seen by both. No paper: ours.

    A sample with a single modality shows it to both views.

    Args:
        keep_rate: share that the first view sees, rounded, at least one and not all.
        of: what is shared out, whole modalities or single features.
    """

    stage: ClassVar[str] = "latents"

    def __init__(self, keep_rate: float = 0.5, of: Literal["modality", "cell"] = "modality") -> None:
        rates_of(keep_rate, ())
        self.keep_rate, self.of = keep_rate, of

    def __call__(self, present: Bool[Tensor, "B M"], width: int, rng: Rng | None) -> Views:
        """What each view sees, two times (B, M, K) bool; arguments as in ModalityMask."""
        cells = spread(present, width)
        if rng is None:
            return cells, cells
        shared = present if self.of == "modality" else cells.flatten(1)
        rank = ranks(uniform(shared.shape, rng, present.device), shared)
        count = shared.sum(-1, keepdim=True)
        # torch rounds halves to even; adding a half and rounding down shares an odd count out the same way each time
        first = (count * self.keep_rate + 0.5).floor().clamp(min=1).minimum(count - 1)
        one = count == 1
        a, b = shared & ((rank < first) | one), shared & ((rank >= first) | one)
        return (spread(a, width), spread(b, width)) if self.of == "modality" else (a.view_as(cells), b.view_as(cells))


@MASKS.register("time")
class TimeMask:
    """Two views that each pool other blocks of time of every modality; and then, if asked, whole modalities.

    A window is cut into blocks of `block` seconds, of which the last may be shorter; blocks are drawn per sample,
    modality and view. What CroSSL's "temporal" masking says it does (arXiv 2307.16847, released code, which cannot
    run it): time must be hidden before it is pooled. The form is ours.

    Args:
        keep_rate: probability that a block is seen: one for all, or by modality.
        block: seconds, one for all or by modality.
        min_kept: blocks of each modality that each view sees at least, 1 or more.
        modality_keep_rate: probability that a present modality is seen, as in ModalityMask, at least one; 1.0: all are.
        names: of the modalities, in the order of the latents.
    """

    stage: ClassVar[str] = "states"

    def __init__(self, keep_rate: float | dict[str, float] = 0.5, block: float | dict[str, float] = 1.0,
                 min_kept: int = 1, modality_keep_rate: float | dict[str, float] = 1.0,
                 names: Sequence[str] = ()) -> None:
        rates_of(keep_rate, names)
        by_name(block, names, "block")
        if min_kept < 1 or min(values_of(block)) <= 0:
            raise ConfigError(f"mask 'time': min_kept {min_kept}, block {block}; expected a count of 1 or more, and "
                              "seconds above 0")
        self.keep_rate, self.block, self.min_kept = keep_rate, block, min_kept
        self.modalities = ModalityMask(modality_keep_rate, names=names)

    def __call__(self, present: Bool[Tensor, "B M"], width: int, rng: Rng | None) -> Views:
        """What each view sees of the pooled latents, two times (B, M, K) bool; arguments as in ModalityMask."""
        return self.modalities(present, width, rng)

    def over_time(self, name: str, rows: int, steps: int, seconds: float, rng: Rng, device: torch.device
                  ) -> Bool[Tensor, "2 B T"]:
        """Which states each view pools, (2, B, T), of each row at least one.

        Args:
            name: of the modality.
            rows, steps: B of this rank, and T, the number of states over time.
            seconds: how long the window is.
            rng: of the step, with the rows' global numbers.
            device: where the result is to be.
        """
        rate, block = (v[name] if isinstance(v, Mapping) else v for v in (self.keep_rate, self.block))
        length = min(steps, max(1, round(block / seconds * steps)))
        count = -(-steps // length)
        draws = uniform_by_row(rng.at("time"), rows, 2 * count, device).view(rows, 2, count)
        every = torch.ones(rows, count, dtype=torch.bool, device=device)
        rates = torch.tensor([rate]).expand(count)
        seen = torch.stack([chosen(draws[:, view], every, rates, self.min_kept) for view in (0, 1)])
        return seen.repeat_interleave(length, dim=-1)[..., :steps]


def chosen(draws: Float[Tensor, "B n"], present: Bool[Tensor, "B n"], rates: Float[Tensor, "n"], min_kept: int,
           exact: bool = False) -> Bool[Tensor, "B n"]:
    """Which of the present ones are seen, given uniform draws: each with its rate, or exactly the rate's share of them;
    those with the lowest draws are added until there are `min_kept`. No paper: ours."""
    rank = ranks(draws, present)
    if not exact:
        return present & ((draws < rates.to(draws.device)) | (rank < min_kept))
    share = (present.sum(-1, keepdim=True) * rates[0].item()).round()
    return present & (rank < share.clamp(min=min_kept))


def rates_of(keep_rate: float | dict[str, float], names: Sequence[str]) -> list[float]:
    """Rates in the order of the modalities, or the one for all. ConfigError unless each is in (0, 1]."""
    rates = by_name(keep_rate, names, "keep_rate")
    if not all(0.0 < rate <= 1.0 for rate in rates):
        raise ConfigError(f"mask: keep_rate {keep_rate}; expected rates in (0, 1]")
    return rates


def by_name(setting: float | dict[str, float], names: Sequence[str], key: str) -> list[float]:
    """The values of a setting in the order of the modalities, or the one for all. ConfigError for other names."""
    if not isinstance(setting, Mapping):
        return [setting]
    wrong = [f"mask.{key}.{name}: no such modality{nearest(name, names)}" for name in setting if name not in names]
    wrong += [f"mask.{key}: no value for '{name}'; give one for each modality" for name in names if name not in setting]
    if wrong:
        raise ConfigError(wrong)
    return [setting[name] for name in names]


def values_of(setting: float | dict[str, float]) -> list[float]:
    """The numbers of a setting that is one for all or by modality."""
    return list(setting.values()) if isinstance(setting, Mapping) else [setting]


def check_counts(min_kept: int, exact: bool, keep_rate: float | dict[str, float]) -> None:
    """Raise a ConfigError for a negative `min_kept`, or an exact count with more than one `keep_rate`."""
    if min_kept < 0:
        raise ConfigError(f"mask: min_kept {min_kept}; expected 0 or more beside the keep_rate")
    if exact and isinstance(keep_rate, Mapping):
        raise ConfigError("mask: exact counts need one keep_rate for all modalities; leave `exact` out, or give one")


def uniform(shape: tuple[int, ...], rng: Rng, device: torch.device) -> Float[Tensor, "..."]:
    """Draws in [0, 1) of a place in the tree, the same on every device."""
    return torch.rand(shape, generator=rng.torch()).to(device)


def uniform_by_row(rng: Rng, rows: int, count: int, device: torch.device) -> Float[Tensor, "rows n"]:
    """Draws in [0, 1) that depend on a row's global number alone, by the counter that dropout uses. No paper: ours."""
    seeds = row_seeds(rng, rows, 1, device, "uniform")[0]
    bits = scramble((seeds[:, None] + torch.arange(count, device=device)) * GOLDEN)
    return ((bits >> 40) & 0xFFFFFF).float() / (1 << 24)


def ranks(draws: Float[Tensor, "B n"], present: Bool[Tensor, "B n"]) -> Int[Tensor, "B n"]:
    """Place of each draw among the present ones of its row, from 0; the absent come last."""
    return draws.masked_fill(~present, 2.0).argsort(dim=-1, stable=True).argsort(dim=-1)


def spread(seen: Bool[Tensor, "B M"], width: int) -> Bool[Tensor, "B M K"]:
    """The same for all K features of a modality."""
    return seen[..., None].expand(*seen.shape, width)
