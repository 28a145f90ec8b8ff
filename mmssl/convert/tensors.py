"""The tensors of a released checkpoint by name: of a TensorFlow bundle, read by TensorFlow, or of an npz file."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mmssl.convert import tensorflow_export
from mmssl.data import npy_header, read_npy
from mmssl.errors import ConfigError, DataError
from mmssl.registry import nearest
from mmssl.storage import refused

#: What an index file ends with (that of a LevelDB table), and more bytes than one ever has.
TABLE_END, INDEX_LIMIT = bytes.fromhex("57fb808b247547db"), 1 << 26
#: Names and bytes of an npz file beyond which it is no checkpoint of VATT.
NAMES_LIMIT, LISTING_LIMIT = 100_000, 1 << 26
#: Environment variable that names a Python with TensorFlow.
PYTHON = "MMSSL_TENSORFLOW"
KERAS = (".h5", ".hdf5", ".keras")
PART = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")


class Tensors:
    """An npz file that `tensorflow_export` or `numpy.savez` wrote; values are read one at a time. No paper: ours.

    Args:
        path: of the file.

    Attributes:
        listing: shape and dtype of every tensor of the checkpoint by name, also of those whose values were left out.

    Raises:
        DataError: no npz file, cut short, compressed, or one whose arrays are not what their headers say.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._archive = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: cannot be read as an npz file ({error}); export the checkpoint again") from None
        members = {info.filename: info for info in self._archive.infolist()}
        if len(members) > NAMES_LIMIT or any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
            raise DataError(f"{path}: expected an uncompressed npz file (numpy.savez) of at most {NAMES_LIMIT} arrays")
        self._members = {name.removesuffix(".npy"): i for name, i in members.items() if name.endswith(".npy")}
        self.listing = {name: self._header(name) for name in self._members}
        if tensorflow_export.LISTING in members:
            self.listing = {**self._listed(members[tensorflow_export.LISTING]), **self.listing}

    def read(self, name: str) -> np.ndarray:
        """The values of one tensor. Raises DataError where the file is damaged."""
        if name not in self._members:
            raise DataError(f"{self.path}: lists '{name}' without its values; export the checkpoint again, whole")
        try:
            with self._archive.open(self._members[name]) as member:
                array = read_npy(member.read())
            return array.astype(array.dtype.newbyteorder("="))
        except (OSError, DataError, zipfile.BadZipFile) as error:
            raise DataError(f"{self.path}: '{name}' is damaged ({error}); export the checkpoint again") from None

    def close(self) -> None:
        """Let go of the file."""
        self._archive.close()

    def _header(self, name: str) -> tuple[tuple[int, ...], str]:
        info = self._members[name]
        try:
            with self._archive.open(info) as member:
                header = npy_header(member)
                held = info.file_size - member.tell()
        except (OSError, DataError, zipfile.BadZipFile) as error:
            raise DataError(f"{self.path}: '{name}': {error}") from None
        if header.bytes != held:
            raise DataError(f"{self.path}: '{name}' of shape {header.shape}, {header.dtype} does not fit its {held} "
                            "bytes; export the checkpoint again")
        return header.shape, header.dtype.name

    def _listed(self, info: zipfile.ZipInfo) -> dict[str, tuple[tuple[int, ...], str]]:
        try:
            if info.file_size > LISTING_LIMIT:
                raise ValueError(f"{info.file_size} bytes")
            tree = json.loads(self._archive.read(info))
            return {str(name): (tuple(int(n) for n in shape), str(dtype)) for name, (shape, dtype) in tree.items()}
        except (ValueError, TypeError, AttributeError, zipfile.BadZipFile) as error:
            raise DataError(f"{self.path}: its {info.filename} is damaged ({error}); export the checkpoint again"
                            ) from None


@contextlib.contextmanager
def open_tensors(checkpoint: str, python: str | None, folder: Path | None) -> Iterator[Tensors]:
    """The tensors of a checkpoint, for as long as the context lasts.

    Args:
        checkpoint: prefix of a TensorFlow bundle, or an npz file.
        python: interpreter that has TensorFlow; None: what `MMSSL_TENSORFLOW` says, or this one.
        folder: where a bundle is copied to meanwhile, as large as the model; None: only its listing is wanted.

    Raises:
        ConfigError: `checkpoint` names something else, or there is no TensorFlow.
        DataError: files that are missing, cut short or damaged.
    """
    with contextlib.ExitStack() as stack:
        path = Path(checkpoint)
        if path.suffix != ".npz":
            check_prefix(checkpoint)
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
            path = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder, prefix=".convert-"))) / "copy.npz"
            _export(checkpoint, path, python or os.environ.get(PYTHON) or sys.executable, folder is not None)
        yield stack.enter_context(contextlib.closing(Tensors(path)))


def check_prefix(prefix: str) -> None:
    """See that `prefix` names a bundle whose files are there, before TensorFlow is started.

    Raises:
        ConfigError: it is one file of a bundle, a folder, or a file of another kind.
        DataError: a file of the bundle is missing or cut short.
    """
    path = Path(prefix)
    if PART.search(prefix):
        raise ConfigError(f"--checkpoint {prefix}: is one file of a checkpoint; give what the names of its files have "
                          f"in common: --checkpoint {PART.sub('', prefix)}")
    if path.is_dir():
        raise ConfigError(f"--checkpoint {prefix}: is a folder{_inside(path)}")
    index = Path(f"{prefix}.index")
    if path.is_file() and not index.is_file():
        kind = "a Keras file" if path.suffix in KERAS else "a file of another kind"
        raise ConfigError(f"--checkpoint {prefix}: is {kind}; expected a checkpoint that tf.train.Checkpoint wrote, by "
                          "the prefix of its files: PREFIX.index and PREFIX.data-00000-of-00001")
    if not index.is_file():
        others = [p.name.removesuffix(".index") for p in path.parent.glob("*.index")]
        raise DataError(f"{index}: no such file{nearest(path.name, others)}; expected a TensorFlow checkpoint: "
                        f"{path.name}.index and {path.name}.data-00000-of-00001 beside it")
    _check_index(index)
    data = [p for p in path.parent.glob(f"{glob.escape(path.name)}.data-*-of-*") if PART.search(p.name)]
    shards = int(data[0].name[-5:]) if data else 1
    missing = [i for i in range(shards) if not Path(f"{prefix}.data-{i:05}-of-{shards:05}").is_file()]
    if missing:
        raise DataError(f"{prefix}.data-{missing[0]:05}-of-{shards:05}: no such file, but {index.name} is there; a "
                        "checkpoint is both, copy both")


def _check_index(index: Path) -> None:
    size = index.stat().st_size
    with open(index, "rb") as file:
        file.seek(max(0, size - len(TABLE_END)))
        if size > INDEX_LIMIT or file.read() != TABLE_END:
            raise DataError(f"{index}: not the index of a TensorFlow checkpoint, or cut short ({size} bytes); copy it "
                            "again")


def _inside(folder: Path) -> str:
    """What to say of a folder that was given for a checkpoint."""
    if (folder / "saved_model.pb").is_file():
        return (" with a SavedModel, which keeps its variables under other names; expected a checkpoint that "
                "tf.train.Checkpoint wrote, by its prefix")
    found = sorted(str(p).removesuffix(".index") for p in folder.glob("*.index"))
    return f"; give the prefix of a checkpoint in it: --checkpoint {found[-1]}" if found else (
        " without a TensorFlow checkpoint in it; expected the prefix of PREFIX.index")


def _export(prefix: str, out: Path, python: str, values: bool) -> None:
    """Let TensorFlow read the bundle in a process of its own."""
    command: list[Any] = [python, tensorflow_export.__file__, prefix, out, *([] if values else ["--list"])]
    print(f"reading {prefix} with TensorFlow …", file=sys.stderr)
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise ConfigError(f"--tensorflow {python}: cannot be run ({error.strerror}); give a Python that has TensorFlow"
                          ) from None
    _, loaded, reason = done.stdout.rpartition(tensorflow_export.LOADED)
    reason = reason.strip() or f"it ended with exit code {done.returncode}"
    if done.returncode and not loaded:
        raise ConfigError(f"--checkpoint {prefix}: only TensorFlow reads it, and {python} has none that runs "
                          f"({reason}). Install the extra `mmssl[tensorflow]`, name a Python that has it (--tensorflow "
                          f"PYTHON), or run {tensorflow_export.__file__} where it is and give the npz file")
    if done.returncode == tensorflow_export.UNWRITABLE:
        raise refused(out.parent.parent, OSError(0, reason))
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise DataError(f"{prefix}: TensorFlow's reader broke down on it ({name}): it is damaged, made to do harm, or "
                        "too large for the memory; copy it again")
    if done.returncode:
        raise DataError(f"{prefix}: TensorFlow cannot read it: {reason}; it is damaged or cut short, copy it again")
