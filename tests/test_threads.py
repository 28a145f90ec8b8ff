"""Threads that compute alone, and draws that belong to rows."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmssl.data.sources.packer import Item, ahead
from mmssl.rng import Rng
from mmssl.threads import lone_threads

#: In a process of its own: what a library has begun once, it keeps.
PRODUCT = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import torch
from mmssl.threads import lone_threads
if sys.argv[2] == "set":
    torch.set_num_threads(4)
a, b, tasks = torch.eye(3), torch.randn(3, 128), lambda: len(list(Path("/proc/self/task").iterdir()))
def product(_):
    before = tasks()
    a @ b, torch.randn(400, 400) @ torch.randn(400, 400), torch.randn(400_000).exp()
    return tasks() - before
common = torch.get_num_threads()
pool = lone_threads(2, "few") if sys.argv[1] == "lone" else ThreadPoolExecutor(2)
print(sum(pool.map(product, range(4))), torch.get_num_threads() - common)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads as Linux lists them")
@pytest.mark.parametrize("common", ["set", "left"])
def test_an_operation_on_a_lone_thread_begins_no_other(common):
    say = lambda kind: subprocess.run([sys.executable, "-c", PRODUCT, kind, common], capture_output=True,  # noqa: E731
                                      text=True, check=True).stdout.split()
    assert say("lone") == ["0", "0"]
    if common == "set":  # four threads were asked for: a plain pool has them
        assert int(say("plain")[0]) > 0


def test_lone_threads_leave_the_number_of_others_alone():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with lone_threads(2, "few") as pool:
            assert list(pool.map(lambda _: torch.get_num_threads(), range(8))) == [1] * 8
            assert torch.get_num_threads() == 3
            items = [Item(str(i), lambda: ({}, {"threads": torch.get_num_threads()})) for i in range(5)]
            assert [made[1]["threads"] for _, made in ahead(items, 2)] == [1] * 5
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_normal_draws_are_box_and_mullers_of_the_words():
    place = Rng((3, "here")).for_rows(torch.tensor([7, 2, 900]))
    words, found = place.words(3, 3).tolist(), place.normal(5, 3)
    for row in range(3):
        for site in range(5):
            word = words[site % 3][row] & ((1 << 64) - 1)
            radius = math.sqrt(-2 * math.log(((word >> 40) + 1) / 2**24))
            turn = 2 * math.pi * ((word >> 16) & (2**24 - 1)) / 2**24
            want = radius * (math.cos(turn) if site < 3 else math.sin(turn))
            assert found[row, site].item() == pytest.approx(want, abs=2e-6)
    assert torch.equal(place.for_rows(torch.tensor([2])).normal(5, 1)[0], found[1])


def test_normal_draws_are_normal_and_do_not_hang_together():
    z = Rng((1,)).normal(20, 100_000).double()  # sites 0 and 10 are the halves of one word
    assert abs(z.mean()) < 3e-3 and abs(z.var() - 1) < 5e-3 and abs(z.pow(4).mean() - 3) < 0.03
    assert abs(z.pow(3).mean()) < 0.01 and 4.5 < z.abs().max() < 5.8
    together = torch.corrcoef(torch.cat([z[:, [0, 1, 10, 11, 19]], z[:, [0, 10]].square()], 1).T).fill_diagonal_(0)
    assert together.abs().max() < 0.02
