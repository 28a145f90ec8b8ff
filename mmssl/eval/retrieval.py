"""Retrieval between two modalities: exact, in blocks, and never flattering a model that collapsed."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

#: Cosines closer than this are one score: float32 cannot tell them apart. For widths up to 512; grows with the root.
TIE = 1e-6
#: Gallery rows in a block, per query row in a block.
WIDER = 8


@dataclass(frozen=True)
class RetrievalResult:
    """How well each query finds its own row of the gallery. Ties count against the model.

    Args:
        r_at: by k, share of queries whose own row is among the first k.
        median_rank: median place of the own row, counted from 1.
        mean_reciprocal_rank: mean of 1 / place; with one right row per query this is the mean average precision.
        rows: N, queries and gallery rows; by chance R@k is k / N.
    """

    r_at: dict[int, float]
    median_rank: float
    mean_reciprocal_rank: float
    rows: int

    def as_dict(self) -> dict[str, float]:
        """Plain numbers by the usual names, e.g. "R@10", "MedR"."""
        return {**{f"R@{k}": v for k, v in self.r_at.items()}, "MedR": self.median_rank,
                "MRR": self.mean_reciprocal_rank, "rows": self.rows}


def true_ranks(queries: Float[Tensor, "N D"], gallery: Float[Tensor, "N D"], chunk: int = 1024) -> Int[Tensor, "N"]:
    """For each query, how many gallery rows other than its own score at least as high as its own. No paper: ours.

    The score is the cosine. Scores within float32 rounding (`TIE`) of the own one count as ties, so equal rows tie
    whatever the order in which a matrix product adds. A query or own row that holds NaN or infinity ranks last, N - 1;
    such a row beats no other.

    Args:
        queries, gallery: row i belongs to row i; any float type, on one device.
        chunk: query rows in a block; memory is about `32 * chunk ** 2` bytes beside the two inputs in float32.

    Returns:
        (N,) int64, 0 is best.

    Raises:
        ValueError: no rows, or sizes that differ.
    """
    if queries.shape != gallery.shape or queries.ndim != 2 or not len(queries):
        raise ValueError(f"retrieval: expected two equal shapes (N, D) with N > 0, got {tuple(queries.shape)} and "
                         f"{tuple(gallery.shape)}; pass row i of one for row i of the other")
    (q, q_fine), (g, g_fine) = unit_rows(queries), unit_rows(gallery)
    count, last = torch.zeros(len(q), dtype=torch.int64, device=q.device), len(q) - 1
    margin = TIE * max(1.0, math.sqrt(q.shape[1] / 512))
    with exact_products(q.device.type):
        for rows in torch.arange(len(q), device=q.device).split(chunk):
            bar = (q[rows] * g[rows]).sum(dim=1, keepdim=True) - margin
            for columns in torch.arange(len(q), device=q.device).split(WIDER * chunk):
                scores = q[rows] @ g[columns].T
                others = g_fine[columns] & (columns != rows[:, None])
                count[rows] += ((scores >= bar) & others).sum(dim=1)
    return torch.where(q_fine & g_fine, count, last)


def retrieval(queries: Float[Tensor, "N D"], gallery: Float[Tensor, "N D"], ks: tuple[int, ...] = (1, 5, 10),
              chunk: int = 1024) -> RetrievalResult:
    """R@k, median rank and mean reciprocal rank of queries against a gallery; row i belongs to row i. No paper: ours.

    Args:
        queries, gallery: see `true_ranks`, whose errors these are.
        ks: for which R@k is wanted.
        chunk: query rows in a block.
    """
    places = true_ranks(queries, gallery, chunk).double() + 1
    return RetrievalResult(
        r_at={k: (places <= k).double().mean().item() for k in ks},
        median_rank=float(np.median(places.cpu().numpy())),
        mean_reciprocal_rank=(1 / places).mean().item(), rows=len(places))


def retrieval_table(pairs: Mapping[str, tuple[Tensor, Tensor, Tensor]], ks: tuple[int, ...] = (1, 5, 10),
                    chunk: int = 1024) -> dict[str, RetrievalResult]:
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


def unit_rows(x: Float[Tensor, "N D"]) -> tuple[Float[Tensor, "N D"], Bool[Tensor, "N"]]:
    """Rows of length 1 in float32, and which rows are finite. Zero rows stay zeros; not finite ones become zeros."""
    x = x.detach().float()
    fine = x.isfinite().all(dim=1)
    x = torch.where(fine[:, None], x, 0)
    x = x / x.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)  # so that the square cannot overflow
    return torch.nn.functional.normalize(x, dim=1), fine


@contextlib.contextmanager
def exact_products(device_type: str) -> Iterator[None]:
    """Matrix products in true float32: no TF32, no bfloat16 passes, no autocast, whatever the training run chose."""
    try:
        chosen: Any = torch.get_float32_matmul_precision()
    except RuntimeError:  # torch refuses the question where the newer per-backend settings were used
        chosen = None
    try:
        if chosen is not None:
            torch.set_float32_matmul_precision("highest")
        with torch.autocast(device_type, enabled=False):
            yield
    finally:
        if chosen is not None:
            torch.set_float32_matmul_precision(chosen)
