"""Metrics of a run: gathered on the device without waiting for it, written every n steps, never twice for a step."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from mmssl.callbacks.pace import Pace
from mmssl.errors import ConfigError
from mmssl.storage import append_line, refused, replacing


class MetricsWriter(Callback):
    """Writes `metrics.jsonl` of a run, and the same training metrics to the Trainer's loggers. No paper: ours.

    A training line holds "step" (optimiser steps done), "epoch", "lr" (of that step, first parameter group),
    "samples_per_s", "data_wait" (share of time waiting for data; absent where the loader does not tell), "loss" and the
    other `train_parts`: means over all batches since the line before. A validation line holds "step", "epoch",
    "split": "val" and every metric whose name starts with "val". A value that is not finite is null. Loggers get the
    training metrics as "train/..." at "step"; the validation metrics reach them through Lightning.

    Per batch this costs one stack on the device; the device is waited for only where a line is due. The batches
    gathered so far and the number of lines are part of a checkpoint, and what was written after it is removed on
    resuming: so a run that was resumed leaves the lines of one that was not (times apart). Only the first process
    writes.

    Args:
        run_dir: folder of the run.
        every: optimiser steps between two training lines.
    """

    def __init__(self, run_dir: str | Path, every: int = 20) -> None:
        if every < 1:
            raise ConfigError(f"trainer.log_every: expected a positive number of steps, got {every}")
        self.path, self.every = Path(run_dir) / "metrics.jsonl", every
        self._window: list[tuple[tuple[str, ...], Tensor]] = []  # per batch, names and values of its parts
        self._lines: int | None = 0  # written so far; None: unknown, the checkpoint does not tell
        self._step, self._epoch, self._lr = 0, 0, float("nan")
        self._pace: Pace | None = None

    def state_dict(self) -> dict[str, Any]:
        """Lightning's hook: the batches of which no line tells yet, and the number of lines."""
        window = [dict(zip(names, values.tolist(), strict=True)) for names, values in self._window]
        return {"window": window, "lines": self._lines, "step": self._step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Lightning's hook: the inverse of `state_dict`."""
        self._window = [(tuple(parts), torch.tensor(list(parts.values()))) for parts in state_dict["window"]]
        self._lines, self._step = state_dict["lines"], state_dict["step"]

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Lightning's hook: forget what was written after the checkpoint the run starts from."""
        if self._step != trainer.global_step:  # continued from a checkpoint that knows nothing of this callback
            self._step, self._lines = trainer.global_step, None
        self._pace = Pace(trainer.train_dataloader, trainer.world_size)
        if trainer.is_global_zero:
            self._lines = cut_after(self.path, self._step, self._lines)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Lightning's hook: the learning rate this step is made with; the schedule moves on before the step is over."""
        lr = optimizer.param_groups[0]["lr"]
        self._lr = lr.clone() if isinstance(lr, Tensor) else lr

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Lightning's hook: gather the parts of one batch; write a line where one is due."""
        parts = pl_module.train_parts
        if parts:  # stacked, which copies: a captured graph writes the next step's values into the same tensors
            values = torch.stack([torch.as_tensor(v).detach().float() for v in parts.values()])
            self._window.append((tuple(parts), values))
        self._pace.count(batch)
        self._epoch = trainer.current_epoch  # Lightning has counted one more by on_train_end
        if trainer.global_step != self._step:
            self._step = trainer.global_step
            if self._step % self.every == 0:
                self._flush(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Lightning's hook: a line for what is left."""
        if self._window and self._step == trainer.global_step:
            self._flush(trainer)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Lightning's hook: validation is no training time."""
        if self._pace:
            self._pace.pause()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Lightning's hook: a line of validation metrics."""
        if self._pace:
            self._pace.go_on()
        if trainer.sanity_checking or trainer.state.fn != "fit" or not trainer.is_global_zero:
            return
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val")}
        if metrics:
            self._write({"step": trainer.global_step, "epoch": trainer.current_epoch, "split": "val", **metrics})

    def _flush(self, trainer: Any) -> None:
        window, self._window = self._window, []
        if not trainer.is_global_zero:
            return
        means = window_means(window)  # waits for the device, so that the clock is read when the work is done
        speed, wait = self._pace.read()
        waiting = {} if wait is None else {"data_wait": wait}
        facts = {"lr": float(self._lr), "samples_per_s": speed, **waiting, **means}
        self._write({"step": self._step, "epoch": self._epoch, **facts})
        for logger in trainer.loggers:
            logger.log_metrics({f"train/{k}": v for k, v in facts.items()}, step=self._step)

    def _write(self, line: dict[str, Any]) -> None:
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
        append_line(self.path, json.dumps(finite))
        self._lines += 1


def window_means(window: list[tuple[tuple[str, ...], Tensor]]) -> dict[str, float]:
    """Mean of each part over the batches that have it, exactly rounded. One transfer from the device.

    Args:
        window: per batch, names of its parts and their values, (P,) float32.
    """
    names = [name for batch, _ in window for name in batch]
    device = window[-1][1].device if window else None
    values = torch.cat([v.to(device) for _, v in window]).tolist() if window else []
    by_name: dict[str, list[float]] = {}
    for name, value in zip(names, values, strict=True):
        by_name.setdefault(name, []).append(value)
    return {name: _mean(v) for name, v in by_name.items()}


def _mean(values: list[float]) -> float:
    if all(map(math.isfinite, values)):
        return math.fsum(values) / len(values)
    return float("nan")


def cut_after(path: Path, step: int, lines: int | None = None) -> int:
    """Remove the lines of a metrics file that tell of later steps, or that a crash left half written.

    Args:
        path: the file; need not exist.
        step: the last to keep.
        lines: how many to keep at most; two lines may tell of one step, and the checkpoint lie between them.

    Returns:
        lines kept.

    Raises:
        StorageError: the file cannot be read or written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        old = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise refused(path, error) from error
    kept = [line for line in old.splitlines(keepends=True)[:lines] if _step_of(line) <= step]
    if b"".join(kept) != old:
        with replacing(path) as file:
            file.write(b"".join(kept))
    return len(kept)


def _step_of(line: bytes) -> int | float:
    """The step a line tells of; infinity where it is no whole line."""
    try:
        return json.loads(line)["step"] if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf
