"""Linear probes with an L2 penalty that is chosen on a validation part: logistic regression, SVM, ridge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

from mmssl.errors import ConfigError
from mmssl.eval.coding import Coding, LinearModel
from mmssl.eval.probes import Fitted, ProbeResult, run_probe, validation_rows
from mmssl.eval.rows import Labelled, moments, rows_of
from mmssl.eval.scores import scores
from mmssl.eval.solver import (
    Standard,
    hinge_loss,
    minimise,
    ridge_path,
    sigmoid_loss,
    softmax_loss,
    square_loss,
)
from mmssl.registry import PROBES
from mmssl.rng import Rng

#: Inverse strengths of the penalty among which the linear probe chooses (scikit-learn's C), strongest first.
PENALTIES = [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0]
#: Those of the SVM.
SVM_PENALTIES = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1]
#: Those of ridge regression: scikit-learn's 1 / alpha.
RIDGE_PENALTIES = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0]


class Penalised:
    """A linear classifier of standardised features whose L2 penalty is chosen on a part of the training samples.

    Chosen on whole groups where there are at least 3, else on samples stratified by class: best accuracy (of several
    labels, mean average precision), then smallest loss, then strongest penalty; then fitted again on all training
    samples. Mean and deviation are theirs too. Features may be `np.memmap`; what does not fit into memory is read in
    blocks, once for each step of the solver. No paper: ours (close to arXiv 2103.00020, appendix A.3, on a small grid).

    Args:
        penalties: values of C, inverse to the penalty; a single one is taken as it is.
        device: torch device that computes.
    """

    concurrent = True
    softmax = likelihood = False
    objective = staticmethod(sigmoid_loss)
    fallback = 1.0  # where there are too few samples to choose

    def __init__(self, penalties: Sequence[float], device: str = "cpu") -> None:
        if not penalties or min(penalties) <= 0:
            raise ConfigError(f"probe.penalties: expected at least one value of C above 0, got {list(penalties)}")
        self.penalties, self.device = sorted(penalties), device

    @property
    def draws(self) -> bool:
        """Whether anything is drawn: who decides about the penalty."""
        return len(self.penalties) > 1

    def fit(self, train: Labelled, classes: int, rng: Rng) -> Fitted:
        """See `Probe.fit`."""
        penalty, note = self.penalties[0], ""
        if len(self.penalties) > 1:
            held = validation_rows(train.y, train.groups, rng)
            if held is None:
                penalty, note = self.fallback, f"penalty not chosen (C = {self.fallback:g}): no class has two rows"
            else:
                penalty = self._choose(train.take(~held), train.take(held), classes)
        return Fitted(next(self._models(train, classes, [penalty])).predict, penalty, note)

    def _choose(self, fit: Labelled, held: Labelled, classes: int) -> float:
        ranking = []
        for penalty, model in zip(self.penalties, self._models(fit, classes, self.penalties), strict=True):
            output = Fitted(model.predict, penalty).output(held.x, held.views)
            right = (np.mean(output.argmax(axis=1) == held.y) if held.kind == "single_label"
                     else scores("multi_label", held.y, output, classes).values["map"] or 0.0)
            ranking.append((-right, round(model.loss(held), 9), penalty))
        return min(ranking)[2]

    def _models(self, train: Labelled, classes: int, penalties: Sequence[float]) -> Iterator[LinearModel]:
        x, coding = rows_of(train.x), Coding.of(train.y, classes, self.softmax)
        mean, std = moments(x)
        rows = Standard(x, mean, std, self.device)
        y = coding.encode(train.targets).to(self.device)
        objective = softmax_loss if coding.softmax else self.objective
        for w in self.path(rows, y, coding.columns, penalties):
            yield LinearModel(w, mean, std, coding, objective, self.likelihood, self.device)

    def path(self, rows: Standard, y: Tensor, columns: int, penalties: Sequence[float]) -> Iterator[np.ndarray]:
        """Weights (D + 1, columns) for each penalty, strongest first; each starts where the one before ended."""
        objective, w = softmax_loss if y.ndim == 1 else self.objective, np.zeros((rows.x.shape[1] + 1, columns))
        for penalty in penalties:
            w = minimise(objective, rows, y, penalty, w, penalise_bias=objective is hinge_loss)
            yield w


@PROBES.register("linear")
class Linear(Penalised):
    """L2-regularised logistic regression: a softmax over the classes; of two classes or several labels, a sigmoid each.

    The minimum is that of scikit-learn's LogisticRegression (lbfgs) on the same standardised features.

    Args:
        penalties, device: see `Penalised`.
    """

    softmax = likelihood = True

    def __init__(self, penalties: list[float] = PENALTIES, device: str = "cpu") -> None:
        super().__init__(penalties, device)


@PROBES.register("svm")
class SVM(Penalised):
    """Linear support vector machine with squared hinge loss, one class against the rest.

    The minimum is that of scikit-learn's LinearSVC on the same standardised features; its bias is penalised too.
    The protocol of MMV that arXiv 2104.11178, appendix A.4, follows has C of 1e-4 or 3e-4.

    Args:
        penalties, device: see `Penalised`.
    """

    objective = staticmethod(hinge_loss)
    fallback = 1e-3

    def __init__(self, penalties: list[float] = SVM_PENALTIES, device: str = "cpu") -> None:
        super().__init__(penalties, device)


@PROBES.register("ridge")
class Ridge(Penalised):
    """Least squares to -1 and 1 with an L2 penalty: exact, in one pass over the features, so the probe for very many.

    Equal to scikit-learn's RidgeClassifier with alpha = 1 / C on the same standardised features.

    Args:
        penalties, device: see `Penalised`.
    """

    objective = staticmethod(square_loss)
    fallback = 1e-2

    def __init__(self, penalties: list[float] = RIDGE_PENALTIES, device: str = "cpu") -> None:
        super().__init__(penalties, device)

    def path(self, rows: Standard, y: Tensor, columns: int, penalties: Sequence[float]) -> Iterator[np.ndarray]:
        """Weights (D + 1, columns) for each penalty, from one sum over all rows."""
        yield from ridge_path(rows, y, list(penalties))


def linear_probe(train: Labelled, test: Labelled, classes: int | None = None, rng: Rng | None = None,
                 penalties: Sequence[float] = PENALTIES) -> ProbeResult:
    """Logistic regression on standardised features, its penalty chosen on training samples: see `Linear`, `run_probe`.

    Args:
        train, test: samples; those without a class are left out.
        classes: size of the label set; default, one more than the largest class number of both.
        rng: of the split; None: always the same place.
        penalties: values of C.
    """
    return run_probe(Linear(list(penalties)), train, test, classes, rng)
