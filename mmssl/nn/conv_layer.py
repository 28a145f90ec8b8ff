"""One layer of CroSSL's encoder, laid out (B, T, C): convolution over time, LayerNorm, PReLU; made quick on a CPU.

PyTorch's own backward of PReLU runs one number at a time, that of LayerNorm keeps its input and its output, and large
tensors that come and go cost page faults. So on a CPU a layer in training is one autograd function that keeps what it
was given and what the convolution gave, works the rest out again, and moves each number as few times as it can.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-3  # of every LayerNorm; CroSSL's released code (Keras default)


class ConvLayer(nn.Module):
    """Convolution over time that keeps the length, LayerNorm over the channels, PReLU per channel.

    Source: CroSSL's released code. Channels stay last in memory, where LayerNorm wants them, and the convolution runs
    as a 2-D one of height 1 on a channels-last view: no copy between the steps.

    Args:
        inputs, outputs: channels.
        kernel: steps; an even one reaches one step further ahead than back.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.reach = ((kernel - 1) // 2, kernel // 2)
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.norm = nn.LayerNorm(outputs, eps=EPS)
        self.slope = nn.Parameter(torch.zeros(outputs))
        self.arithmetic = EAGER

    def forward(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T D"]:
        """(B, T, inputs) to (B, T, outputs)."""
        if kind := lean_type(x):
            return LeanLayer.apply(x.to(kind), self.weight.to(kind), self.bias, self.norm.weight, self.norm.bias,
                                   self.slope, self.reach, self.arithmetic)
        y = convolve(F.pad(x, (0, 0, *self.reach)), self.weight, self.bias)
        return F.prelu(self.norm(y).transpose(1, 2), self.slope).transpose(1, 2)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """`nn.Module.compile` where there is a GPU; on a CPU only what follows the convolution is worth compiling."""
        self.arithmetic = compiled()
        if torch.cuda.is_available():
            super().compile(*args, **kwargs)


def convolve(x: Float[Tensor, "B N C"], weight: Float[Tensor, "D C k"], bias: Float[Tensor, "D"]
             ) -> Float[Tensor, "B T D"]:
    """Convolution over time without padding, channels last in and out: T = N - k + 1."""
    return F.conv2d(x.transpose(1, 2).unsqueeze(2), weight.unsqueeze(2), bias).squeeze(2).transpose(1, 2)


def lean_type(x: Tensor) -> torch.dtype | None:
    """The type that `LeanLayer` is to work in; None where it is not to be used.

    It is used where gradients are wanted on a CPU and nothing is traced: in x's own type if that is a whole precision,
    and in bfloat16 under autocast to it, as PyTorch's convolution would.
    """
    if (not torch.is_grad_enabled() or x.device.type != "cpu" or torch.compiler.is_compiling()
            or torch.jit.is_tracing()):
        return None
    if torch.is_autocast_enabled("cpu"):
        half = torch.get_autocast_dtype("cpu") == torch.bfloat16 and x.dtype != torch.float64
        return torch.bfloat16 if half else None
    return x.dtype if x.dtype in (torch.float32, torch.float64) else None


class LeanLayer(torch.autograd.Function):
    """A `ConvLayer` with little memory and few passes over it. No paper: ours.

    Kept for the backward pass are the layer's input and the convolution's output (B, T, D), with its mean and deviation
    at each step; padding, normalisation and slope are worked out again. Input, kernel and output may be bfloat16; bias,
    gain, shift and slope, what is summed up for them, mean and deviation are float32 then.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, gain: Tensor, shift: Tensor, slope: Tensor,
                reach: tuple[int, int], arithmetic: Arithmetic) -> Tensor:
        """(B, T, C) to (B, T, D): convolution, LayerNorm, PReLU."""
        y = convolve(F.pad(x, (0, 0, *reach)), weight, bias.to(x.dtype))
        out, mean, scale = arithmetic.there(y, gain, shift, slope)
        ctx.save_for_backward(x, weight, y, mean, scale, gain, shift, slope)
        ctx.reach, ctx.arithmetic = reach, arithmetic
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, towards: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients to the six tensors, given the one (B, T, D) to the result."""
        x, weight, y, mean, scale, gain, shift, slope = ctx.saved_tensors
        to_y, to_bias, *others = ctx.arithmetic.back(towards, y, mean, scale, gain, shift, slope)
        to_x, to_weight = convolve_back(to_y, x, weight, ctx.reach, ctx.needs_input_grad[0])
        return to_x, to_weight, to_bias, *others, None, None


def convolve_back(to_y: Float[Tensor, "B T D"], x: Float[Tensor, "B T C"], weight: Float[Tensor, "D C k"],
                  reach: tuple[int, int], wants_x: bool
                  ) -> tuple[Float[Tensor, "B T C"] | None, Float[Tensor, "D C k"]]:
    """Gradients of the padded convolution to its input, if wanted, and to its weight, given the one to its result.

    oneDNN is a quarter slower where the channels do not fill its 16 lanes. There two steps of C channels are taken as
    one of 2 C, which lies in memory in the same way, and the kernel is laid out to match: see `paired`.
    """
    steps, (outputs, inputs, kernel) = x.shape[1], weight.shape
    pairs = wants_x and inputs % 16 == 8 and kernel % 2 == 0 and steps % 2 == 0
    padded = F.pad(x, (0, 0, reach[0], reach[1] + pairs))
    if pairs:
        to_y, padded = (z.unflatten(1, (-1, 2)).flatten(2) for z in (to_y, padded))
        weight = paired(weight)
    to_padded, to_weight, _ = torch.ops.aten.convolution_backward(
        to_y.transpose(1, 2).unsqueeze(2), padded.transpose(1, 2).unsqueeze(2), weight.unsqueeze(2), None, [1, 1],
        [0, 0], [1, 1], False, [0, 0], 1, [wants_x, True, False])
    to_weight = to_weight.squeeze(2)
    if pairs:
        both = to_weight.reshape(2, outputs, 2, inputs, -1).permute(0, 1, 3, 4, 2).flatten(3)
        to_weight = both[0, ..., :kernel] + both[1, ..., 1:kernel + 1]
    if not wants_x:
        return None, to_weight
    to_padded = to_padded.squeeze(2).transpose(1, 2).unflatten(2, (-1, inputs)).flatten(1, 2)
    return to_padded[:, reach[0]:reach[0] + steps], to_weight


def paired(weight: Float[Tensor, "D C k"]) -> Float[Tensor, "D2 C2 j"]:
    """The kernel (2 D, 2 C, k / 2 + 1) that gives, of two steps side by side, the next two steps side by side.

    The first of a pair sees k steps from its own first on, the second from its own second on; the rest is zeros.
    """
    both = torch.stack([F.pad(weight, (0, 2)), F.pad(weight, (1, 1))]).unflatten(-1, (-1, 2))
    return both.permute(0, 1, 4, 2, 3).flatten(0, 1).flatten(1, 2)


class Arithmetic(NamedTuple):
    """What follows the convolution, LayerNorm and PReLU: `there` and `back`, see `normalise` and `normalise_back`."""

    there: Callable[..., tuple[Tensor, ...]]
    back: Callable[..., tuple[Tensor, ...]]


def normalise(y: Float[Tensor, "B T D"], gain: Float[Tensor, "D"], shift: Float[Tensor, "D"], slope: Float[Tensor, "D"]
              ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B T 1"], Float[Tensor, "B T 1"]]:
    """PReLU of LayerNorm; and the mean and the inverse deviation of every step."""
    h, mean, scale = torch.native_layer_norm(y, gain.shape, gain, shift, EPS)
    return F.prelu(h.transpose(1, 2), slope.to(h.dtype)).transpose(1, 2), mean, scale


def normalise_back(towards: Float[Tensor, "B T D"], y: Float[Tensor, "B T D"], mean: Float[Tensor, "B T 1"],
                   scale: Float[Tensor, "B T 1"], gain: Float[Tensor, "D"], shift: Float[Tensor, "D"],
                   slope: Float[Tensor, "D"]) -> tuple[Tensor, ...]:
    """Gradients to y, the convolution's bias, gain, shift and slope, given the one to the result."""
    h = torch.native_layer_norm(y, gain.shape, gain, shift, EPS)[0]
    above = torch.ops.aten.threshold_backward(towards, h, 0)
    below = towards - above
    to_h = above.addcmul_(below, slope.to(h.dtype))
    to_slope = below.mul_(h).sum(dim=(0, 1), dtype=slope.dtype)
    to_y, to_gain, to_shift = torch.ops.aten.native_layer_norm_backward(
        to_h, y, gain.shape, mean, scale, gain, shift, [True] * 3)
    return to_y, to_y.sum(dim=(0, 1), dtype=gain.dtype), to_gain, to_shift, to_slope


EAGER = Arithmetic(normalise, normalise_back)


def _normalise_in_one(y: Tensor, gain: Tensor, shift: Tensor, slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    kind, y = y.dtype, y.to(gain.dtype)
    mean = y.mean(dim=-1, keepdim=True)
    scale = ((y - mean).square().mean(dim=-1, keepdim=True) + EPS).rsqrt()
    h = (y - mean) * scale * gain + shift
    return torch.where(h > 0, h, h * slope).to(kind), mean, scale


def _normalise_back_in_one(towards: Tensor, y: Tensor, mean: Tensor, scale: Tensor, gain: Tensor, shift: Tensor,
                           slope: Tensor) -> tuple[Tensor, ...]:
    kind, y, towards = y.dtype, y.to(gain.dtype), towards.to(gain.dtype)
    unit = (y - mean) * scale
    h = unit * gain + shift
    below = torch.where(h > 0, 0, towards)
    to_h = torch.where(h > 0, towards, towards * slope)
    to_unit = to_h * gain
    to_y = (to_unit - to_unit.mean(dim=-1, keepdim=True) - unit * (to_unit * unit).mean(dim=-1, keepdim=True)) * scale
    to_y = to_y.to(kind)
    return to_y, *(z.sum(dim=1) for z in (to_y.to(gain.dtype), to_h * unit, to_h, below * h))


def _by_group(there: Callable[..., tuple[Tensor, ...]], back: Callable[..., tuple[Tensor, ...]]) -> Arithmetic:
    def whole(y: Tensor, *numbers: Tensor) -> tuple[Tensor, ...]:
        out, mean, scale = there(_grouped(y, y.shape[1]), *numbers)
        return out.view(y.shape), mean, scale

    def whole_back(towards: Tensor, y: Tensor, mean: Tensor, scale: Tensor, *numbers: Tensor) -> tuple[Tensor, ...]:
        to_y, *sums = back(*(_grouped(z, y.shape[1]) for z in (towards, y, mean, scale)), *numbers)
        return to_y.view(y.shape), *(z.sum(dim=0) for z in sums)

    return Arithmetic(whole, whole_back)


def _grouped(x: Tensor, steps: int) -> Tensor:
    # (B T / n, n, D): what is summed over n steps stays in the cache, and their number, the only one that a compiler is
    # to leave open, is not in the way of loops with fixed bounds. n divides T, and is T where no divisor is worthwhile.
    n = next((n for n in range(min(steps, 32), 7, -1) if steps % n == 0), steps)
    x = x.reshape(-1, n, x.shape[-1])
    torch._dynamo.maybe_mark_dynamic(x, 0)
    for dim in (1, 2):
        torch._dynamo.mark_static(x, dim)
    return x


#: The same in one expression each way, which a compiler makes one pass of.
IN_ONE = _by_group(_normalise_in_one, _normalise_back_in_one)


#: Above these limits the compiler writes to memory what several sums read; to work it out again is twice as quick.
WORK_OUT_AGAIN = ("realize_reads_threshold", "realize_opcount_threshold", "realize_acc_reads_threshold")


@lru_cache
def compiled() -> Arithmetic:
    """`IN_ONE` as machine code, made when first used, for every length and width anew and for any batch."""
    known = set(torch._inductor.list_options())
    options = {name: 1 << 20 for name in WORK_OUT_AGAIN if name in known}
    return _by_group(torch.compile(_normalise_in_one, options=options),
                     torch.compile(_normalise_back_in_one, options=options))
