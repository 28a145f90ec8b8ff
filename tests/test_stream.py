"""The loader: the same batches for any ranks and workers, exact places to resume from, and bad samples kept out."""

import json
import threading
import time

import numpy as np
import pytest
import torch
from small_sets import Wave, keys, loader, make_set, modalities, signal, train

from mmssl.data import (
    ClipCache,
    DataModule,
    Reader,
    Split,
    StreamLoader,
    collate_clips,
    decode_file,
    encode_mp4,
    encode_npy,
    transform_clips,
)
from mmssl.errors import ConfigError, DataError
from mmssl.rng import Rng
from mmssl.types import Clip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp("set"), lacks=lambda n: ("ecg",) if n % 5 == 1 else ())


def same(a, b):
    assert a.keys == b.keys and a.groups == b.groups and torch.equal(a.rows, b.rows) and torch.equal(a.valid, b.valid)
    for name in a.streams:
        assert torch.equal(a.streams[name].data, b.streams[name].data), name
        assert torch.equal(a.streams[name].present, b.streams[name].present)
    assert a.labels.keys() == b.labels.keys() and all(torch.equal(a.labels[n], b.labels[n]) for n in a.labels)


def test_values_by_hand(root):
    """Window, noise, presence, labels and groups of a training epoch, written out without the library's parts."""
    batches = list(train(root))
    assert len(batches) == 5 and len(set(keys(batches))) == 20
    for g, batch in enumerate(batches):
        assert batch.rows.tolist() == list(range(4 * g, 4 * g + 4)) and batch.valid.all()
        for j, key in enumerate(batch.keys):
            number, rng = int(key[-3:]), Rng((3, "sample", 0, 4 * g + j))
            lacks = number % 5 == 1
            slack = 4.0 - 2.0 if lacks else min(4.0 - 2.0, 4.0 - 1.0)
            first = int(rng.at("window").numpy().random() * (round(slack * 10) + 1))
            for name, width, x in (("imu", 20, signal(number)), ("ecg", 10, signal(1000 + number, 1))):
                present = not (lacks and name == "ecg")
                assert batch.streams[name].present[j].item() == present
                want = torch.zeros(x.shape[0], width)
                if present:
                    want = torch.from_numpy(x[:, first:first + width])
                    want = want + 0.1 * torch.randn(want.shape, generator=rng.at(name).torch())
                assert torch.equal(batch.streams[name].data[j], want)
            assert batch.labels["act"][j] == number % 3 and batch.groups[j] == f"train-{number % 4}"


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_and_workers_change_nothing(root, workers, world):
    plain = train(root)
    one = [batch for _ in range(2) for batch in plain]
    ranks = [train(root, workers=workers, place=(r, world)) for r in range(world)]
    parts = [[batch for _ in range(2) for batch in rank] for rank in ranks]
    assert {len(part) for part in parts} == {10} and {len(rank) for rank in ranks} == {5}
    for g, whole in enumerate(one):
        for r in range(world):
            mine, size = parts[r][g], 4 // world
            rows = slice(r * size, (r + 1) * size)
            assert mine.keys == whole.keys[rows] and torch.equal(mine.rows, whole.rows[rows])
            for name, stream in mine.streams.items():
                assert torch.equal(stream.data, whole.streams[name].data[rows])
                assert torch.equal(stream.present, whole.streams[name].present[rows])


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_fills_up_the_last_batch(root, world, workers):
    parts = [list(loader(root, "val", place=(r, world), workers=workers)) for r in range(world)]
    assert {len(part) for part in parts} == {2}
    flat = [(k, v, n) for g in range(2) for r in range(world)
            for k, v, n in zip(parts[r][g].keys, parts[r][g].valid.tolist(), parts[r][g].rows.tolist(), strict=True)]
    assert flat == [(f"val{n:03d}" if n < 5 else "", n < 5, n) for n in range(8)]
    last = parts[-1][-1]
    assert last.labels["act"][-1] == -1 and last.streams["imu"].data[-1].abs().sum() == 0
    first = parts[0][0].streams["imu"].data[0]
    assert torch.equal(first, torch.from_numpy(signal(0))[:, 10:30])  # the centre, no noise
    same(parts[0][0], next(iter(loader(root, "val", place=(0, world)))))


@pytest.mark.parametrize("given", [0, 1, 4, 5, 7, 13])
@pytest.mark.parametrize("change", [{}, {"workers": 2}, {"cache": 1 << 20}])
def test_resume_goes_on_exactly(root, given, change):
    def epochs(data):
        while True:
            yield from data

    whole, first = epochs(train(root)), train(root, workers=1)
    stream, rest = epochs(first), train(root, **change)
    [next(stream) for _ in range(given)]
    state = json.loads(json.dumps(first.state_dict()))
    assert len(json.dumps(state)) < 1000
    stream.close()
    rest.load_state_dict(state)
    [next(whole) for _ in range(given)]
    after = epochs(rest)
    for _ in range(9):
        same(next(after), next(whole))


def test_resume_on_other_ranks(root):
    whole = list(train(root))
    half = train(root, place=(0, 2))
    stream = iter(half)
    [next(stream) for _ in range(3)]
    four = [train(root, place=(r, 4)) for r in range(4)]
    for rank in four:
        rank.load_state_dict(half.state_dict())
    assert [keys(rank) for rank in four] == [[b.keys[r] for b in whole[3:]] for r in range(4)]


def test_state_counts_what_was_given_out_not_what_was_prepared(root):
    data = train(root, workers=2, prefetch=4)
    stream = iter(data)
    next(stream)
    time.sleep(0.1)
    assert data.state_dict()["consumed"] == 1
    stream.close()


def test_other_data_seed_or_batch_do_not_resume(root, tmp_path):
    state = train(root).state_dict()
    for other, said in ((loader(root, train=True, seed=4), "seed: then 3, now 4"),
                        (train(root, size=2), "global batch"),
                        (train(make_set(tmp_path, {"train": 21})), "records of")):
        with pytest.raises(DataError, match=said):
            other.load_state_dict(state)


def test_a_trainer_that_leaves_the_rest_of_an_epoch_out(root):
    data, full = train(root), train(root)
    epochs = [keys(full) for _ in range(3)]
    for epoch in range(3):
        data.set_epoch(epoch)
        stream = iter(data)
        assert keys([next(stream), next(stream)]) == epochs[epoch][:8]
    later = train(root)
    later.set_epoch(2)
    assert keys(later) == epochs[2]


def test_leaving_an_epoch_early_in_a_plain_loop_begins_the_next(root):
    data, full = train(root), train(root)
    epochs = [keys(full) for _ in range(2)]
    iter(data)  # asked for, but never begun
    assert keys([next(iter(data))]) == epochs[0][:4]
    assert keys(data) == epochs[1]


def test_no_thread_is_left_behind(root):
    before = threading.active_count()
    stream = iter(train(root, workers=2))
    next(stream)
    assert threading.active_count() > before
    del stream
    assert threading.active_count() == before


class Fails(Wave):
    """A mistake in a plug-in, at one record."""

    def transform(self, clip, start, rng):
        if torch.equal(clip.data, torch.from_numpy(signal(9))):
            raise TypeError("a mistake")
        return super().transform(clip, start, rng)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_exception_comes_at_its_batch(root, workers):
    at = next(g for g, batch in enumerate(train(root)) if "train009" in batch.keys)
    before, given = threading.active_count(), 0
    with pytest.raises(TypeError, match="a mistake"):
        for _ in train(root, workers=workers, parts={"imu": Fails()}):
            given += 1
    assert given == at and threading.active_count() == before


def test_the_cache_saves_reads_and_keeps_its_budget(root, monkeypatch):
    split, reads = Split(root, "train"), []
    monkeypatch.setattr(split, "read", lambda *a, real=split.read: reads.append(a[:2]) or real(*a))
    cache = ClipCache(10_000)
    data = StreamLoader(Reader(split, modalities(), cache), 4, train=True, seed=3)
    first = list(data)
    held = len(cache._held)
    assert 3 < held < 10 and cache.used <= 10_000 and len(reads) == 20
    second = list(data)
    fresh = train(root)
    for a, b in zip(first + second, [*list(fresh), *list(fresh)], strict=True):
        same(a, b)
    kept = {split.where(*read)[1] for read in reads[:20] if split.place(*read) in cache._held}
    assert len(kept) == held and len(reads) == 40 - len(kept & {key for batch in second for key in batch.keys})


def test_sizes_that_do_not_fit(root):
    with pytest.raises(ConfigError, match="cannot be dealt to 3 ranks"):
        train(root, place=(0, 3))
    with pytest.raises(ConfigError, match="fewer than one batch of 23"):
        train(root, size=23)
    with pytest.raises(ConfigError, match="expected at least"):
        train(root, prefetch=0)


def test_waiting_is_counted(root):
    class Slow(Wave):
        def transform(self, clip, start, rng):
            time.sleep(0.005)
            return super().transform(clip, start, rng)

    data = train(root, parts={"imu": Slow()})
    list(data)
    assert data.wait_seconds >= 20 * 0.005


def test_the_window_is_shared_and_clips_that_are_short_begin_at_zero():
    class Where(Wave):
        def transform(self, clip, start, rng):
            return torch.full(self.shape, start)

    parts = {"a": Where(seconds=2.0), "b": Where(seconds=1.0), "c": Where(seconds=3.0)}
    clips = {"a": Clip(torch.zeros(2, 50), 10.0), "b": Clip(torch.zeros(2, 30), 10.0)}
    centre = transform_clips(clips, parts)
    assert centre["a"][0, 0] == centre["b"][0, 0] == 1.0  # the slacks are 3 s and 2 s
    starts = [transform_clips(clips, parts, Rng((n,)))["a"][0, 0].item() for n in range(300)]
    assert set(starts) == {np.float32(n / 10) for n in range(21)}
    assert np.mean(starts) == pytest.approx(1.0, abs=0.1)
    clips["c"] = Clip(torch.zeros(2, 20), 10.0)
    assert transform_clips(clips, parts)["a"][0, 0] == 0


def test_raw_files_become_a_batch(tmp_path):
    (tmp_path / "x.npy").write_bytes(encode_npy(signal(1)))
    (tmp_path / "x.mp4").write_bytes(encode_mp4(np.zeros((4, 32, 32, 3), np.uint8), 10))
    parts = {"imu": type("Rated", (Wave,), {"rate": 10.0})()}
    clips = decode_file(tmp_path / "x.npy", parts)
    assert torch.equal(clips["imu"].data, torch.from_numpy(signal(1))) and clips["imu"].rate == 10
    batch = collate_clips([transform_clips(clips, parts), {}], parts, keys=["one", "two"])
    assert batch.keys == ["one", "two"] and batch.streams["imu"].present.tolist() == [True, False]
    assert torch.equal(batch.streams["imu"].data[0], clips["imu"].data[:, 10:30]) and batch.valid.all()
    for file, name, said in (("x.mp4", None, "no modality finds"), ("x.npy", "imo", "did you mean 'imu'"),
                             ("y.npy", None, r"y\.npy: cannot be read")):
        with pytest.raises(DataError, match=said):
            decode_file(tmp_path / file, parts, name)
    with pytest.raises(DataError, match="imu, ecg all read"):
        decode_file(tmp_path / "x.npy", {**parts, "ecg": Wave()})
    film = type("Film", (Wave,), {"codecs": ("mp4",)})()
    assert list(decode_file(tmp_path / "x.mp4", {"film": film, **parts})) == ["film"]


def test_the_data_module(root):
    module = DataModule(root, modalities(), batch_size=4, eval_batch_size=3, seed=3, cache_bytes=1 << 20)
    module.setup("fit")
    for a, b in zip(module.train_dataloader(), train(root), strict=True):
        same(a, b)
    assert [len(b) for b in module.val_dataloader()] == [3, 3] and module.cache.used > 0
    assert DataModule(root, modalities(), val=None).val_dataloader() == []
    with pytest.raises(DataError, match="no split 'test'"):
        module.setup("test")
