"""Threads that compute alone: threads that share an operation wait for each other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import torch


def lone_threads(count: int, name: str) -> ThreadPoolExecutor:
    """A pool of so many threads, begun, on each of which an operation of PyTorch starts no further threads.

    Left alone, even a product of two small matrices on such a thread brings a second thread to life, which then spins
    beside it: twice the processor's time for nothing. Operations elsewhere keep their number of threads. Ours.

    Args:
        count: at least 1.
        name: what the threads' names begin with.
    """
    common, begun = torch.get_num_threads(), Barrier(count + 1)

    def begin() -> None:
        torch.get_num_threads()  # a thread takes the common number when it first asks, also after it was set
        torch.set_num_threads(1)
        begun.wait()

    pool = ThreadPoolExecutor(count, name, initializer=begin)
    for _ in range(count):
        pool.submit(int)
    begun.wait()
    torch.set_num_threads(common)  # setting it in a thread also set what threads to come begin with
    return pool
