"""Blocks side by side: the order and the numbers of one thread, and no more taken ahead than there are threads."""

import numpy as np
import pytest
import torch

from mmssl.eval import Labelled, Linear, nearest, places
from mmssl.eval import solver as solver_module
from mmssl.eval.nearest import unit_rows
from mmssl.eval.threads import side_by_side
from mmssl.rng import Rng


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_results_come_in_order_and_little_is_taken_ahead(threads):
    threads(2)
    taken, given = [], []
    with side_by_side("cpu") as each:
        for result in each(lambda n: n * n, (taken.append(n) or n for n in range(20))):
            given.append(result)
            assert len(taken) - len(given) <= 2
    assert given == [n * n for n in range(20)] and torch.get_num_threads() == 2


def test_a_failure_comes_through_and_the_threads_are_given_back(threads):
    threads(2)
    with pytest.raises(ZeroDivisionError), side_by_side("cpu") as each:
        list(each(lambda n: 1 // n, [1, 0, 1]))
    assert torch.get_num_threads() == 2


def test_two_threads_give_the_numbers_of_one(threads, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    rows = unit_rows(torch.randn(300, 8, generator=generator))[0]
    ids = torch.arange(300) % 40
    x, y = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32), np.arange(300) % 3
    monkeypatch.setattr(solver_module, "STEP", 50)
    found = []
    for count in (1, 2):
        threads(count)
        found.append([*nearest(rows[:90], rows, 7, 20), *places(rows[:90], rows, ids[:90], ids, 20),
                      torch.from_numpy(Linear([0.1]).fit(Labelled(x, y), 3, Rng()).output(x))])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
