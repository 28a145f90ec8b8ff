"""Shards: tar files of records, written whole, indexed beside, read one record at a time. The door to webdataset.

A record is the run of members that share the part of their name before the first dot: `k17.video.mp4` is the field
`video.mp4` of record `k17`. That is webdataset's own rule, so each side reads what the other wrote.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from webdataset.writer import TarWriter

from mmssl.data.files import list_splits, split_shards
from mmssl.data.shards_index import (
    LABELS,
    ShardIndex,
    header_fits,
    index_path,
    named_group,
    open_shard,
    too_long,
)
from mmssl.data.tarscan import BLOCK
from mmssl.errors import DataError, StorageError

__all__ = ["ShardIndex", "ShardWriter", "index_path", "list_splits", "read_files", "read_record", "split_shards"]

KEY = re.compile(r"(?!__)[^./\0][^.\0]*\Z")
FIELD = re.compile(r"(?!_)[a-z0-9_-]+(\.[a-z0-9_-]+)*\Z")


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
    fd, files = open_shard(Path(shard)), {}
    try:
        for name, offset, size in index.members(record):
            if only is not None and name not in only:
                continue
            data, full = os.pread(fd, size + BLOCK, offset - BLOCK), f"{index.key(record)}.{name}"
            if len(data) != size + BLOCK or not header_fits(data[:BLOCK], full, size):
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
            DataError: as `check` does.
            StorageError: the disk refuses.
        """
        self.check(key, files)
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

    def check(self, key: str, files: Mapping[str, bytes]) -> None:
        """See that a record can be added.

        Raises:
            DataError: a key, field or group that would not read back as written, a key twice in one shard, or no file.
        """
        if not KEY.match(key) or key in self._keys:
            raise DataError(f"record '{key}': a key is new in its shard, has no dots and does not begin with '__'")
        wrong = [name for name in files if not FIELD.match(name)]
        if wrong or not files:
            raise DataError(f"record '{key}': files {wrong or 'none'}, expected `<modality>.<codec>` in lower case")
        if any(len(f"{key}.{name}".encode()) > 100 for name in files):
            raise DataError(f"record '{key}': key and field together are longer than the 100 bytes a tar name has")
        if long := too_long({"group": named_group(files.get(LABELS, b""))}):
            raise DataError(f"record '{key}': {long}")

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
