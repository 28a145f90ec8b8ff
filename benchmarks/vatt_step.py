"""A whole training step of a recipe, against the matrix products it cannot do without.

    python benchmarks/vatt_step.py --recipe vatt_base --batch 2 --precision fp32        # two CPU cores
    python benchmarks/vatt_step.py --recipe vatt_base --batch 64 --compile              # a GPU, bf16

A step is what `mmssl fit` does, on random samples that lie on the device already: input, encoders, heads, loss,
backward, gradient limits, optimiser. The other side multiplies large matrices in the same precision until it has done
as many operations as the encoders' forward and backward take; so a ratio of 0.5 is half of the rate that the device
reaches on matrix products alone. Both sides run by turns in one process.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from lightning.fabric.utilities import move_data_to_device
from measure import against, options, write

from mmssl import build, load_recipe, training
from mmssl.cost import matrices, random_batch, step_cost
from mmssl.methods import Method
from mmssl.optim import build_optimizer, limit_gradients
from mmssl.rng import Rng
from mmssl.types import Batch


def training_step(model: Method, batch: Batch, precision: torch.dtype) -> Callable[[], float]:
    """One optimiser step per call, each with draws of its own; the loss, which must be finite."""
    optimizer, steps = build_optimizer(model, model.optim), iter(range(10**9))
    half = precision != torch.float32

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(batch.valid.device.type, precision, enabled=half):
            loss = model.loss_of(batch, Rng((0, "step", next(steps)))).total
        loss.backward()
        limit_gradients(model, model.optim)
        optimizer.step()
        return loss.item()

    return step


def products(flops: float, device: torch.device, precision: torch.dtype) -> tuple[Callable[[], None], float]:
    """Multiply matrices; and how many operations a call has, `flops` or a little more."""
    a, b = matrices(device, precision)
    each = 2 * a.shape[0] * a.shape[1] * b.shape[1]
    times = int(flops / each) + 1

    def multiply() -> None:
        for _ in range(times):
            a @ b

    return multiply, times * each


def main() -> None:
    """Measure and print."""
    parser = options(__doc__)
    parser.add_argument("--recipe", default="vatt_base")
    parser.add_argument("--batch", type=int, default=2, help="samples on the device")
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--compile", action="store_true", help="blocks compiled, as trainer.compile=true does")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = torch.bfloat16 if args.precision == "bf16" else torch.float32
    recipe = load_recipe(args.recipe)
    parts = build.modalities(recipe)
    with torch.device("meta"):
        without_numbers = build.method(recipe, parts)
    cost = step_cost(without_numbers, args.batch, precision)
    model = build.method(recipe, parts).to(device).train()
    if args.compile:
        training.compile_blocks(model)
    step = training_step(model, move_data_to_device(random_batch(parts, args.batch), device), precision)
    if not torch.isfinite(torch.tensor(step())):
        raise SystemExit("the loss is not finite: nothing to time")
    multiply, done = products(cost.flops, device, precision)
    result = against(f"{args.recipe}, batch {args.batch}, {args.precision}{', compiled' if args.compile else ''}", step,
                     multiply, args.pairs)
    print(result.line("products"))
    share = result.median * cost.flops / done
    print(f"{1e3 * result.ours / args.batch:.2f} ms a sample; {cost.flops / args.batch / 1e9:,.3g} GFLOP a sample, "
          f"{cost.flops / result.ours / 1e12:.3g} TFLOP/s, {share:.2f} of the rate of matrix products")
    if device.type == "cuda":
        print(f"memory at its highest: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
    write(args.out, [result], flops=cost.flops, batch=args.batch, precision=args.precision, compiled=args.compile,
          device=torch.cuda.get_device_name() if device.type == "cuda" else "cpu")


if __name__ == "__main__":
    main()
