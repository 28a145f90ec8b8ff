"""Pictures of numbers: the only door of matplotlib. Each function draws on a new figure; `svg` and `png` write it."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mmssl.storage import write_whole

STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3,
         "figure.constrained_layout.use": True, "svg.fonttype": "none", "svg.hashsalt": "mmssl"}
#: Cells of a heat map up to which each shows its number.
NUMBERED = 26


def lines(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str, log_y: bool = False,
          chance: float | None = None, log_x: bool = False) -> Figure:
    """Curves over a common axis.

    Args:
        curves: by name, x and y values; values that are not finite leave a gap.
        x, y: names of the axes, with units.
        log_y: logarithmic y axis.
        chance: a dashed line at this height.
        log_x: logarithmic x axis, with plain numbers.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.1))
        axes = figure.add_subplot(xlabel=x, ylabel=y)
        for name, (xs, ys) in curves.items():
            axes.plot(xs, ys, label=name, linewidth=1.3, marker="." if len(xs) < 30 else None)
        if chance is not None:
            axes.axhline(chance, color="grey", linestyle="--", linewidth=1, label="chance")
        if log_y and all(v > 0 for _, ys in curves.values() for v in ys if v == v):
            axes.set_yscale("log")
        if log_x:
            places = sorted({v for xs, _ in curves.values() for v in xs})
            axes.set_xscale("log")
            axes.set_xticks(places, [f"{v:g}" for v in places], minor=False)
            axes.set_xticks([], minor=True)
        if len(curves) > 1 or chance is not None:
            axes.legend(fontsize=8, frameon=False)
        return figure


def dots(rows: Mapping[str, tuple[float, float | None, float | None]], x: str, chance: float | None = None) -> Figure:
    """One value a row, with its interval.

    Args:
        rows: by name, the value and both ends of its interval (None: there is none), from top to bottom.
        x: name of the axis, with units.
        chance: a dashed line at this value.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(5.6, max(1.6, 0.24 * len(rows) + 0.9)))
        axes = figure.add_subplot(xlabel=x)
        for place, (value, low, high) in enumerate(rows.values()):
            if low is not None and high is not None:
                axes.plot([low, high], [place, place], color="tab:blue", linewidth=1.4, alpha=0.6)
            axes.plot([value], [place], "o", color="tab:blue", markersize=4)
        if chance is not None:
            axes.axvline(chance, color="grey", linestyle="--", linewidth=1)
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set_ylim(len(rows) - 0.5, -0.5)
        return figure


def heat_map(table: np.ndarray, rows: Sequence[str], columns: Sequence[str], y: str, x: str, unit: str,
             whole: bool = False) -> Figure:
    """A table as colours, with its numbers where they fit.

    Args:
        table: (R, C) floats; NaN is left white.
        rows, columns: R and C names; empty: none are written.
        y, x: names of the axes.
        unit: what the numbers are, beside the scale of colours.
        whole: the numbers are counts.
    """
    table = np.asarray(table, dtype=float)
    side = [min(9.0, max(3.2, 0.34 * n + 1.6)) if len(names) else 3.6
            for n, names in zip(table.shape[::-1], (columns, rows), strict=True)]
    with rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(side[0] + 0.9, side[1]))
        axes = figure.add_subplot(xlabel=x, ylabel=y)
        image = axes.imshow(table, cmap="viridis", aspect="auto", interpolation="nearest")
        figure.colorbar(image, ax=axes, label=unit)
        axes.set_xticks(range(len(columns)), columns, rotation=90 if max(map(len, columns), default=0) > 2 else 0)
        axes.set_yticks(range(len(rows)), rows)
        if max(table.shape) <= NUMBERED and len(rows):
            middle = (np.nanmin(table) + np.nanmax(table)) / 2
            for (i, j), value in np.ndenumerate(table):
                if np.isfinite(value):
                    axes.text(j, i, f"{value:.0f}" if whole else f"{value:.2f}", ha="center", va="center", fontsize=7,
                              color="white" if value < middle else "black")
        return figure


def points(at: np.ndarray, groups: Sequence[Any], x: str, y: str, legend: str) -> Figure:
    """Points in the plane, coloured by group.

    Args:
        at: (N, 2).
        groups: N names.
        x, y: names of the axes.
        legend: what the groups are.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(5.2, 4.2))
        axes = figure.add_subplot(xlabel=x, ylabel=y)
        names = list(dict.fromkeys(groups)) if len(groups) else []
        names.sort(key=str)
        owner = np.array([names.index(g) for g in groups])
        colours = _colours(len(names))
        for i, name in enumerate(names):
            axes.scatter(*at[owner == i].T, s=7, color=colours[i], label=str(name), alpha=0.75, linewidths=0)
        axes.legend(title=legend, fontsize=7, title_fontsize=8, frameon=False, loc="center left",
                    bbox_to_anchor=(1.0, 0.5), ncol=1 + len(names) // 16, markerscale=2)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        return figure


def svg(figure: Figure) -> str:
    """A figure as an `<svg>` element with its text as text: the same for the same data, without a reference outside."""
    buffer = io.StringIO()
    with rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg"):], flags=re.S)


def png(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Write a figure as a picture file, whole or not at all."""
    buffer = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    write_whole(path, buffer.getvalue())


def pixels(figure: Figure, dpi: int = 110) -> np.ndarray:
    """A figure as (H, W, 3) uint8."""
    canvas = FigureCanvasAgg(figure)
    with rc_context(STYLE):
        figure.set_dpi(dpi)
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _colours(count: int) -> list[Any]:
    import matplotlib
    if count <= 10:
        return [matplotlib.colormaps["tab10"](i) for i in range(count)]
    return list(matplotlib.colormaps["turbo"](np.linspace(0.02, 0.98, count)))
