"""When a run is saved: at steps from which it continues exactly, and at its best validation."""

from __future__ import annotations

import logging
import math
import signal
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from mmssl.callbacks.checkpoint_files import AtomicIO
from mmssl.callbacks.interrupts import Interrupts
from mmssl.errors import ConfigError, MmsslError, StorageError
from mmssl.registry import nearest

log = logging.getLogger("mmssl")
#: Optimiser steps between two agreements of several processes on whether one of them was asked to stop.
AGREE_EVERY = 10


class Checkpoints(Checkpoint):
    """Keeps `checkpoints/last.ckpt` and `checkpoints/best.ckpt` of a run. No paper: ours.

    `last` is saved every `every` optimiser steps, at the final step, when Ctrl-C or SIGTERM asks the run to stop, and
    when reading data fails. It is saved between two optimiser steps only, never within accumulated gradients; and where
    a validation follows the step, after that validation, because Lightning does not run it again on resuming. So a run
    that continues from it repeats the uninterrupted one exactly, validations and metrics included.
    `best` is saved after a validation that betters `monitor` (equal is not better), before `last`. A validation inside
    accumulated gradients (`val_check_interval` no multiple of them) can give a `best` to evaluate, not to resume.

    Lightning calls checkpoint callbacks after all others, so their states are those after the step. Ctrl-C and SIGTERM
    are answered at the next place where saving is safe; a second one at once, without saving.

    Args:
        run_dir: folder of the run.
        every: optimiser steps between saves.
        monitor: name of a validation metric; None: no `best.ckpt`.
        mode: whether a larger or a smaller value is better.
    """

    def __init__(self, run_dir: str | Path, every: int = 200, monitor: str | None = None,
                 mode: Literal["max", "min"] = "max") -> None:
        if every < 1:
            raise ConfigError(f"trainer.checkpoint_every: expected a positive number of steps, got {every}")
        if mode not in ("max", "min"):
            raise ConfigError(f"trainer.mode: expected one of max, min, got {mode!r}")
        self.last, self.best = (Path(run_dir) / "checkpoints" / f"{name}.ckpt" for name in ("last", "best"))
        self.every, self.monitor, self.mode = every, monitor, mode
        self.best_value: float | None = None
        self.best_step: int | None = None
        self._interrupts = Interrupts()
        self._step = 0  # optimiser steps done
        self._saved: int | None = None  # the one that `last` holds
        self._whole = False  # between two optimiser steps, with nothing half done
        self._pending = False  # the same, but the validation that follows is not over

    def state_dict(self) -> dict[str, Any]:
        """Lightning's hook: the best value so far, of which metric, and its step."""
        return {"best_value": self.best_value, "best_step": self.best_step, "monitor": self.monitor, "mode": self.mode}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Lightning's hook: the inverse of `state_dict`. The best by another metric is nothing to better."""
        if all(state_dict.get(key, value) == value for key, value in (("monitor", self.monitor), ("mode", self.mode))):
            self.best_value, self.best_step = state_dict["best_value"], state_dict["best_step"]

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Lightning's hook: a Trainer that was not given AtomicIO gets it."""
        if not isinstance(trainer.strategy.checkpoint_io, AtomicIO):
            trainer.strategy.checkpoint_io = AtomicIO()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Lightning's hook: from here on signals are held back. With several processes SIGTERM stays Lightning's."""
        self._step = self._saved = trainer.global_step
        self._whole = self._pending = False
        self._interrupts.listen(signal.SIGINT, *([signal.SIGTERM] if trainer.world_size == 1 else []))

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Lightning's hook: a step begins."""
        self._whole = self._pending = False

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Lightning's hook: where the optimiser stepped, and no validation follows, the run may be saved."""
        if trainer.global_step == self._step:
            return  # gradients are being accumulated
        self._step = trainer.global_step
        self._pending = validation_follows(trainer)
        if not self._pending:
            self._whole = True
            self._settle(trainer)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Lightning's hook: keep the best; then the run may be saved."""
        if trainer.sanity_checking or not trainer.state.fn == "fit":
            return
        if self.monitor is not None and self._better(trainer):
            trainer.save_checkpoint(self.best)
        self._whole, self._pending = not trainer.fit_loop.epoch_loop._should_accumulate(), False
        if self._whole:
            self._settle(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Lightning's hook: a run that ended in an unforeseen place is saved there."""
        self._interrupts.restore()
        if self._saved != trainer.global_step:
            self._save_last(trainer)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Lightning's hook: a run that failed between two steps (reading data) is saved; a half-done step never is.

        Where reading the held-out data failed, the run goes on after that validation.
        """
        self._interrupts.restore()
        if not isinstance(exception, MmsslError) or isinstance(exception, StorageError):
            return
        between = self._whole or (self._pending and not in_validation_step(trainer))
        if between and self._saved != self._step and trainer.is_global_zero:
            # No barrier, unlike Trainer.save_checkpoint: the other processes may be gone.
            trainer.strategy.save_checkpoint(trainer._checkpoint_connector.dump_checkpoint(False), self.last)
            self._saved = self._step
        log.warning("%s holds step %s of %s", self.last, self._saved, self._step)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Lightning's hook: signals go back to whoever had them."""
        self._interrupts.restore()

    def _settle(self, trainer: Any) -> None:
        """Save `last` if it is time to, and stop if that was asked."""
        asked = self._asked(trainer)
        due = self._step % self.every == 0 or asked is not None or is_final(trainer)
        if due and self._saved != self._step:
            self._save_last(trainer)
        if asked is not None:
            self._interrupts.restore()
            raise KeyboardInterrupt if asked == signal.SIGINT else SIGTERMException

    def _save_last(self, trainer: Any) -> None:
        trainer.save_checkpoint(self.last)
        self._saved = trainer.global_step

    def _asked(self, trainer: Any) -> int | None:
        """The signal that asks to stop; several processes agree now and then, so that none waits for one that left."""
        if trainer.world_size == 1:
            return self._interrupts.asked
        if self._step % AGREE_EVERY:
            return None
        asked = trainer.strategy.reduce_boolean_decision(self._interrupts.asked is not None, all=False)
        return signal.SIGINT if asked else None

    def _better(self, trainer: Any) -> bool:
        """Whether the validation that just ended is the best so far; if so, remember it. The same on all processes."""
        metrics = trainer.callback_metrics
        if self.monitor not in metrics:
            raise ConfigError(f"trainer.monitor: no validation metric is called '{self.monitor}'"
                              f"{nearest(self.monitor, metrics)}; --resume takes another trainer.monitor")
        value = torch.as_tensor(metrics[self.monitor])
        if trainer.world_size > 1:
            value = trainer.strategy.reduce(value.to(trainer.strategy.root_device), reduce_op="mean")
        value, sign = value.item(), 1 if self.mode == "max" else -1
        if math.isnan(value) or (self.best_value is not None and sign * value <= sign * self.best_value):
            return False
        self.best_value, self.best_step = value, trainer.global_step
        return True


def validation_follows(trainer: Any) -> bool:
    """Whether Lightning validates right after the batch at hand; to be asked in `on_train_batch_end`."""
    loop = trainer.fit_loop
    return sum(trainer.num_val_batches) > 0 and loop.epoch_loop._should_check_val_fx(loop._data_fetcher)


def in_validation_step(trainer: Any) -> bool:
    """Whether Lightning is within a held-out batch; resuming from there would validate on a part of them."""
    progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress.current
    return progress.ready != progress.completed


def is_final(trainer: Any) -> bool:
    """Whether the step just done is the last of the run; to be asked in `on_train_batch_end` or `on_validation_end`."""
    if trainer.should_stop or trainer.global_step >= trainer.max_steps >= 0:
        return True
    last_epoch = trainer.max_epochs is not None and 0 <= trainer.max_epochs <= trainer.current_epoch + 1
    return last_epoch and trainer.fit_loop.epoch_loop._num_ready_batches_reached()
