"""The nearest rows by cosine: exact, in blocks, ties in the order of the rows."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmssl.eval.threads import side_by_side

#: Cosines closer than this are one score: float32 cannot tell them apart. For widths up to 512; grows with the root.
TIE = 1e-6
#: Query rows in a block, few enough that threads have equally much to do, and gallery rows per query row in a block.
CHUNK, WIDER = 640, 4
#: Scores that are looked through together.
RUN = 128
#: Groups of a block's columns whose largest scores tell how large a score must be to count.
GROUPS = 64


def nearest(queries: Float[Tensor, "Q D"], gallery: Float[Tensor, "G D"], k: int, chunk: int = CHUNK
            ) -> tuple[Float[Tensor, "Q k"], Int[Tensor, "Q k"]]:
    """The k gallery rows with the largest cosine to each query, nearest first. No paper: ours.

    Cosines within rounding (see `tie_margin`) are equal; equal ones come in the order of the gallery.

    Args:
        queries, gallery: rows of length 1 (see `unit_rows`), of one type, on one device.
        k: at most G.
        chunk: query rows in a block; memory is about `16 * chunk ** 2` bytes a thread beside the inputs and the result.

    Returns:
        their cosines, and their row numbers.
    """
    def part(some: Tensor) -> tuple[Tensor, Tensor]:  # each thread goes through the gallery without waiting for others
        return nearest_of(some, gallery.split(WIDER * chunk), k, chunk)

    with exact_products(queries.device.type):
        found = list(side_by_side(part, queries.split(chunk), queries.device))
    return torch.cat([values for values, _ in found]), torch.cat([index for _, index in found])


def nearest_of(queries: Float[Tensor, "Q D"], blocks: Iterable[Tensor], k: int, chunk: int = CHUNK
               ) -> tuple[Float[Tensor, "Q k"], Int[Tensor, "Q k"]]:
    """`nearest` in a gallery that comes in blocks, one pass over them; each is compared in the type of the queries."""
    margin, start, product = tie_margin(queries), 0, Products(queries)
    lots = [(q, q.new_zeros(len(q), 0), torch.zeros(len(q), 0, dtype=torch.int64, device=q.device))
            for q in queries.split(chunk)]
    with exact_products(queries.device.type):
        for block in blocks:
            block = block.to(queries.dtype)

            def better(lot: tuple[Tensor, Tensor, Tensor], block: Tensor = block, start: int = start
                       ) -> tuple[Tensor, Tensor, Tensor]:
                q, values, index = lot
                return q, *_merge(values, index, product(q, block), start, k, margin)

            lots = list(side_by_side(better, lots, queries.device))
            start += len(block)
    return torch.cat([values for _, values, _ in lots]), torch.cat([index for _, _, index in lots])


class Products:
    """Matrix products into memory that each thread takes once: fresh memory for each costs a tenth of the time.

    On the CPU they are numpy's, whose OpenBLAS takes an eighth less time on AMD's Zen 4 than the MKL of PyTorch's
    x86 builds. Call them within `side_by_side`, so that they keep to their thread.

    Args:
        like: a tensor of their type and on their device.
    """

    def __init__(self, like: Tensor) -> None:
        self.like, self.mine = like, threading.local()
        self.numpy = like.device.type == "cpu" and like.dtype in (torch.float32, torch.float64)

    def __call__(self, q: Tensor, g: Tensor) -> Tensor:
        """(q, D) by (g, D) to (q, g); good until the next call in this thread."""
        memory = getattr(self.mine, "memory", None)
        if memory is None or memory.numel() < len(q) * len(g):
            memory = self.mine.memory = self.like.new_empty(len(q) * len(g))
        scores = memory[:len(q) * len(g)].view(len(q), len(g))
        if not self.numpy:
            return torch.mm(q, g.T, out=scores)
        q, g = q.contiguous(), g.contiguous()  # numpy's product does without its library where rows have gaps
        np.matmul(q.numpy(), g.numpy().T, out=scores.numpy())
        return scores


def _merge(values: Tensor, index: Tensor, scores: Tensor, start: int, k: int, margin: float) -> tuple[Tensor, Tensor]:
    """The k best of those so far and of a block's scores (q, c), whose first column is gallery row `start`."""
    if values.shape[1] < k:
        more, column = _top(scores, k, margin)
    else:  # only what is above the last of the best can matter: mostly a few
        row, column = _above(scores, values[:, -1:])
        if not len(row):
            return values, index
        more, column = _side_by_side(scores, row, column)
    values, index = torch.cat([values, more], 1), torch.cat([index, column + start], 1)
    order = (values / -margin).round().argsort(dim=1, stable=True)[:, :k]
    return values.gather(1, order), index.gather(1, order)


def _above(scores: Tensor, bar: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of the scores (q, c) above the bar (q, 1) of their row, row by row."""
    if scores.shape[1] % RUN:
        return (scores > bar).nonzero(as_tuple=True)
    runs = scores.view(len(scores), -1, RUN)  # the largest of each run first, which costs next to nothing
    row, run = (runs.amax(dim=2) > bar).nonzero(as_tuple=True)
    which, column = (runs[row, run] > bar[row]).nonzero(as_tuple=True)
    return row[which], run[which] * RUN + column


def _side_by_side(scores: Tensor, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    """Some of the scores (q, c), named row by row, as (q, most of a row), filled up with -inf; and their columns."""
    counts = torch.bincount(row, minlength=len(scores))
    slot = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
    chosen = scores.new_full((len(scores), int(counts.max())), -torch.inf)
    places = torch.zeros(chosen.shape, dtype=torch.int64, device=row.device)
    chosen[row, slot], places[row, slot] = scores[row, column], column
    return chosen, places


def _top(scores: Tensor, k: int, margin: float) -> tuple[Tensor, Tensor]:
    """The k largest of each row, in the order of their columns, of tied ones at the edge the first columns; or more."""
    if scores.shape[1] % GROUPS == 0 and scores.shape[1] >= 4 * GROUPS and k <= GROUPS // 2:
        largest = scores.view(len(scores), GROUPS, -1).amax(dim=2)  # k of them are a bar that k scores reach
        bar = largest.topk(k, dim=1).values.amin(dim=1, keepdim=True) - 2 * margin
        return _side_by_side(scores, *_above(scores, bar))
    values, index = scores.topk(min(k, scores.shape[1]), dim=1)
    edge = values.amin(dim=1, keepdim=True) - margin
    tied = (count_reached(scores, edge) > values.shape[1]).nonzero()[:, 0]  # few rows: sort those in full
    if len(tied):
        index[tied] = (scores[tied] / -margin).round().argsort(dim=1, stable=True)[:, :values.shape[1]]
    index = index.sort(dim=1).values
    return scores.gather(1, index), index


def count_reached(scores: Float[Tensor, "q c"], bar: Float[Tensor, "q #c"]) -> Int[Tensor, "q"]:
    """How many scores of each row reach its bar, int64. Five times as fast as a sum of booleans."""
    return (scores >= bar).view(torch.int8).sum(dim=1, dtype=torch.int32).long()


def tie_margin(rows: Float[Tensor, "N D"]) -> float:
    """Below which difference two cosines of such rows are equal."""
    return TIE * max(1.0, math.sqrt(rows.shape[1] / 512))


def unit_rows(x: Float[Tensor, "N D"], scale: bool = True) -> tuple[Float[Tensor, "N D"], Bool[Tensor, "N"]]:
    """Rows of length 1 in float32 (float64 stays), and which rows are finite. Rows of zeros, and those that are not
    finite, become zeros. Without `scale` the others stay as long as they are."""
    x = x.detach() if x.dtype == torch.float64 else x.detach().float()
    fine = x.isfinite().all(dim=1)
    x = torch.where(fine[:, None], x, 0)
    if not scale:
        return x, fine
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
