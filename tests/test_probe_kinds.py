"""Every kind of probe against scikit-learn or a brute-force loop; several labels, several views, sets on a disk."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from mmssl.errors import ConfigError
from mmssl.eval import KNN, SVM, Labelled, Linear, LowRank, Ridge, Rows, nearest, run_probe
from mmssl.eval import rows as rows_module
from mmssl.eval import solver as solver_module
from mmssl.eval.rows import moments, rows_of
from mmssl.registry import PROBES
from mmssl.rng import Rng


def blobs(rows=300, width=12, classes=4, noise=2.0, seed=0):
    """Gaussian clusters that overlap, of unlike scales."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, width))
    y = rng.integers(0, classes, rows)
    x = (centres[y] + noise * rng.normal(size=(rows, width))) * np.geomspace(0.1, 30, width) + 3
    return Labelled(x.astype(np.float32), y)


def several(rows=300, seed=0):
    """The same with three labels that come together in any number; a fourth is never there in training."""
    part = blobs(rows, seed=seed)
    y = np.stack([part.y % 2 == 0, part.y > 1, part.x[:, 11] > 20, np.zeros(rows, bool)], axis=1).astype(int)
    y[0, 3] = int(seed > 0)
    return Labelled(part.x, y)


def scaled(train, test):
    scaler = StandardScaler().fit(train.x.astype(np.float64))
    return scaler.transform(train.x.astype(np.float64)), scaler.transform(test.x.astype(np.float64))


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("c", [1e-3, 1.0])
def test_linear_kinds_reach_scikit_learns_minimum(classes, c):
    train, test = blobs(classes=classes), blobs(120, classes=classes, seed=1)
    a, b = scaled(train, test)
    logistic = LogisticRegression(C=c, tol=1e-8, max_iter=5000).fit(a, train.y)
    found = Linear([c]).fit(train, classes, Rng()).output(test.x)
    assert np.abs(found - logistic.predict_proba(b)).max() < 2e-3
    margin = LinearSVC(C=c, tol=1e-8, max_iter=100_000, dual=False).fit(a, train.y).decision_function(b)
    found = SVM([c]).fit(train, classes, Rng()).output(test.x)
    assert np.abs((found[:, 1] if classes == 2 else found) - margin).max() < 5e-3 * np.abs(margin).max()
    ridge = RidgeClassifier(alpha=1 / c).fit(a, train.y).decision_function(b)
    found = Ridge([c]).fit(train, classes, Rng()).output(test.x)
    assert np.abs((found[:, 1] if classes == 2 else found) - ridge).max() < 1e-5


def test_several_labels_are_scikit_learns_one_against_the_rest():
    train, test = several(), several(120, seed=1)
    a, b = scaled(train, test)
    model = OneVsRestClassifier(LogisticRegression(C=0.1, tol=1e-8, max_iter=5000)).fit(a, train.y[:, :3])
    found = Linear([0.1]).fit(train, 4, Rng()).output(test.x)
    assert np.abs(found[:, :3] - model.predict_proba(b)).max() < 2e-3 and (found[:, 3] < 0.1).all()
    for probe in (Linear(), SVM(), Ridge(), LowRank(steps=300)):
        result = run_probe(probe, train, test)
        assert result.score.kind == "multi_label" and result.score.left_out["map"] == 0
        for c in range(3):
            assert result.score.per_class[c]["map"] > test.y[:, c].mean() + 0.1, (type(probe), c)


def test_neighbours_with_several_labels_give_the_share_that_has_each():
    train, test = several(60), several(9, seed=1)
    found = KNN(5).fit(train, 4, Rng()).output(test.x)
    unit = train.x / np.linalg.norm(train.x, axis=1, keepdims=True)
    for i, query in enumerate(test.x):
        near = np.argsort(-(unit @ query))[:5]
        first = [next((5 - place for place, j in enumerate(near) if train.y[j, c]), 0) for c in range(4)]
        assert found[i] == pytest.approx(train.y[near].mean(axis=0) + np.array(first) / 5 * 0.5 / 5, abs=1e-6)


@pytest.mark.parametrize("kind", [Linear, SVM, Ridge])
def test_a_set_on_the_disk_gives_the_same_and_is_never_held_whole(kind, tmp_path, monkeypatch):
    train, test = blobs(3000, 16), blobs(200, 16, seed=1)
    whole = kind().fit(train, 4, Rng()).output(test.x)
    disk = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, train.x.shape)
    disk[:] = train.x
    disk = np.load(tmp_path / "x.npy", mmap_mode="r")
    monkeypatch.setattr(rows_module, "BLOCK", 64 * 16 * 4)
    monkeypatch.setattr(solver_module, "KEEP", 0)
    sizes, block = [], Rows.block
    monkeypatch.setattr(Rows, "block", lambda self, *span: sizes.append(len(out := block(self, *span))) or out)
    probe = kind()
    fitted = probe.fit(Labelled(disk, train.y), 4, Rng())
    assert np.abs(fitted.output(test.x) - whole).max() < 1e-3 * max(1, np.abs(whole).max())
    assert max(sizes) == 64  # of 3,000
    part = Labelled(disk, train.y).take(np.arange(0, 3000, 2))
    assert isinstance(part.x, Rows) and part.x.parts[0] is disk  # pointed to, not copied


def test_half_precision_sets_stand_side_by_side():
    x = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float16)
    rows = Rows([x, x[:, :3]], np.array([4, 2, 2, 49]))
    assert rows.shape == (4, 10) and rows.block(1, 4).dtype == np.float32
    assert np.array_equal(rows.block(0, 4), np.concatenate([x, x[:, :3]], 1)[[4, 2, 2, 49]].astype(np.float32))
    assert np.array_equal(rows.take(np.array([False, True, False, True])).block(0, 2)[:, 0], x[[2, 49], 0])


def test_moments_are_those_of_the_whole(monkeypatch):
    x = np.random.default_rng(0).normal(size=(500, 5)) * [1, 1e-3, 1e3, 0, 1] + [0, 1, 1e5, 7, 0]
    monkeypatch.setattr(rows_module, "BLOCK", 4 * 5 * 37)
    mean, std = moments(rows_of(x))
    seen = x.astype(np.float32).astype(np.float64)
    assert np.allclose(mean, seen.mean(axis=0)) and np.allclose(std[[0, 1, 2, 4]], seen.std(axis=0)[[0, 1, 2, 4]])
    assert std[3] == np.inf


def test_views_of_a_sample_stay_together_and_their_scores_are_averaged():
    rng = np.random.default_rng(0)
    one, test = blobs(200), blobs(80, seed=1)
    x = np.repeat(one.x, 3, axis=0) + rng.normal(size=(600, 12)).astype(np.float32)
    train = Labelled(x, one.y)
    assert train.views == 3 and np.array_equal(train.targets, np.repeat(one.y, 3))
    assert np.array_equal(train.take(np.array([5, 1])).x, x[[15, 16, 17, 3, 4, 5]])
    fitted = Linear([0.1]).fit(train, 4, Rng())
    flat = LogisticRegression(C=0.1, tol=1e-8, max_iter=5000).fit(StandardScaler().fit_transform(x.astype(float)),
                                                                    np.repeat(one.y, 3))
    many = np.repeat(test.x, 4, axis=0) + rng.normal(size=(320, 12)).astype(np.float32)
    by_hand = flat.predict_proba(StandardScaler().fit(x.astype(float)).transform(many)).reshape(80, 4, 4).mean(axis=1)
    assert np.abs(fitted.output(many, 4) - by_hand).max() < 2e-3
    assert run_probe(Linear([0.1]), train, Labelled(many, test.y)).test_rows == 80


def test_neighbours_vote_by_their_weight():
    train = Labelled(np.array([[1, 0.0], [1, 1], [0, 1], [-1, 0.2]]), np.array([0, 1, 1, 2]))
    query = np.array([[1.0, 0.2]])
    unit = train.x / np.linalg.norm(train.x, axis=1, keepdims=True)
    cosine = unit @ (query / np.linalg.norm(query))[0]
    weight = np.exp(cosine / 0.2) * (cosine >= np.sort(cosine)[1])  # the three nearest
    weight /= weight.sum()
    found = KNN(3, temperature=0.2).fit(train, 3, Rng()).output(query)[0]
    by_hand = np.array([weight[0], weight[1] + weight[2], 0]) + np.array([3, 2, 0]) / 3 * 0.5 / 3
    assert found == pytest.approx(by_hand, abs=1e-6)


@pytest.mark.parametrize("count", [1280, 3000])
def test_nearest_rows_of_large_blocks_with_many_ties_are_those_of_a_full_sort(count):
    """Blocks so large that a bar from the largest of groups picks the first candidates; most rows stand there often."""
    rng = torch.Generator().manual_seed(3)
    kinds = torch.nn.functional.normalize(torch.randn(300, 16, generator=rng), dim=1)
    gallery = kinds[torch.randint(300, (count,), generator=rng)]
    queries = torch.cat([kinds[:20], torch.nn.functional.normalize(torch.randn(20, 16, generator=rng), dim=1)])
    cosines = (queries.double() @ gallery.double().T).numpy()
    index = nearest(queries, gallery, 20, 640)[1].numpy()  # blocks of 2,560 columns at most
    for row, found in zip(cosines, index, strict=True):
        assert found.tolist() == sorted(range(count), key=lambda i: (-round(row[i] / 1e-6), i))[:20]


@pytest.mark.parametrize("chunk", [2, 1024])
def test_nearest_rows_are_those_of_a_full_sort(chunk):
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(90, 6, generator=generator, dtype=torch.float64), dim=1)
    gallery, queries = rows[:60].clone(), rows[60:]
    gallery[20:40] = gallery[5]  # twenty-one rows tie: the first of them count
    scores, index = nearest(queries, gallery, 10, chunk)
    for q in range(30):
        cosine = [round(float(queries[q] @ g), 9) for g in gallery]
        expected = sorted(range(60), key=lambda j: (-cosine[j], j))[:10]
        assert index[q].tolist() == expected and scores[q].tolist() == pytest.approx([cosine[j] for j in expected])


def low_rank_by_hand(train, probe, classes):
    """The released code's form, its gradients written out, with Adam's formula; the same draws."""
    x = (train.x - train.x.mean(0)) / train.x.std(0)
    start = probe._start(x.shape[1], classes, Rng())
    p = {k: v.detach().double().numpy().copy() for k, v in start.items()}
    moment, square = ({k: np.zeros_like(v) for k, v in p.items()} for _ in range(2))
    draw = Rng().at("keep").torch()
    for t, rows in enumerate(probe._batches(len(x), Rng()), 1):
        b, n = x[rows].astype(np.float64), len(rows)
        keep = (torch.rand(n, probe.rank, generator=draw) < probe.keep_rate).numpy() / probe.keep_rate
        h = (b @ p["u"] + p["bias_u"]) * keep
        z = h @ p["v"] + p["bias_v"]
        dz = np.exp(z - z.max(1, keepdims=True))
        dz = (dz / dz.sum(1, keepdims=True) - np.eye(classes)[train.y[rows]]) / n
        dh = dz @ p["v"].T * keep
        slope = {"u": b.T @ dh, "bias_u": dh.sum(0), "v": h.T @ dz + 2 * probe.l2 * p["v"], "bias_v": dz.sum(0)}
        for k, g in slope.items():
            moment[k], square[k] = 0.9 * moment[k] + 0.1 * g, 0.999 * square[k] + 0.001 * g * g
            p[k] -= probe.lr * (moment[k] / (1 - 0.9**t)) / (np.sqrt(square[k] / (1 - 0.999**t)) + 1e-8)
    z = x @ p["u"] @ p["v"] + p["bias_u"] @ p["v"] + p["bias_v"]
    return np.exp(z) / np.exp(z).sum(1, keepdims=True)


def test_the_low_rank_classifier_takes_the_steps_of_its_formula():
    train = blobs(40, 5, 3)
    probe = LowRank(rank=16, steps=30, batch=8, keep_rate=0.3, lr=1e-2)
    assert np.abs(probe.fit(train, 3, Rng()).output(train.x) - low_rank_by_hand(train, probe, 3)).max() < 1e-4
    epochs = list(LowRank(epochs=2, batch=16)._batches(40, Rng()))
    assert [len(rows) for rows in epochs] == [16, 16, 8] * 2 and sorted(np.concatenate(epochs[:3])) == list(range(40))


def test_the_papers_form_touches_a_tenth_of_the_components_in_a_step():
    train = blobs(40, 5, 3)
    probe = LowRank("paper", rank=20, steps=1, batch=8)
    start = probe._start(5, 3, Rng())
    kept = torch.randperm(20, generator=Rng().at("keep").torch())[:2]
    z = torch.from_numpy(train.x) @ start["u"][:, kept] @ start["v"][kept] * 10
    assert torch.allclose(probe._logits(torch.from_numpy(train.x), start, Rng().at("keep").torch()), z, atol=1e-5)
    z.sum().backward()
    assert start["u"].grad.abs().sum(0).nonzero()[:, 0].tolist() == sorted(kept.tolist())
    std = math.sqrt(2 / (1000 + 128))
    assert LowRank()._start(1000, 128, Rng())["u"].std().item() == pytest.approx(std, rel=0.02)


@pytest.mark.parametrize("form", ["code", "paper"])
def test_the_low_rank_classifier_learns_and_repeats(form):
    train, test = blobs(noise=0.7), blobs(100, noise=0.7, seed=1)
    probe = LowRank(form, steps=600, l2=1e-3)
    first = run_probe(probe, train, test, rng=Rng((1,)))
    assert first.score.accuracy > 0.8 and first == run_probe(probe, train, test, rng=Rng((1,)))
    assert first != run_probe(probe, train, test, rng=Rng((2,)))


def test_probes_are_named_parts_with_checked_settings():
    assert PROBES.names() == ["knn", "linear", "low_rank", "ridge", "svm"]
    assert PROBES.build({"name": "svm", "penalties": [1e-3]}).penalties == [1e-3]
    with pytest.raises(ConfigError, match="did you mean 'penalties'"):
        PROBES.build({"name": "linear", "penaltys": [1.0]}, "tasks.a.probe")
    for node in ({"name": "linear", "penalties": []}, {"name": "ridge", "penalties": [-1.0]}, {"name": "knn", "k": 0},
                 {"name": "low_rank", "keep_rate": 0.0}):
        with pytest.raises(ConfigError, match="expected"):
            PROBES.build(node)


@pytest.mark.parametrize("c", [1e-2, 1.0])
def test_linear_kinds_are_scikit_learns_where_classes_are_absent_or_single_and_rows_repeat(c):
    """Class 2 of 6 is never seen, class 4 once, class 5 only in the test; every tenth row comes again as class 3."""
    train, test = blobs(200, classes=6), blobs(60, classes=6, seed=1)
    seen = ~np.isin(train.y, [2, 5])
    seen[np.flatnonzero(train.y == 4)[1:]] = False
    train = train.take(seen)
    again = np.arange(0, len(train.y), 10)
    train = Labelled(np.concatenate([train.x, train.x[again]]), np.concatenate([train.y, np.full(len(again), 3)]))
    assert np.bincount(train.y, minlength=6)[[2, 4, 5]].tolist() == [0, 1, 0]
    a, b = scaled(train, test)
    known = np.unique(train.y)
    logistic = LogisticRegression(C=c, tol=1e-9, max_iter=9000).fit(a, train.y)
    margin = LinearSVC(C=c, tol=1e-9, max_iter=200_000, dual=False).fit(a, train.y).decision_function(b)
    ridge = RidgeClassifier(alpha=1 / c).fit(a, train.y).decision_function(b)
    for probe, want, slack in ((Linear([c]), logistic.predict_proba(b), 2e-3), (SVM([c]), margin, 5e-3),
                               (Ridge([c]), ridge, 1e-5)):
        found = probe.fit(train, 6, Rng()).output(test.x)
        assert found.shape == (60, 6) and np.abs(found[:, known] - want).max() < slack * max(1, np.abs(want).max())
        assert np.isin(found.argmax(1), known).all()  # a class that was never seen is never guessed


def test_neighbours_are_those_of_a_loop_with_ties_absent_and_single_classes():
    """Few directions, so that most rows tie; votes that tie go to the class of the nearest row, the first of equals."""
    rng = np.random.default_rng(3)
    x, queries = (rng.integers(1, 5, (n, 2)).astype(np.float32) for n in (40, 60))
    y = rng.choice([0, 1, 4], 40)
    y[7] = 3  # once; class 2 never
    unit = [row / np.linalg.norm(row.astype(np.float64)) for row in x]
    for k in (1, 2, 4, 6, 9):
        found = KNN(k).fit(Labelled(x, y), 5, Rng()).output(queries).argmax(axis=1)
        for query, guess in zip(queries, found, strict=True):
            cosine = [round(float(u @ query.astype(np.float64)) / float(np.linalg.norm(query)), 9) for u in unit]
            near = sorted(range(40), key=lambda j: (-cosine[j], j))[:k]
            votes = [sum(int(y[j]) == c for j in near) for c in range(5)]
            first = next(int(y[j]) for j in near if votes[y[j]] == max(votes))
            assert guess == first
