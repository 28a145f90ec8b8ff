"""Speed of two sides in one run: the same answer first, then turns, then the median of ratios with its spread."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from mmssl.environment import describe


@dataclass(frozen=True)
class Ratio:
    """How much faster ours is: seconds of the other side over ours, pair by pair.

    Args:
        name: what was done.
        ours, other: median seconds of one call.
        median, low, high: of the pairs' ratios; above 1, ours is faster.
        pairs: how many.
    """

    name: str
    ours: float
    other: float
    median: float
    low: float
    high: float
    pairs: int

    def line(self, other: str) -> str:
        """For a reader."""
        return (f"{self.name:<44} ours {1e3 * self.ours:9.1f} ms   {other} {1e3 * self.other:9.1f} ms   "
                f"ratio {self.median:5.2f} ({self.low:.2f} to {self.high:.2f}, {self.pairs} pairs)")


def against(name: str, ours: Callable[[], Any], other: Callable[[], Any], pairs: int = 5, warm: int = 1,
            clock: Callable[[Callable[[], Any]], float] | None = None) -> Ratio:
    """Time two sides by turns; the side that begins changes from pair to pair.

    Args:
        name: what is done.
        ours, other: one call each.
        pairs: at least five for a result that is reported.
        warm: calls of each that are not timed.
        clock: seconds that a call takes; None: all of it.
    """
    for _ in range(warm):
        ours()
        other()
    times: dict[Any, list[float]] = {ours: [], other: []}
    for number in range(pairs):
        for side in (ours, other) if number % 2 == 0 else (other, ours):
            times[side].append((clock or seconds)(side))
    ratios = [b / a for a, b in zip(times[ours], times[other], strict=True)]
    return Ratio(name, statistics.median(times[ours]), statistics.median(times[other]), statistics.median(ratios),
                 min(ratios), max(ratios), pairs)


def seconds(act: Callable[[], Any]) -> float:
    """How long one call takes, the device's work included."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    begin = time.perf_counter()
    act()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def options(about: str | None, pairs: int = 5) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=pairs, help=f"pairs of turns (default: {pairs})")
    parser.add_argument("--threads", type=int, default=None, help="threads of both sides (default: PyTorch's)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser


def write(path: Path | None, results: list[Ratio], **facts: Any) -> None:
    """Results beside the machine and the versions they were taken with."""
    if path is not None:
        rows = [asdict(r) for r in results]
        path.write_text(json.dumps({"results": rows, **facts, "environment": describe()}, indent=1) + "\n")
