"""Checkpoint files: written whole or not at all, read without running anything that lies in them."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from torch import Tensor, nn

from mmssl.errors import DataError
from mmssl.storage import replacing

#: Version of the layout of a checkpoint; a reader takes this one and older.
FORMAT = 1
#: Largest checkpoint that is read unless a caller says otherwise, bytes.
LIMIT = 64 * 2**30
_LEAVES = (Tensor, nn.Parameter, int, float, complex, bool, str, bytes, type(None), torch.dtype, torch.device,
           torch.Size)
_ROWS, _MAPS = (list, tuple, set), (dict, OrderedDict)


class AtomicIO(CheckpointIO):
    """How Lightning's Trainer writes and reads checkpoints: `Trainer(plugins=[AtomicIO()])`. No paper: ours.

    A save goes to a file beside the target, is synced, takes its place, and then the folder is synced; so a kill at any
    moment leaves the old checkpoint or the new one. Reading is always with `weights_only=True`.

    Args:
        limit: largest file to read, bytes.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write `checkpoint`, with its format version, to `path`.

        Raises:
            StorageError: the disk refuses; an older checkpoint at `path` is untouched.
            TypeError: it holds an object that could not be read back without unpickling; the message says where.
        """
        checkpoint = {"format_version": FORMAT, **checkpoint}
        check_plain(checkpoint)
        with replacing(Path(path)) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
                        ) -> dict[str, Any]:
        """What `save_checkpoint` wrote, on the CPU. `map_location` and `weights_only`, Lightning's, are ignored.

        Raises:
            DataError: see `read_checkpoint`.
        """
        return read_checkpoint(path, self.limit)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete the file, if it is there."""
        Path(path).unlink(missing_ok=True)


def read_checkpoint(path: str | Path, limit: int = LIMIT, foreign: bool = False) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, its tensors mapped from the file, with `weights_only=True`. No paper: ours.

    Args:
        path: the file.
        limit: largest file to read, bytes.
        foreign: also take a file of weights that mmssl did not write (for `--init-from`).

    Raises:
        DataError: no such file; too large; cut short, damaged, or no checkpoint at all; holds other objects than
            tensors and plain values; or is of a newer format. The message says which, and what to do.
    """
    path = Path(path)
    _check_archive(path, limit)
    try:
        checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("WeightsUnpickler error:")[-1].strip().splitlines()[0][:200]
        raise DataError(f"{path}: holds objects that only code could restore ({reason}), and a checkpoint runs none; "
                        "expected tensors and plain values. Save its state_dict() alone, with torch.save") from None
    except (RuntimeError, OSError, ValueError, EOFError, KeyError) as error:
        raise DataError(f"{path}: no checkpoint that torch can read ({str(error).splitlines()[0][:200]}); expected a "
                        "file of torch.save; take another one") from None
    version = checkpoint.get("format_version") if isinstance(checkpoint, dict) else None
    if not isinstance(checkpoint, dict) or (version is None and not foreign):
        raise DataError(f"{path}: not a checkpoint of mmssl (no format_version in it); expected last.ckpt or best.ckpt "
                        "of a run. To take only the weights of another program's file: `mmssl fit --init-from`")
    if isinstance(version, int) and version > FORMAT:
        raise DataError(f"{path}: format {version}, but this mmssl reads up to {FORMAT}; install the mmssl that wrote "
                        "it, or a newer one")
    return checkpoint


def check_plain(tree: Any, where: str = "checkpoint") -> None:
    """See that a tree holds only what `weights_only=True` reads back.

    Raises:
        TypeError: it does not; the message names the place and the type.
    """
    if type(tree) in _MAPS:
        for key, value in tree.items():
            check_plain(key, f"the key {key!r} of {where}")
            check_plain(value, f"{where}[{key!r}]")
    elif type(tree) in _ROWS:
        for i, value in enumerate(tree):
            check_plain(value, f"{where}[{i}]")
    elif type(tree) not in _LEAVES:
        raise TypeError(f"{where} is a {type(tree).__module__}.{type(tree).__qualname__}, which could not be read back "
                        "without unpickling; keep tensors, numbers, texts, lists and dicts in a state")


def _check_archive(path: Path, limit: int) -> None:
    """See that a file is a whole, undamaged archive of bounded size before torch opens it."""
    if not path.is_file():
        raise DataError(f"{path}: no such checkpoint; a run has checkpoints/last.ckpt and, with trainer.monitor, "
                        "checkpoints/best.ckpt")
    size = os.path.getsize(path)
    try:
        with zipfile.ZipFile(path) as archive:
            size = max(size, sum(entry.file_size for entry in archive.infolist()))
            damaged = None if size > limit else archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, ValueError) as error:
        raise DataError(f"{path}: not a checkpoint, or cut short ({size} bytes; {error}); take another one, e.g. "
                        "best.ckpt, or copy the file again") from None
    if size > limit:
        raise DataError(f"{path}: {size} bytes, more than the {limit} that are read; raise the limit of AtomicIO if "
                        "you trust the file")
    if damaged:
        raise DataError(f"{path}: damaged in '{damaged}' (its checksum differs); take another checkpoint, or copy it "
                        "again")
