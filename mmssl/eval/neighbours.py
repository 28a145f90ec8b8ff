"""The nearest-neighbour probe: what lies near in the space of the features."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from mmssl.errors import ConfigError
from mmssl.eval.nearest import CHUNK, WIDER, nearest_of, unit_rows
from mmssl.eval.probes import Fitted, ProbeResult, run_probe
from mmssl.eval.rows import Labelled, rows_of
from mmssl.registry import PROBES
from mmssl.rng import Rng


@PROBES.register("knn")
class KNN:
    """Vote of the k training rows with the largest cosine; of classes with equal votes, that of the nearest row.

    Equally near rows count in the order they are given in. A class's score is its share of the votes, plus at most
    half a vote for its nearest row; of several labels, the share of the neighbours that have it. The gallery is read in
    blocks, so it may be `np.memmap`.
    No paper: ours (unweighted k-NN as in scikit-learn; weighted as in arXiv 1805.01978, section 3.4).

    Args:
        k: neighbours; at most the training rows there are.
        temperature: a neighbour's vote counts exp(cosine / temperature); null: all count alike.
        chunk: rows compared at once.
    """

    least = 1  # one class is enough for a vote
    draws = False

    def __init__(self, k: int = 20, temperature: float | None = None, chunk: int = CHUNK) -> None:
        if k < 1 or (temperature is not None and temperature <= 0):
            raise ConfigError(f"k-NN probe: expected k >= 1 and a temperature above 0, got {k} and {temperature}")
        self.k, self.temperature, self.chunk = k, temperature, chunk

    def fit(self, train: Labelled, classes: int, rng: Rng) -> Fitted:
        """See `Probe.fit`."""
        gallery, k, y = rows_of(train.x), min(self.k, len(train.x)), torch.from_numpy(train.targets)

        def blocks() -> Iterator[torch.Tensor]:
            for _, block in gallery.blocks():
                yield from unit_rows(torch.from_numpy(block))[0].split(WIDER * self.chunk)

        def predict(x: np.ndarray) -> np.ndarray:
            # float64: equal rows then have equal cosines, wherever they stand in a matrix product.
            near, index = nearest_of(unit_rows(torch.from_numpy(x))[0].double(), blocks(), k, self.chunk)
            weight = torch.ones_like(near) if self.temperature is None else ((near - 1) / self.temperature).exp()
            weight = weight / weight.sum(dim=1, keepdim=True)
            votes, first = torch.zeros(len(x), classes).double(), torch.zeros(len(x), classes).double()
            for place in reversed(range(k)):
                own = y[index[:, place]]
                own = torch.nn.functional.one_hot(own, classes) if y.ndim == 1 else own
                votes += weight[:, place, None] * own
                first = torch.where(own > 0, (k - place) / k, first)
            return (votes + first * 0.5 / k).numpy()  # half a vote at most

        return Fitted(predict, float(k))


def knn_probe(train: Labelled, test: Labelled, k: int = 20, classes: int | None = None,
              chunk: int = CHUNK) -> ProbeResult:
    """The vote of the k nearest training rows: see `KNN`, `run_probe`.

    Args:
        train, test, classes: see `run_probe`.
        k: neighbours.
        chunk: rows compared at once.
    """
    return run_probe(KNN(k, chunk=chunk), train, test, classes)
