"""Retrieval between two modalities: exact, in blocks, and never flattering a model that collapsed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmssl.eval.nearest import CHUNK, WIDER, Products, count_reached, exact_products, tie_margin, unit_rows
from mmssl.eval.threads import side_by_side

__all__ = ["RetrievalResult", "places", "retrieval", "retrieval_table", "summary", "true_ranks"]


@dataclass(frozen=True)
class RetrievalResult:
    """How well each query finds what belongs to it in the gallery. Ties count against the model.

    Args:
        r_at: by k, share of queries that have a right row among the first k.
        median_rank: median place of the first right row, counted from 1.
        mean_reciprocal_rank: mean of 1 / that place.
        rows: queries; with one right row for each, R@k is k / gallery by chance.
        mean_average_precision: mean over queries of the mean, over its right rows, of the precision down to each; the
            mean reciprocal rank where each query has one right row.
        gallery: its rows.
    """

    r_at: dict[int, float]
    median_rank: float
    mean_reciprocal_rank: float
    rows: int
    mean_average_precision: float
    gallery: int

    def as_dict(self) -> dict[str, float]:
        """Plain numbers by the usual names, e.g. "R@10", "MedR"."""
        return {**{f"R@{k}": v for k, v in self.r_at.items()}, "MedR": self.median_rank,
                "MRR": self.mean_reciprocal_rank, "mAP": self.mean_average_precision, "rows": self.rows,
                "gallery": self.gallery}


def places(queries: Float[Tensor, "Q D"], gallery: Float[Tensor, "G D"], query_ids: Int[Tensor, "Q"],
           gallery_ids: Int[Tensor, "G"], chunk: int = CHUNK, unit: bool = True
           ) -> tuple[Int[Tensor, "Q"], Float[Tensor, "Q"]]:
    """Where each query finds what belongs to it: the gallery rows of its own id. Ties against the model. Ours.

    The score is the cosine. A right row's place is behind every wrong row whose score is as high within float32
    rounding, so equal rows tie whatever the order in which a matrix product adds. A query or right row that holds NaN
    or infinity is placed last; such a row beats no other.

    Args:
        queries, gallery: any float type, on one device.
        query_ids, gallery_ids: equal ids belong together; every query has at least one right row.
        chunk: query rows in a block; memory is about `16 * chunk ** 2` bytes a thread beside the two inputs in float32.
        unit: whether rows are brought to length 1; False for means of such rows, whose product is the mean cosine.

    Returns:
        (Q,) int64, how many wrong rows stand before the first right one (0 is best); and (Q,) float64, the average
        precision.

    Raises:
        ValueError: no rows, sizes that do not fit, or a query without a right row.
    """
    if queries.shape[1:] != gallery.shape[1:] or not len(queries) or not len(gallery):
        raise ValueError(f"retrieval: expected (Q, D) and (G, D) with Q, G > 0, got {tuple(queries.shape)} and "
                         f"{tuple(gallery.shape)}")
    (q, q_fine), (g, g_fine) = unit_rows(queries, unit), unit_rows(gallery, unit)
    order = gallery_ids.argsort(stable=True)
    ids = gallery_ids[order]
    first, last = torch.searchsorted(ids, query_ids), torch.searchsorted(ids, query_ids, right=True)
    if (first == last).any():
        raise ValueError(f"retrieval: {int((first == last).sum())} of {len(q)} queries have no right row in the "
                         "gallery; leave them out")
    margin = tie_margin(q)

    def part(rows: Tensor) -> tuple[Tensor, Tensor]:
        span = torch.arange(int((last - first)[rows].max()), device=q.device)
        real = span < (last - first)[rows, None]
        right = order[(first[rows, None] + span).clamp(max=len(g) - 1)]
        own = torch.stack([(q[rows] * g[column]).sum(dim=1) for column in right.T], dim=1)
        bars = torch.where(real & g_fine[right] & q_fine[rows, None], own - margin, -torch.inf)
        ahead = _wrong_ahead(q[rows], g, g_fine, torch.where(real, right, -1), bars, WIDER * chunk)
        ahead = ahead.masked_fill(~real, len(g)).sort(dim=1).values  # rows that are not there stand last
        share = (span + 1) / (span + 1 + ahead.double())
        return ahead[:, 0], (share * (span < real.sum(dim=1, keepdim=True))).sum(dim=1) / real.sum(dim=1)

    with exact_products(q.device.type):
        found = list(side_by_side(part, torch.arange(len(q), device=q.device).split(chunk), q.device))
    return torch.cat([ranks for ranks, _ in found]), torch.cat([precision for _, precision in found])


def _wrong_ahead(q: Tensor, g: Tensor, g_fine: Tensor, right: Tensor, bars: Tensor, width: int) -> Tensor:
    """(q, P) int64: for each query and each of its P bars, the gallery rows that reach it and are not right.

    Args:
        right: (q, P) numbers of the right rows; -1: none.
        bars: (q, P); -inf is reached by all, also by rows that are not finite.
        width: gallery rows in a block.
    """
    bars, back = bars.sort(dim=1)
    reached = torch.zeros(len(q), bars.shape[1] + 1, dtype=torch.int64, device=q.device)
    product, lowest, broken = Products(q), torch.finfo(q.dtype).min, bool(bars.isinf().any())
    for start in range(0, len(g), width):
        scores = product(q, g[start:start + width])
        if not g_fine[start:start + width].all():
            scores.masked_fill_(~g_fine[start:start + width], lowest)
        row, which = ((right >= start) & (right < start + width)).nonzero(as_tuple=True)
        scores[row, right[row, which] - start] = -torch.inf  # counted nowhere
        if bars.shape[1] > 1:
            at = torch.searchsorted(bars, scores, right=True).masked_fill_(scores == -torch.inf, 0)
            reached.scatter_add_(1, at, torch.ones_like(at))
        else:
            count = count_reached(scores, bars)
            if broken:
                count = torch.where(bars.isinf()[:, 0], (scores > -torch.inf).sum(dim=1), count)
            reached[:, 1] += count
    counts = reached[:, 1:].flip(1).cumsum(dim=1).flip(1)  # a score that reaches a bar reaches all lower ones
    return torch.empty_like(counts).scatter_(1, back, counts)


def true_ranks(queries: Float[Tensor, "N D"], gallery: Float[Tensor, "N D"], chunk: int = CHUNK) -> Int[Tensor, "N"]:
    """For each query, how many gallery rows other than its own score at least as high as its own; see `places`.

    Args:
        queries, gallery: row i belongs to row i.
        chunk: query rows in a block.

    Raises:
        ValueError: no rows, or sizes that differ.
    """
    if queries.shape != gallery.shape or queries.ndim != 2 or not len(queries):
        raise ValueError(f"retrieval: expected two equal shapes (N, D) with N > 0, got {tuple(queries.shape)} and "
                         f"{tuple(gallery.shape)}; pass row i of one for row i of the other")
    own = torch.arange(len(queries), device=queries.device)
    return places(queries, gallery, own, own, chunk)[0]


def retrieval(queries: Float[Tensor, "Q D"], gallery: Float[Tensor, "G D"], ks: tuple[int, ...] = (1, 5, 10),
              chunk: int = CHUNK, query_ids: Int[Tensor, "Q"] | None = None,
              gallery_ids: Int[Tensor, "G"] | None = None) -> RetrievalResult:
    """R@k, median rank, mean reciprocal rank and mAP of queries against a gallery. No paper: ours.

    Args:
        queries, gallery, query_ids, gallery_ids: see `places`, whose errors these are. Without ids row i belongs to
            row i.
        ks: for which R@k is wanted.
        chunk: query rows in a block.
    """
    if query_ids is None or gallery_ids is None:
        ranks = true_ranks(queries, gallery, chunk)
        return summary(ranks, 1 / (ranks.double() + 1), len(gallery), ks)
    return summary(*places(queries, gallery, query_ids, gallery_ids, chunk), len(gallery), ks)


def summary(ranks: Int[Tensor, "Q"], precision: Float[Tensor, "Q"], gallery: int,
            ks: tuple[int, ...] = (1, 5, 10)) -> RetrievalResult:
    """What `places` found, in a few numbers.

    Args:
        ranks, precision: as `places` gives them.
        gallery: its rows.
        ks: for which R@k is wanted.
    """
    place = ranks.double() + 1
    return RetrievalResult(
        r_at={k: (place <= k).double().mean().item() for k in ks}, median_rank=float(np.median(place.cpu().numpy())),
        mean_reciprocal_rank=(1 / place).mean().item(), rows=len(place),
        mean_average_precision=precision.mean().item(), gallery=gallery)


def retrieval_table(pairs: Mapping[str, tuple[Tensor, Tensor, Tensor]], ks: tuple[int, ...] = (1, 5, 10),
                    chunk: int = CHUNK) -> dict[str, RetrievalResult]:
    """Both directions of each pair of modalities, over the samples that have both. No paper: ours.

    Args:
        pairs: by "a-b", (N, D) of a, (N, D) of b, and (N,) bool, True where both are there.
        ks, chunk: see `retrieval`.

    Returns:
        by "a_to_b" and "b_to_a", query before gallery; a pair with fewer than 2 such samples is left out.
    """
    table = {}
    for name, (z_a, z_b, both) in pairs.items():
        a, b = name.split("-", 1)
        if both.sum() >= 2:
            table[f"{a}_to_{b}"] = retrieval(z_a[both], z_b[both], ks, chunk)
            table[f"{b}_to_{a}"] = retrieval(z_b[both], z_a[both], ks, chunk)
    return table
