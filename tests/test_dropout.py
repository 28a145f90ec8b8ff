"""Dropout by counter: the right share, no pattern, the same whoever holds the row."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmssl.errors import ConfigError
from mmssl.nn.dropout import check_rate, drop, drop_at, row_seeds, scramble, split_words
from mmssl.rng import Rng

WORD = (1 << 64) - 1


def splitmix_by_hand(state):
    """SplitMix64's output function with Python's unbounded integers."""
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & WORD
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB & WORD
    return state ^ (state >> 31)


def test_scramble_is_splitmix64():
    states = [0, 1, 2, 12345, 0x9E3779B97F4A7C15, 1 << 63, WORD, 0xDEADBEEFCAFEF00D]
    found = scramble(torch.tensor([s - (1 << 64) if s >> 63 else s for s in states]))
    assert [int(x) & WORD for x in found] == [splitmix_by_hand(s) for s in states]
    # its first output for seed 0, as other implementations publish it
    assert splitmix_by_hand(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_share_and_scale(rate):
    y = drop_at(torch.ones(20, 50, 101), rate, Rng((1,)), "here")
    n, share = y.numel(), (y == 0).float().mean().item()
    assert abs(share - rate) < 4 * (rate * (1 - rate) / n) ** 0.5
    assert y[y != 0].unique().numel() == 1
    assert y.max().item() == pytest.approx(1 / (1 - rate), rel=1e-4)


def test_every_place_of_a_row_is_dropped_equally_often():
    kept = drop_at(torch.ones(20_000, 16), 0.3, Rng((5,)), "here") != 0
    assert (kept.float().mean(0) - 0.7).abs().max() < 5 * (0.21 / 20_000) ** 0.5
    pairs = torch.corrcoef(kept.float().T) - torch.eye(16)
    assert pairs.abs().max() < 5 / 20_000 ** 0.5


def test_words_split_alike_when_compiled(monkeypatch):
    words = scramble(torch.arange(12).view(2, 6))
    eager = split_words(words)
    expected = [(int(w) & WORD) >> (16 * lane) & 0xFFFF for w in words[1] for lane in range(4)]
    assert [int(x) & 0xFFFF for x in eager[1]] == expected
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.equal(split_words(words), eager.long())


COMPILED = """
import torch
from mmssl.nn.dropout import drop, row_seeds
from mmssl.rng import Rng
x = torch.ones(3, 5, 33, requires_grad=True)
for step in range(2):
    seeds = row_seeds(Rng((step,)), 3, 1, x.device)[0]
    y = torch.compile(drop, dynamic=False)(x, 0.2, seeds)
    assert torch.equal(y, drop(x, 0.2, seeds))
y.sum().backward()
assert torch.equal(x.grad != 0, y != 0)
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_compiled_dropout_drops_the_same_and_ends_well():
    # a process of its own, so that a heap it spoils shows in its exit code
    here = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, cwd=here)
    assert done.returncode == 0, done.stderr


def agreement(a, b):
    return ((a == 0) == (b == 0)).float().mean().item()


def test_rows_sites_places_and_steps_are_independent():
    x = torch.ones(2, 40_000)
    y = drop_at(x, 0.5, Rng((1, "step", 7)), "a")
    others = [drop_at(x, 0.5, Rng((1, "step", 8)), "a"), drop_at(x, 0.5, Rng((1, "step", 7)), "b"),
              drop_at(x, 0.5, Rng((1, "step", 7)).for_rows(torch.tensor([2, 3])), "a"), y.flip(0)]
    seeds = row_seeds(Rng((1,)), 2, 2, x.device)
    others.append(drop(x, 0.5, seeds[0]))
    assert agreement(others[-1], drop(x, 0.5, seeds[1])) == pytest.approx(0.5, abs=0.015)
    for other in others:
        assert agreement(y, other) == pytest.approx(0.5, abs=0.015)


def test_a_row_is_dropped_alike_on_any_device_and_in_any_batch():
    x, rng = torch.randn(6, 5, 7), Rng((3, "x"))
    whole = drop_at(x, 0.4, rng, "p")
    halves = [drop_at(x[i:i + 2], 0.4, rng.for_rows(torch.arange(i, i + 2)), "p") for i in (0, 2, 4)]
    assert torch.equal(torch.cat(halves), whole)
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    assert torch.equal(drop_at(x[order], 0.4, rng.for_rows(order), "p"), whole[order])


def test_the_gradient_passes_where_the_value_did():
    x = torch.randn(3, 9, dtype=torch.float64, requires_grad=True)
    seeds = row_seeds(Rng((2,)), 3, 1, x.device)[0]
    assert torch.autograd.gradcheck(lambda x: drop(x, 0.5, seeds), (x,))
    y = drop(x, 0.5, seeds)
    y.sum().backward()
    assert torch.equal(x.grad != 0, y != 0)


def test_nothing_is_dropped_without_rng_or_rate_and_bad_rates_are_refused():
    x = torch.randn(2, 3)
    assert drop_at(x[:0], 0.5, Rng(), "p").shape == (0, 3)
    assert drop_at(x, 0.5, None, "p") is x and drop_at(x, 0.0, Rng(), "p") is x
    for rate in (-0.1, 1.0):
        with pytest.raises(ConfigError, match="not a rate"):
            check_rate(rate)
    with pytest.raises(ValueError, match="for_rows"):
        drop_at(x, 0.5, Rng((1,), torch.arange(3)), "p")


def test_bfloat16_drops_the_same_elements():
    x, rng = torch.ones(4, 33), Rng((9,))
    low = drop_at(x.bfloat16(), 0.25, rng, "p")
    assert low.dtype == torch.bfloat16
    assert torch.equal(low == 0, drop_at(x, 0.25, rng, "p") == 0)
