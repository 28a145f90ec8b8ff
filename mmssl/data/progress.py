"""How far a long job is, told on stderr. No paper: ours."""

from __future__ import annotations

import sys
from collections.abc import Callable


def progress_line(what: str) -> Callable[[int, int], None]:
    """A function of (done, in all) that tells how far `what` is: one rewritten line on a terminal, else five lines."""
    shown = [-1]

    def show(done: int, total: int) -> None:
        terminal, percent = sys.stderr.isatty(), 100 * done // max(total, 1)
        step = percent // (1 if terminal else 25)
        if step > shown[0]:
            shown[0] = step
            end = "\r" if terminal and done < total else "\n"
            print(f"{what}: {percent} % ({done} of {total})", end=end, file=sys.stderr, flush=True)
    return show
