"""A suite's outcome as tables: a row for each thing that was read from a subject, what stands beside it in columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mmssl.bench.results import Cell, Result
from mmssl.bench.suite import Suite, Task
from mmssl.errors import few

HEADINGS = ["task", "encoder", "read from", "labels", "metric", "value (95 % interval)", "random weights", "chance"]
LOST_HEADINGS = ["task", "encoder", "read from", "labels", "metric", "none missing", "mean of the others", "worst",
                 "lost in the mean"]


@dataclass(frozen=True)
class Tables:
    """All that is said of a suite, before it is typeset.

    Args:
        rows: under HEADINGS.
        lost: under LOST_HEADINGS; empty where no devices were left out.
        protocols: one line for each task.
        subjects: one line for each subject.
        remarks: what was skipped, missing, failed or left out.
    """

    rows: list[list[str]]
    lost: list[list[str]]
    protocols: list[str]
    subjects: list[str]
    remarks: list[str]


def text_table(plan: Suite, results: Sequence[Result], seeds: int) -> str:
    """The tables for a terminal."""
    found = tables(plan, results)
    lines = [f"suite {plan.name}, {seeds} seed{'s' if seeds > 1 else ''}", ""]
    lines += aligned([HEADINGS, *found.rows]) if found.rows else ["nothing was measured"]
    if found.lost:
        lines += ["", "devices missing from the test samples", *aligned([LOST_HEADINGS, *found.lost])]
    for heading, part in (("protocols", found.protocols), ("encoders", found.subjects), ("remarks", found.remarks)):
        lines += ["", heading, *(f"  {line}" for line in part)] if part else []
    return "\n".join(lines)


def markdown(plan: Suite, results: Sequence[Result], seeds: int) -> str:
    """The tables as Markdown."""
    found = tables(plan, results)
    lines = [f"# Suite {plan.name}", "", f"Mean over {seeds} seed{'s' if seeds > 1 else ''}, 95 % interval by "
             "Student's t. Ties count against the model.", ""]
    for headings, rows in ((HEADINGS, found.rows), (LOST_HEADINGS, found.lost)):
        if rows:
            lines += [_piped(headings), "|" + "---|" * len(headings), *map(_piped, rows), ""]
    for heading, part in (("Protocols", found.protocols), ("Encoders", found.subjects), ("Remarks", found.remarks)):
        lines += [f"## {heading}", "", *(f"- {line}" for line in part), ""] if part else []
    return "\n".join(lines)


def tables(plan: Suite, results: Sequence[Result]) -> Tables:
    """What is to be said, in the order of the suite's tasks."""
    rows, lost = [], []
    by_place = {(result.task, result.subject): result for result in results}
    for result in results:
        if result.state != "done" or _is_twin(result):
            continue
        twin = by_place.get((result.task, f"{result.subject}, random weights"))
        for cell in result.cells:
            if not cell.missing:
                rows.append(_row(result, cell, twin))
                lost += _lost_row(result, cell)
    protocols = [_protocol(task, [r for r in results if r.task == task.name]) for task in plan.tasks]
    subjects = [f"{r.subject}: {r.origin}; {r.weights}; weights {r.digest[:12]}"
                for r in {r.subject: r for r in results}.values()]
    return Tables(rows, lost, protocols, subjects, list(_remarks(plan, results)))


def _is_twin(result: Result) -> bool:
    """Whether it is a run's encoders with random weights, which stand in columns beside the run."""
    return result.baseline and result.weights == "random weights"


def _row(result: Result, cell: Cell, twin: Result | None) -> list[str]:
    metric = result.shown
    beside = next((c for c in twin.cells if _place(c) == _place(cell)), None) if twin else None
    chance = cell.chance.get(metric)
    return [result.task, result.subject, cell.features, f"{100 * cell.fraction:g} %", metric, shown(cell, metric),
            shown(beside, metric) if beside else "-", "-" if chance is None else number(chance, metric)]


def _place(cell: Cell) -> tuple:
    return cell.features, cell.fraction, tuple(cell.missing)


def _lost_row(result: Result, cell: Cell) -> list[list[str]]:
    """What missing devices cost, where any were left out."""
    others = [c for c in result.cells if c.missing and (c.features, c.fraction) == (cell.features, cell.fraction)]
    values = {", ".join(c.missing): c.metrics[result.shown]["mean"] for c in others}
    whole = cell.metrics[result.shown]["mean"]
    if not others or whole is None or None in values.values():
        return []
    mean, worst = sum(values.values()) / len(values), min(values, key=values.get)
    told = [number(value, result.shown) for value in (whole, mean, values[worst], whole - mean)]
    return [[result.task, result.subject, cell.features, f"{100 * cell.fraction:g} %", result.shown, *told[:2],
             f"{told[2]} (without {worst})", told[3]]]


def shown(cell: Cell, metric: str) -> str:
    """A metric's mean and interval as text."""
    value = cell.metrics[metric]
    if value["mean"] is None:
        return "undefined"
    if value["low"] is None:
        return number(value["mean"], metric)
    return f"{number(value['mean'], metric)} ({number(value['low'], metric)} to {number(value['high'], metric)})"


def number(value: float, metric: str) -> str:
    """A share as .123, a place or d' as 12.3."""
    return f"{value:.1f}" if metric == "MedR" else f"{value:.3f}"


def _protocol(task: Task, results: Sequence[Result]) -> str:
    done = next((r for r in results if r.split_hash), None)
    settings = ", ".join(f"{k} {v}" for k, v in task.probe.items() if k != "name")
    if task.kind == "retrieval":
        what = f"{', '.join(task.pairs)} by {task.match}" + (f", right is equal {task.label}" if task.label else "")
    else:
        what = f"{task.label} ({task.kind.replace('_', ' ')}) by {task.probe['name']}"
        what += f" ({settings})" if settings else ""
        what += ", features standardised within each group" if task.standardise == "group" else ""
    who = f"test {_lots(task, task.test)}"
    who = f"train {_lots(task, task.train)}, {who}" if task.kind != "retrieval" else who
    if task.folds is not None:
        how = (f"columns {', '.join(task.folds.columns)}" if task.folds.columns else
               f"{len(task.folds.test)} listed folds" if task.folds.test else
               f"{task.folds.count} folds" if task.folds.count else "leave one out")
        who = f"{how} by {task.folds.by}, " + ("mean of the folds" if task.folds.average else "scored together")
    views = f"{task.views.train} training and {task.views.test} x {task.views.crops} test views"
    hashes = "; records " + ", ".join(f"{s} {h[:12]}" for s, h in done.split_hash.items()) if done else ""
    return f"{task.name}: {what}; {task.root}, {who}; {views}{hashes}"


def _lots(task: Task, splits: Sequence[str]) -> str:
    """Splits by name, with their groups where the task names them."""
    named = [f"{split} ({few(task.groups[split], 6)})" if split in task.groups else split for split in splits]
    return "+".join(named)


def _remarks(plan: Suite, results: Sequence[Result]) -> Iterable[str]:
    """One line for each thing that was not measured, and why."""
    for task in plan.tasks:
        mine = [r for r in results if r.task == task.name]
        if any(r.state == "missing" for r in mine):
            yield (f"{task.name}: not here: '{task.root}' under {plan.root} (data.root). Get: "
                   f"{task.get or 'see its source'}" + (f". Pack: {task.pack}" if task.pack else ""))
        if task.finetune and any(r.state == "done" for r in mine):
            yield f"{task.name}: a probe; its paper fine-tunes: {task.finetune}"
        for result in mine:
            if result.state == "failed" or (result.state == "skipped" and not result.baseline):
                yield f"{task.name}: {result.state}: {result.why}"
            if result.left_out:
                yield (f"{task.name}: {result.subject}: {result.left_out} samples of the test splits hold nothing that "
                       "it reads, or could not be read")
            for run in {run["note"] for cell in result.cells for run in cell.runs if run.get("note")}:
                yield f"{task.name}: {result.subject}: {run}"
            if not _is_twin(result):  # whose notes are those of its run
                yield from (f"{task.name}: {note}" for note in result.notes)
            lacking = max((c for cell in result.cells for run in cell.runs
                           for c in (run.get("left_out") or {}).values()), default=0)
            if lacking and not result.baseline:
                yield (f"{task.name}: {result.subject}: up to {lacking} of {len(result.classes)} classes lack positive "
                       "or negative test samples and are left out of auroc, map, auc and d_prime")


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines whose columns begin at one place."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _piped(row: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "/") for cell in row) + " |"
