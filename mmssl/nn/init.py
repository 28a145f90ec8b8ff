"""How fresh weights are drawn. All in place, all from torch's default generator (seeded once, before building)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

# Standard deviation of a unit normal cut at two standard deviations: dividing by it restores the asked-for spread.
CUT_SPREAD = 0.87962566103423978


def glorot_(weight: Float[Tensor, "*"], parts: int = 1) -> None:
    """Glorot-uniform: U(-r, r), r = sqrt(6 / (inputs + outputs)), in place.

    Args:
        weight: (outputs, inputs).
        parts: how many matrices of equal size are stacked along the outputs; each counts for itself (q, k, v: 3).

    Source: Glorot and Bengio 2010, eq. 16; the released VATT code uses it for every dense layer.
    """
    for part in weight.chunk(parts):
        nn.init.xavier_uniform_(part)


def dense(inputs: int, outputs: int, bias: bool = True, parts: int = 1) -> nn.Linear:
    """A Linear layer with Glorot-uniform weight and zero bias, as Keras makes its Dense.

    Args:
        inputs, outputs: widths.
        bias: whether there is one.
        parts: matrices stacked in the weight, see `glorot_`.
    """
    layer = nn.Linear(inputs, outputs, bias=bias)
    with torch.no_grad():
        glorot_(layer.weight, parts)
        if bias:
            layer.bias.zero_()
    return layer


def table(rows: int, dim: int) -> nn.Parameter:
    """Learnable (rows, dim), normal of spread dim^-0.5 cut at two spreads (released VATT code, positions)."""
    std = dim ** -0.5
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(rows, dim), std=std, a=-2 * std, b=2 * std))


def summary_token(dim: int) -> nn.Parameter:
    """Learnable (dim,): Glorot-normal for a vector, that is variance 1/dim after the cut (released VATT code, AGG)."""
    std = math.sqrt(1 / dim) / CUT_SPREAD
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(dim), std=std, a=-2 * std, b=2 * std))
