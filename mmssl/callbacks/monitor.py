"""Watching a run on held-out data: does it retrieve, and is its representation alive?"""

from __future__ import annotations

import logging
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from mmssl.eval.health import alignment, collapsed, dimension_std, modality_gap, rankme, spread, uniformity
from mmssl.eval.retrieval import retrieval_table

log = logging.getLogger("mmssl")
#: Share of the highest standard deviation seen so far below which an embedding is told to shrink.
SHRUNK = 0.5
REMEDY_SHRUNK = ("a larger data.batch_per_device or a smaller aggregator.dim, a higher loss.std, a lower loss.cov, "
                 "or the settings of source=recommended; and a lower optim.lr")


class ValidationMonitor(Callback):
    """Logs retrieval and health of every validation, and warns on collapse. No paper: ours.

    Reads what `validation_step` returns, gathered over all processes: "pairs", by "a-b" `(z_a (B, D), z_b (B, D),
    both (B,))`, and "embeddings", by name `(x (B, D), present (B,))`. Logs through the module, so that
    `trainer.monitor` may name a metric. For each pair and direction: `val/a_to_b_R@1`, `_R@5`, `_R@10` and `_MedR` over
    the samples that have both, ties against the model; `val/gap_a-b` and `val/alignment_a-b` of each pair; and
    `val/mean_R@10` over all directions. For each embedding: `val/rank_NAME` (RankMe), `val/std_NAME` (mean over
    dimensions of the standard deviation), `val/spread_NAME` (0 all directions equal, 1 spread out) and
    `val/uniformity_NAME`; see `mmssl.eval.health`. A collapse is told once when it begins, with the remedy, and once
    when it is over; so is a standard deviation that falls below half of its highest value, of the embeddings that the
    module names in `kept_wide`. Lightning's sanity pass is left out.

    Args:
        ks: for which R@k is logged.
        rows: samples used for rank and spread, evenly taken; retrieval uses all.
        chunk: see `retrieval`.
    """

    def __init__(self, ks: tuple[int, ...] = (1, 5, 10), rows: int = 4096, chunk: int = 1024) -> None:
        self.ks, self.rows, self.chunk = ks, rows, chunk
        self.collapsed: dict[str, str] = {}
        self.widest: dict[str, float] = {}
        self.shrunk: dict[str, float] = {}
        self._pairs: dict[str, list[tuple[Tensor, ...]]] = {}
        self._embeddings: dict[str, list[tuple[Tensor, ...]]] = {}

    def state_dict(self) -> dict[str, Any]:
        """Lightning's hook: which embeddings are collapsed, and why; how wide each was, and which have shrunk."""
        return {"collapsed": dict(self.collapsed), "widest": dict(self.widest), "shrunk": dict(self.shrunk)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Lightning's hook: the inverse of `state_dict`."""
        self.collapsed = dict(state_dict["collapsed"])
        self.widest, self.shrunk = dict(state_dict.get("widest", {})), dict(state_dict.get("shrunk", {}))

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Lightning's hook: start anew."""
        self._pairs, self._embeddings = {}, {}

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int,
                                dataloader_idx: int = 0) -> None:
        """Lightning's hook: keep what the step returned, on the CPU."""
        if not isinstance(outputs, dict):
            return
        for kept, name in ((self._pairs, "pairs"), (self._embeddings, "embeddings")):
            for key, tensors in outputs.get(name, {}).items():
                kept.setdefault(key, []).append(tuple(_to_cpu(t) for t in tensors))

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Lightning's hook: compute and log."""
        if trainer.sanity_checking:
            return
        pairs = {name: tuple(map(torch.cat, zip(*rows, strict=True))) for name, rows in self._pairs.items()}
        embeddings = {name: tuple(map(torch.cat, zip(*rows, strict=True))) for name, rows in self._embeddings.items()}
        self._pairs, self._embeddings = {}, {}
        metrics = self._retrieval(pairs)
        for name, (x, present) in embeddings.items():
            metrics.update(self._health(name, x[present], trainer))
        for name, value in metrics.items():
            pl_module.log(name, value, on_step=False, on_epoch=True, batch_size=1, sync_dist=trainer.world_size > 1)

    def _retrieval(self, pairs: dict[str, tuple[Tensor, ...]]) -> dict[str, float]:
        metrics: dict[str, float] = {}
        table = retrieval_table(pairs, self.ks, self.chunk)
        for name, result in table.items():
            metrics.update({f"val/{name}_R@{k}": share for k, share in result.r_at.items()})
            metrics[f"val/{name}_MedR"] = result.median_rank
        for name, (z_a, z_b, both) in pairs.items():
            if both.any():
                metrics[f"val/gap_{name}"] = modality_gap(z_a[both], z_b[both])
                metrics[f"val/alignment_{name}"] = alignment(z_a[both], z_b[both])
        if table and 10 in self.ks:
            metrics["val/mean_R@10"] = sum(result.r_at[10] for result in table.values()) / len(table)
        return metrics

    def _health(self, name: str, x: Tensor, trainer: Any) -> dict[str, float]:
        if len(x) < 2:
            return {}
        if len(x) > self.rows:
            x = x[torch.linspace(0, len(x) - 1, self.rows).long()]
        std = dimension_std(x).mean().item()
        self._tell(name, x, trainer)
        if name in getattr(trainer.lightning_module, "kept_wide", ()):
            self._tell_width(name, std, trainer)
        return {f"val/rank_{name}": rankme(x), f"val/std_{name}": std,
                f"val/spread_{name}": spread(x), f"val/uniformity_{name}": uniformity(x)}

    def _tell(self, name: str, x: Tensor, trainer: Any) -> None:
        verdict, step = collapsed(x), trainer.global_step
        tell = log.warning if trainer.is_global_zero else log.debug
        if verdict.collapsed and name not in self.collapsed:
            tell("COLLAPSE of '%s' at step %d: %s. What helps: %s.", name, step, verdict.reason, verdict.remedy)
        elif not verdict.collapsed and name in self.collapsed:
            tell("'%s' has recovered from its collapse at step %d.", name, step)
        self.collapsed.pop(name, None)
        if verdict.collapsed:
            self.collapsed[name] = verdict.reason

    def _tell_width(self, name: str, std: float, trainer: Any) -> None:
        """Say once where the standard deviation has fallen, and once where it has risen again."""
        self.widest[name] = max(std, self.widest.get(name, 0.0))
        low, tell = std < SHRUNK * self.widest[name], log.warning if trainer.is_global_zero else log.debug
        if low and name not in self.shrunk:
            tell("SHRINKING of '%s' at step %d: its deviation per dimension fell from %.3f to %.3f. What helps: "
                 "%s.", name, trainer.global_step, self.widest[name], std, REMEDY_SHRUNK)
        elif not low and name in self.shrunk:
            tell("'%s' is as wide as %.3f again at step %d.", name, std, trainer.global_step)
        self.shrunk.pop(name, None)
        if low:
            self.shrunk[name] = std


def _to_cpu(x: Tensor) -> Tensor:
    x = x.detach().cpu()
    return x.float() if x.is_floating_point() else x
