"""The text encoder of VATT: a trunk after T5-Small with relative positions, and words in front of it."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl.nn.dropout import check_rate, drop_at, item_rows
from mmssl.nn.init import dense, summary_token
from mmssl.nn.transformer import EPS, Block, run_blocks
from mmssl.registry import ENCODERS, TRUNKS
from mmssl.rng import Rng


def relative_buckets(tokens: int, buckets: int = 32, distance: int = 64) -> Int[Tensor, "N N"]:
    """Which bucket of relative positions each (query, key) falls into.

    Half of the buckets for keys after the query, half for the rest; of each half, one bucket per distance for the
    first half, then logarithmically wider ones up to `distance`.

    Args:
        tokens: N.
        buckets: how many in all.
        distance: from which on all share the last bucket.

    Source: arXiv 1910.10683, section 2.1, with the numbers of the released VATT code.
    """
    places = torch.arange(tokens)
    steps = places[None, :] - places[:, None]  # key minus query
    half, near = buckets // 2, buckets // 4
    far = steps.abs().clamp(min=1).double()
    wide = near + (torch.log(far / near) / math.log(distance / near) * (half - near)).long()
    return half * (steps > 0) + torch.where(steps.abs() < near, steps.abs(), wide.clamp(max=half - 1))


class T5Block(Block):
    """x + Drop(Attention(rms x)), then x + Drop(W_o Drop(GELU(W_i norm x))), without biases or 1/sqrt(d) scaling.

    Source: released VATT code: the attention's norm is T5's root mean square, that of the hidden layer is a LayerNorm.

    Args:
        dim, heads, mlp: D, heads, width of the hidden layer.
        dropout: rate at the three places.
    """

    def __init__(self, dim: int, heads: int, mlp: int, dropout: float = 0.0) -> None:
        super().__init__(dim, heads, mlp, dropout, bias=False)
        self.norm1, self.attention.scale = nn.RMSNorm(dim, eps=EPS), 1.0


Layers = Literal["every", "first"]


@TRUNKS.register("t5")
class T5(nn.Module):
    """Blocks after T5 whose layers add a learned bias per relative position, and a final RMS norm.

    Source: arXiv 1910.10683 as changed by the released VATT code.

    Args:
        dim: D.
        depth: number of blocks.
        heads: per block; divides D.
        mlp: width of the hidden layers; null: 4 D.
        dropout: rate at residuals, hidden layers, the output, and (by the encoder) the embeddings.
        buckets: of relative positions.
        distance: from which on two tokens are just "far".
        recompute: less memory for more time, see Transformer.
        relative_bias: layers that add the bias; it is one table, which "every" layer reuses (T5 and the released VATT
            code), or the "first" alone has (arXiv 2104.11178, section 3.2): the others know no word order.
    """

    def __init__(self, dim: int, depth: int, heads: int, mlp: int | None = None, dropout: float = 0.0,
                 buckets: int = 32, distance: int = 64, recompute: bool = False,
                 relative_bias: Layers = "every") -> None:
        super().__init__()
        check_rate(dropout)
        self.dim, self.dropout, self.recompute = dim, dropout, recompute
        self.buckets, self.distance, self.relative_bias = buckets, distance, relative_bias
        mlp = 4 * dim if mlp is None else mlp
        self.bias = nn.Parameter(torch.empty(buckets, heads).uniform_(-0.05, 0.05))
        self.blocks = nn.ModuleList(T5Block(dim, heads, mlp, dropout) for _ in range(depth))
        self.norm = nn.RMSNorm(dim, eps=EPS)

    def forward(self, tokens: Float[Tensor, "B N D"], valid: Bool[Tensor, "B N"] | None = None, rng: Rng | None = None
                ) -> Float[Tensor, "B N D"]:
        """Last states (B, N, D); arguments as in `Transformer.forward`, positions are by distance alone."""
        buckets = relative_buckets(tokens.shape[1], self.buckets, self.distance).to(tokens.device)
        biased = F.embedding(buckets, self.bias).permute(2, 0, 1)[None]  # (1, heads, N, N)
        plain = None if valid is None else valid[:, None, None, :]
        if valid is not None:
            biased = biased.masked_fill(~plain, -math.inf)
        rest = biased if self.relative_bias == "every" else plain
        x = run_blocks(self, tokens, [biased] + [rest] * (len(self.blocks) - 1), rng)
        return drop_at(self.norm(x), self.dropout, rng, "output")


@TRUNKS.register("t5_small")
def t5_small(dropout: float = 0.0, recompute: bool = False, relative_bias: Layers = "every") -> T5:
    """6 blocks of width 512, 8 heads, as VATT's text encoder (arXiv 2104.11178, table 7, Small)."""
    return T5(512, 6, 8, None, dropout, recompute=recompute, relative_bias=relative_bias)


@ENCODERS.register("t5")
class T5Encoder(nn.Module):
    """Texts to vectors: word vectors, a summary token before them, Dense and GELU, a T5 trunk; the summary's state.

    Source: arXiv 2104.11178, section 3.2, and its released code. Words that are `one_hot` (the paper's) come as wide as
    the trunk, without Dense and GELU.

    Args:
        modality: gives `word_table(dim) -> nn.Embedding` (frozen or trainable), `shape` ending in L words, and may say
            `one_hot`.
        trunk: a T5; any trunk works, but others know no word order here.
        dropout: rate on the input; null: the trunk's.
    """

    def __init__(self, modality: Any, trunk: nn.Module, dropout: float | None = None) -> None:
        super().__init__()
        self.table = modality.word_table(trunk.dim)
        self.trunk, self.dim = trunk, trunk.dim
        self.dropout = trunk.dropout if dropout is None else dropout
        check_rate(self.dropout)
        self.summary = summary_token(self.table.embedding_dim)
        one_hot = getattr(modality, "one_hot", False)
        self.projection = None if one_hot else dense(self.table.embedding_dim, trunk.dim, bias=False)
        self.tokens = self.kept_tokens = modality.shape[-1] + 1

    def forward(self, x: Int[Tensor, "B *K L"], rng: Rng | None = None) -> Float[Tensor, "B *K D"]:
        """One vector per text.

        Args:
            x: word numbers (B, L) or (B, K, L), 0 for pad; a text of pads alone sees only the summary token.
            rng: of this call, with the rows' global numbers; None: no dropout.
        """
        if x.ndim == 3:
            return self(x.flatten(0, 1), item_rows(rng, *x.shape[:2])).unflatten(0, x.shape[:2])
        words = self.table(x)
        tokens = torch.cat([self.summary.to(words.dtype).expand(x.shape[0], 1, -1), words], dim=1)
        tokens = tokens if self.projection is None else F.gelu(self.projection(tokens))
        tokens = drop_at(tokens, self.dropout, rng, "input")
        return self.trunk(tokens, F.pad(x != 0, (1, 0), value=True), rng)[:, 0]
