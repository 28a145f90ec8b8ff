"""How good a classifier is on held-out samples, each seen in one or several views."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mmssl import build, completing, labelled
from mmssl.config import Recipe
from mmssl.data import StreamLoader, inspect
from mmssl.data.progress import progress_line
from mmssl.errors import ConfigError, DataError
from mmssl.eval import Scores, frozen, on_device, scores
from mmssl.evaluate.loading import device_of, load_weights
from mmssl.methods import Classifier
from mmssl.rundir import RunDir, write_json
from mmssl.storage import write_whole
from mmssl.types import View

#: What may be set for a scoring alone.
SETTABLE = ("finetune.windows=", "finetune.crops=", "data.")


@dataclasses.dataclass(frozen=True)
class ScoreReport:
    """A classifier on one split.

    Args:
        scores: see `mmssl.eval.Scores`.
        chance: by some of its metrics, what needs no input.
        left_out: samples that were not scored: unreadable, without the label, or with nothing to read.
        text: the same for a reader.
    """

    scores: Scores
    chance: dict[str, float]
    left_out: int
    text: str


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a classifier says of N samples.

    Args:
        keys: (N,) of the samples.
        logits: (N, C) float64, mean over the views.
        targets: (N, C), 1 for the classes a sample has.
        left_out: samples that are not among them.
    """

    keys: np.ndarray
    logits: Tensor
    targets: Tensor
    left_out: int


def score(run_dir: str | Path, checkpoint: str | None = None, overrides: list[str] | None = None, *,
          split: str | None = None, out: str | Path | None = None) -> ScoreReport:
    """Score a fine-tuned run: the mean of the scores over `finetune.windows` × `finetune.crops` views of each sample.

    Source: arXiv 2104.11178, section A.3 (mean of logits).

    Args:
        run_dir: folder of the run; the result is written there as `score.json` and `score.txt`, of other samples than
            the run's own test split as `score-SPLIT.json`, of another data set as `score-DATA-SPLIT.json`.
        checkpoint: "last", "best", or a file; None: best, where there is one.
        overrides: `data.…=…`, `finetune.windows=…`, `finetune.crops=…`.
        split: default, the recipe's `data.test`.
        out: npz file for what is said of each sample: `keys`, `logits`, `targets`, `classes`; None: none.

    Raises:
        ConfigError: an override of another kind, or a run without classifier.
        DataError: a split or label that the data set lacks, other classes than the run knows, no sample to score.
    """
    run = RunDir(Path(run_dir))
    wrong = [o for o in overrides or [] if not o.startswith(SETTABLE)]
    problems = [f"score: '{o}': only {', '.join(s.rstrip('=') for s in SETTABLE)}* may change" for o in wrong]
    if problems:
        raise ConfigError(problems)
    recipe = completing.reopened(run, "score", overrides or [])
    if recipe.finetune is None:
        raise ConfigError(f"{run.root}: has no classifier (its method is '{recipe.method['name']}'); train one with "
                          f"`mmssl finetune --run {run.root} --task …`, or read its features with `mmssl probe`")
    if out is not None and Path(out).suffix != ".npz":
        raise ConfigError(f"--out {out}: expected a name that ends in .npz")
    root = completing.data_root(recipe)
    recipe = labelled.with_classes(recipe, inspect(root), root)
    best = (run.root / "checkpoints" / "best.ckpt").is_file()
    path = run.checkpoint(checkpoint or ("best" if best else "last"))
    parts = build.modalities(recipe)
    model = build.method(recipe, parts)
    step = load_weights(model, path).get("global_step")
    views = View.grid(recipe.finetune.windows, recipe.finetune.crops)
    alone = dataclasses.replace(recipe, trainer=dataclasses.replace(recipe.trainer, devices=1, nodes=1))
    loader = build.datamodule(alone, parts, run).loader(split or recipe.data.test, views=views)
    found = predict(model.to(device_of(recipe)), loader)
    if not len(found.keys):
        raise DataError(f"{root}: no sample of '{split or recipe.data.test}' could be scored; all {found.left_out} "
                        f"lack the label or what is read, or cannot be read: see {run.bad_samples_file}")
    report = _report(model, recipe, found, f"{path.name}, step {step}, on '{split or recipe.data.test}' of {root}")
    name = _file_name(run, recipe, root, split or recipe.data.test)
    write_json(run.root / f"{name}.json", {
        "checkpoint": str(path), "step": step, "split": split or recipe.data.test, "data": str(root),
        "label": recipe.finetune.label, "classes": recipe.finetune.class_names, "windows": recipe.finetune.windows,
        "crops": recipe.finetune.crops, "left_out": found.left_out, "chance": report.chance,
        "scores": report.scores.as_dict()})
    write_whole(run.root / f"{name}.txt", (report.text + "\n").encode())
    if out is not None:
        _write_npz(Path(out), found, recipe.finetune.class_names)
    return report


def predict(model: Classifier, loader: StreamLoader) -> Predictions:
    """The mean scores over the views of every sample of a split that has the label and something to read.

    Args:
        model: trained; where its parameters are, it computes.
        loader: of the split, with its views; on one process.
    """
    total, views, device = len(loader.reader.split), len(loader.views), next(model.parameters()).device
    classes = len(model.finetune.class_names)
    logits, targets = (torch.zeros(total, classes, dtype=torch.float64) for _ in range(2))
    seen, keys, show = torch.zeros(total), np.full(total, "", dtype=object), progress_line("scoring")
    with frozen(model):
        for number, batch in enumerate(loader, 1):
            said, there = model.classify(on_device(batch, device))
            truth, known = model.targets(batch)
            counts = there.cpu() & known
            sample = batch.rows[counts] // views
            logits.index_add_(0, sample, said.cpu()[counts].double())
            seen.index_add_(0, sample, torch.ones(len(sample)))
            targets[sample] = truth[counts].double()
            keys[sample.numpy()] = np.array(batch.keys, dtype=object)[counts.numpy()]
            show(number, len(loader))
    scored = seen > 0
    return Predictions(keys[scored.numpy()].astype(str), logits[scored] / seen[scored, None], targets[scored],
                       int((~scored).sum()))


def _report(model: Classifier, recipe: Recipe, found: Predictions, where: str) -> ScoreReport:
    how, kind, truth = recipe.finetune, model.loss.kind, found.targets.numpy()
    single = kind == "single_label"
    result = scores(kind, truth.argmax(axis=1) if single else truth, model.probabilities(found.logits).numpy(),
                    truth.shape[1])
    rates = truth.mean(axis=0)
    chance = {"accuracy": float(rates.max()), "kappa": 0.0} if single else {
        "map": float(rates[(rates > 0) & (rates < 1)].mean()) if ((rates > 0) & (rates < 1)).any() else 0.0,
        "auc": 0.5, "d_prime": 0.0}
    views = f"{how.windows} × {how.crops} views each" if how.windows * how.crops > 1 else "one view each"
    left = f"; {found.left_out} left out" if found.left_out else ""
    lines = [f"{', '.join(how.label)} from {how.features}, {truth.shape[1]} classes: {where}",
             f"{result.rows} samples{left}, {views}"]
    for name, value in result.values.items():
        luck = f"   (without looking: {chance[name]:.3f})" if name in chance else ""
        lines.append(f"  {name:<10} {'undefined' if value is None else f'{value:.3f}'}{luck}")
    return ScoreReport(result, chance, found.left_out, "\n".join(lines))


def _file_name(run: RunDir, recipe: Recipe, root: Path, split: str) -> str:
    """What a result is called, so that none of other samples takes the place of the run's own."""
    own = run.load_recipe()
    if root.resolve() != completing.data_root(own).resolve():
        return f"score-{root.name}-{split}"
    mine = split == own.data.test and recipe.data.split == own.data.split
    return "score" if mine else f"score-{split}"


def _write_npz(path: Path, found: Predictions, classes: list[str]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, keys=found.keys, logits=found.logits.numpy(), targets=found.targets.numpy().astype(np.int8),
             classes=np.array(classes))
    write_whole(path, buffer.getvalue())
