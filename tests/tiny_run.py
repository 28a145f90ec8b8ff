"""A module and a loader as small as they can be that keep the promises callbacks rely on, for tests of callbacks."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor, nn

from mmssl.callbacks import AtomicIO, Checkpoints, MetricsWriter
from mmssl.rng import Rng
from mmssl.types import Batch, Stream

BATCHES, ROWS, WIDTH = 5, 4, 6


class TinyLoader:
    """Batches that are a function of (epoch, position), with a state to resume from, like the loader of the package."""

    def __init__(self, batches: int = BATCHES,
                 fails_at: Callable[[int, int], BaseException | None] | None = None) -> None:
        self.batches, self.fails_at = batches, fails_at
        self.epoch = self.done = 0
        self.batch_size, self.wait_seconds = ROWS, 0.0

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Batch]:
        if self.done >= self.batches:
            self.epoch, self.done = self.epoch + 1, 0
        for position in range(self.done, self.batches):
            error = self.fails_at(self.epoch, position) if self.fails_at else None
            if error is not None:
                raise error
            self.done = position + 1
            self.wait_seconds += 0.001
            yield make_batch(self.epoch, position)

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.done = state["epoch"], state["done"]


def make_batch(epoch: int, position: int) -> Batch:
    x = torch.randn(ROWS, WIDTH, generator=Rng(("data", epoch, position)).torch())
    there = torch.ones(ROWS, dtype=torch.bool)
    return Batch(streams={"a": Stream(data=x, present=there)}, valid=there, rows=torch.arange(ROWS) + ROWS * position)


class HeldOut:
    """The same three batches at every validation; one of them may fail."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[Batch]:
        for i in range(3):
            if i == 1 and self.error:
                raise self.error
            yield make_batch(100, i)


class TinyModule(lightning.LightningModule):
    """Two projections of one input, pulled together; BatchNorm and noise, so that a lost or repeated step shows."""

    def __init__(self, collapse_at: set[int] = frozenset()) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.a, self.b, self.norm = nn.Linear(WIDTH, 4), nn.Linear(WIDTH, 4), nn.BatchNorm1d(WIDTH)
        self.collapse_at = collapse_at
        self.train_parts: dict[str, Tensor] = {}
        self.trace: list[tuple] = []
        self.interrupt: Callable[[TinyModule, str], None] = lambda module, where: None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        rng = Rng(("step", self.current_epoch, batch_idx))
        x = self.norm(batch.streams["a"].data) + 0.1 * torch.randn(ROWS, WIDTH, generator=rng.torch())
        loss = (self.a(x) - self.b(x)).square().mean() + 0.01 * self.a(x).square().mean()
        self.train_parts = {"loss": loss.detach(), "first": x[0, 0].detach()}
        self.trace.append(("train", self.current_epoch, batch_idx, self.global_step, round(float(x[0, 0]), 6)))
        self.interrupt(self, "train")
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        x, there = batch.streams["a"].data, batch.streams["a"].present
        self.trace.append(("val", self.current_epoch, batch_idx, self.global_step))
        self.interrupt(self, "val")
        z_a, z_b = self.a(x), self.b(x)
        if self.global_step in self.collapse_at:
            z_a = torch.ones_like(z_a)
        return {"pairs": {"left-right": (z_a, z_b, there)}, "embeddings": {"left": (z_a, there), "right": (z_b, there)}}

    def on_validation_epoch_end(self) -> None:
        self.log("val/size", self.a.weight.detach().square().mean())

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.05)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Recorder(lightning.Callback):
    """The parts of every batch, read at once."""

    def __init__(self):
        self.parts, self.lr = [], []

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.lr.append(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(self, trainer, module, *_):
        self.parts.append({k: float(v) for k, v in module.train_parts.items()})


def run(folder: Path, callbacks: list[Any], module: TinyModule | None = None, loader: TinyLoader | None = None,
        resume: Path | None = None, val: int | None = None, accumulate: int = 1, steps: int = 12,
        logger: Any = False, held_out: Any = None, **settings: Any) -> tuple[TinyModule, lightning.Trainer]:
    """Fit a TinyModule on the CPU; `val` is the number of batches between validations."""
    module = module or TinyModule()
    trainer = lightning.Trainer(
        max_steps=steps, max_epochs=-1, accelerator="cpu", devices=1, logger=logger, callbacks=callbacks,
        plugins=[AtomicIO()], enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=settings.pop("num_sanity_val_steps", 0), accumulate_grad_batches=accumulate,
        val_check_interval=val, check_val_every_n_epoch=None if val else 1, default_root_dir=folder, **settings)
    held_out = (held_out or HeldOut()) if val else None
    trainer.fit(module, loader or TinyLoader(), held_out, ckpt_path=resume, weights_only=True)
    return module, trainer


@pytest.fixture(autouse=True)
def quiet() -> None:
    """No chatter of Lightning; import it where it is wanted."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def lines(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a run."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def standard(folder: Path, every: int = 1, log_every: int = 3, **settings: Any) -> list[Any]:
    return [Checkpoints(folder, every=every, **settings), MetricsWriter(folder, every=log_every)]
