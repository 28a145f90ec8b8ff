"""Step time of CroSSL's encoders against a straight port, at the shapes of three data sets.

    python benchmarks/crossl_step.py --batch 8 64 --threads 2 --out crossl_step.json
    python benchmarks/crossl_step.py --sets wesad --compile
    python benchmarks/crossl_step.py --tensorflow     # beside the library of the released code: crossl_keras.py

A step is forward and backward of all sensors' encoders of the published form. The straight port is what one writes down
first: Conv1d over (B, C, T) with padding="same", transposes around LayerNorm, PReLU. It gets our weights, and must give
our latents and gradients before anything is timed. Both sides run by turns in one process. What a step's convolutions
take alone, forward and backward, is timed after them: no layout or fusion of the rest makes a step shorter than that.
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
from mmssl.nn.conv_layer import EPS, convolve, convolve_back

#: Sensors, channels of each, steps.
SETS = {"sleep_edf": (4, 1, 3000), "wesad": (3, 1, 1000), "pamap2": (6, 3, 512)}


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


def check_equal(ours: list[nn.Module], straight: list[nn.Module], inputs: list[Tensor]) -> None:
    """The same latents, and gradients that differ by less than 1e-4 of their norm."""
    a, b = step(ours, inputs), step(straight, inputs)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    for own, port in zip(ours, straight, strict=True):
        for layer, (conv, norm, prelu) in zip(own.blocks, port.layers, strict=True):
            for p, q in ((layer.weight, conv.weight), (layer.bias, conv.bias), (layer.norm.weight, norm.weight),
                         (layer.norm.bias, norm.bias), (layer.slope, prelu.weight)):
                error = ((p.grad - q.grad).norm() / q.grad.norm()).item()
                if not error < 1e-3:
                    raise SystemExit(f"gradients differ by {error:.2g} of their norm: nothing to time")


def convolutions(encoders: list[ConvEncoder], inputs: list[Tensor]) -> Callable[[], None]:
    """The convolutions of a step and nothing else, in the portions that `ConvEncoder` takes."""
    work = []
    for encoder, x in zip(encoders, inputs, strict=True):
        for rows, _ in encoder.portions(x, None):
            state = x[rows].transpose(1, 2).contiguous()
            for layer in encoder.blocks:
                out = layer(state).detach()
                work.append((layer, state, torch.randn_like(out), layer is not encoder.blocks[0]))
                state = out

    @torch.no_grad()
    def act() -> None:
        for layer, state, towards, wants_x in work:
            convolve(F.pad(state, (0, 0, *layer.reach)), layer.weight, layer.bias)
            convolve_back(towards, state, layer.weight, layer.reach, wants_x)

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
    title = f"{name} {'×'.join(map(str, SETS[name]))}, batch {batch}{', compiled' if args.compile else ''}"
    if args.compile:
        torch.compiler.config.recompile_limit = 64
        for layer in (layer for encoder in ours for layer in encoder.blocks):
            layer.compile(dynamic=False)
    check_equal(ours, straight, inputs)
    found = [against(f"{title}, straight", lambda: step(ours, inputs), lambda: step(straight, inputs), args.pairs)]
    if args.tensorflow:
        from crossl_keras import stepper

        keras = stepper(ours, inputs)
        check_keras(ours, inputs, keras)
        found.append(against(f"{title}, TensorFlow", lambda: step(ours, inputs), keras, args.pairs))
    alone = convolutions(ours, inputs)
    return found, statistics.median(seconds(alone) for _ in range(1 + args.pairs))


def main() -> None:
    """Measure and print."""
    parser = options(__doc__)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--batch", nargs="+", type=int, default=[8, 64])
    parser.add_argument("--compile", action="store_true", help="compile ours, as trainer.compile=true does")
    parser.add_argument("--tensorflow", action="store_true", help="also against TensorFlow, where it is installed")
    args = parser.parse_args()
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
    write(args.out, results, convolutions_alone=floors, compiled=args.compile, threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
