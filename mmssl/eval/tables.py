"""Probes over feature sets, shares of labels and seeds, as one table: text for a reader, plain data for JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np

from mmssl.errors import ConfigError
from mmssl.eval.features import Features
from mmssl.eval.penalised import Linear
from mmssl.eval.probes import ProbeResult, carry_out, chance, label_draw, label_fraction, run_probe
from mmssl.eval.rows import Labelled
from mmssl.registry import nearest
from mmssl.rng import Rng

#: Classes up to which a confusion matrix is kept.
NAMED = 100


@dataclass(frozen=True)
class ProbeRow:
    """One feature set at one share of the labels.

    Args:
        features: name of the feature set.
        fraction: share of the labels seen.
        rows, test_rows: how many training rows that was, and how many were tested.
        accuracy, accuracy_std, macro_f1, macro_f1_std: mean over the seeds, and standard deviation (N - 1; 0 for one).
        runs: each seed's seed, accuracy, macro_f1, penalty and note.
        confusion: C rows (truth) of C counts (guess), summed over the seeds; only of the largest share of the labels,
            and of at most `NAMED` classes, else None.
    """

    features: str
    fraction: float
    rows: int
    test_rows: int
    accuracy: float
    accuracy_std: float
    macro_f1: float
    macro_f1_std: float
    runs: list[dict[str, Any]]
    confusion: list[list[int]] | None = None


@dataclass(frozen=True)
class ProbeTable:
    """Linear probes for one label.

    Args:
        label: its name.
        classes: size of the label set.
        chance: see `chance`; of the test rows that have the label.
        rows: one per feature set and share.
    """

    label: str
    classes: int
    chance: dict[str, float]
    rows: list[ProbeRow]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def probe_table(train: Features, test: Features, label: str, features: Sequence[str] | None = None,
                fractions: Sequence[float] = (0.01, 0.1, 1.0), seeds: int = 3, seed: int = 0,
                classes: int | None = None) -> ProbeTable:
    """Linear probes for one label: every feature set at every share of the labels, several seeds each. No paper: ours.

    A feature set is probed on the samples that have it. A seed decides which labels are seen and on which rows the
    penalty is chosen; the same seeds draw the same rows for any two encoders of the same data.

    Args:
        train, test: from `extract`.
        label: name in `labels` of both.
        features: names in `x`; default, all.
        fractions: shares of the training labels, each in (0, 1].
        seeds: how many; the spread is over them.
        seed: of the whole table.
        classes: size of the label set; default, from both.

    Raises:
        ConfigError: an unknown label or feature set, or no seed.
        DataError: rows that cannot be probed; see `linear_probe`.
    """
    names = list(features or train.x)
    problems = [f"probe.features: no features are called '{n}'{nearest(n, train.x)}" for n in names if n not in train.x]
    if label not in train.labels or label not in test.labels:
        problems.append(f"probe.labels: no label is called '{label}'{nearest(label, train.labels)}")
    if seeds < 1:
        problems.append(f"probe.seeds: expected at least 1, got {seeds}")
    if problems:
        raise ConfigError(problems)
    y, y_test = train.labels[label], test.labels[label]
    classes = classes or int(max(y.max(initial=0), y_test.max(initial=0))) + 1
    cells, probe = [(name, fraction) for name in names for fraction in fractions], Linear()

    def tasks() -> Iterator[tuple[Labelled, Labelled, float, Rng]]:
        for name, fraction in cells:
            seen, tested = _labelled(train, name, y), _labelled(test, name, y_test)
            yield from ((seen, tested, fraction, label_draw(seed, label, s)) for s in range(seeds))

    def run(task: tuple[Labelled, Labelled, float, Rng]) -> ProbeResult:
        seen, tested, share, place = task
        return run_probe(probe, seen.take(label_fraction(seen.y, share, place)), tested, classes, place.at("penalty"))

    found = carry_out(probe, run, tasks())
    rows = [_probe_row(name, fraction, list(islice(found, seeds)), fraction == max(fractions) and classes <= NAMED)
            for name, fraction in cells]
    return ProbeTable(label, classes, chance(y_test, classes, train=y), rows)


def render(tables: Mapping[str, ProbeTable]) -> str:
    """Tables of one label side by side, as text: accuracy and macro-F1 with their spread, chance in the heading.

    Args:
        tables: by heading, e.g. {"trained": ..., "random weights": ...}; rows are matched by feature set and share.
    """
    first = next(iter(tables.values()))
    luck = first.chance
    lines = [f"linear probe for '{first.label}', {first.classes} classes; chance: accuracy {luck['uniform']:.3f}, "
             f"always the commonest class {luck['majority']:.3f} (macro-F1 {luck['majority_f1']:.3f})"]
    cells = [["features", "labels", "rows", *(f"{heading}: accuracy / macro-F1" for heading in tables)]]
    for row in first.rows:
        line = [row.features, f"{100 * row.fraction:g} %", str(row.rows)]
        for table in tables.values():
            match = [r for r in table.rows if (r.features, r.fraction) == (row.features, row.fraction)]
            line.append(_cell(match[0]) if match else "-")
        cells.append(line)
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    lines += ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join(lines)


def _labelled(features: Features, name: str, y: np.ndarray) -> Labelled:
    there = features.present[name]
    return Labelled(features.x[name][there], y[there], features.groups[there])


def _probe_row(name: str, fraction: float, results: Sequence[ProbeResult], confusion: bool) -> ProbeRow:
    runs = [{"seed": number, "accuracy": result.score.accuracy, "macro_f1": result.score.macro_f1,
             "penalty": result.penalty, "note": result.note} for number, result in enumerate(results)]
    accuracy, f1 = ([run[key] for run in runs] for key in ("accuracy", "macro_f1"))
    return ProbeRow(features=name, fraction=fraction, rows=results[-1].rows, test_rows=results[-1].test_rows, runs=runs,
                    accuracy=float(np.mean(accuracy)), accuracy_std=_std(accuracy),
                    macro_f1=float(np.mean(f1)), macro_f1_std=_std(f1),
                    confusion=np.sum([result.score.confusion for result in results], axis=0).tolist()
                    if confusion else None)


def _std(values: list[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _cell(row: ProbeRow) -> str:
    return f"{row.accuracy:.3f} ± {row.accuracy_std:.3f} / {row.macro_f1:.3f} ± {row.macro_f1_std:.3f}"
