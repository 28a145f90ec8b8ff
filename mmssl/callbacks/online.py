"""How much a linear probe and the nearest neighbours read out of a run's features while it trains."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from mmssl.distributed import gather_tree
from mmssl.eval import KNN, Labelled, OnlineLinear, chance, feature_sets, frozen, on_device, run_probe, scores
from mmssl.types import Batch

log = logging.getLogger("mmssl")
#: By kind of label, the scores that are logged.
SHOWN: Mapping[str, tuple[str, ...]] = {"single_label": ("accuracy", "macro_f1"), "multi_label": ("map",)}


class OnlineProbes(Callback):
    """Probes on labelled samples that come beside the run's own, and change nothing of it. No paper: ours.

    Every `every` optimiser steps a labelled batch is embedded as in evaluation: in evaluation mode, without gradient,
    nothing random; and a linear probe per label and feature set makes a step of its own on that (see `OnlineLinear`).
    At each validation the samples of `gallery` and of `test` are embedded with the weights of that moment; the probe
    and the vote of the k nearest are scored on the latter, as `val/online/LABEL/FEATURES/linear_accuracy`,
    `.../linear_macro_f1`, `.../knn_accuracy`, `.../knn_macro_f1` (of several classes per sample `..._map`), beside
    `val/online/LABEL/chance`, the accuracy of always the commonest class. NaN where features are not finite.

    The run's weights, optimiser, BatchNorm moments and random streams are those of a run without it, bit for bit. Each
    of several processes embeds its share; the features are gathered, so that all make the same step on the whole batch.
    The probes, their optimisers and the place in the labelled data are part of a checkpoint.

    Args:
        train: loader of labelled samples to learn from, in training order.
        gallery, test: loaders, in stored order, of the samples that vote and of those that are told.
        classes: by label, the size of its label set.
        features: names of feature sets; see `mmssl.eval.feature_names`.
        every: optimiser steps between two labelled batches.
        lr: of the linear probes.
        k: neighbours that vote.
    """

    def __init__(self, train: Any, gallery: Any, test: Any, classes: Mapping[str, int], features: Sequence[str],
                 every: int = 5, lr: float = 0.01, k: int = 20) -> None:
        self.train, self.gallery, self.test = train, gallery, test
        self.classes, self.features = dict(classes), list(features)
        self.every, self.lr, self.knn = every, lr, KNN(k)
        self.probes: dict[str, OnlineLinear] = {}
        self._states: dict[str, Any] = {}  # of probes that are not built yet: their width is that of their features
        self._batches: Iterator[Batch] | None = None
        self._step = 0
        self._told: set[str] = set()

    def state_dict(self) -> dict[str, Any]:
        """Lightning's hook: the probes with their optimisers, and the place in the labelled data."""
        probes = self._states | {name: probe.state_dict() for name, probe in self.probes.items()}
        return {"probes": probes, "train": self.train.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Lightning's hook: the inverse of `state_dict`."""
        self.probes, self._states = {}, dict(state_dict["probes"])
        self.train.load_state_dict(state_dict["train"])

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Lightning's hook: the step it goes on from."""
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Lightning's hook: where one is due, learn from a labelled batch."""
        if trainer.global_step == self._step:
            return  # gradients are being accumulated
        self._step = trainer.global_step
        if self._step % self.every:
            return
        x, there, labels = self._embed(trainer, pl_module, self._next())
        for label in self.classes:
            for name in self.features:
                rows = there[name] & known(labels[label]) & x[name].isfinite().all(dim=1)
                self._probe(label, name, x[name], labels[label]).learn(x[name][rows], labels[label][rows])

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Lightning's hook: score and log."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        gallery, test = (self._everything(trainer, pl_module, loader) for loader in (self.gallery, self.test))
        metrics: dict[str, float] = {}
        for label, count in self.classes.items():
            seen, told = (part[2][label][known(part[2][label])].numpy() for part in (gallery, test))
            if not len(seen) or not len(told):
                self._tell_unlabelled(label, self.gallery if not len(seen) else self.test)
            elif told.ndim == 1:
                metrics[f"val/online/{label}/chance"] = chance(told, count, train=seen)["majority"]
            for name in self.features:
                metrics.update(self._scored(label, name, labelled(gallery, label, name), labelled(test, label, name)))
        for name, value in metrics.items():
            pl_module.log(name, value, on_step=False, on_epoch=True, batch_size=1, sync_dist=trainer.world_size > 1)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Lightning's hook: the threads that decode labelled samples end."""
        self._close()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Lightning's hook: the same."""
        self._close()

    def _close(self) -> None:
        if self._batches is not None:
            self._batches.close()
            self._batches = None

    def _next(self) -> Batch:
        batch = next(self._batches, None) if self._batches is not None else None
        if batch is None:
            self._batches = iter(self.train)
            batch = next(self._batches)
        return batch

    def _probe(self, label: str, name: str, x: Tensor, y: Tensor) -> OnlineLinear:
        key = f"{label}/{name}"
        if key not in self.probes:
            probe = OnlineLinear(x.shape[1], self.classes[label], y.ndim == 2, self.lr, x.device)
            if key in self._states:
                probe.load_state_dict(self._states.pop(key))
            self.probes[key] = probe
        return self.probes[key]

    def _embed(self, trainer: Any, pl_module: Any, batch: Batch
               ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Features, present and labels of the real rows of all processes, where the module is."""
        plugin, device = trainer.precision_plugin, pl_module.device
        with frozen(pl_module), plugin.forward_context():
            x, there = feature_sets(pl_module, on_device(plugin.convert_input(batch), device))
        found = [{name: tree[name].detach() for name in self.features} for tree in (x, there)]
        labels = {label: batch.labels[label].to(device) for label in self.classes}
        x, there, labels, valid = gather_tree((*found, labels, batch.valid.to(device)))
        return tuple({name: rows[valid] for name, rows in tree.items()} for tree in (x, there, labels))

    def _everything(self, trainer: Any, pl_module: Any, loader: Any) -> tuple[dict[str, Tensor], ...]:
        """What `_embed` gives of all batches of a loader, on the CPU."""
        parts = [tuple({name: rows.cpu() for name, rows in tree.items()} for tree in self._embed(
            trainer, pl_module, batch)) for batch in loader]
        return tuple({name: torch.cat([part[i][name] for part in parts]) for name in parts[0][i]} for i in range(3))

    def _scored(self, label: str, name: str, gallery: Labelled, test: Labelled) -> dict[str, float]:
        if not len(gallery.y) or not len(test.y):
            return {}
        classes, probe, found = self.classes[label], self.probes.get(f"{label}/{name}"), {}
        if np.isfinite(gallery.x).all() and np.isfinite(test.x).all():
            found["knn"] = run_probe(self.knn, gallery, test, classes).score
            if probe is not None:
                said = probe.outputs(torch.from_numpy(test.x).to(probe.bias.device)).cpu().numpy()
                found["linear"] = scores(test.kind, test.y, said, classes)
        return {f"val/online/{label}/{name}/{kind}_{metric}": nan_for_none(found[kind].values[metric])
                if kind in found else float("nan") for kind in ("linear", "knn") for metric in SHOWN[test.kind]}

    def _tell_unlabelled(self, label: str, loader: Any) -> None:
        if label not in self._told:
            log.warning("ONLINE: no sample of split '%s' in %s that is looked at has the label '%s'; name another one "
                        "in online.train or online.val, or look at more with online.rows", loader.reader.split.name,
                        loader.reader.split.root, label)
        self._told.add(label)


def nan_for_none(value: float | None) -> float:
    """A score that is undefined as a number that can be logged."""
    return float("nan") if value is None else value


def known(y: Tensor) -> Tensor:
    """Which of B samples have a label, (B,) bool; `y` as in Batch."""
    return y >= 0 if y.ndim == 1 else (y >= 0).all(dim=1)


def labelled(found: tuple[dict[str, Tensor], ...], label: str, name: str) -> Labelled:
    """The samples that have a label and a feature set."""
    x, there, labels = found
    rows = there[name] & known(labels[label])
    return Labelled(x[name][rows].float().numpy(), labels[label][rows].numpy())
