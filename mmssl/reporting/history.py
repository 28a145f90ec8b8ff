"""What a run's metrics say over its steps: losses, learning rate, pace, retrieval, health."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmssl import plots
from mmssl.errors import DataError
from mmssl.page import Section, figure, figures, text

#: Keys of a training line that are not parts of the loss.
FACTS = ("step", "epoch", "lr", "samples_per_s", "data_wait", "split")
#: Scores of online probes in words.
SCORES = {"macro_f1": "macro-F1", "map": "mean average precision"}
#: Largest file of metrics that is read, in bytes.
LIMIT = 256 << 20


def read_metrics(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training lines and validation lines of a `metrics.jsonl`.

    Raises:
        DataError: there is no such file, it is too large, or a line is no JSON object.
    """
    if not path.is_file():
        raise DataError(f"{path}: no metrics; is this the folder of a run that has begun?")
    if path.stat().st_size > LIMIT:
        raise DataError(f"{path}: larger than {LIMIT >> 20} MiB, which no run writes")
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise DataError(f"{path}, line {number}: expected a JSON object with a step; remove the line")
        rows.append(row)
    return [r for r in rows if r.get("split") != "val"], [r for r in rows if r.get("split") == "val"]


def curves(rows: list[dict[str, Any]], wanted: Callable[[str], str | None]) -> dict[str, tuple[list[int], list[float]]]:
    """Curves over the steps.

    Args:
        rows: lines of metrics.
        wanted: from a key to the name of its curve, None to leave it out.
    """
    found: dict[str, tuple[list[int], list[float]]] = {}
    for row in rows:
        for key, value in row.items():
            name = wanted(key)
            if name is not None:
                steps, values = found.setdefault(name, ([], []))
                steps.append(row["step"])
                values.append(float("nan") if value is None else float(value))
    return found


def training(rows: list[dict[str, Any]], validations: list[dict[str, Any]]) -> Section:
    """Losses, learning rate and pace."""
    section = Section("Training")
    if not rows:
        section.parts.append(text("No training step has been logged yet.", warning=True))
        return section
    losses = curves(rows, lambda k: None if k in FACTS else k)
    losses |= curves(validations, lambda k: f"{k} (held out)" if k == "val/loss" else None)
    items = [figure(plots.svg(plots.lines(losses, "optimiser step", "loss (no unit)")),
                    "Loss and its parts, each the mean over the steps since the point before. Parts are unweighted.")]
    rates = curves(rows, lambda k: "learning rate" if k == "lr" else None)
    items.append(figure(plots.svg(plots.lines(rates, "optimiser step", "learning rate (per step)")),
                        "Learning rate of the first parameter group."))
    pace = curves(rows, lambda k: "samples" if k == "samples_per_s" else None)
    items.append(figure(plots.svg(plots.lines(pace, "optimiser step", "samples per second")),
                        "Throughput over all devices, validation left out."))
    waits = curves(rows, lambda k: "waiting" if k == "data_wait" else None)
    waits = {k: (x, [100 * v for v in y]) for k, (x, y) in waits.items()}
    if waits:
        items.append(figure(plots.svg(plots.lines(waits, "optimiser step", "share of time waiting for data (%)")),
                            "Time in which the model stood idle because no batch was ready."))
    section.parts.append(figures(items))
    return section


def held_out(rows: list[dict[str, Any]], samples: int | None) -> Section:
    """Retrieval and the embeddings' health at each validation.

    Args:
        rows: validation lines.
        samples: size of the validation split, for the line of chance; None: unknown.
    """
    section = Section("On held-out data, while training")
    pictures = [
        (lambda k: _between(k, "val/", "_R@10", not_in=("mean",)), "R@10 (share of queries)",
         min(1.0, 10 / samples) if samples else None,
         "Retrieval: share of queries whose own sample is among the first ten; ties count against the model."),
        (lambda k: _between(k, "val/rank_"), "effective rank (dimensions)", None,
         "RankMe of each embedding: how many directions it uses. A fall towards 1 is a collapse."),
        (lambda k: _between(k, "val/spread_"), "spread (0 equal, 1 spread out)", None,
         "How far the normalised embeddings are from all pointing one way."),
        (lambda k: _between(k, "val/std_"), "standard deviation per dimension", None,
         "Mean over dimensions of the standard deviation over samples, of the embeddings as they are."),
        (lambda k: _between(k, "val/gap_"), "modality gap (0 to 2)", None,
         "Distance between the centres of two modalities on the unit sphere of their common space."),
        (lambda k: _between(k, "val/alignment_"), "alignment (squared distance)", None,
         "Mean squared distance of the two sides of a pair on the unit sphere; 0 is perfect."),
        (lambda k: _between(k, "val/uniformity_"), "uniformity (log potential)", None,
         "Log of the mean Gaussian potential on the unit sphere; smaller is more uniform."),
    ]
    items = []
    for wanted, axis, chance, caption in pictures:
        found = curves(rows, wanted)
        if found:
            items.append(figure(plots.svg(plots.lines(found, "optimiser step", axis, chance=chance)), caption))
    section.parts.append(figures([*items, *online(rows)]))
    return section


def online(rows: list[dict[str, Any]]) -> list[str]:
    """A figure for each label and score of the online probes: how much they read out of each feature set.

    Args:
        rows: validation lines.
    """
    places = dict.fromkeys((k.split("/")[2], _score(k)) for row in rows for k in row if len(k.split("/")) == 5)
    items = []
    for label, score in places:
        start, end = f"val/online/{label}/", f"_{score}"
        found = curves(rows, lambda k, s=start, e=end: _between(k, s, e) if k.count("/") == 4 and _score(k) == e[1:]
                       else None)
        luck = next((r[f"{start}chance"] for r in rows if score == "accuracy" and f"{start}chance" in r), None)
        drawn = plots.lines({name.replace("/", ", "): c for name, c in found.items()}, "optimiser step",
                            f"{SCORES.get(score, score)} (0 to 1)", chance=luck)
        items.append(figure(plots.svg(drawn), f"Online probes for '{label}' on labelled samples held out: a linear one "
                            "trained along on frozen features, and the vote of the nearest neighbours."
                            + (" Chance is always the commonest class." if luck is not None else "")))
    return items


def _score(key: str) -> str:
    """"macro_f1" of "val/online/digit/video/linear_macro_f1"."""
    return key.rpartition("/")[2].partition("_")[2]


def _between(key: str, start: str, end: str = "", not_in: tuple[str, ...] = ()) -> str | None:
    if not (key.startswith(start) and key.endswith(end)):
        return None
    name = key[len(start):len(key) - len(end)]
    return None if not name or name in not_in else name.replace("_to_", " → ")
