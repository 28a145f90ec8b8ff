"""What a training step will cost, said before it is run: operations, memory, and about how long here."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from mmssl.methods import Method
from mmssl.rng import Rng
from mmssl.types import Batch, fake_batch

#: Samples that the estimate is drawn from, on the meta device.
SAMPLE = 2
#: Share of the machine's matrix-product rate that a whole step reaches: seen on a CPU, Base size, float32.
EFFICIENCY = 0.85
#: Optimiser's numbers per weight, beside the weight and its gradient.
STATES = {"adam": 2, "adamw": 2, "sgd": 1}


@dataclass(frozen=True)
class StepCost:
    """What one optimiser step takes on one device.

    Args:
        samples: B that the device takes.
        flops: floating-point operations, forward and backward; a multiplication and an addition are two.
        weight_bytes: weights, gradients and the optimiser's state.
        activation_bytes: what autograd keeps between forward and backward.
    """

    samples: int
    flops: float
    weight_bytes: int
    activation_bytes: int

    @property
    def bytes(self) -> int:
        """All of them together."""
        return self.weight_bytes + self.activation_bytes


def random_batch(parts: dict[str, Any], size: int, seed: int = 0) -> Batch:
    """B random samples of the shapes that the modalities promise; word numbers below the size of the table."""
    shapes = {name: (tuple(m.shape), getattr(m, "dtype", torch.float32)) for name, m in parts.items()}
    top = {name: m.vocabulary_size - 1 for name, m in parts.items() if hasattr(m, "vocabulary_size")}
    return fake_batch(size, shapes, top, seed)


def step_cost(model: Method, samples: int, precision: torch.dtype = torch.float32) -> StepCost:
    """The cost of a step, without running one: operations are counted on the meta device, exactly for matrix products,
    convolutions and attention; kept bytes with tensors that have no numbers but choose the device's kernels. Heads,
    losses and the input's path are left out. No paper: ours.

    Args:
        model: on the meta device.
        samples: per device; the cost is linear in them.
        precision: of the activations.

    Raises:
        NotImplementedError, RuntimeError: a part cannot be run without numbers.
    """
    batch = random_batch(model.modalities, SAMPLE)
    flops, kept = 0.0, 0
    for name in model.encoders:
        x, rng = encoder_input(model, name, batch)
        with FlopCounterMode(display=False) as counter:
            z = model.encoders[name](x.to("meta"), rng)
            if z.requires_grad:
                z.sum().backward()
        model.zero_grad(set_to_none=True)
        flops += counter.get_total_flops()
        kept += activation_bytes(model, name, batch, precision)
    trained = [p for p in model.parameters() if p.requires_grad]
    held = sum(p.numel() * p.element_size() for p in model.parameters())
    held += sum(p.numel() * p.element_size() for p in trained) * (1 + STATES[model.optim.name])
    return StepCost(samples, flops * samples / SAMPLE, held, int(kept * samples / SAMPLE))


def encoder_input(model: Method, name: str, batch: Batch) -> tuple[Tensor, Rng]:
    """What the encoder of one modality takes in a training step: the batch on the CPU, and its draws."""
    rng = Rng((0, "cost")).for_rows(batch.rows)
    return model.modalities[name].on_device(batch.streams[name].data, rng), rng


def activation_bytes(model: Method, name: str, batch: Batch, precision: torch.dtype = torch.float32) -> int:
    """Bytes that autograd keeps for the backward pass of one encoder, each storage counted once, weights left out.

    Args:
        model: with numbers, or on the meta device; then as on the GPU, where there is one, or else the CPU.
        name: of the modality.
        batch: on the CPU.
        precision: of the activations.
    """
    encoder = model.encoders[name]
    tensors = dict([*encoder.named_parameters(), *encoder.named_buffers()])
    device, mode = next(iter(tensors.values())).device, contextlib.nullcontext()
    x, rng = encoder_input(model, name, batch)
    if device.type == "meta":
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        mode = FakeTensorMode(allow_non_fake_inputs=True)  # draws have numbers
        x = mode.from_tensor(x)
        tensors = {n: FakeTensor(mode, t.detach(), device).requires_grad_(t.requires_grad) for n, t in tensors.items()}
    own = {t.untyped_storage()._cdata for t in tensors.values()}
    kept: dict[int, tuple[int, Tensor]] = {}

    def keep(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes(), saved  # held, so that no other storage takes its place
        return saved

    half = torch.autocast(device.type, precision, enabled=precision != torch.float32)
    with mode, half, torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        torch.func.functional_call(encoder, tensors, (x.to(device), rng))
    return sum(size for size, _ in kept.values())


def matrices(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Two matrices whose product keeps a device busy: of a block's size on a CPU, far larger where a call must outlast
    its launch."""
    rows, inner, columns = (1024, 768, 3072) if device.type == "cpu" else (8192, 4096, 4096)
    return torch.ones(rows, inner, dtype=dtype, device=device), torch.ones(inner, columns, dtype=dtype, device=device)


def matmul_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """Operations per second of a large matrix product, the best of what fits into `seconds`."""
    a, b = matrices(device, dtype)
    best, end = 0.0, time.perf_counter() + seconds
    while best == 0.0 or time.perf_counter() < end:
        begin = time.perf_counter()
        (a @ b)[0, 0].item()  # waits for the device
        best = max(best, 2 * a.shape[0] * a.shape[1] * b.shape[1] / (time.perf_counter() - begin))
    return best


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free now; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    for line in Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").is_file() else []:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return None


def cost_lines(cost: StepCost, rate: float, steps: int, portions: int, free: int | None) -> list[str]:
    """The cost for a reader: operations and time of an optimiser step, memory, and a warning where it will not fit.

    Args:
        cost: of one portion on one device.
        rate: operations per second, as measured.
        steps: of the whole run.
        portions: per optimiser step.
        free: bytes; None: unknown.
    """
    flops = cost.flops * portions
    seconds = flops / (EFFICIENCY * rate)
    weights, activations = cost.weight_bytes / 2**30, cost.activation_bytes / 2**30
    lines = [f"a step of {cost.samples * portions} samples per device: {_number(flops)}FLOP, about {_time(seconds)} at "
             f"the {_number(rate)}FLOP/s measured here, decoding apart; all {steps:,} steps: {_time(seconds * steps)}",
             f"memory per device: about {cost.bytes / 2**30:.2f} GiB (weights, gradients and optimiser {weights:.2f}, "
             f"activations {activations:.2f})"]
    if free is not None and cost.bytes > free:
        lines.append(f"WARNING: only {free / 2**30:.2f} GiB are free; lower data.batch_per_device (data.batch keeps "
                     "the step's size), set recompute: true on the trunks, or lower keep_rate")
    return lines


def _number(x: float) -> str:
    """1234567 as "1.23 M": three digits and the unit's prefix."""
    for scale, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if x >= scale:
            return f"{x / scale:.3g} {prefix}"
    return f"{x:.3g} "


def _time(seconds: float) -> str:
    for scale, unit in ((86400 * 2, "days"), (3600 * 2, "h"), (120, "min")):
        if seconds >= scale:
            return f"{seconds / {'days': 86400, 'h': 3600, 'min': 60}[unit]:.3g} {unit}"
    return f"{seconds:.3g} s" if seconds >= 0.1 else f"{seconds * 1e3:.2g} ms"
