"""Where a run's embeddings lie: maps by class and by modality, the gap between modalities, who resembles whom."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor

from mmssl import plots
from mmssl.eval import Features, alignment, modality_gap, uniformity
from mmssl.eval.pictures import SIMILAR, evenly, similarity
from mmssl.eval.retrieval import unit_rows
from mmssl.page import Section, figure, figures, table

#: Samples that are drawn at most, evenly taken.
DRAWN = 800


def maps(features: Features, labels: Sequence[str], names: dict[str, list[str]]) -> Section:
    """A map of the samples for each label: t-SNE of the global embedding, or of all features.

    Args:
        features: of the test split.
        labels: which of its labels colour a map.
        names: by label, names of its classes.
    """
    section, items = Section("Embeddings by class"), []
    kind = next(k for k in ("global", "all", *features.x) if k in features.x)
    there = np.flatnonzero(features.present[kind])
    rows = there[evenly(len(there), DRAWN)]
    if len(rows) > 4:
        at = neighbours_map(features.x[kind][rows])
        what = {"global": "the global embedding", "all": "all features side by side"}.get(kind, f"features of {kind}")
        for label in labels:
            y = features.labels.get(label)
            if y is None:
                continue
            known = y[rows] >= 0
            groups = [_name(names.get(label), int(c)) for c in y[rows][known]]
            drawn = plots.points(at[known], groups, "t-SNE, first axis (no unit)", "second axis (no unit)", label)
            items.append(figure(plots.svg(drawn), f"{known.sum()} test samples by '{label}': t-SNE of {what}. "
                                                  "Neighbourhoods mean something here, distances and sizes do not."))
    section.parts.append(figures(items))
    return section


def common_spaces(pairs: dict[str, tuple[Tensor, Tensor, Tensor]]) -> Section:
    """For each pair of modalities: where both lie in their common space, and who resembles whom.

    Args:
        pairs: by "a-b", (N, D) of a, (N, D) of b, (N,) bool where both are there.
    """
    section, items, rows = Section("Common spaces of two modalities"), [], []
    for name, (z_a, z_b, both) in pairs.items():
        if both.sum() < 3:
            continue
        a, b = name.split("-", 1)
        z_a, z_b = z_a[both], z_b[both]
        rows.append([f"{a} - {b}", f"{modality_gap(z_a, z_b):.3f}", f"{alignment(z_a, z_b):.3f}",
                     f"{uniformity(z_a):.2f}", f"{uniformity(z_b):.2f}"])
        pick = evenly(len(z_a), DRAWN // 2)
        unit = torch.cat([unit_rows(z)[0][pick] for z in (z_a, z_b)]).numpy()
        plane = PCA(2, random_state=0)
        at = plane.fit_transform(unit)
        x, y = (f"{n} principal axis ({100 * share:.0f} % of variance)"
                for n, share in zip(("first", "second"), plane.explained_variance_ratio_, strict=True))
        groups = [a] * len(pick) + [b] * len(pick)
        items.append(figure(plots.svg(plots.points(at, groups, x, y, "modality")),
                            f"{len(pick)} test samples of {a} and {b} on the unit sphere of their common space."))
        items.append(figure(plots.svg(similarity(z_a, z_b, a, b)),
                            f"Cosine of each {a} (row) to each {b} (column) for {min(len(z_a), SIMILAR)} test samples "
                            "in the same order: on a bright diagonal each sample is nearest to its own other side."))
    head = ["pair", "modality gap (0-2)", "alignment", "uniformity, first", "uniformity, second"]
    if rows:
        section.parts.append(table(head, rows, "Test samples that have both sides; see the figures above."))
    section.parts.append(figures(items))
    return section


def neighbours_map(x: np.ndarray) -> np.ndarray:
    """t-SNE of (N, D) to (N, 2), from the two principal axes on: the same for the same data."""
    x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-6)
    if x.shape[1] > 50:
        x = PCA(min(50, len(x)), random_state=0).fit_transform(x)
    return TSNE(2, perplexity=min(30.0, (len(x) - 1) / 3), init="pca", random_state=0).fit_transform(x)


def _name(names: list[str] | None, number: int) -> str:
    return names[number] if names and number < len(names) else str(number)
