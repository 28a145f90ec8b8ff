"""Shards: tar files of records, written whole, indexed beside, read one record at a time. The door to webdataset.

A record is the run of members that share the part of their name before the first dot: `k17.video.mp4` is the field
`video.mp4` of record `k17`. That is webdataset's own rule, so each side reads what the other wrote.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from webdataset.tariterators import base_plus_ext
from webdataset.writer import TarWriter

from mmssl.data.files import list_splits, split_shards
from mmssl.data.tarscan import BLOCK, group, parse_header, scan
from mmssl.errors import DataError, StorageError
from mmssl.storage import write_whole

__all__ = ["ShardIndex", "ShardWriter", "index_path", "list_splits", "read_files", "read_record", "split_shards"]

INDEX_VERSION = 1
PROBES = 64  # headers that are compared to notice an index that belongs to another tar
KEY = re.compile(r"(?!__)[^./\0][^.\0]*\Z")
FIELD = re.compile(r"(?!_)[a-z0-9_-]+(\.[a-z0-9_-]+)*\Z")


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
        lost: (what, why) for each record or stretch of bytes that could not be indexed.
    """

    keys: np.ndarray
    starts: np.ndarray
    field_numbers: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    fields: list[str]
    tar_size: int
    lost: list[tuple[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, record: int) -> str:
        """The key of a record."""
        return self.keys[record].decode("utf-8", "replace")

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
        fd = _open(shard)
        try:
            old = _read_index(index_path(shard))
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
        fd = _open(Path(shard))
        try:
            size = os.fstat(fd).st_size
            records, lost = group(scan(fd), base_plus_ext)
        except OSError as error:
            raise DataError(f"{shard}: cannot be read ({error.strerror}). Copy the shard again.") from None
        finally:
            os.close(fd)
        fields = sorted({name for _, members in records for name, _, _ in members})
        number = {name: n for n, name in enumerate(fields)}
        flat = [member for _, members in records for member in members]
        counts = [len(members) for _, members in records]
        return cls(
            keys=np.array([key.encode("utf-8", "surrogateescape") for key, _ in records], dtype=np.bytes_),
            starts=np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64),
            field_numbers=np.array([number[name] for name, _, _ in flat], dtype=np.int16),
            offsets=np.array([offset for _, offset, _ in flat], dtype=np.int64),
            sizes=np.array([n for _, _, n in flat], dtype=np.int64),
            fields=fields, tar_size=size, lost=lost)

    def save(self, shard: str | Path) -> Path:
        """Write the index beside its tar, whole or not at all. Raises StorageError."""
        file, path = io.BytesIO(), index_path(shard)
        np.savez(file, version=INDEX_VERSION, keys=self.keys, starts=self.starts, field_numbers=self.field_numbers,
                 offsets=self.offsets, sizes=self.sizes, fields=np.array(self.fields, dtype=np.str_),
                 tar_size=self.tar_size)
        write_whole(path, file.getvalue())
        return path


def _open(shard: Path) -> int:
    try:
        return os.open(shard, os.O_RDONLY)
    except OSError as error:
        raise DataError(f"{shard}: cannot be opened ({error.strerror}). Copy the shard again.") from None


def _read_index(path: Path) -> ShardIndex | None:
    """An index file; None where it is missing, of another version or damaged (it can always be made again)."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if int(file["version"]) != INDEX_VERSION:
                return None
            raw = {name: file[name] for name in file.files if name != "version"}
        raw["fields"], raw["tar_size"] = [str(name) for name in raw["fields"]], int(raw["tar_size"])
        index = ShardIndex(**raw)
        n = len(index.offsets)
        whole = len(index.starts) == len(index) + 1 and len(index.sizes) == len(index.field_numbers) == n
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
    good = sum(_header_fits(os.pread(fd, BLOCK, offset - BLOCK), f"{index.key(row)}.{name}", size)
               for row in rows for name, offset, size in index.members(row)[:1])
    return 2 * good > len(rows)


def _header_fits(block: bytes, name: str, size: int) -> bool:
    header = parse_header(block)
    elsewhere = len(name) > 99 or not name.isascii()  # then the name stands in an extension header
    return header is not None and header.size == size and (elsewhere or header.name.lower() == name.lower())


def read_record(shard: str | Path, index: ShardIndex, record: int) -> dict[str, bytes]:
    """All files of one record by field, without touching other records. Raises DataError like `read_files`."""
    return read_files(shard, index, record)


def read_files(shard: str | Path, index: ShardIndex, record: int,
               only: Collection[str] | None = None) -> dict[str, bytes]:
    """Files of one record by field, each by one read of exactly its header and bytes. No paper: ours.

    Args:
        only: the fields to read, where the record has them; None reads all.

    Raises:
        DataError: the tar is missing, or its bytes are not those the index was made from.
    """
    fd, files = _open(Path(shard)), {}
    try:
        for name, offset, size in index.members(record):
            if only is not None and name not in only:
                continue
            data, full = os.pread(fd, size + BLOCK, offset - BLOCK), f"{index.key(record)}.{name}"
            if len(data) != size + BLOCK or not _header_fits(data[:BLOCK], full, size):
                raise DataError(f"'{full}' is not where the index says; the shard was damaged or replaced. Copy it "
                                f"again and delete {index_path(Path(shard)).name}")
            files[name] = data[BLOCK:]
    except OSError as error:
        raise DataError(f"{shard}: cannot be read ({error.strerror})") from None
    finally:
        os.close(fd)
    return files


class ShardWriter:
    """Write one split as tars of bounded size, each whole or not at all, with its index. No paper: ours.

    Equal records give equal bytes: times and owners are fixed. A context manager; leaving it by an error keeps the
    shards that were complete and drops the one that was not.

    Args:
        root: folder of the data set; made where it is missing.
        split: name of the split, e.g. "train".
        shard_bytes, shard_records: a new shard is begun when either is reached.

    Raises:
        DataError: `root` has shards of this split already.
    """

    def __init__(self, root: str | Path, split: str, shard_bytes: int = 256 << 20, shard_records: int = 10_000) -> None:
        self.root, self.split = Path(root), split
        self.shard_bytes, self.shard_records = shard_bytes, shard_records
        self.shards: list[Path] = []
        self._file, self._tar, self._keys = None, None, set()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{root}: cannot be made ({error.strerror})") from None
        if split in list_splits(self.root):
            raise DataError(f"{root}: has shards of split '{split}' already. Choose an empty folder, or delete them.")

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if kind is None:
            self._finish()
        elif self._file is not None:
            with contextlib.suppress(OSError):  # the disk may be full; what it holds is dropped anyway
                self._tar.close()
                self._file.close()
            Path(self._file.name).unlink(missing_ok=True)

    def add(self, key: str, files: Mapping[str, bytes]) -> None:
        """Append one record. `files` by field: {"video.mp4": ..., "labels.json": ...}.

        Raises:
            DataError: a key or field that would not read back as written, a key twice in one shard, or no file.
            StorageError: the disk refuses.
        """
        if not KEY.match(key) or key in self._keys:
            raise DataError(f"record '{key}': a key is new in its shard, has no dots and does not begin with '__'")
        wrong = [name for name in files if not FIELD.match(name)]
        if wrong or not files:
            raise DataError(f"record '{key}': files {wrong or 'none'}, expected `<modality>.<codec>` in lower case")
        if any(len(f"{key}.{name}".encode()) > 100 for name in files):
            raise DataError(f"record '{key}': key and field together are longer than the 100 bytes a tar name has")
        try:
            if self._tar is None:
                self._file = (self.root / f".{self._name}.tmp").open("wb")
                self._tar = TarWriter(self._file, user="", group="", mode=0o644, encoder=False, mtime=0.0)
            self._tar.write({"__key__": key, **files})
            self._keys.add(key)
            if self._file.tell() >= self.shard_bytes or len(self._keys) >= self.shard_records:
                self._finish()
        except OSError as error:
            raise StorageError(f"{self.root / self._name}: cannot be written ({error.strerror})") from None

    @property
    def _name(self) -> str:
        return f"{self.split}-{len(self.shards):06d}.tar"

    def _finish(self) -> None:
        """Close the tar under way, give it its name, and write its index."""
        if self._tar is None:
            return
        path, temporary = self.root / self._name, Path(self._file.name)
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(temporary, path)
        ShardIndex.build(path).save(path)
        self.shards.append(path)
        self._file, self._tar, self._keys = None, None, set()
