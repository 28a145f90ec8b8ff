"""CroSSL's encoder and aggregators: the released layers, sizes, and what a missing sensor does."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmssl.errors import ConfigError
from mmssl.nn.aggregators import AttentionAggregator, ConcatAggregator, MeanAggregator, MLPAggregator
from mmssl.nn.conv import ConvEncoder, l2_penalty
from mmssl.registry import AGGREGATORS
from mmssl.rng import Rng


def series(channels, steps=50):
    return SimpleNamespace(shape=(channels, steps))


def straight(encoder, x):
    """The same layers as one writes them down: Conv1d "same", transposes around LayerNorm, PReLU."""
    for layer in encoder.blocks:
        conv = nn.Conv1d(*layer.weight.shape[1::-1], layer.weight.shape[2], padding="same")
        prelu = nn.PReLU(len(layer.slope))
        conv.weight, conv.bias, prelu.weight = layer.weight, layer.bias, layer.slope
        x = prelu(layer.norm(conv(x).transpose(1, 2)).transpose(1, 2))
    return x


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    encoder = ConvEncoder(series(3), width=16)
    for p in encoder.parameters():
        nn.init.normal_(p, std=0.3)
    return encoder


@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_outputs_and_gradients_equal_those_of_conv1d(encoder):
    x = torch.randn(4, 3, 50)
    weights = list(encoder.parameters())
    found, expected = encoder(x), straight(encoder, x).mean(-1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    towards = torch.randn_like(found)
    for a, b in zip(torch.autograd.grad((found * towards).sum(), weights),
                    torch.autograd.grad((expected * towards).sum(), weights), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_mean_std_adds_the_spread_over_time(encoder):
    both = ConvEncoder(series(3), width=16, pool="mean_std")
    both.load_state_dict(encoder.state_dict())
    x = torch.randn(4, 3, 50)
    states = straight(encoder, x)
    expected = torch.cat([states.mean(-1), (states.var(-1, unbiased=False) + 1e-6).sqrt()], 1)
    torch.testing.assert_close(both(x), expected, rtol=1e-4, atol=1e-5)
    assert both.dim == 32 and encoder.dim == 16
    still = both(torch.zeros(2, 3, 50))
    still.sum().backward()
    assert all(p.grad.isfinite().all() for p in both.parameters())


@pytest.mark.parametrize(("channels", "count"), [(1, 56_544), (3, 57_696)])
def test_published_counts_and_init(channels, count):
    torch.manual_seed(0)
    encoder = ConvEncoder(series(channels))
    assert sum(p.numel() for p in encoder.parameters()) == count
    kernels = torch.cat([b.weight.flatten() for b in encoder.blocks])
    assert kernels.std().item() == pytest.approx(0.05, rel=0.02)
    assert all((b.bias == 0).all() and (b.slope == 0).all() and b.norm.eps == 1e-3 for b in encoder.blocks)


def test_the_layout_stays_channels_last(encoder):
    x = torch.randn(2, 50, 3)
    for block in encoder.blocks:
        x = block(x)
        assert x.is_contiguous()


def test_dropout_is_by_row_and_off_without_rng():
    encoder = ConvEncoder(series(2), width=8, dropout=0.5)
    x, rng = torch.randn(4, 2, 50), Rng((1,))
    whole = encoder(x, rng)
    assert not torch.allclose(whole, encoder(x))
    torch.testing.assert_close(encoder(x[2:], rng.for_rows(torch.tensor([2, 3]))), whole[2:])


def test_l2_takes_kernels_only(encoder):
    expected = sum(float((b.weight.detach() ** 2).sum()) for b in encoder.blocks)
    both = nn.ModuleDict({"a": encoder, "other": nn.Linear(3, 3)})
    assert l2_penalty(both).item() == pytest.approx(expected, rel=1e-6)
    l2_penalty(both).backward()
    assert encoder.blocks[0].norm.weight.grad is None and encoder.blocks[0].bias.grad is None
    torch.testing.assert_close(encoder.blocks[0].weight.grad, 2 * encoder.blocks[0].weight.detach())


def test_samples_and_widths_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="series"):
        ConvEncoder(SimpleNamespace(shape=(8, 8, 3)))
    with pytest.raises(ConfigError, match="multiple of 4"):
        ConvEncoder(series(1), width=18)


@pytest.mark.parametrize(("modalities", "count"), [(3, 21_696), (4, 27_840), (6, 40_128), (7, 46_272)])
def test_mlp_aggregator_has_the_published_counts(modalities, count):
    aggregator = MLPAggregator(modalities, 96)
    assert sum(p.numel() for p in aggregator.parameters()) == count and aggregator.dim == 32


def test_mlp_aggregator_by_hand():
    aggregator = MLPAggregator(2, 3, [5, 4], 6)
    q, seen = torch.randn(2, 2, 3), torch.tensor([[True, True], [True, False]])
    for b in range(2):
        x = torch.cat([q[b, m] if seen[b, m] else torch.zeros(3) for m in range(2)])
        for i, layer in enumerate(aggregator.layers):
            x = layer.weight @ x + layer.bias
            x = x.clamp(min=0) if i < 2 else x
        x = (x - x.mean()) / (x.var(unbiased=False) + 1e-3).sqrt()
        torch.testing.assert_close(aggregator(q, seen)[b], x, rtol=1e-4, atol=1e-5)


def test_mean_and_concat_by_hand():
    q, seen = torch.randn(2, 3, 4), torch.tensor([[True, False, True], [False] * 3])
    mean = MeanAggregator(4)
    torch.testing.assert_close(mean(q, seen)[0], mean.projection((q[:1, 0] + q[:1, 2]) / 2)[0])
    torch.testing.assert_close(mean(q, seen)[1], mean.projection(torch.zeros(1, 4))[0])
    assert torch.equal(ConcatAggregator(3, 4)(q, seen)[0], torch.cat([q[0, 0], torch.zeros(4), q[0, 2]]))


def test_attention_by_hand():
    aggregator = AttentionAggregator(3, 4, heads=2)
    q, seen = torch.randn(1, 3, 4), torch.tensor([[True, False, True]])
    x = aggregator.norm(q[0] * seen[0][:, None] + aggregator.names)
    key, value = aggregator.key(x), aggregator.value(x)
    pooled = []
    for h in range(2):
        part = slice(2 * h, 2 * h + 2)
        scores = [0.0] + [(key[m, part] @ aggregator.query[h]).item() / 2 ** 0.5 for m in (0, 2)]
        share = torch.tensor(scores).softmax(0)
        pooled.append(share[1] * value[0, part] + share[2] * value[2, part])
    expected = aggregator.projection(torch.cat(pooled)[None])
    torch.testing.assert_close(aggregator(q, seen), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", AGGREGATORS.names())
def test_every_aggregator_ignores_what_is_not_seen_and_is_finite_on_nothing(name):
    aggregator = AGGREGATORS.build(name, modalities=3, width=8)
    q, seen = torch.randn(4, 3, 8), torch.tensor([[True, True, False], [False, True, False], [False] * 3, [True] * 3])
    q.requires_grad_()
    out = aggregator(q, seen)
    assert out.shape == (4, aggregator.dim) and out.isfinite().all()
    assert torch.equal(out, aggregator(torch.where(seen[..., None], q, torch.nan), seen))
    (out * torch.randn_like(out)).sum().backward()
    assert (q.grad.abs().sum(-1) > 0).equal(seen)
    assert all(p.grad.isfinite().all() for p in aggregator.parameters())
    assert not F.mse_loss(out[0], out[3]) < 1e-6
