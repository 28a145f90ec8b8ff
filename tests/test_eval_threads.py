"""Blocks side by side: the order and the numbers of one thread, and no more taken ahead than there are threads."""

import threading

import numpy as np
import pytest
import torch

from mmssl.eval import Labelled, Linear, nearest, places
from mmssl.eval import solver as solver_module
from mmssl.eval.nearest import Products, unit_rows
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
    for result in side_by_side(lambda n: n * n, (taken.append(n) or n for n in range(20))):
        given.append(result)
        assert len(taken) - len(given) <= 2
    assert given == [n * n for n in range(20)] and torch.get_num_threads() == 2


def test_as_many_work_at_once_as_there_are_threads_and_each_computes_alone(threads):
    threads(2)
    both = threading.Barrier(2)  # passed only if two are at work at the same time

    def inside(_):
        both.wait(timeout=20)
        return threading.get_ident(), torch.get_num_threads(), list(side_by_side(lambda n: threading.get_ident(), [0]))

    found = list(side_by_side(inside, range(6)))
    assert {own for own, _, _ in found} == {nested[0] for _, _, nested in found} and len({f[0] for f in found}) == 2
    assert {count for _, count, _ in found} == {1} and torch.get_num_threads() == 2
    threads(1)
    assert list(side_by_side(lambda _: threading.get_ident(), range(3))) == [threading.get_ident()] * 3


def test_a_failure_comes_through_and_what_follows_still_works(threads):
    threads(2)
    with pytest.raises(ZeroDivisionError):
        list(side_by_side(lambda n: 1 // n, [1, 0, 1]))
    assert torch.get_num_threads() == 2 and list(side_by_side(abs, [-1, -2])) == [1, 2]


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


def test_products_take_memory_once_in_each_thread(threads):
    threads(2)
    a, b, both = torch.randn(4, 3), torch.randn(5, 3), threading.Barrier(2)
    product = Products(a)

    def twice(_):
        first, second = product(a, b).data_ptr(), product(a[:2], b).data_ptr()
        both.wait(timeout=20)  # so that neither thread does both
        return first, second

    places_taken = list(side_by_side(twice, range(4)))
    assert all(first == second for first, second in places_taken) and len(set(places_taken)) == 2
    torch.testing.assert_close(product(a, b), a @ b.T)
