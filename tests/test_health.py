"""Health of embeddings against NumPy and loops over pairs; the verdict on each kind of collapse, and on none."""

import math

import numpy as np
import pytest
import torch

from mmssl.eval import alignment, collapsed, dimension_std, modality_gap, rankme, spread, uniformity


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rankme_by_hand(x, eps=1e-7):
    """Entropy of the singular values, one term at a time."""
    values = np.linalg.svd(x.double().numpy(), compute_uv=False)
    shares = [v / values.sum() + eps for v in values]
    return math.exp(-sum(p * math.log(p) for p in shares))


@pytest.mark.parametrize("shape", [(50, 8), (8, 50), (30, 30)])
def test_rankme_is_its_formula(shape):
    x = draw(*shape) * torch.linspace(0.01, 3, shape[1])
    assert rankme(x) == pytest.approx(rankme_by_hand(x), rel=1e-9)


def test_rankme_of_known_matrices():
    assert rankme(torch.eye(16)) == pytest.approx(16, rel=1e-4)
    assert rankme(torch.ones(9, 5)) == pytest.approx(1, abs=1e-4)
    assert rankme(torch.diag(torch.tensor([1.0, 1.0, 0.0, 0.0]))) == pytest.approx(2, abs=1e-4)
    assert rankme(torch.zeros(4, 3)) == 0.0
    assert math.isnan(rankme(torch.tensor([[1.0, float("nan")], [0.0, 1.0]])))


def test_rankme_knows_neither_scale_nor_rotation():
    x, q = draw(40, 6), torch.linalg.qr(draw(6, 6, seed=1))[0]
    assert rankme(1000 * x @ q) == pytest.approx(rankme(x), rel=1e-5)


def test_standard_deviation_by_dimension():
    x = draw(30, 4) * torch.tensor([1.0, 2.0, 0.0, 5.0])
    assert np.allclose(dimension_std(x).numpy(), np.std(x.numpy(), axis=0, ddof=1), rtol=1e-5)


def test_spread_is_the_summed_variance_of_unit_rows():
    x = draw(25, 5)
    unit = [row / np.linalg.norm(row) for row in x.double().numpy()]
    mean = sum(unit) / len(unit)
    by_hand = math.sqrt(sum(float((u - mean) @ (u - mean)) for u in unit) / len(unit))
    assert spread(x) == pytest.approx(by_hand, rel=1e-6)
    assert spread(torch.cat([x, -x]) * 7) == pytest.approx(1, rel=1e-6)
    assert spread(torch.ones(6, 3) * torch.arange(1, 7)[:, None]) == pytest.approx(0, abs=1e-6)


def test_alignment_uniformity_and_gap_are_their_loops():
    x, y = draw(30, 5), draw(30, 5, seed=1) + 0.5
    u, v = ([row / np.linalg.norm(row) for row in z.double().numpy()] for z in (x, y))
    distances = [np.linalg.norm(a - b) for a, b in zip(u, v, strict=True)]
    assert alignment(x, y) == pytest.approx(np.mean(np.square(distances)), rel=1e-5)
    assert alignment(x, y, alpha=1.0) == pytest.approx(np.mean(distances), rel=1e-5)
    pairs = [math.exp(-2 * np.sum((u[i] - u[j]) ** 2)) for i in range(30) for j in range(i)]
    for chunk in (4, 30, 1024):
        assert uniformity(x, chunk=chunk) == pytest.approx(math.log(np.mean(pairs)), rel=1e-5)
    assert modality_gap(x, y) == pytest.approx(np.linalg.norm(np.mean(u, axis=0) - np.mean(v, axis=0)), rel=1e-5)
    assert modality_gap(x, x) == 0 and alignment(x, x) == 0
    assert uniformity(torch.ones(5, 3)) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="at least 2 rows"):
        uniformity(x[:1])


def test_a_living_representation_is_not_called_collapsed():
    assert not collapsed(draw(200, 16)).collapsed
    assert not collapsed(draw(200, 16) + 2).collapsed  # a common mean alone is no collapse
    assert not collapsed(torch.eye(10).repeat(20, 1)).collapsed
    assert not collapsed(torch.ones(1, 4)).collapsed


@pytest.mark.parametrize("x, reason, remedy", [
    (torch.ones(50, 8), "point the same way", "temperature"),
    (torch.ones(50, 8) + 1e-3 * draw(50, 8), "point the same way", "variance term"),
    (torch.zeros(50, 8), "point the same way", "batch"),
    (torch.linspace(-1, 1, 50)[:, None] * draw(1, 8) + 1e-4 * draw(50, 8, seed=2), "on one line", "covariance"),
    (torch.full((50, 8), float("nan")), "50 of 50 embeddings hold NaN", "optim.lr"),
])
def test_each_collapse_is_named_with_its_remedy(x, reason, remedy):
    verdict = collapsed(x)
    assert verdict.collapsed and reason in verdict.reason and remedy in verdict.remedy
