"""Training a recipe, and continuing a run: what the command line, Python and the tests call."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.exceptions import SIGTERMException

from mmssl import build
from mmssl.callbacks import read_checkpoint
from mmssl.config import Recipe
from mmssl.errors import ConfigError, MmsslError
from mmssl.evaluate import load, probe
from mmssl.methods import Method
from mmssl.rundir import RunDir, create, default_root

log = logging.getLogger("mmssl")
#: How processes that Lightning starts for further ranks learn the folder that the first one made.
SHARED_ROOT = "MMSSL_RUN_DIR"


class Interrupted(MmsslError):
    """Ctrl-C or SIGTERM: the run is saved and can go on."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def fit(recipe: Recipe, run_dir: str | Path | None = None, *, init_from: str | Path | None = None,
        typed: list[str] | None = None) -> RunDir:
    """Train a recipe from its first step to its last, then fit its probe.

    Args:
        recipe: as `load_recipe` gives it.
        run_dir: must not exist, or be empty; None: `runs/NAME-DATE`.
        init_from: checkpoint whose weights to start from; optimiser and data start anew.
        typed: what was typed, for the record.

    Returns:
        the run's folder.

    Raises:
        ConfigError, DataError, StorageError, TooManyBadSamples, Interrupted: each with its remedy; what was trained
            until then is saved.
    """
    shared = os.environ.get(SHARED_ROOT)
    root = Path(shared or run_dir or default_root(recipe.name))
    if shared is None:
        build.accumulation(recipe)
        create(root, build.complete(recipe), typed)
    run = RunDir(root)
    with _root_for_other_ranks(run, recipe):
        _train(run, run.load_recipe(), init_from=init_from)
    return run


def resume(run_dir: str | Path, overrides: list[str] | None = None) -> RunDir:
    """Continue a run exactly where its last checkpoint left it; without one, from its first step.

    Args:
        run_dir: folder of the run.
        overrides: `trainer.max_steps=…`, `trainer.…_every=…` or `data.workers=…`: what changes no number of the steps
            that are left.

    Raises:
        ConfigError: an override that would make it another run.
    """
    run = RunDir(Path(run_dir))
    fixed = [o for o in overrides or [] if o.partition("=")[0] not in HARMLESS]
    if fixed:
        raise ConfigError([f"fit --resume: '{o}' would make it another run; only {', '.join(HARMLESS)} may change. "
                           "Start a new run with --init-from instead" for o in fixed])
    recipe = run.load_recipe(overrides)
    last = run.root / "checkpoints" / "last.ckpt"
    with _root_for_other_ranks(run, recipe):
        _train(run, recipe, checkpoint=last if last.is_file() else None)
    return run


#: Settings that a resumed run may change.
HARMLESS = ("trainer.max_steps", "trainer.log_every", "trainer.checkpoint_every", "trainer.val_every", "data.workers",
            "data.cache_mib", "data.bad_samples")


def init_weights(model: Method, path: str | Path) -> str:
    """Copy weights of a checkpoint into a model by name, where the shapes agree.

    Args:
        model: changed in place.
        path: checkpoint of any run, or a plain state dict saved by `torch.save`.

    Returns:
        what matched, for the user.

    Raises:
        ConfigError: nothing matched.
        DataError: the file is no checkpoint.
    """
    content = read_checkpoint(path, foreign=True)
    stored = content.get("state_dict", content)
    own = model.state_dict()
    good = {k: v for k, v in stored.items() if k in own and own[k].shape == v.shape}
    shapes = [k for k, v in stored.items() if k in own and own[k].shape != v.shape]
    missing, extra = sorted(own.keys() - stored.keys()), sorted(stored.keys() - own.keys())
    if not good:
        raise ConfigError(f"{path}: none of its {len(stored)} tensors fits this model ({len(own)} tensors); "
                          "expected a checkpoint of the same method and sizes")
    model.load_state_dict(good, strict=False)
    notes = [f"weights from {path}: {len(good)} of {len(own)} tensors matched"]
    for what, names in (("of another shape, kept as drawn", shapes), ("not in the file, kept as drawn", missing),
                        ("in the file only, ignored", extra)):
        if names:
            notes.append(f"  {len(names)} {what}: {', '.join(names[:4])}{', …' if len(names) > 4 else ''}")
    return "\n".join(notes)


def _train(run: RunDir, recipe: Recipe, checkpoint: Path | None = None, init_from: str | Path | None = None) -> None:
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    with run.locked() if first else contextlib.nullcontext(), _logging_to(run.log_file, first):
        parts = build.modalities(recipe)
        model = build.method(recipe, parts)
        for name, modality in parts.items():
            if hasattr(modality, "describe"):
                log.info("%s: %s", name, modality.describe())
        if init_from:
            log.info("%s", init_weights(model, init_from))
        if recipe.trainer.compile:
            build.compile_blocks(model)
        log.info("run directory: %s%s", run.root, f", continued from {checkpoint.name}" if checkpoint else "")
        data = build.datamodule(recipe, parts, run)
        _run_trainer(run, recipe, model, data, checkpoint)
        if first and recipe.probe.labels:
            log.info("%s", probe(run.root).text)


def _run_trainer(run: RunDir, recipe: Recipe, model: Method, data: Any, checkpoint: Path | None) -> None:
    trainer = build.trainer(recipe, run)
    hint = f"continue with: mmssl fit --resume {run.root}"
    try:
        trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except SIGTERMException:
        raise Interrupted(f"stopped by SIGTERM after step {trainer.global_step}; {hint}", 143) from None
    except (KeyboardInterrupt, SystemExit):
        raise Interrupted(f"stopped after step {trainer.global_step}; {hint}", 130) from None
    except MmsslError as error:
        error.args = (f"{error}\nstopped after step {trainer.global_step}; when that is mended, {hint}",)
        raise
    if trainer.interrupted:
        raise Interrupted(f"stopped after step {trainer.global_step}; {hint}", 130)


@contextlib.contextmanager
def _root_for_other_ranks(run: RunDir, recipe: Recipe) -> Iterator[None]:
    """Lightning starts further ranks by running this command again; they must not make a folder of their own."""
    if build.world(recipe) == 1 or SHARED_ROOT in os.environ:
        yield
        return
    os.environ[SHARED_ROOT] = str(run.root.resolve())
    try:
        yield
    finally:
        del os.environ[SHARED_ROOT]


@contextlib.contextmanager
def _logging_to(path: Path, first: bool) -> Iterator[None]:
    """Messages of `mmssl` go to the terminal and to the run's log file; of further ranks, only warnings."""
    plain = logging.Formatter("%(message)s")
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
    if first:
        handlers.append(logging.FileHandler(path, encoding="utf-8"))
        handlers[1].setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handlers[0].setFormatter(plain)
    before = log.level, log.propagate
    log.setLevel(logging.INFO if first else logging.WARNING)
    log.propagate = False
    for handler in handlers:
        log.addHandler(handler)
    try:
        yield
    finally:
        log.level, log.propagate = before
        for handler in handlers:
            log.removeHandler(handler)
            if handler is not handlers[0]:
                handler.close()


