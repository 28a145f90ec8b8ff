"""The index of a shard: where each record of a tar lies and whose it is. The door to webdataset, with `shards`."""

from __future__ import annotations

import io
import json
import os
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from webdataset.tariterators import base_plus_ext

from mmssl.data.tarscan import BLOCK, Record, group, parse_header, scan
from mmssl.errors import DataError, StorageError
from mmssl.storage import write_whole

INDEX_VERSION = 1
PROBES = 64  # headers that are compared to notice an index that belongs to another tar
LABELS = "labels.json"
SHOWN = 60  # characters of a long key in messages
NAME_LIMIT = 4096  # bytes of a key, a field or a group: in the index each takes as much room as the longest
INDEX_SHARE, INDEX_FREE = 4, 1 << 20  # an index has at most as many times the bytes of its shard, and so many more


def index_path(shard: str | Path) -> Path:
    """Where the index of a shard lies: `train-000000.tar` has `train-000000.index.npz` beside it."""
    return Path(shard).with_suffix(".index.npz")


@dataclass
class ShardIndex:
    """Where each record of one tar lies. R records, N members. No paper: ours.

    Args:
        keys: (R,) bytes, UTF-8.
        starts: (R + 1,) int64; members `starts[i]` to `starts[i + 1]` belong to record i.
        field_numbers: (N,) int16, into `fields`.
        offsets, sizes: (N,) int64, bytes.
        fields: names of the fields, e.g. "video.mp4".
        tar_size: bytes of the tar that the index was made from.
        groups: (R,) bytes, UTF-8: whose record it is, "" where it does not say; None in indexes of earlier versions.
        lost: (what, why) for each record or stretch of bytes that could not be indexed.
    """

    keys: np.ndarray
    starts: np.ndarray
    field_numbers: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    fields: list[str]
    tar_size: int
    groups: np.ndarray | None = None
    lost: list[tuple[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, record: int) -> str:
        """The key of a record."""
        return self.keys[record].decode("utf-8", "replace")

    def groups_of(self, shard: str | Path) -> list[str]:
        """The group of every record; read from the records themselves where the index does not say.

        Raises:
            DataError: the tar, which is `shard`, cannot be read, or a name in it is too long.
        """
        if self.groups is None:
            fd = open_shard(Path(shard))
            try:
                names = _read_groups(fd, [self.members(i) for i in range(len(self))])
            finally:
                os.close(fd)
            for record, name in enumerate(names):
                if long := too_long({"group": name}):
                    raise DataError(f"{shard}: record '{self.key(record)}': {long}; delete {index_path(shard).name} "
                                    f"to go on without this record")
            self.groups = _encoded(names)
        return [name.decode("utf-8", "replace") for name in self.groups.tolist()]

    def select(self, keep: np.ndarray) -> ShardIndex:
        """The index of the records where `keep` (R,) is True, in the same order."""
        counts = np.diff(self.starts)
        members = np.repeat(keep, counts)
        return replace(
            self, keys=self.keys[keep], starts=np.concatenate([[0], np.cumsum(counts[keep])]).astype(np.int64),
            field_numbers=self.field_numbers[members], offsets=self.offsets[members], sizes=self.sizes[members],
            groups=None if self.groups is None else self.groups[keep])

    def members(self, record: int) -> list[tuple[str, int, int]]:
        """Field, offset and size of every file of a record."""
        rows = range(int(self.starts[record]), int(self.starts[record + 1]))
        return [(self.fields[self.field_numbers[n]], int(self.offsets[n]), int(self.sizes[n])) for n in rows]

    @classmethod
    def load(cls, shard: str | Path) -> ShardIndex:
        """The index of a tar: the file beside it, or, where that is missing or belongs to another tar, a fresh one.

        A fresh one that lost nothing is saved beside the tar for the next time, if the folder can be written.

        Raises:
            DataError: the tar is missing or unreadable.
        """
        shard = Path(shard)
        fd = open_shard(shard)
        try:
            old = _read_index(index_path(shard), INDEX_SHARE * os.fstat(fd).st_size + INDEX_FREE)
            if old is not None and old.tar_size == os.fstat(fd).st_size and _fits(fd, old):
                return old
        finally:
            os.close(fd)
        new = cls.build(shard)
        if old is not None and new.lost:  # the old index still knows the names of what is gone
            gone = {key.decode("utf-8", "replace") for key in set(old.keys.tolist()) - set(new.keys.tolist())}
            gone -= {what for what, _ in new.lost}
            new.lost += [(key, "was there when the shard was indexed") for key in sorted(gone)]
        if not new.lost:
            try:
                new.save(shard)
            except StorageError:
                pass  # a read-only data set works too; the pass is then repeated each time
        return new

    @classmethod
    def build(cls, shard: str | Path) -> ShardIndex:
        """Index a tar in one pass over its headers. Raises DataError where it is missing or unreadable."""
        fd = open_shard(Path(shard))
        try:
            size = os.fstat(fd).st_size
            records, lost = group(scan(fd), base_plus_ext)
            records, groups, long = _without_long(records, _read_groups(fd, [members for _, members in records]))
        except OSError as error:
            raise DataError(f"{shard}: cannot be read ({error.strerror}). Copy the shard again.") from None
        finally:
            os.close(fd)
        fields = sorted({name for _, members in records for name, _, _ in members})
        number = {name: n for n, name in enumerate(fields)}
        flat = [member for _, members in records for member in members]
        counts = [len(members) for _, members in records]
        return cls(
            keys=_encoded([key for key, _ in records]),
            starts=np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64),
            field_numbers=np.array([number[name] for name, _, _ in flat], dtype=np.int16),
            offsets=np.array([offset for _, offset, _ in flat], dtype=np.int64),
            sizes=np.array([n for _, _, n in flat], dtype=np.int64),
            fields=fields, tar_size=size, groups=_encoded(groups), lost=lost + long)

    def save(self, shard: str | Path) -> Path:
        """Write the index beside its tar, whole or not at all. Raises StorageError."""
        file, path = io.BytesIO(), index_path(shard)
        np.savez(file, version=INDEX_VERSION, keys=self.keys, starts=self.starts, field_numbers=self.field_numbers,
                 offsets=self.offsets, sizes=self.sizes, fields=np.array(self.fields, dtype=np.str_),
                 tar_size=self.tar_size, **({} if self.groups is None else {"groups": self.groups}))
        write_whole(path, file.getvalue())
        return path


def open_shard(shard: Path) -> int:
    """A file descriptor to read a tar by. Raises DataError where there is none."""
    try:
        return os.open(shard, os.O_RDONLY)
    except OSError as error:
        raise DataError(f"{shard}: cannot be opened ({error.strerror}). Copy the shard again.") from None


def _read_index(path: Path, limit: int) -> ShardIndex | None:
    """An index file; None where it is missing, of another version or damaged, or its arrays have more than `limit`
    bytes (it can always be made again)."""
    try:
        with zipfile.ZipFile(path) as file:  # it may come from anywhere, and compressed arrays can be of any size
            if sum(member.file_size for member in file.infolist()) > limit:
                return None
        with np.load(path, allow_pickle=False) as file:
            if int(file["version"]) != INDEX_VERSION:
                return None
            raw = {name: file[name] for name in file.files if name != "version"}
        raw["fields"], raw["tar_size"] = [str(name) for name in raw["fields"]], int(raw["tar_size"])
        index = ShardIndex(**raw)
        n = len(index.offsets)
        whole = len(index.starts) == len(index) + 1 and len(index.sizes) == len(index.field_numbers) == n
        whole = whole and (index.groups is None or len(index.groups) == len(index))
        inside = not n or bool((index.offsets >= BLOCK).all() and (index.sizes >= 0).all()
                               and (index.offsets + index.sizes <= index.tar_size).all())
        in_order = int(index.starts[0]) == 0 and int(index.starts[-1]) == n and bool((np.diff(index.starts) > 0).all())
        known = not n or 0 <= index.field_numbers.min() <= index.field_numbers.max() < len(index.fields)
        return index if whole and inside and in_order and known else None
    except Exception:  # a broken zip raises errors of a dozen kinds; whatever it is, the index is made again
        return None


def _fits(fd: int, index: ShardIndex) -> bool:
    """Whether most headers stand where the index says. A few that do not are damage, found when they are read."""
    if not len(index):
        return True
    rows = np.unique(np.linspace(0, len(index) - 1, PROBES).astype(int)).tolist()
    good = sum(header_fits(os.pread(fd, BLOCK, offset - BLOCK), f"{index.key(row)}.{name}", size)
               for row in rows for name, offset, size in index.members(row)[:1])
    return 2 * good > len(rows)


def header_fits(block: bytes, name: str, size: int) -> bool:
    """Whether 512 bytes are the header of a member of that name and size."""
    header = parse_header(block)
    elsewhere = len(name) > 99 or not name.isascii()  # then the name stands in an extension header
    return header is not None and header.size == size and (elsewhere or header.name.lower() == name.lower())


def _read_groups(fd: int, records: list[list[tuple[str, int, int]]]) -> list[str]:
    """The group that each record's `labels.json` names; "" where there is none, or none that can be read."""
    found = []
    for members in records:
        place = next(((offset, size) for name, offset, size in members if name == LABELS), None)
        try:
            found.append(named_group(os.pread(fd, place[1], place[0])) if place is not None else "")
        except OSError:  # the reader of the record will say what is wrong with it
            found.append("")
    return found


def named_group(data: bytes) -> str:
    """The group that the bytes of a `labels.json` name; "" where they name none or cannot be read."""
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError):  # the reader of the record will say what is wrong with it
        return ""
    group = raw.get("group", "") if isinstance(raw, dict) else ""
    return group if isinstance(group, str) else ""


def _without_long(records: list[Record], groups: list[str]) -> tuple[list[Record], list[str], list[tuple[str, str]]]:
    """The records without those that bear a name that is too long, their groups, and (what, why) for each such one."""
    short, names, lost = [], [], []
    for record, name in zip(records, groups, strict=True):
        key, members = record
        field = max((field for field, _, _ in members), key=len)
        if long := too_long({"key": key, "field": field, "group": name}):
            lost.append((key if len(key) <= SHOWN else f"{key[:SHOWN]}…", long))
        else:
            short.append(record)
            names.append(name)
    return short, names, lost


def too_long(names: dict[str, str]) -> str:
    """Which of a record's names (key, field, group) has more bytes than NAME_LIMIT; "" where none has."""
    sizes = {what: len(name.encode("utf-8", "surrogateescape")) for what, name in names.items()}
    return ", ".join(f"its {what} has {size} bytes, more than {NAME_LIMIT}"
                     for what, size in sizes.items() if size > NAME_LIMIT)


def _encoded(names: list[str]) -> np.ndarray:
    return np.array([name.encode("utf-8", "surrogateescape") for name in names], dtype=np.bytes_)
