"""Training a recipe, and continuing a run: what the command line, Python and the tests call."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.exceptions import SIGTERMException

from mmssl import build, completing, training
from mmssl.callbacks import ended_early
from mmssl.config import Recipe, compose
from mmssl.config.load import read_raw
from mmssl.config.task import names
from mmssl.distributed import leave_group
from mmssl.errors import ConfigError, DataError, MmsslError, StorageError
from mmssl.evaluate import device_of, load_weights, probe, score
from mmssl.forecast import forecast
from mmssl.methods import Method
from mmssl.recipe_files import task_path
from mmssl.rundir import RunDir, check_free, create, default_root
from mmssl.storage import REFUSALS, refused
from mmssl.weights import init_weights

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
        typed: the words of the command after `mmssl`, for the record.

    Returns:
        the run's folder.

    Raises:
        ConfigError, DataError, StorageError, TooManyBadSamples, Interrupted: each with its remedy; what was trained
            until then is saved.
    """
    shared = os.environ.get(SHARED_ROOT)
    root = Path(shared or run_dir or default_root(recipe.name))
    notes = ""
    if shared is None:
        check_free(root)
        recipe = completing.complete(recipe)
        model = build.rehearse(recipe)
        begun = [init_weights(model, init_from, **_origin(recipe))] if init_from else []
        notes = "\n".join([*forecast(recipe, model, device_of(recipe)), *begun])
        create(root, recipe, typed, init_from)
    run = RunDir(root)
    with _root_for_other_ranks(run, recipe):
        _train(run, run.load_recipe(), notes)
    return run


def finetune(source: str | Path, task: str, overrides: list[str] | None = None, run_dir: str | Path | None = None, *,
             checkpoint: str = "last", from_scratch: bool = False, typed: list[str] | None = None) -> RunDir:
    """Train a classifier on top of a run's encoders, encoders included unless they are frozen, then score it.

    Args:
        source: folder of the pre-trained run.
        task: name of a task (`video`, `audio`, `image`, `series`, …), or a YAML file.
        overrides: each `a.b=c`, e.g. `finetune.label=digit`.
        run_dir: as in `fit`.
        checkpoint: whose weights the encoders begin with: "last", "best", or a file.
        from_scratch: the same encoders with fresh weights instead: supervised training, to compare with.
        typed: as in `fit`.

    Returns:
        the new run's folder, a run like any other.

    Raises:
        as `fit` does; ConfigError too where the run lacks what the task reads, and where weights do not fit.
    """
    recipe = tuning(source, task, overrides, checkpoint=checkpoint, from_scratch=from_scratch)
    return fit(recipe, run_dir, init_from=recipe.finetune.start, typed=typed)


def tuning(source: str | Path, task: str, overrides: list[str] | None = None, *, checkpoint: str = "last",
           from_scratch: bool = False) -> Recipe:
    """The recipe of a fine-tuning run; see `finetune`. The run's split by group stays, but on another data set.

    Raises:
        ConfigError: as `finetune` does. DataError: there is no such run.
    """
    run = RunDir(Path(source))
    trained = run.load_recipe()
    start = None if from_scratch else run.checkpoint(checkpoint).resolve()
    recipe = compose(run.recipe_file, task, overrides, start)
    if names(read_raw(task_path(task)), overrides or [], "split") or completing.same_data(recipe, trained):
        return recipe
    return completing.elsewhere_split(recipe, trained)


def resume(run_dir: str | Path, overrides: list[str] | None = None) -> RunDir:
    """Continue a run exactly where its last checkpoint left it; without one, from its first step.

    Args:
        run_dir: folder of the run.
        overrides: `trainer.max_steps=…`, which also stretches the schedule of what is left; or what changes no number
            of the steps that are left: see `HARMLESS`. They hold for this call alone.

    Raises:
        ConfigError: an override that would make it another run.
    """
    run = RunDir(Path(run_dir))
    fixed = [o for o in overrides or [] if o.partition("=")[0] not in HARMLESS]
    if fixed:
        raise ConfigError([f"--resume: '{o}' would make it another run; only {', '.join(HARMLESS)} may change. "
                           "Start a new run with --init-from instead" for o in fixed])
    recipe = run.load_recipe(overrides)
    last = run.root / "checkpoints" / "last.ckpt"
    notes = f"continued from {last}" if last.is_file() else "no checkpoint was saved yet; it begins at its first step"
    with _root_for_other_ranks(run, recipe):
        _train(run, recipe, notes, overrides or [], last if last.is_file() else None)
    return run


#: Settings that a resumed run may change.
HARMLESS = ("trainer.max_steps", "trainer.log_every", "trainer.checkpoint_every", "trainer.val_every",
            "trainer.pictures_every", "trainer.monitor", "trainer.mode",
            "data.workers", "data.cache_mib", "data.bad_samples")


def _train(run: RunDir, recipe: Recipe, notes: str = "", overrides: Sequence[str] = (),
           checkpoint: Path | None = None) -> None:
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    with run.locked() if first else contextlib.nullcontext(), _logging_to(run.log_file, first):
        parts = build.modalities(recipe)
        model = build.method(recipe, parts)
        for name, modality in parts.items():
            if hasattr(modality, "describe"):
                log.info("%s: %s", name, modality.describe())
        step, ended = 0, False
        if checkpoint is not None:
            content = _check_resumable(model, checkpoint)
            step, ended = int(content["global_step"]), ended_early(content)
            if step >= recipe.trainer.max_steps:
                notes += f"\nall {step} steps are done; to train on, add trainer.max_steps={2 * step}"
        elif run.initial.is_file():
            init_weights(model, run.initial, **_origin(recipe))
        if recipe.trainer.compile:
            training.compile_blocks(model)
        log.info("run directory: %s%s", run.root, f"\n{notes}" if notes else "")
        verb = "finetune" if recipe.finetune else "fit"
        hint = f"continue with: {shlex.join(['mmssl', verb, '--resume', str(run.root), *overrides])}"
        if ended:
            log.info("it ended early, after step %d, when %s got no better", step, recipe.trainer.monitor)
        else:
            data = build.datamodule(recipe, parts, run)
            watchers = build.watchers(recipe, parts, data, run)
            _run_trainer(training.trainer(recipe, run, step, watchers), model, data, checkpoint, hint)
        leave_group()
        if first:
            _tell_bad_samples(run)
            _assess(run, recipe)


def _check_resumable(model: Method, path: Path) -> dict[str, Any]:
    """See that a checkpoint is one of this run before a Trainer takes it apart; what it holds. Raises DataError."""
    content = load_weights(model, path)
    lacking = {"global_step", "optimizer_states", "loops", "callbacks", "pytorch-lightning_version"} - content.keys()
    if lacking:
        raise DataError(f"{path}: holds weights, but not where a run stood (no {', '.join(sorted(lacking))}); start a "
                        f"new run from it: mmssl fit --recipe … --init-from {path}")
    return content


def _run_trainer(trainer: Any, model: Method, data: Any, checkpoint: Path | None, hint: str) -> None:
    try:
        trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except SIGTERMException:
        raise Interrupted(f"stopped by SIGTERM after step {trainer.global_step}; {hint}", 143) from None
    except (KeyboardInterrupt, SystemExit):
        raise Interrupted(f"stopped after step {trainer.global_step}; {hint}", 130) from None
    except MmsslError as error:
        error.args = (f"{error}\nstopped after step {trainer.global_step}; when that is mended, {hint}",)
        raise
    except OSError as error:  # what others write: TensorBoard's events
        if error.errno not in REFUSALS:
            raise
        place = refused(Path(error.filename or trainer.default_root_dir), error)
        raise StorageError(f"{place}\nstopped after step {trainer.global_step}; when that is mended, {hint}") from error
    if trainer.interrupted:
        raise Interrupted(f"stopped after step {trainer.global_step}; {hint}", 130)


def _tell_bad_samples(run: RunDir) -> None:
    count = run.bad_samples_file.read_bytes().count(b"\n") if run.bad_samples_file.is_file() else 0
    if count:
        log.warning("%d bad %s left out; %s says which and why", count, "samples were" if count > 1 else "sample was",
                    run.bad_samples_file)


def _assess(run: RunDir, recipe: Recipe) -> None:
    """What a run is judged by when it is done: its probe, a classifier's scores."""
    asked = {"probe": probe if recipe.probe.labels else None, "score": score if recipe.finetune else None}
    for verb, judge in asked.items():
        if judge is None:
            continue
        hint = f"training is done; {verb} with: {shlex.join(['mmssl', verb, '--run', str(run.root)])}"
        try:
            log.info("%s", judge(run.root).text)
        except KeyboardInterrupt:
            raise Interrupted(f"stopped while it was judged; {hint}", 130) from None
        except MmsslError as error:
            error.args = (f"{error}\n{hint}",)
            raise


def _origin(recipe: Recipe) -> dict[str, Any]:
    """What `init_weights` is told of a fine-tuning run: whose encoder each modality takes, and that all must fit."""
    how = recipe.finetune
    if how is None or how.start is None:
        return {}
    return {"renamed": {f"encoders.{name}.": f"encoders.{source}." for name, source in how.encoders.items()},
            "whole": ("encoders.", "aggregator.")}


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
        handler.handleError = lambda record: None  # a full disk or a closed pipe: no traceback for each line of a log
        log.addHandler(handler)
    try:
        yield
    finally:
        log.level, log.propagate = before
        for handler in handlers:
            log.removeHandler(handler)
            if handler is not handlers[0]:
                handler.close()
