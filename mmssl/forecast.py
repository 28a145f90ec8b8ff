"""What a run will be, said before it begins: what a classifier learns, what a step costs, that it may be too short."""

from __future__ import annotations

from pathlib import Path

import torch

from mmssl import build, labelled, training
from mmssl.completing import groups_of, never_there, same_data, seen, training_split
from mmssl.config import Recipe
from mmssl.cost import cost_lines, free_bytes, matmul_rate, step_cost
from mmssl.methods import Method
from mmssl.rundir import RunDir


def forecast(recipe: Recipe, model: Method, device: torch.device) -> list[str]:
    """Lines for the user.

    Args:
        recipe: complete.
        model: as `build.rehearse` gives it; its numbers are not read.
        device: where the run computes; how fast it is at matrix products is measured.
    """
    said = [*_supervision(recipe), *_seen(recipe), *_never_there(recipe)]
    return [*said, *_cost(recipe, model, device), *_short(recipe)]


def _supervision(recipe: Recipe) -> list[str]:
    """What a classifier learns, for the user; nothing of other recipes."""
    if recipe.finetune is None:
        return []
    start = "" if recipe.finetune.start else "; no weights are given: supervised from scratch"
    first, *more = labelled.summary(training_split(recipe), recipe, build.modalities(recipe))
    return [first + start, *more]


def _seen(recipe: Recipe) -> list[str]:
    """Said where the run whose weights a classifier begins with was trained on groups that will test."""
    start = recipe.finetune.start if recipe.finetune else None
    run = RunDir(Path(start).parent.parent) if start else None
    if run is None or not run.recipe_file.is_file():  # a file of weights that lies in no run
        return []
    trained = run.load_recipe()
    if not same_data(recipe, trained):
        return []
    return seen(trained, str(run.root), groups_of(recipe, recipe.data.test), [recipe.data.test])


def _never_there(recipe: Recipe) -> list[str]:
    """Said of each modality that no training sample has."""
    return [f"NEVER THERE: {name}: {line}, but gives numbers where a later sample has it; leave it out of the recipe, "
            "or choose another data.split" for name, line in never_there(recipe, build.modalities(recipe)).items()]


def _cost(recipe: Recipe, model: Method, device: torch.device) -> list[str]:
    """What a step will cost, for the user; nothing where a part cannot be counted without numbers."""
    how = recipe.trainer
    dtype = {"32-true": torch.float32, "16-mixed": torch.float16}.get(how.precision, torch.bfloat16)
    try:
        cost = step_cost(model, recipe.data.batch_per_device, dtype)
    except (NotImplementedError, RuntimeError):  # a part of a plug-in that the meta device does not know
        return []
    portions = training.accumulation(recipe)
    return cost_lines(cost, matmul_rate(device, dtype), how.max_steps, portions, free_bytes(device))


def _short(recipe: Recipe) -> list[str]:
    """Said where a run ends before its learning rate has risen, or before a validation could choose its best."""
    optim, how, said = recipe.optim, recipe.trainer, []
    if how.max_steps <= optim.warmup:
        reached = optim.lr * (how.max_steps - 1) / optim.warmup
        said.append(f"SHORT RUN: all {how.max_steps} steps lie within the warm-up of {optim.warmup} (optim.warmup), "
                    f"and the learning rate gets no further than {reached:.2g} of {optim.lr:.2g}; for a run that "
                    "learns, lower optim.warmup or raise trainer.max_steps")
    if how.monitor is not None and how.max_steps < how.val_every:
        said.append(f"SHORT RUN: it ends before its first validation, at step {how.val_every} (trainer.val_every), so "
                    "there will be no best.ckpt; lower trainer.val_every to have one")
    return said
