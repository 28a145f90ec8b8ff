"""Frozen features of a data set, by modality: what every probe starts from."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmssl.errors import DataError
from mmssl.nn.aggregators import pool_items
from mmssl.types import Batch, Stream


@dataclass(kw_only=True)
class Features:
    """Features of N samples.

    Args:
        x: by name, (N, D) float32; a row of zeros where it is absent. Names are the modalities; "all", their
            concatenation; and "global", the method's own embedding of all of them, where it has one.
        present: by the same names, (N,) bool.
        labels: by name, (N,) int64 class numbers, -1 where unknown; (N, C) where a sample may have several, see Batch.
        keys: (N,) keys of the samples.
        groups: (N,) names of groups (subject, recording), "" where unknown.
    """

    x: dict[str, np.ndarray]
    present: dict[str, np.ndarray]
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    keys: np.ndarray
    groups: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)


@contextlib.contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every submodule is in the mode it was in. No paper: ours."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad():  # inference mode would leave tensors in caches that training cannot use
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def extract(method: Any, loader: Iterable[Batch], device: torch.device | str | None = None,
            limit: int | None = None) -> Features:
    """Features of every sample a loader gives, in its order. No paper: ours.

    Asks the method for `embed(batch)` alone, and where it has one for `aggregate(latents, present)`, which spares it a
    second pass, or `global_embedding(batch)`. Of K items per sample
    (captions) the feature is the mean of those present. Rows that only fill up a batch are left out.

    Args:
        method: a module with `embed(batch) -> (latents, present)`; on `device` already.
        loader: gives Batches; on one process.
        device: where to; default, where the method's first parameter is.
        limit: stop after this many samples.

    Raises:
        DataError: the loader gives no sample.
        AssertionError: a submodule is not in evaluation mode although asked to be.
    """
    device = torch.device(device) if device else next((p.device for p in method.parameters()), torch.device("cpu"))
    parts: list[Features] = []
    with frozen(method):
        for batch in loader:
            assert not any(part.training for part in method.modules()), "a submodule refuses evaluation mode"
            parts.append(_features(method, on_device(batch, device)))
            if limit and sum(map(len, parts)) >= limit:
                break
    if not sum(map(len, parts)):
        raise DataError("features: the loader gave no sample; check that the split exists and has samples")
    joined = join(parts)
    return take(joined, np.arange(min(limit, len(joined)))) if limit else joined


def join(parts: Sequence[Features]) -> Features:
    """Several lots of features, one after another; labels that only some have are -1 in the others."""
    widths = {name: y.shape[1:] for p in parts for name, y in p.labels.items()}
    labels = {name: np.concatenate([p.labels.get(name, np.full((len(p), *widths[name]), -1, dtype=np.int64))
                                    for p in parts]) for name in sorted(widths)}
    return Features(x={m: np.concatenate([p.x[m] for p in parts]) for m in parts[0].x},
                    present={m: np.concatenate([p.present[m] for p in parts]) for m in parts[0].x}, labels=labels,
                    keys=np.concatenate([p.keys for p in parts]), groups=np.concatenate([p.groups for p in parts]))


def take(features: Features, rows: np.ndarray) -> Features:
    """The features of some rows: numbers (n,) int, or (N,) bool."""
    return Features(x={m: v[rows] for m, v in features.x.items()},
                    present={m: v[rows] for m, v in features.present.items()},
                    labels={k: v[rows] for k, v in features.labels.items()},
                    keys=features.keys[rows], groups=features.groups[rows])


def on_device(batch: Batch, device: torch.device) -> Batch:
    """A copy of the batch whose tensors are on `device`."""
    streams = {m: Stream(data=s.data.to(device, non_blocking=True), present=s.present.to(device))
               for m, s in batch.streams.items()}
    return replace(batch, streams=streams, valid=batch.valid.to(device), rows=batch.rows.to(device))


def feature_names(method: Any, modalities: Iterable[str]) -> list[str]:
    """The names of the feature sets that `feature_sets` gives of a method with these modalities."""
    names = list(modalities)
    whole = any(callable(getattr(method, name, None)) for name in ("aggregate", "global_embedding"))
    return [*names, *(["all"] if len(names) > 1 else []), *(["global"] if whole else [])]


def feature_sets(method: Any, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """All feature sets of a batch, where the method is; see `extract` for what it is asked. No paper: ours.

    Returns:
        features by name, (B, D) float, zeros where absent; and present by name, (B,) bool. See Features.
    """
    latents, present = method.embed(batch)
    pooled = {m: pool_items(latents[m], present[m]) for m in latents}
    x, there = {m: z for m, (z, _) in pooled.items()}, {m: here for m, (_, here) in pooled.items()}
    anything = torch.stack(list(there.values())).any(dim=0)
    if len(x) > 1:
        x["all"], there["all"] = torch.cat(list(x.values()), dim=1), anything
    if callable(getattr(method, "aggregate", None)):
        x["global"], there["global"] = pool_items(method.aggregate(latents, present), anything)
    elif callable(getattr(method, "global_embedding", None)):
        x["global"], there["global"] = pool_items(method.global_embedding(batch), anything)
    return x, there


def _features(method: Any, batch: Batch) -> Features:
    x, there = feature_sets(method, batch)
    keep, size = batch.valid.cpu().numpy(), len(batch)
    return Features(x={m: z.cpu().numpy()[keep] for m, z in x.items()},
                    present={m: here.cpu().numpy()[keep] for m, here in there.items()},
                    labels={k: v.cpu().numpy().astype(np.int64)[keep] for k, v in batch.labels.items()},
                    keys=np.array(batch.keys or [""] * size, dtype=str)[keep],
                    groups=np.array(batch.groups or [""] * size, dtype=str)[keep])
