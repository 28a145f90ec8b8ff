"""What `fit` adds to a step: crossl_tiny under a Trainer with all its callbacks, against a bare loop, in one run.

    python benchmarks/fit_step.py --threads 1 --out fit_step.json
    python benchmarks/fit_step.py --steps 60 --batch 256

Three sides by turns, each over the same batches from the same weights: `fit` (Trainer, loader, metrics, progress, as
the command has them; no validation, checkpoint or TensorBoard in between), a bare loop over the same loader, and a bare
loop over batches that lie ready. The losses of all three must be equal before anything is timed. So the first ratio is
what the framework costs, and the second what the loader costs that threads do not hide.
"""

from __future__ import annotations

import io
import tempfile
import time
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from measure import Ratio, against, options, write

from mmssl import build
from mmssl.callbacks import MetricsWriter, Progress
from mmssl.completing import complete
from mmssl.config import load
from mmssl.optim import build_optimizer, build_scheduler
from mmssl.rng import Rng


class Clock(Callback):
    """Loss of every step, and seconds from the first step's end to the last one's."""

    def __init__(self) -> None:
        self.losses: list[torch.Tensor] = []
        self.times: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """Lightning's hook."""
        self.losses.append(pl_module.train_parts["loss"])
        self.times.append(time.perf_counter())


class Sides:
    """The three sides, made anew for each turn from one recipe."""

    def __init__(self, recipe, steps: int, folder: Path) -> None:
        self.recipe, self.steps, self.folder = recipe, steps, folder
        self.parts = build.modalities(recipe)
        self.data = build.datamodule(recipe, self.parts)
        self.start = build.method(recipe, self.parts).state_dict()
        loader = self.data.train_dataloader()
        self.per_epoch, self.ready = len(loader), self._take(loader)

    def _take(self, loader) -> list:
        found = []
        while len(found) < self.steps:
            found += list(loader)
        return found[:self.steps]

    def model(self):
        """The method with the weights that all sides begin with."""
        model = build.method(self.recipe, self.parts)
        model.load_state_dict(self.start)
        return model.train()

    def fit(self) -> tuple[list[float], list[float]]:
        """Losses and the time of each step's end under a Trainer."""
        clock, every = Clock(), self.recipe.trainer.log_every
        with tempfile.TemporaryDirectory(dir=self.folder) as run:
            trainer = lightning.Trainer(
                accelerator="cpu", devices=1, max_steps=self.steps, logger=False, enable_checkpointing=False,
                enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
                callbacks=[MetricsWriter(run, every), Progress(every, io.StringIO()), clock])
            trainer.fit(self.model(), self.data.train_dataloader())
        return [float(x) for x in clock.losses], clock.times

    def bare(self, ready: bool = False) -> tuple[list[float], list[float]]:
        """The same in a loop, over the loader or over batches that lie ready."""
        model, losses, times, number = self.model(), [], [], 0
        optimizer = build_optimizer(model, self.recipe.optim)
        scheduler = build_scheduler(optimizer, self.recipe.optim, self.steps)
        loader = self.data.train_dataloader()
        while number < self.steps:
            first = number
            for batch in self.ready[number:number + self.per_epoch] if ready else loader:
                epoch, index = divmod(number, self.per_epoch)
                optimizer.zero_grad()
                loss = model.loss_of(batch, Rng((model.seed, "step", epoch, index))).total
                loss.backward()
                optimizer.step()
                scheduler.step()
                losses.append(loss.detach())
                times.append(time.perf_counter())
                number += 1
                if number == self.steps:
                    break
            assert number > first
        return [float(x) for x in losses], times


def seconds_of(side) -> float:
    """From the end of the second step, when all is warm, to the end of the last."""
    times = side()[1]
    return times[-1] - times[1]


def compare(sides: Sides, pairs: int) -> list[Ratio]:
    """Equal losses first; then turns."""
    ready = lambda: sides.bare(ready=True)  # noqa: E731
    fit, loop, still = sides.fit()[0], sides.bare()[0], ready()[0]
    if not (fit == loop == still):
        raise SystemExit(f"losses differ: {fit[-1]}, {loop[-1]}, {still[-1]}: nothing to time")
    found = []
    for name, ours, other in (("fit against a bare loop", sides.fit, sides.bare),
                              ("bare loop against batches that lie ready", sides.bare, ready)):
        found.append(against(f"{name}, batch {sides.recipe.data.batch_per_device}", ours, other, pairs, warm=0,
                             clock=seconds_of))
        line = found[-1]
        print(f"{line.line('the other')}   {1e3 * line.ours / (sides.steps - 2):.1f} ms a step, "
              f"{1 / line.median - 1:+.1%}", flush=True)
    return found


def main() -> None:
    """Measure and print."""
    parser = options(__doc__)
    parser.add_argument("--steps", type=int, default=22, help="of one turn (default: 22)")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--recipe", default="crossl_tiny")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    recipe = complete(load(args.recipe, [f"data.batch_per_device={args.batch}"]))
    with tempfile.TemporaryDirectory() as folder:
        results = compare(Sides(recipe, args.steps, Path(folder)), args.pairs)
    write(args.out, results, steps=args.steps, threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
