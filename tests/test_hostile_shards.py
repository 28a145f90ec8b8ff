"""Shards and indices that are made to cost much: headers that lead backwards, names and arrays without end."""

import io
import json
import tarfile

import numpy as np
import pytest

from mmssl.data import ShardIndex, ShardWriter, read_record
from mmssl.data.shards import index_path
from mmssl.errors import DataError


def member(name, data, size=None):
    """A member of a tar, its size as base-256 where it is stated otherwise than it is."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    head = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    if size is not None:
        head[124:136] = b"\xff" + (size & ((1 << 88) - 1)).to_bytes(11, "big")
        head[148:156] = b" " * 8
        head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + data + bytes(-len(data) % 512)


def pax(records):
    """An extension header of POSIX that states these values for the member after it."""
    data = b""
    for row in records:
        body = b" %s=%s\n" % row
        data += next(b"%d%s" % (n, body) for n in range(len(body), len(body) + 9) if len(b"%d%s" % (n, body)) == n)
    head = bytearray(member("pax", data))
    head[156:157] = b"x"
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head[:512])
    return bytes(head)


def shard(root, *parts):
    path = root / "train-000000.tar"
    path.write_bytes(b"".join(parts) + bytes(1024))
    return path


@pytest.mark.parametrize("bad", [
    member("b.txt", b"two", size=-512), member("b.txt", b"two", size=-1024), member("b.txt", b"two", size=-(1 << 87)),
    pax([(b"size", b"-5")]) + member("b.txt", b"two"), pax([(b"size", b"9" * 5000)]) + member("b.txt", b"two")])
def test_a_size_below_zero_or_without_end_is_no_header(tmp_path, bad):
    """The 1024 bytes of the member whose size is bad are lost, and no more."""
    path = shard(tmp_path, member("a.txt", b"one"), bad, member("c.txt", b"three"))
    index = ShardIndex.load(path)
    assert {index.key(i): read_record(path, index, i) for i in range(len(index))} == {
        "a": {"txt": b"one"}, "c": {"txt": b"three"}}
    end = 1024 + len(bad)
    assert index.lost == [(f"bytes {end - 1024} to {end}", "no readable header")]


def test_a_pax_header_of_a_length_without_end_is_read_past(tmp_path):
    junk = bytearray(member("pax", b"9" * 5000 + b" path=x\n"))
    junk[156:157] = b"x"
    junk[148:156] = b" " * 8
    junk[148:156] = b"%06o\0 " % sum(junk[:512])
    index = ShardIndex.load(shard(tmp_path, bytes(junk), member("a.txt", b"one")))
    assert index.key(0) == "a" and len(index) == 1 and not index.lost


def labels(group):
    return json.dumps({"labels": {}, "group": group}).encode()


def named(root, group):
    with ShardWriter(root, "train") as writer:
        for i in range(50):
            writer.add(f"k{i:02d}", {"labels.json": labels(group if i == 7 else f"g{i}")})
    return root / "train-000000.tar"


def test_a_record_whose_names_are_too_long_is_lost_and_told(tmp_path):
    path = shard(tmp_path, member("a.txt", b"one"), pax([(b"path", b"k" * 5000 + b".txt")]) + member("x", b"two"),
                 pax([(b"path", b"b." + b"f" * 5000)]) + member("x", b"three"), member("c.txt", b"four"))
    index = ShardIndex.load(path)
    assert [index.key(i) for i in range(len(index))] == ["a", "c"] and index.keys.dtype.itemsize == 1
    assert index.fields == ["txt"]
    assert index.lost == [("k" * 60 + "…", "its key has 5000 bytes, more than 4096"),
                          ("b", "its field has 5000 bytes, more than 4096")]
    path = shard(tmp_path, *(member(f"{key}.labels.json", labels(group))
                             for key, group in (("a", "one"), ("b", "ö" * 2049), ("c", "ö" * 2048))))
    index = ShardIndex.load(path)
    assert index.lost == [("b", "its group has 4098 bytes, more than 4096")]
    assert [index.key(i) for i in range(len(index))] == ["a", "c"] and index.groups_of(path) == ["one", "ö" * 2048]
    with pytest.raises(DataError, match="record 'k07': its group has 4098 bytes, more than 4096"):
        named(tmp_path / "groups", "ö" * 2049)


def test_an_older_index_without_groups_does_not_take_a_long_one(tmp_path):
    path = named(tmp_path, "g7")
    old = ShardIndex.load(path)
    data = labels("x" * 5000)
    path.write_bytes(b"".join(member(f"k{i:02d}.labels.json", data if i == 7 else b"{}") for i in range(50))
                     + bytes(1024))
    fresh = ShardIndex.build(path)
    assert len(fresh) == 49
    starts = [512 + 1024 * i + (-(-len(data) // 512) - 1) * 512 * (i > 7) for i in range(50)]
    index = ShardIndex(old.keys, old.starts, old.field_numbers, np.array(starts),
                       np.array([len(data) if i == 7 else 2 for i in range(50)]), old.fields, path.stat().st_size)
    with pytest.raises(DataError, match=r"record 'k07': its group has 5000 bytes, more than 4096; delete train-000000"):
        index.groups_of(path)


def test_an_index_of_arrays_that_are_far_larger_than_its_shard_is_made_again(tmp_path, monkeypatch):
    path = named(tmp_path, "g7")
    good, index = index_path(path).read_bytes(), ShardIndex.load(path)
    with np.load(io.BytesIO(good)) as file:
        raw = {name: file[name] for name in file.files}
    raw["groups"] = raw["groups"].astype("S200000")  # the same names, in 10 MB
    np.savez_compressed(index_path(path), **raw)
    assert index_path(path).stat().st_size < 50_000
    again = ShardIndex.load(path)
    assert again.groups.dtype == index.groups.dtype and index_path(path).read_bytes() == good
