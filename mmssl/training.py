"""How a recipe is trained: Lightning's Trainer on its devices, portions of a step, compiled blocks."""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Sequence
from typing import Any

import lightning
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from mmssl.callbacks import AtomicIO, Checkpoints, EarlyEnd, MetricsWriter, Progress, ScoreMonitor, ValidationMonitor
from mmssl.config import Recipe, world
from mmssl.environment import cpu_lacks_bfloat16
from mmssl.errors import ConfigError
from mmssl.methods import Method
from mmssl.rundir import RunDir

log = logging.getLogger("mmssl")


def trainer(recipe: Recipe, run: RunDir, step: int = 0, more: Sequence[lightning.Callback] = ()
            ) -> lightning.Trainer:
    """Lightning's Trainer with the run's callbacks, logger and atomic checkpoints. Raises like `on_devices`.

    Args:
        recipe: complete.
        run: where all of it is written.
        step: optimiser steps done; TensorBoard hides what an earlier life of the run drew of later ones.
        more: further callbacks.
    """
    how = recipe.trainer
    accumulate = accumulation(recipe)
    writer = MetricsWriter(run.root, every=how.log_every)
    early = [EarlyEnd(how.monitor, how.mode, how.patience)] if how.patience is not None else []
    callbacks = [writer, Progress(every=how.log_every), ValidationMonitor(), ScoreMonitor(), *more, *early,
                 Checkpoints(run.root, every=how.checkpoint_every, monitor=how.monitor, mode=how.mode)]
    made = on_devices(
        recipe, max_steps=how.max_steps, max_epochs=-1, val_check_interval=how.val_every * accumulate,
        check_val_every_n_epoch=None, num_sanity_val_steps=0, accumulate_grad_batches=accumulate,
        use_distributed_sampler=False, callbacks=callbacks, plugins=[AtomicIO()], default_root_dir=run.root,
        logger=TensorBoardLogger(run.root, name="tensorboard", version="", purge_step=step + bool(step), flush_secs=5))
    if how.precision.startswith("bf16") and made.strategy.root_device.type == "cpu" and cpu_lacks_bfloat16():
        log.warning("trainer.precision: this CPU has no bfloat16 instructions (AVX-512 BF16 or AMX), so %s is slower "
                    "than 32-true here", how.precision)
    return made


def on_devices(recipe: Recipe, **settings: Any) -> lightning.Trainer:
    """A Trainer on the recipe's devices, silent but for its warnings.

    Args:
        recipe: complete.
        settings: further arguments of `lightning.Trainer`.

    Raises:
        ConfigError: this machine has no such devices.
    """
    for words in ("isinstance.treespec, LeafSpec", "does not have many workers", "smaller than the logging interval",
                  "You are using a CUDA device.*Tensor Cores"):
        warnings.filterwarnings("ignore", f".*{words}.*")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    how = recipe.trainer
    try:
        return lightning.Trainer(
            accelerator=how.accelerator, devices=how.devices, num_nodes=how.nodes, precision=how.precision,
            strategy="ddp" if world(recipe) > 1 else "auto", enable_progress_bar=False, enable_model_summary=False,
            **settings)
    except (ValueError, MisconfigurationException) as error:
        said = " ".join(str(error).split())
        raise ConfigError(f"trainer: accelerator {how.accelerator}, devices {how.devices}, precision {how.precision}: "
                          f"not on this machine ({said}); `mmssl doctor` lists its devices, trainer.accelerator=auto "
                          "takes what there is") from None


def accumulation(recipe: Recipe) -> int:
    """Portions per optimiser step.

    Raises:
        ConfigError: `data.batch` is no multiple of what the devices take at once.
    """
    at_once = recipe.data.batch_per_device * world(recipe)
    batch = recipe.data.batch or at_once
    if batch % at_once:
        raise ConfigError(f"data.batch: {batch} is no multiple of {at_once} = data.batch_per_device × devices × nodes; "
                          f"try {max(1, batch // at_once) * at_once}")
    return batch // at_once


def compile_blocks(model: Method) -> bool:
    """Compile each block of each trunk in place, where a compiler is found; returns whether it did."""
    on_gpu = torch.cuda.is_available()
    if not on_gpu and not any(shutil.which(c) for c in (os.environ.get("CXX", "g++"), "g++", "clang++")):
        log.warning("trainer.compile: no C++ compiler found, so the blocks run eagerly; install g++ to compile them")
        return False
    torch.compiler.config.recompile_limit = 64  # trunks share code; beyond the usual 8 shapes it would run eagerly
    for block in {id(b): b for m in model.encoders.modules() for b in getattr(m, "blocks", [])}.values():
        block.compile(dynamic=False)
    return True
