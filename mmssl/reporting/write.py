"""The report of a run: read what it left behind, compute what it did not, and write one HTML file."""

from __future__ import annotations

from pathlib import Path

from mmssl import build
from mmssl.config import Recipe, dump
from mmssl.errors import DataError
from mmssl.eval import extract
from mmssl.evaluate import device_of, open_model, project_pairs
from mmssl.page import Section, folded, page, table, text
from mmssl.reporting.classes import classification, missing, probes, read_json
from mmssl.reporting.embeddings import common_spaces, maps
from mmssl.reporting.history import held_out, read_metrics, training
from mmssl.rundir import RunDir
from mmssl.storage import write_whole


def report(run_dir: str | Path, out: str | Path | None = None, checkpoint: str = "last") -> Path:
    """Write one self-contained HTML file about a run: losses, learning rate, pace, retrieval and health over time, maps
    of the embeddings by class and by modality, probes, environment and recipe. It needs no network and no other file.

    Embeddings are those of the test split under the checkpoint; without a checkpoint yet those sections are left out.

    Args:
        run_dir: folder of the run.
        out: file to write; default, `report.html` in the run's folder.
        checkpoint: "last", "best", or a file.

    Returns:
        the file.

    Raises:
        DataError: the folder is no run, or its metrics are unreadable.
    """
    run = RunDir(Path(run_dir))
    recipe = run.load_recipe()
    rows, validations = read_metrics(run.metrics_file)
    steps = max((r["step"] for r in (*rows, *validations)), default=0)
    try:
        run.checkpoint(checkpoint)
        embedded, samples = _embedded(run, recipe, checkpoint)
    except DataError as error:
        embedded, samples = [Section("Embeddings", [text(str(error), warning=True)])], None
    sections = [training(rows, validations), held_out(validations, samples), *probes(run), *classification(run),
                *missing(run), *embedded, _environment(run), Section("Recipe", [folded("recipe.yaml", dump(recipe))])]
    method = recipe.method["name"]
    subtitle = f"{method}, {steps:,} of {recipe.trainer.max_steps:,} optimiser steps, data {recipe.data.root}"
    path = Path(out) if out else run.root / "report.html"
    write_whole(path, page(f"{recipe.name} ({run.root.resolve().name})", subtitle, sections).encode())
    return path


def _embedded(run: RunDir, recipe: Recipe, checkpoint: str) -> tuple[list[Section], int]:
    model, parts = open_model(run, recipe, checkpoint)
    model = model.to(device_of(recipe))
    data = build.datamodule(recipe, parts)
    features = extract(model, data.loader(recipe.data.test))
    split = data.open(recipe.data.test)
    labels = [label for label in (recipe.probe.labels or split.labels)
              if label in features.labels and label not in split.several]
    pairs = project_pairs(model, data.loader(recipe.data.test))
    return [maps(features, labels, split.labels), common_spaces(pairs)], len(data.open(recipe.data.val))


def _environment(run: RunDir) -> Section:
    facts = read_json(run.root / "environment.json")
    flat = [[key, ", ".join(map(str, value)) if isinstance(value, list) else str(value)]
            for key, value in facts.items() if not isinstance(value, dict)]
    packages = [[name, version] for name, version in facts.get("packages", {}).items()]
    return Section("Environment", [table(["", "value"], flat), folded("packages", "\n".join(
        f"{name} {version}" for name, version in packages))] if facts else [])
