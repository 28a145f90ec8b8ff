"""Blocks side by side: the order and the numbers of one thread, and no more taken ahead than there are threads."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from mmssl.eval import (
    Features,
    Labelled,
    Linear,
    carry_out,
    label_draw,
    label_fraction,
    linear_probe,
    nearest,
    places,
    probe_table,
    take,
)
from mmssl.eval import solver as solver_module
from mmssl.eval.nearest import Products, unit_rows
from mmssl.eval.threads import side_by_side
from mmssl.rng import Rng

#: How rows may lie in memory.
LAYOUTS = {"plain": torch.clone, "gaps": lambda x: torch.stack([x, x], dim=2)[..., 0],
           "turned": lambda x: x.T.clone().T}


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


def numpys_threads():
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.mark.parametrize("count", [1, 2])
def test_numpy_computes_alone_until_the_last_at_work_is_done(threads, count):
    threads(count)
    with threadpool_limits(2, user_api="blas"):
        first, second = (side_by_side(lambda _: numpys_threads(), range(4)) for _ in range(2))
        assert next(first) == next(second) == {1}
        first.close()  # whoever came first leaves first, before its end
        assert list(second) == [{1}] * 3 and numpys_threads() == {2}
        with pytest.raises(ZeroDivisionError):
            list(side_by_side(lambda n: 1 // n, [0]))
        assert numpys_threads() == {2}
        assert list(side_by_side(lambda _: numpys_threads(), range(2), "cuda")) == [{2}] * 2  # a plain loop


LATE = """
from threadpoolctl import threadpool_info, threadpool_limits
import numpy
from mmssl.eval.threads import ALONE
counts = lambda: [lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"]
threadpool_limits(2, user_api="blas")
with ALONE:
    first = counts()
    import scipy.linalg
    alone = counts()  # the new one has threads still
    with ALONE:
        both = counts()
after = counts()
print(set(first), set(alone) == {1}, set(both), len(both) - len(first), 1 in after)
"""


def test_a_library_that_is_loaded_while_somebody_is_within_computes_alone_too():
    done = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True,
                          env={**os.environ, "OPENBLAS_NUM_THREADS": "2"})
    assert done.stdout.split("\n")[0] == "{1} False {1} 1 False", done.stderr


@pytest.mark.parametrize("count", [1, 2])
def test_probes_are_fitted_at_once_where_they_say_so(threads, count):
    threads(count)
    both, alone = threading.Barrier(count), threading.get_ident()
    probe = type("Probe", (), {"concurrent": True, "fit": Linear.fit})()
    assert len(set(carry_out(probe, lambda _: both.wait(20) >= 0 and threading.get_ident(), range(4)))) == count
    probe.concurrent = False
    assert set(carry_out(probe, lambda _: threading.get_ident(), range(4))) == {alone}


def test_a_table_of_probes_is_the_same_on_two_threads(threads):
    rng, y = np.random.default_rng(0), np.arange(90) % 3
    x = {"good": (rng.normal(size=(90, 4)) + y[:, None]).astype(np.float32),
         "noise": rng.normal(size=(90, 5)).astype(np.float32)}
    known = Features(x=x, present={name: np.arange(90) % 7 > 0 for name in x}, labels={"y": y},
                     keys=np.arange(90).astype(str), groups=np.full(90, ""))
    tables = []
    for count in (1, 2):
        threads(count)
        tables.append(probe_table(take(known, np.arange(60)), take(known, np.arange(60, 90)), "y", seeds=3,
                                  fractions=[0.3, 1.0]))
    assert tables[0] == tables[1]
    rows = [(row.features, row.fraction, [run["seed"] for run in row.runs]) for row in tables[0].rows]
    assert rows == [(name, share, [0, 1, 2]) for name in x for share in (0.3, 1.0)]
    for row in tables[0].rows:
        for run in row.runs:  # each by itself
            place = label_draw(0, "y", run["seed"])
            seen = np.flatnonzero(known.present[row.features][:60])
            seen = seen[label_fraction(y[seen], row.fraction, place)]
            test = np.flatnonzero(known.present[row.features][60:]) + 60
            own = linear_probe(*(Labelled(x[row.features][rows], y[rows]) for rows in (seen, test)), 3,
                               place.at("penalty"))
            assert (run["accuracy"], run["penalty"]) == (own.score.accuracy, own.penalty)


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


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_products_are_those_of_whole_numbers_whatever_the_rows_lie_like(kind, layout, monkeypatch):
    """Small whole numbers, in whose products nothing is rounded; numpy gets what its library can read."""
    generator, seen, matmul = torch.Generator().manual_seed(0), [], np.matmul
    a, b = (torch.randint(-2, 3, (n, 6), generator=generator) for n in (4, 5))

    def spy(x, y, out):
        seen.append(x.flags.c_contiguous and y.flags.f_contiguous and out.flags.c_contiguous)
        return matmul(x, y, out=out)

    monkeypatch.setattr(np, "matmul", spy)
    found = Products(a.to(kind))(layout(a.to(kind)), layout(b.to(kind)))
    assert found.dtype == kind and found.long().tolist() == (a @ b.T).tolist()
    assert seen == ([] if kind == torch.bfloat16 else [True])


def test_products_elsewhere_stay_there():
    a = torch.ones(2, 3, device="meta")
    assert Products(a)(a, a).device.type == "meta"
