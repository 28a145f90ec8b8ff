"""Pictures of a representation, for reports and for whoever watches a run."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from torch import Tensor

from mmssl import plots
from mmssl.eval.nearest import unit_rows

#: Rows and columns of a similarity matrix at most.
SIMILAR = 200


def similarity(z_a: Float[Tensor, "N D"], z_b: Float[Tensor, "N D"], a: str, b: str) -> plots.Figure:
    """The matrix of cosines between two modalities of the same samples, in the same order. No paper: ours.

    Args:
        z_a, z_b: in their common space; of more than `SIMILAR` samples that many are drawn.
        a, b: names of the modalities.
    """
    pick = evenly(len(z_a), SIMILAR)
    cosines = unit_rows(z_a)[0][pick] @ unit_rows(z_b)[0][pick].T
    return plots.heat_map(cosines.numpy(), [], [], f"sample, {a}", f"sample, {b}", "cosine")


def evenly(count: int, limit: int) -> np.ndarray:
    """Numbers of at most `limit` of `count` rows, evenly taken, the first and the last among them."""
    return np.linspace(0, count - 1, min(count, limit)).round().astype(int)
