"""Blocks worked on side by side, each by one thread: threads that share an operation wait for each other."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import lru_cache
from threading import Lock
from typing import TypeVar

import torch
from threadpoolctl import ThreadpoolController

from mmssl.threads import lone_threads

T, R = TypeVar("T"), TypeVar("R")


def side_by_side(function: Callable[[T], R], items: Iterable[T], device: torch.device | str = "cpu") -> Iterator[R]:
    """`map` that works on as many items at once as PyTorch may use threads, and gives the results in order.

    Only as many items as there are threads are taken from the iterable ahead of what is given back. On a busy machine
    this is up to three times as fast as threads within each operation, and no sum depends on their number. On a GPU,
    with one thread, and inside such a thread, it is a plain loop. On the CPU, numpy's products too stay meanwhile on
    the thread that asks for them. No paper: ours.

    Args:
        function: sees the defaults of a new thread: gradients are recorded, nothing is cast.
        items: of which there may be any number.
        device: where the work is done.
    """
    if torch.device(device).type != "cpu":
        yield from map(function, items)
        return
    with ALONE:
        yield from _on_threads(function, items, torch.get_num_threads())


def _on_threads(function: Callable[[T], R], items: Iterable[T], count: int) -> Iterator[R]:
    """`side_by_side` on `count` threads."""
    if count == 1:
        yield from map(function, items)
        return
    pool, waiting = _pool(os.getpid(), count), deque[Future[R]]()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        wait(waiting)


class Alone:
    """While anybody is within, libraries compute a matrix product on the thread that asks for it.

    numpy's own number of threads belongs to the whole process, and so does scipy's, whose library is another one: the
    first to come in sets them to one, the last to leave sets them back. Whoever needs scipy imports it before.
    """

    def __init__(self) -> None:
        self.lock, self.within, self.limits = Lock(), 0, {}

    def __enter__(self) -> None:
        with self.lock:
            known = _libraries("scipy.linalg._fblas" in sys.modules)  # there only once its library is loaded
            if known not in self.limits:  # nobody is within, or scipy came only now
                self.limits[known] = known.limit(limits=1, user_api="blas")
            self.within += 1

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.within -= 1
            while self.limits and not self.within:
                self.limits.popitem()[1].restore_original_limits()  # the last first


ALONE = Alone()


@lru_cache
def _libraries(scipy: bool) -> ThreadpoolController:
    """Those that have threads, with or without scipy's. Kept: to look for them takes a millisecond, a limit a hundredth
    of that."""
    return ThreadpoolController()


@lru_cache(maxsize=1)
def _pool(process: int, count: int) -> ThreadPoolExecutor:
    """Threads of this process that compute alone. Kept: fresh ones would ask for fresh memory."""
    return lone_threads(count, "mmssl-compute")
