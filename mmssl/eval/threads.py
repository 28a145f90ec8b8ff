"""Blocks worked on side by side, each by one thread: threads that share a matrix product wait for each other."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

T, R = TypeVar("T"), TypeVar("R")
Each = Callable[[Callable[[T], R], Iterable[T]], Iterator[R]]


@contextlib.contextmanager
def side_by_side(device: torch.device | str) -> Iterator[Each]:
    """A `map` that computes on as many blocks at once as PyTorch may use threads, and gives the results in order.

    Only as many items as there are threads are taken from the iterable ahead of what is given back. On a busy machine
    this is up to three times as fast as threads within each operation, and no sum depends on their number. On a GPU,
    and with one thread, it is a plain loop. No paper: ours.

    Args:
        device: where the blocks lie.
    """
    count = torch.get_num_threads()
    if torch.device(device).type != "cpu" or count == 1:
        yield map
        return
    try:
        with ThreadPoolExecutor(count, "mmssl-eval", initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield lambda function, items: _ordered(pool, count, function, items)
    finally:
        torch.set_num_threads(count)


def _ordered(pool: ThreadPoolExecutor, ahead: int, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
