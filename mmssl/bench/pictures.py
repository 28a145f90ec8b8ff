"""A suite's outcome as one HTML file: tables, and a picture of each thing that people would rather look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmssl import plots
from mmssl.bench.results import Cell, Result
from mmssl.bench.suite import RETRIEVAL, Suite
from mmssl.bench.table import HEADINGS, LOST_HEADINGS, number, tables
from mmssl.page import Section, figure, figures, folded, page, table, text

#: What a metric is called on an axis, with its range.
AXES = {"macro_f1": "macro-F1 (0 to 1)", "auroc": "AUROC (0 to 1)", "map": "mean average precision (0 to 1)",
        "d_prime": "d′", "MedR": "median rank (1 is best)", "kappa": "kappa (-1 to 1)"}
#: Classes up to which a confusion matrix is drawn.
CLASSES = 60


def html(plan: Suite, results: Sequence[Result], seeds: int, environment: dict[str, Any]) -> str:
    """The whole page; it needs no network and no other file.

    Args:
        plan: the suite.
        results: one for each task and subject.
        seeds: how many draws the intervals are over.
        environment: of the machine, as `describe` gives it.
    """
    found = tables(plan, results)
    overview = Section("All numbers", [table(HEADINGS, found.rows) if found.rows else text("Nothing was measured.")])
    if found.lost:
        overview.parts.append(table(LOST_HEADINGS, found.lost, "Devices missing from the test samples."))
    sections = []
    for task, protocol in zip(plan.tasks, found.protocols, strict=True):
        mine = [r for r in results if r.task == task.name and r.state == "done"]
        if mine:
            sections.append(Section(task.name, [text(protocol), *_task(mine)]))
    told = [Section(title, [text(line) for line in part]) for title, part in (
        ("Encoders", found.subjects), ("Remarks", found.remarks))]
    facts = "\n".join(f"{key}: {value}" for key, value in environment.items())
    subtitle = (f"Mean over {seeds} seed{'s' if seeds > 1 else ''} of labels, validation part and classifier, with its "
                "95 % interval (Student's t). Ties count against the model.")
    return page(f"Suite {plan.name}", subtitle, [*sections, overview, *told,
                                                 Section("Environment", [folded("environment", facts)])])


def _task(results: Sequence[Result]) -> list[str]:
    """The pictures of one task."""
    metric = results[0].shown
    axis = AXES.get(metric, f"{metric} (0 to 1)")
    several = len({cell.fraction for result in results for cell in result.cells}) > 1
    which = ", with the largest share of the labels" if several else ""
    items = [figure(plots.svg(_dots(results, metric, axis)), f"Each encoder and what was read from it{which}; lines: "
                    "95 % interval over seeds, where anything is drawn; dashed: chance.")]
    if several:
        items.append(figure(plots.svg(_by_share(results, metric, axis)), "Of each encoder what is best with all "
                            "labels, by the share of the training labels that was seen (logarithmic)."))
    if any(cell.missing for result in results for cell in result.cells):
        items.append(figure(plots.svg(heat_map(results)), "Fitted on complete samples, tested with every set of "
                            "devices missing but all; mean over seeds, largest share of the labels."))
    best = max((pair for pair in _whole(results) if not pair[0].baseline), default=None,
               key=lambda pair: _mean(pair[1], metric))
    if best and 1 < len(best[0].classes) <= CLASSES and best[1].runs[0].get("confusion"):
        result, cell = best
        picture = plots.heat_map(np.array(cell.runs[0]["confusion"]), result.classes, result.classes, "true class",
                                 "guessed class", "test samples", whole=True)
        items.append(figure(plots.svg(picture), f"Confusion of {result.subject}, read from {cell.features}: test "
                                                "samples of the first seed."))
    return [figures(items), *(_retrieval_table(results) if metric in RETRIEVAL else [])]


def _retrieval_table(results: Sequence[Result]) -> list[str]:
    rows = [[f"{result.subject}: {cell.features}", *(
        number(cell.metrics[name]["mean"], name) if name in cell.metrics else "-" for name in RETRIEVAL),
        len(cell.rows)] for result in results for cell in result.cells]
    return [table(["encoder: query > gallery", *RETRIEVAL, "samples"], rows, "Exact, ties against the model.")]


def _whole(results: Sequence[Result]) -> list[tuple[Result, Cell]]:
    """Each result's cells of the largest share of labels in which nothing was missing."""
    return [(result, cell) for result in results for cell in result.cells
            if not cell.missing and cell.fraction == max(c.fraction for c in result.cells)]


def _dots(results: Sequence[Result], metric: str, axis: str) -> plots.Figure:
    rows = {}
    for result, cell in _whole(results):
        value = cell.metrics[metric]
        if value["mean"] is not None:
            rows[f"{result.subject}: {cell.features}"] = (value["mean"], value["low"], value["high"])
    chances = {cell.chance[metric] for _, cell in _whole(results) if metric in cell.chance}
    return plots.dots(rows, axis, chance=float(np.mean(list(chances))) if chances else None)


def _by_share(results: Sequence[Result], metric: str, axis: str) -> plots.Figure:
    curves = {}
    for result in results:
        name = max((cell for other, cell in _whole([result])), key=lambda cell: _mean(cell, metric)).features
        cells = [cell for cell in result.cells if cell.features == name and not cell.missing]
        curves[f"{result.subject}: {name}"] = ([100 * c.fraction for c in cells], [_mean(c, metric) for c in cells])
    return plots.lines(curves, "share of the training labels (%)", axis, log_x=True)


def heat_map(results: Sequence[Result]) -> plots.Figure:
    """The metric that tables show by who is probed (rows) and what is missing (columns), of results for one label, with
    the largest share of labels."""
    scenarios = list(dict.fromkeys(tuple(cell.missing) for result in results for cell in result.cells))
    metric, rows, values = results[0].shown, [], []
    for result in results:
        share = max(cell.fraction for cell in result.cells)
        for features in dict.fromkeys(cell.features for cell in result.cells):
            by = {tuple(c.missing): _mean(c, metric) for c in result.cells
                  if (c.features, c.fraction) == (features, share)}
            if len(by) > 1 or len(scenarios) == 1:  # of a feature set of one device nothing can be missing
                rows.append(f"{result.subject}: {features}")
                values.append([by.get(s, np.nan) for s in scenarios])
    columns = [", ".join(s) or "nothing" for s in scenarios]
    return plots.heat_map(np.array(values, dtype=float), rows, columns, "who: features", "missing",
                          AXES.get(metric, f"{metric} (0 to 1)"))


def _mean(cell: Cell, metric: str) -> float:
    """NaN where undefined."""
    value = cell.metrics[metric]["mean"]
    return float("nan") if value is None else value
