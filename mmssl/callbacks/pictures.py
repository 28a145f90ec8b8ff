"""A run's embeddings to look at in TensorBoard: who resembles whom, and where each sample lies."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from mmssl.callbacks.checkpoints import is_final
from mmssl.distributed import gather_tree
from mmssl.errors import ConfigError
from mmssl.eval.nearest import unit_rows
from mmssl.storage import write_whole

#: Samples of a set of points at most, evenly taken.
DRAWN = 1000


class Pictures(Callback):
    """Draws what a validation embedded for TensorBoard, where the Trainer has such a logger. No paper: ours.

    Reads what `validation_step` returns (see `ValidationMonitor`), at the first validation, each `every`-th after it,
    and one at the run's last step. Of each pair, the matrix of cosines as a picture, `similarity/a-b`. For the
    projector, the embeddings as they are, and of each pair both modalities on the unit sphere of their common space,
    with the names of modality and classes to colour them by. The projector shows the newest points alone: files are
    written over, so that a run of any length leaves as much. Only the first process writes.

    Args:
        names: by label, names of its classes; others are shown as numbers.
        every: validations between two of these; 0: never.
    """

    def __init__(self, names: Mapping[str, Sequence[str]] | None = None, every: int = 5) -> None:
        if every < 0:
            raise ConfigError(f"trainer.pictures_every: expected 0 or more validations, got {every}")
        self.names, self.every = dict(names or {}), every
        self.validations = 0
        self._due = False
        self._held: list[tuple[dict[str, Any], dict[str, Tensor]]] = []

    def state_dict(self) -> dict[str, Any]:
        """Lightning's hook: how many validations there were."""
        return {"validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Lightning's hook: the inverse of `state_dict`."""
        self.validations = state_dict["validations"]

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Lightning's hook: is it time?"""
        self._held, self._due = [], False
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self.validations += 1
        due = self.every and ((self.validations - 1) % self.every == 0 or is_final(trainer))
        self._due = bool(due) and any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers)

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int,
                                dataloader_idx: int = 0) -> None:
        """Lightning's hook: keep what the step returned, on the CPU, with the labels of all processes."""
        if not self._due or not isinstance(outputs, dict):
            return
        labels = {}
        if getattr(batch, "labels", None):
            device = batch.valid.device
            labels, valid = gather_tree(({k: y.to(device) for k, y in batch.labels.items()}, batch.valid))
            labels = {k: y[valid].cpu() for k, y in labels.items()}
        points = {kind: {name: tuple(t.detach().cpu() for t in row) for name, row in outputs.get(kind, {}).items()}
                  for kind in ("pairs", "embeddings")}
        self._held.append((points, labels))

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Lightning's hook: draw."""
        held, self._held = self._held, []
        if not held or not trainer.is_global_zero:
            return
        pairs, embeddings = (joined([points[kind] for points, _ in held]) for kind in ("pairs", "embeddings"))
        if not pairs and not embeddings:
            return
        labels = self._named({k: torch.cat([y[k] for _, y in held]) for k in held[0][1]})
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                draw_similarities(logger.experiment, pairs, trainer.global_step)
                write_points(Path(logger.log_dir), point_sets(pairs, embeddings, labels), trainer.global_step)

    def _named(self, labels: Mapping[str, Tensor]) -> dict[str, list[str]]:
        """The classes of each sample as words; "" where unknown."""
        return {k: [_words(row, self.names.get(k)) for row in y.tolist()] for k, y in labels.items()}


Points = tuple[Tensor, dict[str, list[str]]]


def joined(parts: Sequence[Mapping[str, tuple[Tensor, ...]]]) -> dict[str, tuple[Tensor, ...]]:
    """Tuples of tensors by name, batch after batch, as one."""
    return {name: tuple(map(torch.cat, zip(*(part[name] for part in parts), strict=True))) for name in parts[0]}


def draw_similarities(board: Any, pairs: Mapping[str, tuple[Tensor, ...]], step: int) -> None:
    """Each pair's matrix of cosines, over the samples that have both, as a picture of TensorBoard.

    Args:
        board: SummaryWriter.
        pairs: by "a-b", (N, D), (N, D), and (N,) bool where both are there.
        step: of the run.
    """
    from mmssl import plots  # matplotlib takes a while: only whoever draws pays for it
    from mmssl.eval.pictures import similarity
    for name, (z_a, z_b, both) in pairs.items():
        if both.sum() > 1:
            drawn = similarity(z_a[both].float(), z_b[both].float(), *name.split("-", 1))
            board.add_image(f"similarity/{name}", plots.pixels(drawn), step, dataformats="HWC")


def point_sets(pairs: Mapping[str, tuple[Tensor, ...]], embeddings: Mapping[str, tuple[Tensor, ...]],
               labels: Mapping[str, Sequence[str]]) -> dict[str, Points]:
    """What the projector shows: by name, points (n, D), and columns of n words that tell what each is.

    Args:
        pairs, embeddings: see `ValidationMonitor`.
        labels: by name, N words; left out where there are not as many as points.
    """
    found = {}
    for name, (x, present) in embeddings.items():
        rows = _some(present)
        found[name] = x[rows].float(), _columns(rows, [name] * len(rows), labels, len(present))
    for name, (z_a, z_b, both) in pairs.items():
        rows, (a, b) = _some(both), name.split("-", 1)
        both_sides = torch.cat([unit_rows(z[rows].float())[0] for z in (z_a, z_b)])
        sides = [a] * len(rows) + [b] * len(rows)
        found[name] = both_sides, _columns(torch.cat([rows, rows]), sides, labels, len(both))
    return {name: points for name, points in found.items() if len(points[0])}


def write_points(folder: Path, sets: Mapping[str, Points], step: int) -> None:
    """Write points for TensorBoard's projector: a table of numbers and one of words each, and what names them.

    Raises:
        StorageError: the disk refuses.
    """
    entries = []
    for name, (x, columns) in sets.items():
        points, words = f"projector/{name}.tsv", f"projector/{name}.words.tsv"
        write_whole(folder / points, _table([f"{v:.5g}" for v in row] for row in x.tolist()))
        write_whole(folder / words, _table([list(columns), *zip(*columns.values(), strict=True)]))
        facts = {"tensor_name": f"{name}, step {step}", "tensor_path": points, "metadata_path": words}
        entries.append("embeddings {\n" + "".join(f"  {k}: {json.dumps(v)}\n" for k, v in facts.items()) + "}\n")
    write_whole(folder / "projector_config.pbtxt", "".join(entries).encode())


def _some(there: Tensor) -> Tensor:
    """Numbers of the rows that are there, at most `DRAWN` of them."""
    rows = there.nonzero()[:, 0]
    return rows[torch.linspace(0, len(rows) - 1, DRAWN).round().long()] if len(rows) > DRAWN else rows


def _columns(rows: Tensor, sides: list[str], labels: Mapping[str, Sequence[str]], count: int) -> dict[str, list[str]]:
    known = {name: words for name, words in labels.items() if len(words) == count}
    return {"modality": sides, "sample": [str(i) for i in rows.tolist()],
            **{name: [words[i] for i in rows.tolist()] for name, words in known.items()}}


def _words(value: int | list[int], names: Sequence[str] | None) -> str:
    numbers = [c for c, holds in enumerate(value) if holds > 0] if isinstance(value, list) else [value]
    return "|".join(names[c] if names and c < len(names) else str(c) for c in numbers if c >= 0)


def _table(rows: Any) -> bytes:
    return "".join("\t".join(" ".join(str(word).split()) for word in row) + "\n" for row in rows).encode()
