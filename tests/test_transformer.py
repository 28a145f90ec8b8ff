"""Trunks and the encoders around them: attention by hand, what pads and dropped tokens may do, T5's biases."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from mmssl.errors import ConfigError
from mmssl.modalities import Series, Text, Video
from mmssl.nn.encoders import TokenEncoder
from mmssl.nn.masking import drop_tokens
from mmssl.nn.t5 import T5, T5Encoder, relative_buckets
from mmssl.nn.transformer import Transformer
from mmssl.rng import Rng


def text(texts=2):
    return Text(vocabulary_size=50, words=6, texts=texts, word_dim=12)


def video(frames=4):
    return Video(frames=frames, size=8, rate=10.0, patch=[2, 4, 4])


def norm_by_hand(x, norm):
    centred = x - x.mean() if isinstance(norm, nn.LayerNorm) else x
    x = centred / ((centred ** 2).mean() + 1e-6).sqrt() * norm.weight
    return x + norm.bias if isinstance(norm, nn.LayerNorm) else x


def block_by_hand(block, x, valid, scale, bias=None):
    """One block on one sample's tokens (N, D): loops over heads, queries and keys."""
    n, d = x.shape
    heads, size = block.attention.heads, d // block.attention.heads
    h = torch.stack([norm_by_hand(row, block.norm1) for row in x])
    q, k, v = (h @ w.T + (b if b is not None else 0)
               for w, b in zip(block.attention.qkv.weight.chunk(3), block.attention.qkv.bias.chunk(3)
                               if block.attention.qkv.bias is not None else (None,) * 3, strict=True))
    mixed = torch.zeros(n, d)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for i in range(n):
            keys = [j for j in range(n) if valid[j]]
            added = torch.zeros(n) if bias is None else bias[head, i]
            logits = torch.stack([q[i, part] @ k[j, part] * scale + added[j] for j in keys])
            mixed[i, part] = sum(p * v[j, part] for p, j in zip(logits.softmax(0), keys, strict=True))
    x = x + block.attention.out(mixed)
    h = block.mlp_in(torch.stack([norm_by_hand(row, block.norm2) for row in x]))
    return x + block.mlp_out(0.5 * h * (1 + torch.erf(h / math.sqrt(2))))


@pytest.mark.parametrize("bias", [True, False])
def test_transformer_by_hand(bias):
    torch.manual_seed(0)
    trunk = Transformer(12, 2, 3, 20, bias=bias)
    for p in trunk.parameters():
        nn.init.normal_(p, std=0.5)
    x, valid = torch.randn(2, 5, 12), torch.tensor([[True] * 5, [True, True, False, True, False]])
    for b in range(2):
        expected = x[b]
        for block in trunk.blocks:
            expected = block_by_hand(block, expected, valid[b], 12 ** -0.5 * 3 ** 0.5)
        expected = torch.stack([norm_by_hand(row, trunk.norm) for row in expected])
        torch.testing.assert_close(trunk(x, valid)[b], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(trunk(x)[0], trunk(x, valid)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layers", ["every", "first"])
def test_t5_by_hand(layers):
    torch.manual_seed(0)
    trunk = T5(12, 2, 3, 20, relative_bias=layers)
    for p in trunk.parameters():
        nn.init.normal_(p, std=0.3)
    x, valid = torch.randn(1, 4, 12), torch.tensor([[True, True, False, True]])
    buckets = relative_buckets(4)
    bias = torch.stack([trunk.bias[:, h][buckets] for h in range(3)])
    expected = x[0]
    for i, block in enumerate(trunk.blocks):  # logits not scaled, no Linear has a bias
        expected = block_by_hand(block, expected, valid[0], 1.0, bias if layers == "every" or i == 0 else None)
    expected = torch.stack([norm_by_hand(row, trunk.norm) for row in expected])
    torch.testing.assert_close(trunk(x, valid)[0], expected, rtol=1e-4, atol=1e-4)
    everything = torch.ones_like(valid)
    torch.testing.assert_close(trunk(x), trunk(x, everything), rtol=1e-4, atol=1e-5)
    assert all(m.bias is None for m in trunk.modules() if isinstance(m, nn.Linear))
    kinds = {name.split(".")[-1]: type(m) for name, m in trunk.named_modules() if "norm" in name}
    assert kinds == {"norm1": nn.RMSNorm, "norm2": nn.LayerNorm, "norm": nn.RMSNorm}


def test_t5_buckets():
    golden = {-16: 10, -14: 10, -11: 9, -8: 8, -1: 1, 0: 0, 1: 17, 7: 23, 8: 24, 11: 25, 14: 26, 16: 26, 64: 31, 90: 31}
    buckets = relative_buckets(100)
    assert {r: int(buckets[20, 20 + r] if r < 64 else buckets[0, r]) for r in golden} == golden


def test_t5_bias_gets_a_gradient_from_every_layer_and_begins_in_its_range():
    trunk = T5(8, 3, 2)
    assert trunk.bias.abs().max() <= 0.05 and trunk.bias.std().item() == pytest.approx(0.1 / 12 ** 0.5, rel=0.3)
    x = torch.randn(2, 5, 8)
    trunk(x)[:, 0].sum().backward()
    every = trunk.bias.grad.clone()
    assert every.abs().sum() > 0
    trunk.bias.grad = None
    for block in trunk.blocks[1:]:
        nn.init.zeros_(block.attention.out.weight)
    trunk(x)[:, 0].sum().backward()
    assert not torch.allclose(every, trunk.bias.grad)


TRUNKS = {"transformer": lambda **k: Transformer(16, 2, 4, **k), "t5": lambda **k: T5(16, 2, 4, **k)}


@pytest.mark.parametrize("kind", TRUNKS)
def test_dropout_is_by_global_row(kind):
    trunk, x, rng = TRUNKS[kind](dropout=0.3), torch.randn(4, 5, 16), Rng((1, "step", 2))
    whole = trunk(x, None, rng)
    torch.testing.assert_close(trunk(x[2:], None, rng.for_rows(torch.tensor([2, 3]))), whole[2:])
    assert not torch.allclose(whole, trunk(x, None, Rng((1, "step", 3)))) and not torch.allclose(whole, trunk(x))


@pytest.mark.parametrize("kind", TRUNKS)
def test_each_dropout_site_draws_for_itself(kind, monkeypatch):
    seen = []
    trunk = TRUNKS[kind](dropout=0.3)
    monkeypatch.setattr("mmssl.nn.transformer.drop", lambda x, rate, seeds: seen.append(seeds.tolist()) or x)
    trunk(torch.randn(3, 5, 16), None, Rng((1,)))
    assert len(seen) == 6 and len({seed for seeds in seen for seed in seeds}) == 18


@pytest.mark.parametrize("kind", TRUNKS)
def test_recomputing_gives_the_same_gradients(kind):
    plain, saving = TRUNKS[kind](dropout=0.2), TRUNKS[kind](dropout=0.2, recompute=True)
    saving.load_state_dict(plain.state_dict())
    x, rng = torch.randn(3, 5, 16), Rng((1,))
    for trunk in (plain, saving):
        trunk(x, None, rng).square().sum().backward()
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def kept_for_backward(trunk, x):
    sizes = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.update({t.data_ptr(): t.numel()}) or t, lambda t: t):
        trunk(x)
    return sum(sizes.values()) - sum(p.numel() for p in trunk.parameters())


def test_recomputing_keeps_less():
    x = torch.randn(4, 50, 16)
    make = TRUNKS["transformer"]
    assert kept_for_backward(make(recompute=True), x) < kept_for_backward(make(), x) / 4


COMPILES = """
import torch
from mmssl.nn import T5, Transformer
from mmssl.rng import Rng
for kind in (Transformer, T5):
    torch._dynamo.reset()
    graphs, trunk, x = [], kind(16, 2, 4, dropout=0.2), torch.randn(3, 5, 16)
    expected = [trunk(x, None, Rng((1, step))) for step in range(3)]
    for block in trunk.blocks:
        block.compile(backend=lambda graph, inputs: graphs.append(graph) or graph.forward, fullgraph=True)
    for step in range(3):
        torch.testing.assert_close(trunk(x, None, Rng((1, step))), expected[step])
    print(len(graphs))
"""


def test_each_block_compiles_to_one_graph_for_all_steps():
    # in a process of its own: the tests' shape checks are no code that a graph could hold
    here = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", COMPILES], capture_output=True, text=True, cwd=here)
    assert done.stdout.split() == ["2", "2"], done.stderr


@pytest.mark.parametrize("kind", TRUNKS)
def test_bfloat16_autocast_stays_close(kind):
    trunk, x = TRUNKS[kind](), torch.randn(2, 5, 16)
    with torch.autocast("cpu", torch.bfloat16):
        low = trunk(x, torch.ones(2, 5, dtype=torch.bool))
    assert (low.float() - trunk(x)).abs().max() < 0.1


@pytest.mark.parametrize("encoder", [
    lambda: T5Encoder(text(), T5(16, 2, 4)), lambda: TokenEncoder(text(), Transformer(16, 2, 4))], ids=["t5", "tokens"])
def test_pads_are_invisible_and_a_text_of_pads_is_finite(encoder):
    encoder = encoder()
    ids = torch.tensor([[[4, 9, 7, 0, 0, 0], [0] * 6]])
    z = encoder(ids)
    assert z.shape == (1, 2, 16) and z.isfinite().all()
    torch.testing.assert_close(z[:, 0], encoder(ids[:, 0]))
    table = next(m for m in encoder.modules() if isinstance(m, nn.Embedding))
    with torch.no_grad():
        table.weight[0] = 100.0
    torch.testing.assert_close(encoder(ids), z)
    assert not torch.allclose(encoder(torch.tensor([[[9, 4, 7, 0, 0, 0], [0] * 6]]))[:, 0], z[:, 0])  # order is known
    encoder(ids).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in encoder.parameters() if p.grad is not None)


def test_t5_encoder_by_hand():
    encoder = T5Encoder(text(), T5(16, 2, 4))
    ids = torch.tensor([[4, 9, 0, 0, 0, 0]])
    rows = torch.stack([encoder.summary, *encoder.table.weight[ids[0]]]) @ encoder.projection.weight.T
    rows = 0.5 * rows * (1 + torch.erf(rows / math.sqrt(2)))
    short = encoder.trunk(rows[None, :3])[:, 0]  # without the pads at all
    torch.testing.assert_close(encoder(ids), short)
    assert encoder.projection.bias is None and encoder.tokens == 7


def test_token_encoder_by_hand_with_ma_projections():
    encoder = TokenEncoder(video(), Transformer(16, 2, 4), pre_projection=True, post_projection=10)
    x = torch.randn(2, 4, 8, 8, 3)
    tokens = nn.functional.gelu(encoder.pre(encoder.tokenizer(x)[0])) + encoder.positions()
    states = encoder.trunk(torch.cat([encoder.summary.expand(2, 1, 16), tokens], 1))
    torch.testing.assert_close(encoder(x), nn.functional.gelu(encoder.post(states[:, 0])))
    assert encoder.dim == 10 and encoder.tokens == 9


def test_kept_tokens_bring_their_own_positions():
    encoder, x, rng = TokenEncoder(video(), Transformer(16, 1, 4), 0.5), torch.randn(2, 4, 8, 8, 3), Rng((1,))
    keep = drop_tokens(8, 0.5, rng)
    whole, _ = encoder.embed_tokens(x)
    some, _ = encoder.embed_tokens(x, rng)
    torch.testing.assert_close(some, whole[:, keep])
    assert encoder.states(x, rng).shape == (2, 5, 16) and encoder.kept_tokens == 5 and encoder.states(x).shape[1] == 9


def test_projecting_all_patches_first_gives_the_same():
    early = TokenEncoder(video(), Transformer(16, 1, 4), 0.5, pre_projection=True)
    late = TokenEncoder(video(), Transformer(16, 1, 4), 0.5, pre_projection=True, project_all=True)
    late.load_state_dict(early.state_dict())
    x, rng = torch.randn(2, 4, 8, 8, 3), Rng((1,))
    torch.testing.assert_close(late(x, rng), early(x, rng))


def test_splitting_a_batch_over_ranks_changes_nothing():
    x, rng = torch.randn(4, 4, 8, 8, 3), Rng((1, "step", 5, "video"))
    encoder = TokenEncoder(video(), Transformer(16, 2, 4, dropout=0.2), 0.5)
    parts = [encoder(x[i:i + 2], rng.for_rows(torch.arange(i, i + 2))) for i in (0, 2)]
    torch.testing.assert_close(torch.cat(parts), encoder(x, rng.for_rows(torch.arange(4))))
    ids = torch.randint(0, 50, (4, 3, 6))
    for kind, trunk in ((T5Encoder, T5), (TokenEncoder, Transformer)):
        encoder = kind(text(3), trunk(16, 2, 4, dropout=0.2))
        parts = [encoder(ids[i:i + 2], rng.for_rows(torch.arange(i, i + 2))) for i in (0, 2)]
        torch.testing.assert_close(torch.cat(parts), encoder(ids, rng.for_rows(torch.arange(4))))
        twice = encoder(ids[:, :1].expand(4, 2, 6), rng)
        assert not torch.allclose(twice[:, 0], twice[:, 1])  # two items of a row draw for themselves


def test_encoders_on_one_trunk_share_it_and_nothing_else():
    trunk = Transformer(16, 2, 4)
    encoders = [TokenEncoder(m, trunk, pre_projection=True, post_projection=16)
                for m in (video(), Series(channels=2, rate=10.0, seconds=2.0, patch=4), text())]
    inputs = [torch.randn(2, 4, 8, 8, 3), torch.randn(2, 2, 20), torch.randint(1, 50, (2, 2, 6))]
    shared, own = {id(p) for p in trunk.parameters()}, []
    for encoder, x in zip(encoders, inputs, strict=True):
        encoder.zero_grad(set_to_none=True)
        encoder(x).square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trunk.parameters() if p.ndim == 2)
        ids = {id(p) for p in encoder.parameters()}
        assert shared < ids
        own.append(ids - shared)
    assert not own[0] & own[1] and not own[0] & own[2] and not own[1] & own[2]
    assert encoders[2].pre is None  # words have been through Dense and GELU already


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="heads"):
        Transformer(10, 1, 4)
    with pytest.raises(ConfigError, match="not a rate"):
        T5(8, 1, 2, dropout=1.0)
    with pytest.raises(ConfigError, match="keep_rate"):
        TokenEncoder(video(), Transformer(16, 1, 4), keep_rate=0.1)
