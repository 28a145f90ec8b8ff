"""Where the embedded data sets lie on this machine, and making them once. No paper: ours."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mmssl.data.demo.clips import build_clips
from mmssl.data.demo.signals import build_signals
from mmssl.data.progress import progress_line
from mmssl.data.schema import FILE_NAME
from mmssl.errors import ConfigError, StorageError
from mmssl.registry import nearest

try:
    import fcntl
except ImportError:  # Windows: two processes may both build, and the first to finish is kept
    fcntl = None

#: Goes up whenever a build gives other bytes; stands in the folder's name, so an old set is never taken for a new one.
VERSION = 2
PREFIX = "demo:"
NAMES = ("clips", "signals")


def cache_folder() -> Path:
    """The folder of all cached data: MMSSL_CACHE, else `mmssl` in XDG_CACHE_HOME, else `~/.cache/mmssl`."""
    if named := os.environ.get("MMSSL_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmssl"


def demo_root(name: str, seed: int = 0) -> Path:
    """The folder of an embedded data set; made at the first call, complete or not there at all.

    Args:
        name: "clips" or "signals".
        seed: of the clips; the signals are recordings and know no seed.

    Raises:
        ConfigError: no such set, or seglearn is missing. StorageError: the cache cannot be written.
    """
    if name not in NAMES:
        raise ConfigError(f"{PREFIX}{name}: no embedded data set is called '{name}'{nearest(name, NAMES)}")
    base = cache_folder()
    target = base / (f"clips-v{VERSION}-seed{seed}" if name == "clips" else f"signals-v{VERSION}")
    if (target / FILE_NAME).is_file():
        return target
    try:
        base.mkdir(parents=True, exist_ok=True)
        with locked(base / f".{target.name}.lock"):
            if not (target / FILE_NAME).is_file():
                make(name, seed, target)
    except OSError as error:
        raise StorageError(f"{target}: cannot be written ({error.strerror or error}). Free space, or set MMSSL_CACHE "
                           f"to a folder on another disk") from None
    return target


def resolve_root(root: str | Path) -> Path:
    """The folder that a recipe or a command names: "demo:clips", "demo:signals", or a path. Raises like `demo_root`."""
    if isinstance(root, str) and root.startswith(PREFIX):
        return demo_root(root.removeprefix(PREFIX))
    return Path(root).expanduser()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock on `path`; another process waits. The system frees it when the holder dies."""
    with path.open("a") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def make(name: str, seed: int, target: Path) -> None:
    """Build the set beside `target` and move it there in one step. Call it under the lock of `target`."""
    prefix = f".{target.name}-"
    if fcntl is not None:
        for left in target.parent.glob(f"{prefix}*"):  # of a build that was killed: whoever holds the lock is alone
            shutil.rmtree(left, ignore_errors=True)
        shutil.rmtree(target, ignore_errors=True)  # without a manifest it is none of ours that is complete
    work = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    try:
        work.chmod(0o755)
        if name == "clips":
            build_clips(work, seed, progress=progress_line(f"making the embedded clips in {target}"))
        else:
            build_signals(work)
        try:
            os.replace(work, target)
        except OSError:
            if not (target / FILE_NAME).is_file():  # else another process, without locks, has been faster
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
