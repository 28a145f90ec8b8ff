"""Linear classifiers by L-BFGS over blocks of rows: the same minimum as scikit-learn's, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from mmssl.eval.rows import Rows
from mmssl.eval.threads import ALONE, side_by_side

#: Bytes of standardised rows that are kept in memory; more are standardised anew in each pass.
KEEP = 1 << 30
#: Rows whose scores are computed at once: few enough that they stay in the processor's cache.
STEP = 2048

Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Standard:
    """Rows with mean 0 and deviation 1, as float32 tensors (n, D) in blocks. No paper: ours.

    Args:
        x: the rows.
        mean, std: (D,) of the training rows; see `moments`.
        device: where the blocks go.
    """

    def __init__(self, x: Rows, mean: np.ndarray, std: np.ndarray, device: str = "cpu") -> None:
        self.x, self.mean, self.std, self.device = x, mean, std, device
        small = 4 * x.shape[0] * x.shape[1] <= KEEP
        self._kept = torch.cat([z for _, z in self._standardised()]) if small and len(x) else None

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """All rows in order, as (which, block)."""
        if self._kept is None:
            for where, z in self._standardised():
                for start in range(0, len(z), STEP):
                    block = z[start:start + STEP]
                    yield slice(where.start + start, where.start + start + len(block)), block
        else:
            for start in range(0, len(self._kept), STEP):
                block = self._kept[start:start + STEP]
                yield slice(start, start + len(block)), block

    def _standardised(self) -> Iterator[tuple[slice, Tensor]]:
        for where, block in self.x.blocks():
            yield where, torch.from_numpy(((block - self.mean) / self.std).astype(np.float32)).to(self.device)


def softmax_loss(z: Float[Tensor, "n K"], y: Shaped[Tensor, "n"]) -> tuple[Tensor, Float[Tensor, "n K"]]:
    """Summed negative log-likelihood of class numbers (n,), and its gradient with respect to the logits."""
    logs = F.log_softmax(z, dim=1)
    gradient = logs.exp()
    rows = torch.arange(len(z), device=z.device)
    gradient[rows, y] -= 1
    return -logs[rows, y].double().sum(), gradient


def sigmoid_loss(z: Float[Tensor, "n K"], y: Shaped[Tensor, "n K"]) -> tuple[Tensor, Float[Tensor, "n K"]]:
    """Summed negative log-likelihood of independent labels 0 and 1 (n, K), and its gradient."""
    y = y.to(z.dtype)
    return (F.softplus(z) - y * z).double().sum(), z.sigmoid() - y


def hinge_loss(z: Float[Tensor, "n K"], y: Shaped[Tensor, "n K"]) -> tuple[Tensor, Float[Tensor, "n K"]]:
    """Summed squared hinge of labels 0 and 1 (n, K), and its gradient."""
    sign = 2 * y.to(z.dtype) - 1
    short = (1 - sign * z).clamp(min=0)
    return short.square().double().sum(), -2 * sign * short


def square_loss(z: Float[Tensor, "n K"], y: Shaped[Tensor, "n K"]) -> tuple[Tensor, Float[Tensor, "n K"]]:
    """Summed squared distance to -1 and 1 for labels 0 and 1 (n, K), and its gradient."""
    away = z - (2 * y.to(z.dtype) - 1)
    return away.square().double().sum(), 2 * away


def minimise(objective: Objective, rows: Standard, y: Tensor, penalty: float, start: np.ndarray, tol: float = 1e-4,
             max_iter: int = 1000, penalise_bias: bool = False) -> np.ndarray:
    """Weights that minimise `mean loss + |W|^2 / (2 C N)`, by scipy's L-BFGS-B as scikit-learn calls it.

    Args:
        objective: e.g. `softmax_loss`.
        rows: N standardised rows.
        y: (N,) or (N, K), on the rows' device.
        penalty: C, inverse to the strength of the penalty, as in scikit-learn.
        start: (D + 1, K) to start from; the last row is the bias.
        tol: of the largest entry of the gradient.
        max_iter: iterations at most.
        penalise_bias: whether the bias is part of W, as in liblinear.

    Returns:
        (D + 1, K) float64.
    """
    from scipy.optimize import minimize  # half a second to import
    count, shape, weight = len(rows.x), start.shape, 1 / (penalty * len(rows.x))
    held = slice(None) if penalise_bias else slice(None, -1)

    def value(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w = torch.from_numpy(flat.reshape(shape)).to(rows.device, torch.float32)

        def part(block: tuple[slice, Tensor]) -> tuple[Tensor, Tensor]:
            where, x = block
            loss, slope = objective(torch.addmm(w[-1], x, w[:-1]), y[where])
            return loss, torch.cat([x.T @ slope, slope.sum(dim=0, keepdim=True)])

        total, gradient = 0.0, torch.zeros_like(w, dtype=torch.float64)
        for loss, slope in side_by_side(part, rows.blocks(), rows.device):
            total, gradient = total + loss.item(), gradient + slope
        found = gradient.cpu().numpy() / count
        full = flat.reshape(shape)[held]
        found[held] += weight * full
        return total / count + weight / 2 * float(np.square(full).sum()), found.ravel()

    options = {"maxiter": max_iter, "maxls": 50, "gtol": tol, "ftol": 64 * np.finfo(float).eps}
    with ALONE:  # scipy's small steps on threads of its own would fight with PyTorch's
        return minimize(value, start.ravel(), jac=True, method="L-BFGS-B", options=options).x.reshape(shape)


def ridge_path(rows: Standard, y: Tensor, penalties: list[float]) -> list[np.ndarray]:
    """Least squares to -1 and 1 with an L2 penalty 1 / C, as scikit-learn's RidgeClassifier, in one pass over the rows.

    Args:
        rows: N standardised rows.
        y: (N, K) of 0 and 1.
        penalties: values of C.

    Returns:
        for each, (D + 1, K) float64; the last row is the bias.
    """
    width = rows.x.shape[1]
    gram, cross = np.zeros((width, width)), np.zeros((width, y.shape[1]))
    total, aim = np.zeros(width), np.zeros(y.shape[1])
    for where, x in rows.blocks():
        x64, t = x.double(), 2 * y[where].double() - 1
        gram += (x64.T @ x64).cpu().numpy()
        cross += (x64.T @ t).cpu().numpy()
        total += x64.sum(dim=0).cpu().numpy()
        aim += t.sum(dim=0).cpu().numpy()
    count = len(rows.x)
    gram -= np.outer(total, total) / count  # float32 rows have a mean of nearly 0, not of 0
    cross -= np.outer(total, aim) / count
    values, basis = np.linalg.eigh(gram)
    turned, found = basis.T @ cross, []
    for penalty in penalties:
        w = basis @ (turned / (values.clip(min=0) + 1 / penalty)[:, None])
        found.append(np.concatenate([w, (aim - total @ w)[None] / count]))
    return found
