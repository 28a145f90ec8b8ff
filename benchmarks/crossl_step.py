"""Step time of CroSSL's encoders against a straight port, at the shapes of three data sets.

    python benchmarks/crossl_step.py --batch 8 64 --threads 2 --out crossl_step.json
    python benchmarks/crossl_step.py --compile --precision bf16     # as trainer.compile and trainer.precision have it
    python benchmarks/crossl_step.py --tensorflow     # beside the library of the released code: crossl_keras.py

A step is forward and backward of all sensors' encoders of the published form. The straight port is what one writes down
first: Conv1d over (B, C, T) with padding="same", transposes around LayerNorm, PReLU. It gets our weights, and must give
our latents and gradients before anything is timed; in bfloat16, where both are rounded, ours may be at most twice as
far from the float32 values as the port. Both sides run by turns in one process, in the same precision. What a step's
convolutions take alone, forward and backward, is timed after them: no layout or fusion of the rest makes a step shorter
than that.
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from collections.abc import Callable
from itertools import product

import torch
from measure import Ratio, against, options, seconds, write
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl.modalities import Series
from mmssl.nn import ConvEncoder
from mmssl.nn.conv_layer import EPS, ConvLayer, convolve, convolve_back

#: Sensors, channels of each, steps.
SETS = {"sleep_edf": (4, 1, 3000), "wesad": (3, 1, 1000), "pamap2": (6, 3, 512)}

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Straight(nn.Module):
    """The encoder as one writes it down, holding the weights of ours."""

    def __init__(self, ours: ConvEncoder) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for layer in ours.blocks:
            outputs, inputs, kernel = layer.weight.shape
            conv, norm, prelu = (nn.Conv1d(inputs, outputs, kernel, padding="same"), nn.LayerNorm(outputs, eps=EPS),
                                 nn.PReLU(outputs))
            conv.load_state_dict({"weight": layer.weight, "bias": layer.bias})
            norm.load_state_dict(layer.norm.state_dict())
            prelu.load_state_dict({"weight": layer.slope})
            self.layers.append(nn.ModuleList([conv, norm, prelu]))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) to (B, K)."""
        for conv, norm, prelu in self.layers:
            x = prelu(norm(conv(x).transpose(1, 2)).transpose(1, 2))
        return x.mean(dim=-1)


def step(encoders: list[nn.Module], inputs: list[Tensor]) -> Tensor:
    """Forward of every sensor, and backward of the mean square; the latents (B, M, K)."""
    for encoder in encoders:
        encoder.zero_grad(set_to_none=True)
    latents = torch.stack([encoder(x) for encoder, x in zip(encoders, inputs, strict=True)], dim=1)
    latents.square().mean().backward()
    return latents.detach()


def answer(encoders: list[nn.Module], inputs: list[Tensor]) -> list[Tensor]:
    """The latents of a step, and the gradients of every layer's kernel, bias, gain, shift and slope."""
    found = [step(encoders, inputs).float()]
    for encoder in encoders:
        layers = encoder.layers if isinstance(encoder, Straight) else [(b, b.norm, b) for b in encoder.blocks]
        for conv, norm, prelu in layers:
            slope = prelu.slope if isinstance(prelu, ConvLayer) else prelu.weight
            found += [p.grad.clone() for p in (conv.weight, conv.bias, norm.weight, norm.bias, slope)]
    return found


def check_equal(ours: list[nn.Module], straight: list[nn.Module], inputs: list[Tensor], precision: torch.dtype) -> None:
    """Latents and gradients: within 1e-3 of their norm in float32, else within twice the port's distance from those."""
    def far(a: list[Tensor], b: list[Tensor]) -> list[float]:
        return [((x - y).norm() / y.norm()).item() for x, y in zip(a, b, strict=True)]

    exact = answer(straight, inputs)
    with rounding(precision):
        own, port = far(answer(ours, inputs), exact), far(answer(straight, inputs), exact)
    bounds = [max(1e-3, 2 * error) for error in port]
    if worst := [f"{error:.2g} > {bound:.2g}" for error, bound in zip(own, bounds, strict=True) if not error <= bound]:
        raise SystemExit(f"latents or gradients differ, in parts of their norm: {', '.join(worst)}; nothing to time")


def rounding(precision: torch.dtype) -> torch.autocast:
    """Autocast on the device that there is, if it is to be other than float32."""
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.autocast(kind, precision, enabled=precision != torch.float32)


def convolutions(encoders: list[ConvEncoder], inputs: list[Tensor]) -> Callable[[], None]:
    """The convolutions of a step and nothing else, in the portions that `ConvEncoder` takes."""
    work = []
    for encoder, x in zip(encoders, inputs, strict=True):
        for rows, _ in encoder.portions(x, None):
            state = x[rows].transpose(1, 2).contiguous()
            for layer in encoder.blocks:
                out = layer(state).detach()
                numbers = [z.detach().to(out.dtype) for z in (state, layer.weight, layer.bias)]
                work.append((*numbers, layer.reach, torch.randn_like(out), layer is not encoder.blocks[0]))
                state = out

    @torch.no_grad()
    def act() -> None:
        for state, weight, bias, reach, towards, wants_x in work:
            convolve(F.pad(state, (0, 0, *reach)), weight, bias)
            convolve_back(towards, state, weight, reach, wants_x)

    return act


def check_keras(ours: list[nn.Module], inputs: list[Tensor], keras: Callable[[], tuple[list, list]]) -> None:
    """TensorFlow gives our latents and the gradients of our kernels."""
    latents, gradients = keras()
    for z, own in zip(latents, step(ours, inputs).unbind(1), strict=True):
        torch.testing.assert_close(torch.from_numpy(z), own, rtol=1e-4, atol=1e-5)
    kernels = [layer.weight.grad for encoder in ours for layer in encoder.blocks]
    for found, own in zip(gradients[::5], kernels, strict=True):
        error = ((torch.from_numpy(found).permute(2, 1, 0) - own).norm() / own.norm()).item()
        if not error < 1e-3:
            raise SystemExit(f"TensorFlow's gradients differ by {error:.2g} of their norm: nothing to time")


def made(name: str, batch: int, device: torch.device) -> tuple[list[ConvEncoder], list[Tensor]]:
    """The encoders of a data set's sensors, and a batch for each."""
    sensors, channels, steps = SETS[name]
    series = Series(channels=channels, rate=100, seconds=steps / 100)
    ours = [ConvEncoder(series).to(device) for _ in range(sensors)]
    with torch.no_grad():
        for layer in (layer for encoder in ours for layer in encoder.blocks):
            layer.slope.uniform_(0.1, 0.4)  # a fresh slope is 0, a fresh gain 1: too easy to agree on
            layer.norm.weight.uniform_(0.5, 1.5)
            layer.norm.bias.normal_(std=0.2)
    return ours, [torch.randn(batch, channels, steps, device=device) for _ in range(sensors)]


def measure(name: str, batch: int, args: argparse.Namespace, device: torch.device) -> tuple[list[Ratio], float]:
    """One data set's shape at one batch size, against each peer; and the seconds of our convolutions alone."""
    ours, inputs = made(name, batch, device)
    straight = [Straight(encoder).to(device) for encoder in ours]
    title = (f"{name} {'×'.join(map(str, SETS[name]))}, batch {batch}{', compiled' if args.compile else ''}"
             f"{', bf16' if args.precision == 'bf16' else ''}")
    if args.compile:
        torch.compiler.config.recompile_limit = 64
        for layer in (layer for encoder in ours for layer in encoder.blocks):
            layer.compile(dynamic=False)
    precision = PRECISIONS[args.precision]
    check_equal(ours, straight, inputs, precision)
    with rounding(precision):
        found = [against(f"{title}, straight", lambda: step(ours, inputs), lambda: step(straight, inputs), args.pairs)]
        alone = convolutions(ours, inputs)
        floor = statistics.median(seconds(alone) for _ in range(1 + args.pairs))
    if args.tensorflow:
        from crossl_keras import stepper

        keras = stepper(ours, inputs)
        check_keras(ours, inputs, keras)
        found.append(against(f"{title}, TensorFlow", lambda: step(ours, inputs), keras, args.pairs))
    return found, floor


def main() -> None:
    """Measure and print."""
    parser = options(__doc__)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--batch", nargs="+", type=int, default=[8, 64])
    parser.add_argument("--compile", action="store_true", help="compile ours, as trainer.compile=true does")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of both sides (default: fp32)")
    parser.add_argument("--tensorflow", action="store_true", help="also against TensorFlow, where it is installed")
    args = parser.parse_args()
    if args.tensorflow and args.precision != "fp32":
        parser.error("--tensorflow computes in fp32; leave --precision out")
    if args.threads:
        torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", ".*padding='same'.*")
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    results, floors = [], {}
    for name, batch in product(args.sets, args.batch):
        found, floor = measure(name, batch, args, device)
        results += found
        floors[found[0].name] = floor
        for ratio in found:
            print(ratio.line("port"))
        print(f"  convolutions alone {1e3 * floor:.1f} ms, {floor / found[0].ours:.0%} of ours; the straight port "
              f"takes {found[0].other / floor:.2f} times that", flush=True)
    write(args.out, results, convolutions_alone=floors, compiled=args.compile, precision=args.precision,
          threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
