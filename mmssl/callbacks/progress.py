"""What a run shows while it goes: one bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from tqdm import tqdm

from mmssl.callbacks.pace import Pace
from mmssl.errors import ConfigError

#: Loss parts shown beside the loss, at most.
PARTS = 4
#: Validation metrics of online probes that are shown, by how they end; and of a classifier.
ONLINE = ("/linear_accuracy", "/linear_map")
SCORES = ("val/loss", "val/accuracy", "val/macro_f1", "val/map", "val/auc")


class Progress(Callback):
    """Step, loss parts, samples/s, share of time waiting for data, and time left. No paper: ours.

    On a terminal a bar, drawn anew at most every `refresh` seconds; elsewhere a line every `every` steps and at the
    last one. Both read the device only when they draw. After a resume it starts at the restored step. Time left is told
    from the second step on and knows nothing of the first, which may compile for half a minute. Only the first process
    shows anything. Use with `Trainer(enable_progress_bar=False)`.

    Args:
        every: optimiser steps between two plain lines.
        stream: where to, a text stream; default, standard error.
        refresh: seconds between two drawings of the bar.
    """

    def __init__(self, every: int = 20, stream: Any = None, refresh: float = 0.2) -> None:
        if every < 1:
            raise ConfigError(f"trainer.log_every: expected a positive number of steps, got {every}")
        self.every, self.refresh, self._stream = every, refresh, stream
        self._bar: tqdm | None = None
        self._pace: Pace | None = None
        self._step = self._first = 0
        self._total: int | None = None
        self._began: float | None = None
        self._drawn = 0.0

    @property
    def stream(self) -> Any:
        """Where it is shown."""
        return self._stream or sys.stderr

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Lightning's hook: the start, at the step the run continues from."""
        if not trainer.is_global_zero:
            return
        self._step = self._first = trainer.global_step
        self._total = total_steps(trainer)
        self._pace = Pace(trainer.train_dataloader, trainer.world_size)
        self._began, self._drawn = None, 0.0
        if self.stream.isatty():
            self._bar = tqdm(total=self._total, initial=self._first, file=self.stream, mininterval=0, desc="step",
                             dynamic_ncols=True, bar_format="{desc} {n_fmt}/{total_fmt} |{bar:20}| {postfix}")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Lightning's hook: count; draw where it is time."""
        if self._pace is None:
            return
        self._pace.count(batch)
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        if self._began is None:
            self._began, self._first = time.perf_counter(), self._step
        last = self._step == self._total
        if self._bar is not None:
            if last or time.perf_counter() - self._drawn >= self.refresh:
                self._draw(pl_module)
        elif last or self._step % self.every == 0:
            self._say(f"step {self._step}/{self._total or '?'}  {self._facts(pl_module)}")

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Lightning's hook: say so on the bar."""
        if self._pace is not None:
            self._pace.pause()
        if self._bar is not None:
            self._bar.set_description_str("validating, step")

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Lightning's hook: a line with what matters most of the validation."""
        if self._pace is not None:
            self._pace.go_on()
        if self._bar is not None:
            self._bar.set_description_str("step")
        if self._pace is not None and (facts := validation_facts(trainer.callback_metrics)):
            line = f"validation after step {trainer.global_step}:  {facts}"
            if self._bar is not None:
                self._bar.write(line, file=self.stream)
            else:
                self._say(line)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Lightning's hook: the bar stays as it is."""
        self._close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Lightning's hook: leave the terminal clean for the message."""
        self._close()

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError):  # nobody reads any more, or a full disk: no reason to stop a run
            print(line, file=self.stream, flush=True)

    def _draw(self, pl_module: Any) -> None:
        self._bar.n = self._step
        self._bar.set_postfix_str(self._facts(pl_module), refresh=False)
        self._bar.refresh()
        self._drawn = time.perf_counter()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        self._pace = None

    def _facts(self, pl_module: Any) -> str:
        parts = list(pl_module.train_parts.items())[:1 + PARTS]
        values = torch.stack([torch.as_tensor(v).detach().float() for _, v in parts]).tolist() if parts else []
        facts = [f"{name} {value:.4g}" for (name, _), value in zip(parts, values, strict=True)]
        speed, wait = self._pace.read()
        facts.append(f"{speed:.3g} samples/s" if speed < 1000 else f"{speed:.0f} samples/s")
        if wait is not None:
            facts.append(f"waiting {100 * wait:.0f} %")
        if self._total and self._began is not None and self._step > self._first:
            pace = (time.perf_counter() - self._began) / (self._step - self._first)
            facts.append(f"left {duration(pace * (self._total - self._step))}")
        return "  ".join(facts)


def total_steps(trainer: Any) -> int | None:
    """Optimiser steps of the whole run; None where it has no end."""
    if trainer.max_steps >= 0:
        return trainer.max_steps
    total = trainer.estimated_stepping_batches
    return int(total) if total != float("inf") else None


def validation_facts(metrics: dict[str, Any]) -> str:
    """What matters most among validation metrics, short: online probes, retrieval at 10, ranks, scores; "" where there
    are none."""
    shown = [(name.removeprefix("val/"), float(value)) for name, value in metrics.items()
             if name.endswith(("_R@10", *ONLINE)) or name.startswith("val/rank_") or name in SCORES]
    shown.sort(key=lambda fact: not fact[0].endswith(ONLINE))
    return "  ".join(f"{name} {value:.3g}" for name, value in shown[:8])


def duration(seconds: float) -> str:
    """As h:mm:ss or m:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
