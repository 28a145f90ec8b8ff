"""Probes and retrieval of a trained run, beside the same encoders with random weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from mmssl import build, completing
from mmssl.config import Recipe
from mmssl.data import DataModule, StreamLoader
from mmssl.errors import ConfigError
from mmssl.eval import (
    Features,
    ProbeTable,
    RetrievalResult,
    extract,
    feature_names,
    frozen,
    join,
    on_device,
    probe_table,
    render,
    retrieval_table,
)
from mmssl.evaluate.loading import device_of, open_model, probe_overrides
from mmssl.labelled import leaks, probe_problems
from mmssl.methods import Method
from mmssl.rundir import RunDir, write_json
from mmssl.storage import write_whole


@dataclasses.dataclass(frozen=True)
class ProbeReport:
    """Linear probes of one checkpoint.

    Args:
        tables: by label, then "trained" and "random weights".
        retrieval: by "a_to_b", how well a finds its own b among all test samples.
        text: the same for a reader.
    """

    tables: dict[str, dict[str, ProbeTable]]
    retrieval: dict[str, RetrievalResult]
    text: str


def probe(run_dir: str | Path, checkpoint: str = "last", overrides: list[str] | None = None) -> ProbeReport:
    """Fit a linear classifier on frozen features of the training splits, test it on the test split; and retrieve the
    test samples of one modality from those of another, ties counted against the model.

    Beside it: chance, and the same classifier on the same encoders with random weights (drawn anew, seed + 1).

    Args:
        run_dir: folder of the run; the result is written there as `probe.json` and `probe.txt`.
        checkpoint: "last", "best", or a file.
        overrides: `probe.…=…` or `data.…=…`.

    Raises:
        ConfigError: an override of another section, a recipe without `probe.labels`, a label or feature that is not
            there.
        DataError: a split that the data set lacks.
    """
    run = RunDir(Path(run_dir))
    if problems := probe_overrides(overrides or []):
        raise ConfigError(problems)
    recipe = completing.reopened(run, "probe", overrides or [])
    if not recipe.probe.labels:
        raise ConfigError("probe.labels: empty; name labels of the data set, e.g. probe.labels=[digit] "
                          "(`mmssl data inspect` lists them)")
    trained, parts = open_model(run, recipe, checkpoint)
    untrained = build.method(build.at_random(recipe), parts)
    data = build.datamodule(recipe, parts, run)
    if problems := probe_problems(recipe.probe, feature_names(trained, parts), data.open(recipe.data.test)):
        raise ConfigError(problems)
    learned, tested = ([data.open(name) for name in names] for names in (recipe.probe.train, [recipe.data.test]))
    if problems := leaks("probe.train", learned, tested):
        raise ConfigError(problems)
    device = device_of(recipe)
    found = {heading: _features(model.to(device), recipe, data)
             for heading, model in (("trained", trained), ("random weights", untrained))}
    how = recipe.probe
    names = data.open(recipe.data.test).labels
    tables = {label: {heading: probe_table(train, test, label, how.features, how.fractions, how.seeds, recipe.seed,
                                           len(names.get(label, [])) or None)
                      for heading, (train, test) in found.items()} for label in how.labels}
    matches = retrieve(trained, data.loader(recipe.data.test))
    text = "\n\n".join([*(render(t) for t in tables.values()), *([_retrieval_text(matches)] if matches else [])])
    write_json(run.root / "probe.json", {
        "classes": {label: _class_names(names.get(label), by["trained"].classes) for label, by in tables.items()},
        "checkpoint": checkpoint, "split_hash": completing.split_hash(recipe),
        "data": str(completing.data_root(recipe)), "train": list(how.train), "test": recipe.data.test,
        "retrieval": {name: dataclasses.asdict(result) for name, result in matches.items()},
        "labels": {label: {heading: t.as_dict() for heading, t in by.items()} for label, by in tables.items()}})
    write_whole(run.root / "probe.txt", (text + "\n").encode())
    return ProbeReport(tables, matches, text)


def retrieve(model: Method, loader: StreamLoader) -> dict[str, RetrievalResult]:
    """Retrieval in both directions of every pair of the method, over all samples that a loader gives.

    Args:
        model: trained; compared is what its `validation_step` projects.
        loader: of a held-out split.

    Returns:
        by "a_to_b".
    """
    return retrieval_table(project_pairs(model, loader))


def project_pairs(model: Method, loader: StreamLoader) -> dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """All samples that a loader gives in the common space of each pair: by "a-b", (N, D), (N, D), and (N,) bool where
    both are there; on the CPU.

    Args:
        model: trained; asked is its `validation_step`.
        loader: of a held-out split.
    """
    found: dict[str, list[tuple[torch.Tensor, ...]]] = {}
    device = next(model.parameters()).device
    with frozen(model):
        for i, batch in enumerate(loader):
            for name, row in model.validation_step(on_device(batch, device), i)["pairs"].items():
                found.setdefault(name, []).append(tuple(t.cpu() for t in row))
    return {name: tuple(map(torch.cat, zip(*rows, strict=True))) for name, rows in found.items()}


def _retrieval_text(matches: dict[str, RetrievalResult]) -> str:
    rows = next(iter(matches.values())).rows
    lines = [f"retrieval among the test samples; chance among {rows}: R@1 {1 / rows:.3f}, R@5 {min(1, 5 / rows):.3f}, "
             f"R@10 {min(1, 10 / rows):.3f}, median rank {(rows + 1) / 2:g}"]
    for name, result in matches.items():
        shares = "  ".join(f"R@{k} {share:.3f}" for k, share in result.r_at.items())
        name = name.replace("_to_", " → ")
        lines.append(f"{name:<18} {shares}  median rank {result.median_rank:g}  of {result.rows}")
    return "\n".join(lines)


def _class_names(names: list[str] | None, count: int) -> list[str]:
    """The names of a label's classes; numbers where the data set names none."""
    return (names or [str(c) for c in range(count)])[:count]


def _features(model: Method, recipe: Recipe, data: DataModule) -> tuple[Features, Features]:
    train = join([extract(model, data.loader(split)) for split in recipe.probe.train])
    return train, extract(model, data.loader(recipe.data.test))
