"""The order of samples: each once, the same everywhere, well mixed, looked up without a table."""

import tracemalloc

import numpy as np
import pytest

from mmssl.data.order import Order, StoredOrder, batch_positions, permute, replacement


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 100, 1000])
def test_permute_is_a_permutation(size):
    assert sorted(permute(i, size, [3, 1 << 62, 99, 7, 12345, 5]) for i in range(size)) == list(range(size))


@pytest.mark.parametrize("counts", [[7], [1, 1, 1], [5, 0, 3, 9], [3] * 31, list(range(1, 40)), [0, 4]])
def test_each_record_comes_once(counts):
    order = Order(counts, seed=5, epoch=2)
    assert len(order) == sum(counts)
    want = [(s, r) for s, n in enumerate(counts) for r in range(n)]
    assert sorted(order.at(p) for p in range(len(order))) == want
    assert [StoredOrder(counts).at(p) for p in range(len(order))] == want


def test_outside_is_an_error():
    for order in (Order([3, 4], 0, 0), StoredOrder([3, 4])):
        for position in (-1, 7):
            with pytest.raises(IndexError):
                order.at(position)


def test_order_is_a_function_of_seed_and_epoch():
    def take(seed, epoch):
        order = Order([50] * 4, seed, epoch)
        return [order.at(p) for p in range(200)]

    assert take(1, 0) == take(1, 0)
    base = take(1, 0)
    for other in (take(2, 0), take(1, 1)):
        assert sum(a == b for a, b in zip(base, other, strict=True)) < 10  # 1 expected by chance


def test_every_record_may_come_anywhere():
    """Over many epochs the first place is shared evenly: chi-square of 20 records, 19 degrees of freedom."""
    counts, epochs = [4] * 5, 1500
    seen = np.zeros((5, 4))
    for epoch in range(epochs):
        seen[Order(counts, 3, epoch).at(0)] += 1
    chi2 = ((seen - epochs / 20) ** 2 / (epochs / 20)).sum()
    assert chi2 < 43.8  # p = 0.001


def test_neighbours_come_from_many_shards():
    """Distinct shards in a batch of 16, against a perfect shuffle of the same 512 shards: at least 90 %."""
    order = Order([100] * 512, seed=0, epoch=0)
    distinct = [len({order.at(16 * g + j)[0] for j in range(16)}) for g in range(400)]
    perfect = 512 * (1 - (1 - 1 / 512) ** 16)
    assert np.mean(distinct) >= 0.9 * perfect
    places = np.array([r for _, r in (order.at(p) for p in range(3200))])
    assert abs(np.corrcoef(places[:-1], places[1:])[0, 1]) < 0.06


def test_groups_have_at_least_128_shards():
    order = Order([3] * 400, seed=1, epoch=0)
    blocks = [{order.at(p)[0] for p in range(start, end)} for start, end in ((0, 402), (402, 801), (801, 1200))]
    assert [len(block) for block in blocks] == [134, 133, 133] and len(set.union(*blocks)) == 400


def test_memory_does_not_grow_with_records():
    tracemalloc.start()
    order = Order([10**7] * 40, seed=0, epoch=0)
    [order.at(p) for p in range(0, len(order), len(order) // 200)]
    assert tracemalloc.get_traced_memory()[1] < 200_000
    tracemalloc.stop()


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_take_parts_of_the_same_batch(world):
    for g in range(3):
        assert [p for r in range(world) for p in batch_positions(g, r, world, 8)] == list(range(8 * g, 8 * g + 8))


def test_replacements_depend_on_position_and_attempt_alone():
    draws = {(p, a): replacement(p, a, 7, 0, 1000) for p in range(20) for a in range(1, 5)}
    assert draws == {(p, a): replacement(p, a, 7, 0, 1000) for p, a in reversed(draws)}
    assert len(set(draws.values())) > 70 and all(0 <= n < 1000 for n in draws.values())
