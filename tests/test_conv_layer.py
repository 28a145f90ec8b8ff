"""The lean layer of a CPU gives values and gradients of the plain operations; portions of a batch change nothing."""

import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from mmssl.nn import ConvEncoder, conv, conv_layer
from mmssl.nn.conv_layer import EPS, ConvLayer
from mmssl.rng import Rng


def plain(layer, x):
    """Convolution, LayerNorm and PReLU, each by PyTorch's own operation and its own backward pass."""
    y = F.conv1d(F.pad(x.transpose(1, 2), layer.reach), layer.weight, layer.bias).transpose(1, 2)
    h = F.layer_norm(y, y.shape[-1:], layer.norm.weight, layer.norm.bias, EPS)
    return torch.where(h > 0, h, h * layer.slope)


@pytest.mark.parametrize(("inputs", "kernel", "steps"),
                         [(24, 16, 20), (24, 16, 21), (24, 7, 20), (48, 8, 12), (3, 24, 30)])
def test_values_and_gradients_are_those_of_the_plain_operations(inputs, kernel, steps):
    torch.manual_seed(0)
    layer = ConvLayer(inputs, 16, kernel).double()
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=0.3)
    x = torch.randn(3, steps, inputs, dtype=torch.float64, requires_grad=True)
    towards = torch.randn(3, steps, 16, dtype=torch.float64)
    for arithmetic in (conv_layer.EAGER, conv_layer.IN_ONE):  # the second is what gets compiled
        layer.arithmetic = arithmetic
        found = layer(x)
        want = plain(layer, x)
        assert torch.allclose(found, want, atol=1e-12)
        tensors = [x, *layer.parameters()]
        for a, b in zip(torch.autograd.grad(found, tensors, towards), torch.autograd.grad(want, tensors, towards),
                        strict=True):
            assert torch.allclose(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("arithmetic", [conv_layer.EAGER, conv_layer.IN_ONE], ids=["eager", "in_one"])
def test_under_bfloat16_it_keeps_to_the_rounding_of_the_plain_operations(arithmetic):
    torch.manual_seed(1)
    layer = ConvLayer(24, 16, 16)
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=0.3)
    layer.arithmetic = arithmetic
    x, towards = torch.randn(6, 48, 24, requires_grad=True), torch.randn(6, 48, 16)
    tensors = [x, *layer.parameters()]

    def answer(act):
        out = act(x)
        return [out, *torch.autograd.grad(out, tensors, towards.to(out.dtype))]

    exact = answer(lambda x: plain(layer, x))
    with torch.autocast("cpu", torch.bfloat16):
        found, rounded = answer(layer), answer(lambda x: plain(layer, x))
        assert "LeanLayer" in layer(x).grad_fn.name()
    assert [z.dtype for z in found] == [torch.bfloat16] + 6 * [torch.float32]
    for a, b, c in zip(found, rounded, exact, strict=True):
        assert (b - c).norm() < 0.04 * c.norm()  # what rounding to 8 bits does to PyTorch's own
        assert (a - c).norm() < 0.04 * c.norm()


@pytest.mark.parametrize(("autocast", "kind", "lean"), [
    (None, torch.float32, torch.float32), (None, torch.float64, torch.float64), (None, torch.bfloat16, None),
    (torch.bfloat16, torch.float32, torch.bfloat16), (torch.bfloat16, torch.bfloat16, torch.bfloat16),
    (torch.bfloat16, torch.float64, None), (torch.float16, torch.float32, None)])
def test_where_the_lean_layer_is_used(autocast, kind, lean):
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        assert conv_layer.lean_type(torch.zeros(1, dtype=kind)) == lean
        with torch.no_grad():
            assert conv_layer.lean_type(torch.zeros(1, dtype=kind)) is None


TRACED = """
import torch
from torch._dynamo.testing import CompileCounter
counter, compiler = CompileCounter(), torch.compile
torch.compile = lambda f, options: compiler(f, backend=counter)
torch.compiler.config.recompile_limit = 64
from mmssl.nn.conv_layer import EAGER, ConvLayer, compiled
for steps, width in [(40, 8), (40, 16), (36, 16)]:
    for batch in (4, 2, 7, 1):
        layer, x = ConvLayer(3, width, 4), torch.randn(batch, steps, 3)
        torch.nn.init.normal_(layer.weight)
        found = []
        for layer.arithmetic in (EAGER, compiled()):
            layer.zero_grad()
            layer(x).square().sum().backward()
            found.append(torch.cat([p.grad.flatten() for p in layer.parameters()]))
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)
    print(counter.frame_count)
"""


def test_what_follows_the_convolution_is_compiled_once_for_a_width_and_a_length_whatever_the_batch():
    # in a process of its own: the tests' shape checks are no code that a graph could hold
    done = subprocess.run([sys.executable, "-c", TRACED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2", "4", "6"]  # there and back


def test_a_batch_in_portions_is_the_batch(monkeypatch):
    torch.manual_seed(0)
    modality = type("Series", (), {"shape": (3, 40)})()
    encoder = ConvEncoder(modality, width=16, pool="mean_std", dropout=0.2).double()
    x, rng = torch.randn(7, 3, 40, dtype=torch.float64), Rng((0, "step")).for_rows(torch.arange(10, 17))
    results = []
    for portion in (1 << 30, 2 * 16 * 40 * 8):
        monkeypatch.setattr(conv, "PORTION", portion)
        encoder.zero_grad()
        z = encoder(x, rng)
        z.square().sum().backward()
        results.append([z.detach(), *(p.grad.clone() for p in encoder.parameters())])
    assert len(list(encoder.portions(x, rng))) == 4
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(*results, strict=True))
