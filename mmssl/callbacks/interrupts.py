"""Ctrl-C and SIGTERM, held back until the run is between two steps."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType

_NOTICE = b"\nstopping after this step, with a checkpoint; Ctrl-C again stops at once and keeps the last one\n"


class Interrupts:
    """Notes the first signal instead of acting on it; the second one is acted on at once. No paper: ours.

    `asked` is the number of the signal that came, or None. Only a process's main thread can listen; elsewhere this does
    nothing, and signals do what they did before.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self._before: dict[int, object] = {}

    def listen(self, *signals: int) -> None:
        """Take over these signals until `restore`."""
        if threading.current_thread() is not threading.main_thread():
            return
        self.asked = None
        for signum in signals:
            self._before.setdefault(signum, signal.signal(signum, self._note))

    def restore(self) -> None:
        """Give the signals back to whoever had them."""
        while self._before:
            signum, handler = self._before.popitem()
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.asked is not None:
            self.restore()
            raise KeyboardInterrupt
        self.asked = signum
        with contextlib.suppress(OSError):
            os.write(2, _NOTICE)  # not print: a handler may run in the middle of another print
