"""What classifiers read out of a run's features, as tables and pictures: probes, fine-tuned scores, missing sensors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmssl import plots
from mmssl.errors import DataError
from mmssl.eval.tables import NAMED
from mmssl.page import Section, figure, figures, table
from mmssl.rundir import RunDir


def probes(run: RunDir) -> list[Section]:
    """What `mmssl probe` left in the run's folder, with a confusion matrix of each feature set."""
    found = read_json(run.root / "probe.json")
    if not found:
        return []
    section = Section("Linear probes and retrieval on the test split")
    for label, by in found.get("labels", {}).items():
        first = next(iter(by.values()))
        head = ["features", "labels seen", "rows", *(f"{heading}: accuracy" for heading in by), *(
            f"{heading}: macro-F1" for heading in by)]
        lines = []
        for i, row in enumerate(first["rows"]):
            mates = [t["rows"][i] for t in by.values()]
            lines.append([row["features"], f"{100 * row['fraction']:g} %", row["rows"],
                          *(f"{m['accuracy']:.3f} ± {m['accuracy_std']:.3f}" for m in mates),
                          *(f"{m['macro_f1']:.3f} ± {m['macro_f1_std']:.3f}" for m in mates)])
        luck = first["chance"]
        section.parts.append(table(head, lines, f"'{label}', {first['classes']} classes: mean ± standard deviation "
                                   f"over draws of the labels; chance {luck['uniform']:.3f}, always the commonest "
                                   f"class {luck['majority']:.3f}."))
        section.parts.append(figures([
            confusion(row["confusion"], found["classes"][label], f"'{label}' from frozen features '{row['features']}', "
                      f"{100 * row['fraction']:g} % of the labels, summed over the draws")
            for row in by.get("trained", first)["rows"] if row.get("confusion")]))
    matches = found.get("retrieval", {})
    if matches:
        lines = [[name.replace("_to_", " → "), *(f"{r['r_at'][k]:.3f}" for k in ("1", "5", "10")),
                  f"{r['median_rank']:g}", r["rows"]] for name, r in matches.items()]
        section.parts.append(table(["retrieval", "R@1", "R@5", "R@10", "median rank", "samples"], lines,
                                   "Among all test samples; ties count against the model."))
    return [section]


def classification(run: RunDir) -> list[Section]:
    """What `mmssl score` left in a fine-tuned run's folder."""
    found = read_json(run.root / "score.json")
    if not found:
        return []
    result, luck = found["scores"], found["chance"]
    lines = [[name, "undefined" if value is None else f"{value:.3f}", f"{luck[name]:.3f}" if name in luck else ""]
             for name, value in result["values"].items()]
    caption = (f"{', '.join(found['label'])}, {len(found['classes'])} classes: {result['rows']:,} samples of "
               f"'{found['split']}', {found['windows']} × {found['crops']} views each; step {found['step']}.")
    section = Section("Classification", [table(["score", "value", "without looking"], lines, caption)])
    if result.get("confusion") and len(found["classes"]) <= NAMED:
        section.parts.append(figures([confusion(result["confusion"], found["classes"], ", ".join(found["label"]))]))
    return [section]


def missing(run: RunDir) -> list[Section]:
    """Heat maps of what `mmssl probe --missing all` left in the run's folder."""
    section, items = Section("Sensors missing from the test samples"), []
    done = [r for r in read_json(run.root / "missing" / "bench.json").get("results", []) if r["state"] == "done"]
    for label in dict.fromkeys(r["task"] for r in done):
        cells = [(f"{r['subject']}: {c['features']}", ", ".join(c["missing"]) or "nothing", c["metrics"][r["shown"]])
                 for r in done if r["task"] == label for c in r["cells"]]
        rows, columns = (list(dict.fromkeys(cell[i] for cell in cells)) for i in (0, 1))
        values = np.full((len(rows), len(columns)), np.nan)
        for row, column, value in cells:
            values[rows.index(row), columns.index(column)] = np.nan if value["mean"] is None else value["mean"]
        picture = plots.heat_map(values, rows, columns, "who: features", "missing", "macro-F1 (0 to 1)")
        items.append(figure(plots.svg(picture), f"'{label}': a linear probe fitted on complete samples and tested with "
                                                "every set of devices missing but all; mean over seeds."))
    section.parts.append(figures(items))
    return [section]


def confusion(counts: Sequence[Sequence[int]], names: Sequence[str], what: str) -> str:
    """A confusion matrix as a figure: of the samples of each class (row), the share that is taken for each (column).

    Args:
        counts: C rows (truth) of C counts (guess).
        names: of the C classes.
        what: begins the caption.
    """
    table = np.array(counts, dtype=float)
    rows = table.sum(axis=1)
    share = np.full(table.shape, np.nan)
    share[rows > 0] = table[rows > 0] / rows[rows > 0, None]
    unit = "share of the true class (0 to 1)"
    drawn = plots.heat_map(share, names, names, "true class", "class it is taken for", unit)
    return figure(plots.svg(drawn), f"Confusion matrix, {what}: {int(table.sum()):,} answers on test samples. Each row "
                                    "sums to 1; on the diagonal is the recall of a class.")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a run's folder; {} where it is not there. Raises DataError where it is broken."""
    try:
        return json.loads(path.read_text()) if path.is_file() else {}
    except ValueError:
        raise DataError(f"{path}: no JSON; write it anew, or move it away") from None
