"""How fast a run goes, and how much of its time it waits for data."""

from __future__ import annotations

import time
from typing import Any


class Pace:
    """Samples per second and share of time spent waiting for data since the last reading. No paper: ours.

    Time between `pause` and `go_on` (validation) does not count. The loader is asked for `wait_seconds`, the seconds it
    has kept its consumer waiting since it was made, and `batch_size`, samples of a batch over all devices; where it has
    not the first there is no share, and where it has not the second the batch is counted, times the number of devices.

    Args:
        loader: the training loader.
        world: number of processes.
    """

    def __init__(self, loader: Any, world: int = 1) -> None:
        self.loader, self.world = loader, world
        self._samples, self._idle = 0, 0.0
        self._paused: float | None = None
        self._since, self._waited = time.perf_counter(), self._wait()

    def count(self, batch: Any) -> None:
        """One batch is done."""
        size = getattr(self.loader, "batch_size", None)
        self._samples += size if isinstance(size, int) else _rows(batch) * self.world

    def pause(self) -> None:
        """Something else begins."""
        self._paused = time.perf_counter()

    def go_on(self) -> None:
        """Something else is over."""
        if self._paused is not None:
            self._idle += time.perf_counter() - self._paused
            self._paused = None

    def read(self) -> tuple[float, float | None]:
        """Samples per second, and share of time waiting in [0, 1] or None; then start anew."""
        now, waited = time.perf_counter(), self._wait()
        seconds = max(now - self._since - self._idle, 1e-9)
        share = None if waited is None else min(max((waited - self._waited) / seconds, 0.0), 1.0)
        speed = self._samples / seconds
        self._since, self._waited, self._samples, self._idle = now, waited, 0, 0.0
        return speed, share

    def _wait(self) -> float | None:
        return getattr(self.loader, "wait_seconds", None)


def _rows(batch: Any) -> int:
    try:
        return len(batch)
    except TypeError:
        return 0
