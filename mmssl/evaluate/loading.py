"""A trained run's model: load it, and say where it computes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mmssl import build
from mmssl.callbacks import read_checkpoint
from mmssl.config import Recipe
from mmssl.errors import ConfigError, DataError
from mmssl.methods import Method
from mmssl.rundir import RunDir


def load(run_dir: str | Path, checkpoint: str = "last") -> Method:
    """A run's model with its trained weights, in evaluation mode.

    Args:
        run_dir: folder of the run.
        checkpoint: "last", "best", or a file.

    Raises:
        DataError: no run there, no such checkpoint, or one that does not fit the run's recipe.
    """
    run = RunDir(Path(run_dir))
    return open_model(run, run.load_recipe(), checkpoint)[0].eval()


def load_weights(model: Method, path: Path) -> dict[str, Any]:
    """Put the weights of a checkpoint into a model, all of them.

    Returns:
        all that the checkpoint holds.

    Raises:
        DataError: it cannot be read, or is of another model.
    """
    content = read_checkpoint(path)
    try:
        model.load_state_dict(content["state_dict"])
    except (KeyError, RuntimeError) as error:
        first = str(error).splitlines()[-1].strip()[:160]
        raise DataError(f"{path}: does not fit the run's recipe ({first} …); give a checkpoint of this run") from None
    return content


def open_model(run: RunDir, recipe: Recipe, checkpoint: str) -> tuple[Method, dict[str, Any]]:
    """A run's model with its trained weights, in evaluation mode, and its modalities. See `load`."""
    path = run.checkpoint(checkpoint)
    parts = build.modalities(recipe)
    model = build.method(recipe, parts)
    load_weights(model, path)
    return model.eval(), parts


def device_of(recipe: Recipe) -> torch.device:
    """Where a recipe's features are computed."""
    gpu = torch.cuda.is_available() and recipe.trainer.accelerator in ("auto", "gpu", "cuda")
    return torch.device("cuda" if gpu else "cpu")


def reading(run: RunDir, verb: str, overrides: list[str] | None) -> Recipe:
    """The run's recipe with other settings of how its modalities read files, e.g. `modalities.audio.resample=sinc`.

    Raises:
        ConfigError: an override of another section; `verb` is for the message.
        DataError: the folder is no run.
    """
    wrong = [f"{verb}: '{o}': only modalities.* may change" for o in overrides or [] if not o.startswith("modalities.")]
    if wrong:
        raise ConfigError(wrong)
    return run.load_recipe(overrides)


def probe_overrides(overrides: Sequence[str]) -> list[str]:
    """One line for each override that a probe of a run does not take."""
    return [f"probe: '{o}': only probe.* and data.* may change" for o in overrides
            if not o.startswith(("probe.", "data."))]
