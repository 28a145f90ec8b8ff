"""Shards: both ways with webdataset, byte-equal, read one record at a time, and what damage costs."""

import io
import os
import tarfile

import numpy as np
import pytest
import webdataset
from small_sets import make_set, record

from mmssl.data import (
    Manifest,
    ModalityInfo,
    ShardIndex,
    ShardWriter,
    Split,
    finish,
    inspect,
    read_record,
    split_shards,
    verify,
)
from mmssl.data.shards import index_path
from mmssl.errors import DataError, StorageError

FILES = {f"k{i:02d}": {"imu.npy": bytes([i]) * (700 + 300 * i), "labels.json": b"{}", "text.txt": b"t" * i}
         for i in range(10)}


def write(root, files=FILES, split="train", **sizes):
    with ShardWriter(root, split, **sizes) as writer:
        for key, content in files.items():
            writer.add(key, content)
    return split_shards(root, split)


def read_all(shards):
    found = {}
    for shard in shards:
        index = ShardIndex.load(shard)
        found |= {index.key(i): read_record(shard, index, i) for i in range(len(index))}
    return found


def test_what_is_written_is_read(tmp_path):
    shards = write(tmp_path, shard_records=4)
    assert [path.name for path in shards] == [f"train-{n:06d}.tar" for n in range(3)]
    assert read_all(shards) == FILES
    assert [len(ShardIndex.load(path)) for path in shards] == [4, 4, 2]
    assert len(write(tmp_path / "small", shard_bytes=5000)) > 3


def test_webdataset_reads_ours(tmp_path):
    shards = write(tmp_path, shard_records=4)
    seen = {sample["__key__"]: {k: v for k, v in sample.items() if k[0] != "_"}
            for sample in webdataset.WebDataset([str(path) for path in shards], shardshuffle=False)}
    assert seen == FILES


def test_we_read_webdatasets(tmp_path):
    with webdataset.ShardWriter(f"{tmp_path}/train-%04d.tar", maxcount=3, encoder=False, verbose=0) as writer:
        for key, content in FILES.items():
            writer.write({"__key__": f"folder/{key}", **content})
    shards = split_shards(tmp_path, "train")
    assert len(shards) == 4
    assert read_all(shards) == {f"folder/{key}": content for key, content in FILES.items()}


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_plain_tars_with_long_names_and_folders(tmp_path, format):
    key = "ü" * 60 if format != tarfile.USTAR_FORMAT else "folder/" * 10 + "k"
    with tarfile.open(tmp_path / "train.tar", "w", format=format) as tar:
        tar.addfile(tarfile.TarInfo("__meta__.json"))
        for name, data in ((f"{key}.mp4", b"abc"), (f"{key}.TXT", b"de"), ("z.mp4", b"")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    assert read_all(split_shards(tmp_path, "train")) == {key: {"mp4": b"abc", "txt": b"de"}, "z": {"mp4": b""}}


def test_equal_input_gives_equal_bytes(tmp_path):
    a, b = write(tmp_path / "a"), write(tmp_path / "b")
    assert a[0].read_bytes() == b[0].read_bytes()
    assert index_path(a[0]).read_bytes() == index_path(b[0]).read_bytes()


def test_a_record_is_read_without_touching_others(tmp_path, monkeypatch):
    (shard,) = write(tmp_path)
    index, real, reads = ShardIndex.load(shard), os.pread, []
    monkeypatch.setattr(os, "pread", lambda fd, n, at: reads.append((at, at + n)) or real(fd, n, at))
    assert read_record(shard, index, 5) == FILES["k05"]
    first, last = index.members(5)[0], index.members(5)[-1]
    assert min(a for a, _ in reads) >= first[1] - 512 and max(b for _, b in reads) <= last[1] + last[2]
    assert sum(b - a for a, b in reads) == sum(512 + len(data) for data in FILES["k05"].values())


def test_an_error_leaves_only_whole_shards(tmp_path):
    with pytest.raises(RuntimeError), ShardWriter(tmp_path, "train", shard_records=4) as writer:
        for n, (key, content) in enumerate(FILES.items()):
            if n == 6:
                raise RuntimeError
            writer.add(key, content)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train-000000.index.npz", "train-000000.tar"]


@pytest.mark.parametrize("key, files", [
    ("a.b", {"x.npy": b""}), ("__a", {"x.npy": b""}), ("", {"x.npy": b""}), ("k", {}), ("k", {"X.npy": b""}),
    ("k", {"_x": b""}), ("k" * 99, {"x.npy": b""}), ("../k", {"x.npy": b""})])
def test_names_that_would_not_read_back(tmp_path, key, files):
    with ShardWriter(tmp_path, "train") as writer, pytest.raises(DataError, match="record"):
        writer.add(key, files)


def test_no_second_pack_over_the_first(tmp_path):
    write(tmp_path)
    with pytest.raises(DataError, match="has shards of split 'train' already"):
        ShardWriter(tmp_path, "train")
    with ShardWriter(tmp_path, "val") as writer:
        writer.add("k", {"x.npy": b""})
        with pytest.raises(DataError, match="new in its shard"):
            writer.add("k", {"x.npy": b""})


def test_a_full_disk(tmp_path, monkeypatch):
    writer = ShardWriter(tmp_path, "train")
    monkeypatch.setattr(webdataset.writer.TarWriter, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space")))
    with pytest.raises(StorageError, match=r"train-000000\.tar: cannot be written"):
        writer.add("k", {"x.npy": b""})


def test_an_index_is_made_again_where_it_is_stale_or_broken(tmp_path):
    (shard,) = write(tmp_path / "a")
    (other,) = write(tmp_path / "b", {key[1:]: content for key, content in FILES.items()})
    index_path(shard).unlink()
    assert len(ShardIndex.load(shard)) == 10 and index_path(shard).exists()
    os.replace(other, shard)  # same size, other names
    assert ShardIndex.load(shard).key(0) == "00"
    index_path(shard).write_bytes(b"PK junk")
    assert ShardIndex.load(shard).key(9) == "09"
    data = bytearray(index_path(shard).read_bytes())
    for at in range(0, len(data), 97):
        index_path(shard).write_bytes(bytes(data[:at]) + bytes([data[at] ^ 255]) + bytes(data[at + 1:]))
        assert read_all([shard]) == {key[1:]: content for key, content in FILES.items()}, at


def test_a_read_only_folder_works(tmp_path, monkeypatch):
    (shard,) = write(tmp_path)
    index_path(shard).unlink()
    monkeypatch.setattr(ShardIndex, "save", lambda *_: (_ for _ in ()).throw(StorageError("read-only")))
    assert read_all([shard]) == FILES


@pytest.mark.parametrize("with_index, member", [(True, 0), (False, 0), (False, 2)])
def test_a_truncated_tar_loses_only_what_is_gone(tmp_path, with_index, member):
    (shard,) = write(tmp_path)
    index = ShardIndex.load(shard)
    cut = index.members(7)[member][1] + 2  # inside a file of k07
    if not with_index:
        index_path(shard).unlink()
    os.truncate(shard, cut)
    damaged = ShardIndex.load(shard)
    assert {damaged.key(i) for i in range(len(damaged))} == {f"k{i:02d}" for i in range(7)}
    text = " ".join(what for what, _ in damaged.lost)
    assert "k07" in text and (not with_index or ("k08" in text and "k09" in text))
    assert read_all([shard]) == {k: FILES[k] for k in list(FILES)[:7]}


@pytest.mark.parametrize("with_index", [True, False])
@pytest.mark.parametrize("member", [0, 1, 2])
def test_an_overwritten_header_costs_one_record(tmp_path, with_index, member):
    (shard,) = write(tmp_path)
    index = ShardIndex.load(shard)
    offset = index.members(4)[member][1]
    with shard.open("r+b") as file:
        file.seek(offset - 512)
        file.write(os.urandom(512))
    if not with_index:
        index_path(shard).unlink()
    damaged, good = ShardIndex.load(shard), {}
    for i in range(len(damaged)):
        try:
            good[damaged.key(i)] = read_record(shard, damaged, i)
        except DataError as error:
            assert with_index and "k04" in str(error)
    assert good == {k: v for k, v in FILES.items() if k != "k04"}
    assert with_index or damaged.lost


def test_a_header_of_zeros_does_not_end_the_tar(tmp_path):
    (shard,) = write(tmp_path)
    offset = ShardIndex.load(shard).members(4)[0][1]
    index_path(shard).unlink()
    with shard.open("r+b") as file:
        file.seek(offset - 512)
        file.write(bytes(512))
    assert set(read_all([shard])) == set(FILES) - {"k04"}


def test_the_manifest_says_what_is_there(tmp_path):
    make_set(tmp_path, {"train": 8, "val": 3}, per_shard=5)
    manifest = Manifest.load(tmp_path)
    train = manifest.splits["train"]
    assert [(s.name, s.records) for s in train.shards] == [("train-000000.tar", 5), ("train-000001.tar", 3)]
    assert train.shards[1].bytes == (tmp_path / "train-000001.tar").stat().st_size
    assert train.records == 8 and train.groups == [f"train-{n}" for n in range(4)]
    assert manifest.modalities["imu"].rate == 10 and manifest.labels["act"][2] == "walk"
    other = make_set(tmp_path / "other", {"train": 8, "val": 3}, per_shard=2)
    assert Manifest.load(other).split_hash == manifest.split_hash
    assert Manifest.load(make_set(tmp_path / "third", {"train": 7, "val": 3})).split_hash != manifest.split_hash


@pytest.mark.parametrize("old, new, said", [
    ('"format_version": 1', '"format_version": 2', "format_version is 2"), ("{", "", "JSON"),
    ('"rate": 10.0', '"rate": "fast"', r"modalities\.\w+\.rate: expected float"),
    ('"records": 5', '"records": "many"', "records: expected int"),
    ('"name": "train-000000.tar"', '"nam": "x"', "no such setting"),
    ('"name": "train-000000.tar"', '"name": "../x.tar"', "leads out"), ('"codec": "npy"', '"code": 1', "codec")])
def test_a_wrong_manifest_names_the_field(tmp_path, old, new, said):
    path = make_set(tmp_path, {"train": 5}) / "manifest.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match=said):
        Manifest.load(tmp_path)


def test_a_missing_manifest_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"no such file.*mmssl data"):
        Manifest.load(tmp_path)


def refuse(root, second, said, **labels):
    for split, key, files in (("train", "a", record(0, "s")), ("val", *second)):
        with ShardWriter(root, split) as writer:
            writer.add(key, files)
    with pytest.raises(DataError, match=said):
        finish(root, "x", {"imu": ModalityInfo("npy")}, {"act": ["sit", "stand"], **labels})
    assert not (root / "manifest.json").exists()


def test_finish_refuses(tmp_path):
    refuse(tmp_path / "a", ("b", record(4, "s")), "group 's-0' is in splits 'train' and 'val'")
    refuse(tmp_path / "b", ("b", record(2, "t")), "label 'act' is 2, but only 2")
    refuse(tmp_path / "c", ("b", {"labels.json": b"[]"}), "record 'b': labels.json: expected")
    with ShardWriter(tmp_path / "d", "train", shard_records=1) as writer:
        writer.add("a", record(0, "s"))
        writer.add("a", record(0, "s"))
    with pytest.raises(DataError, match="'a' occurs twice"):
        finish(tmp_path / "d", "x", {}, {})


def test_plain_shards_can_be_used_without_a_manifest(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "train-000000.tar"), encoder=False) as tar:
        tar.write({"__key__": "a", "npy": record(0, "s")["imu.npy"], "txt": b"words", "cls": b"3"})
    manifest = inspect(tmp_path)
    assert {name: info.codec for name, info in manifest.modalities.items()} == {"series": "npy", "text": "txt"}
    assert manifest.splits["train"].records == 1
    assert Split(tmp_path, "train").fields(0, 0) == ["cls", "npy", "txt"]


def test_a_missing_split_or_shard_is_named(tmp_path):
    make_set(tmp_path)
    with pytest.raises(DataError, match="no split 'tset'; it has train, val"):
        Split(tmp_path, "tset")
    (tmp_path / "train-000001.tar").unlink()
    with pytest.raises(DataError, match=r"names train-000001\.tar"):
        Split(tmp_path, "train")
    with pytest.raises(DataError, match="no such folder"):
        Split(tmp_path / "nowhere", "train")


def test_verify_finds_every_fault_and_nothing_else(tmp_path):
    make_set(tmp_path / "good")
    assert list(verify(tmp_path / "good")) == []

    def spoil(number, files):
        if number == 2:
            files["imu.npy"] = files["imu.npy"][:-4]
        if number == 3:
            files["imu.npy"] = record(3, "x")["ecg.npy"]
        return files

    root = make_set(tmp_path / "bad", {"train": 8}, change=spoil)
    found = {(p.shard, p.key): p.reason for p in verify(root)}
    assert set(found) == {("train-000000.tar", "train002"), ("train-000000.tar", "train003")}
    assert "cut off" in found["train-000000.tar", "train002"]
    assert "expected 2 channels (x, y)" in found["train-000000.tar", "train003"]
    with (root / "train-000001.tar").open("r+b") as file:
        file.seek(700)
        file.write(b"!")
    assert any("SHA-256" in problem.reason for problem in verify(root))


def test_keys_need_not_be_short_or_ascii(tmp_path):
    files = {"größe-7": {"x.npy": b"1"}, "a" * 60: {"x.npy": b"2"}, "b/c d": {"x.npy": b"3"}}
    assert read_all(write(tmp_path, files)) == files
    assert np.array_equal(ShardIndex.load(tmp_path / "train-000000.tar").starts, [0, 1, 2, 3])
