"""Writing files so that a crash leaves the old one or the new one, never half of one."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from mmssl.errors import StorageError

#: What the system says where a disk takes no more: full, read-only, over quota, or at the largest size of a file.
REFUSALS = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG)


class _Watched:
    """A file that remembers the error a write met: torch replaces it by one that names neither file nor reason."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.error = file, None

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextlib.contextmanager
def replacing(path: Path, shared: bool = False) -> Iterator[Any]:
    """A binary file to write that takes the place of `path` only when it is whole and on the disk. No paper: ours.

    It lies beside its target, because a rename across file systems is not atomic.

    Args:
        path: the target; its folder is made where it is missing.
        shared: whether several processes may write the target at once. If so each has a file of its own; otherwise it
            has one fixed name, so that what a kill leaves behind is overwritten by the next save.

    Raises:
        StorageError: the disk refuses; `path` is as it was and nothing else is left.
    """
    beside, watched = path.with_name(f".{path.name}{f'.{os.getpid()}' if shared else ''}.part"), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "wb") as file:
            watched = _Watched(file)
            yield watched
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        _sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        cause = error if isinstance(error, OSError) else watched.error if watched else None
        if cause is not None and isinstance(error, Exception):
            raise refused(path, cause) from error
        raise


def write_whole(path: Path, data: bytes) -> None:
    """Put `data` at `path` so that a reader sees the old file or the new one, never a part.

    Raises:
        StorageError: the disk refuses; `path` is as it was.
    """
    with replacing(path, shared=True) as file:
        file.write(data)


def append_line(path: Path, line: str) -> None:
    """Add one line of text to a file, in one write.

    Raises:
        StorageError: the disk refuses.
    """
    try:
        with open(path, "ab", buffering=0) as file:
            if file.write((line + "\n").encode()) != len(line.encode()) + 1:
                raise OSError(errno.ENOSPC, "only a part of the line was written")
    except OSError as error:
        raise refused(path, error) from error


def refused(path: Path, error: OSError) -> StorageError:
    """The message for a write that failed."""
    return StorageError(f"{path}: could not be written ({error.strerror or error}); what was there before is whole. "
                        "Free some space, mend what the disk says, or choose another folder; then run it again")


def _sync_folder(folder: Path) -> None:
    """Put the rename itself on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
