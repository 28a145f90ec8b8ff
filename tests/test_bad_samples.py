"""Bad samples: replaced or marked, written down once, the same for any ranks and workers, and a stop at the limit."""

import json

import pytest
from small_sets import Wave, keys, loader, make_set, train

from mmssl.data import Split
from mmssl.errors import DataError, TooManyBadSamples


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp("set"), lacks=lambda n: ("ecg",) if n % 5 == 1 else ())


def spoiled(root, numbers, size=40, how=lambda files: {**files, "imu.npy": b"junk"}, per_shard=6):
    return make_set(root, {"train": size, "val": 6}, per_shard,
                    change=lambda n, files: how(files) if n in numbers else files)


def test_a_bad_sample_is_replaced_and_written_down_once(tmp_path):
    root, file = spoiled(tmp_path, {3, 17}), tmp_path / "run" / "bad.jsonl"
    good = make_set(tmp_path / "good", {"train": 40})
    clean, dirty = train(good), train(root, limit=0.1, file=file)
    for _ in range(2):
        for a, b in zip(clean, dirty, strict=True):
            for x, y, j in zip(a.keys, b.keys, range(4), strict=True):
                assert (y != x and y not in ("train003", "train017")) if x in ("train003", "train017") else y == x
                assert b.valid[j]
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert {(row["shard"], row["key"]) for row in lines} == {
        ("train-000000.tar", "train003"), ("train-000002.tar", "train017")} and len(lines) == 2
    assert all("not a NumPy array" in row["reason"] and row["epoch"] == 0 for row in lines)
    for workers, world in ((2, 1), (0, 2), (1, 4)):
        parts = [list(train(root, limit=0.1, workers=workers, place=(r, world), file=file)) for r in range(world)]
        whole = list(train(root, limit=0.1))
        assert [[b.keys for b in part] for part in parts] == [
            [b.keys[r * 4 // world:(r + 1) * 4 // world] for b in whole] for r in range(world)]
    assert len(file.read_text().splitlines()) == 2


def test_bad_samples_stay_as_invalid_rows_in_evaluation(tmp_path):
    root, file = spoiled(tmp_path, {1, 4}), tmp_path / "bad.jsonl"
    batches = list(loader(root, "val", limit=0.5, file=file, workers=2))
    assert keys(batches) == [f"val{n:03d}" for n in range(6)] + ["", ""]
    assert [v for b in batches for v in b.valid.tolist()] == [n not in (1, 4) for n in range(6)] + [False] * 2
    assert batches[0].streams["imu"].data[1].abs().sum() == 0 and batches[0].labels["act"].tolist() == [0, -1, 2, 0]
    assert len(file.read_text().splitlines()) == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_bad_samples_stop(tmp_path, workers):
    root, file = spoiled(tmp_path, range(0, 40, 4)), tmp_path / "bad.jsonl"
    with pytest.raises(TooManyBadSamples) as caught:
        list(train(root, limit=0.1, file=file, workers=workers))
    for said in (str(file), "5 of 40", "data.bad_samples = 0.1", f"mmssl data verify {root}", "not a NumPy array"):
        assert said in str(caught.value)
    list(train(root, limit=0.25))


def test_when_the_first_samples_are_all_bad_it_stops_at_once(tmp_path):
    root = spoiled(tmp_path, range(40))
    with pytest.raises(TooManyBadSamples, match=r"the first 16 samples of split 'train' are all bad.*not a NumPy"):
        list(train(root, limit=1.0))


def test_a_wrong_shape_names_modality_promise_and_remedy(root):
    class Wrong(Wave):
        def transform(self, clip, start, rng):
            return super().transform(clip, start, rng)[:, 1:]

    with pytest.raises(TooManyBadSamples) as caught:
        list(train(root, limit=1.0, parts={"imu": Wrong()}))
    said = "imu has shape (2, 19) (torch.float32) after its transform, but the recipe promises (2, 20)"
    assert said in str(caught.value)
    assert "Change modalities.imu" in str(caught.value)


def test_no_wanted_modality_is_a_bad_sample(root, tmp_path):
    file = tmp_path / "bad.jsonl"
    list(train(root, limit=0.5, parts={"ecg": Wave(1, 1.0)}, file=file))
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert {row["key"] for row in rows} <= {f"train{n:03d}" for n in range(1, 22, 5)} and rows
    assert all(row["reason"].startswith("has none of ecg, only imu.npy") for row in rows)
    with pytest.raises(DataError, match=r"holds ecg\.npy, imu\.npy, labels\.json, but none of.*\(film\)"):
        loader(root, parts={"film": type("Film", (Wave,), {"codecs": ("mp4",)})()})


def test_records_lost_with_a_damaged_shard_are_written_down(tmp_path):
    root, file = make_set(tmp_path, {"train": 40}), tmp_path / "bad.jsonl"
    shard = root / "train-000001.tar"
    with shard.open("r+b") as out:
        out.truncate(shard.stat().st_size // 2)
    shard.with_suffix(".index.npz").unlink()
    data = train(root, limit=0.2, file=file)
    seen = set(keys(data))
    reached = len(Split(root, "train"))
    assert 34 < reached < 40 and seen <= {f"train{n:03d}" for n in range(40)} and len(seen) == reached // 4 * 4
    assert any("no end mark" in json.loads(line)["reason"] for line in file.read_text().splitlines())
    with pytest.raises(TooManyBadSamples):
        list(train(root, limit=0.0))
