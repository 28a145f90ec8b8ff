"""NumPy's array files, read without NumPy's own reader of their headers, which is not safe on threads.

That reader parses the header with `ast`, whose depth counter all threads of CPython share (seen with 3.11): now and
then two of the loader's threads meet there, one of them gets a SystemError, and a sound sample counts as bad.
"""

from __future__ import annotations

import io
import math
import re
import struct
from typing import NamedTuple

import numpy as np
import torch

from mmssl.errors import DataError

HEADER_LIMIT = 10_000  # bytes; a plain array's header has about 120
_LENGTH = {(1, 0): "<H", (2, 0): "<I"}  # by version of the format
_TYPE, _SHAPE = r"['\"][<>=|]?[A-Za-z?]\d*(?:\[\w+\])?['\"]", r"\([\dL,\s]*\)"  # L: as Python 2 wrote whole numbers
_ITEM = rf"\s*['\"](descr|fortran_order|shape)['\"]\s*:\s*({_TYPE}|True|False|{_SHAPE})\s*"
_HEADER = re.compile(rf"\{{{_ITEM},{_ITEM},{_ITEM},?\s*\}}\s*")


class NpyHeader(NamedTuple):
    """What the header of an array file promises."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool  # the first axis runs fastest

    @property
    def bytes(self) -> int:
        """Bytes that the values take."""
        return math.prod(self.shape) * self.dtype.itemsize


def npy_header(stream: io.BufferedIOBase, kinds: str = "biuf") -> NpyHeader:
    """The header of an array file; the stream stands at the first value afterwards. No paper: ours.

    Args:
        stream: the file, read from where it stands.
        kinds: the kinds of values (`numpy.dtype.kind`) that are wanted; real numbers unless told.

    Raises:
        DataError: no such header, or one of values of another kind.
    """
    try:
        length = _LENGTH[np.lib.format.read_magic(stream)]
        count, = struct.unpack(length, stream.read(struct.calcsize(length)))
        text = stream.read(min(count, HEADER_LIMIT))
        if len(text) < count:
            raise ValueError(f"a header of {count} bytes, {len(text)} of them read")
        header = _parsed(text.decode("latin-1"))
    except (ValueError, KeyError, EOFError, TypeError, struct.error) as error:
        raise DataError(f"not a NumPy array file of version 1 or 2 ({error})") from None
    if header.dtype.kind not in kinds:
        wanted = "a pickled object array; read it with numpy.load" if kinds == "O" else \
            "real numbers (objects would be pickle, which mmssl never reads)"
        raise DataError(f"array of {header.dtype}, expected {wanted}")
    return header


def read_npy(data: bytes, kinds: str = "biuf") -> np.ndarray:
    """The array of a whole file: a view of `data`, not writable. Never one of objects. No paper: ours.

    Args:
        data: the file.
        kinds: the kinds of values that are wanted, as for `npy_header`.

    Raises:
        DataError: no such header, one of values of another kind, or another length than it promises.
    """
    stream = io.BytesIO(data)
    header = npy_header(stream, kinds.replace("O", ""))
    start = stream.tell()
    if header.bytes != len(data) - start:
        raise DataError(f"array of shape {header.shape}, {header.dtype} needs {header.bytes} bytes, the file holds "
                        f"{len(data) - start}; it was cut off")
    try:
        values = np.frombuffer(data, header.dtype, math.prod(header.shape), start)
        return values.reshape(header.shape, order="F" if header.fortran else "C")
    except (ValueError, OverflowError) as error:  # no axis of an empty array is bounded by its bytes
        raise DataError(f"array of shape {header.shape}, {header.dtype} cannot be had ({error})") from None


def encode_npy(array: np.ndarray | torch.Tensor) -> bytes:
    """An array as the bytes of a `.npy` file; equal arrays give equal bytes. Raises ValueError for object arrays."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return stream.getvalue()


def _parsed(text: str) -> NpyHeader:
    """Raises ValueError or TypeError for what is no header of a plain array."""
    found = _HEADER.fullmatch(text)
    if found is None:
        what = "named fields, expected plain numbers" if "[" in text else f"header {text[:40]!r}"
        raise ValueError(what)
    items = dict(zip(found.groups()[::2], found.groups()[1::2], strict=True))
    if len(items) < 3 or items["fortran_order"] not in ("True", "False") or items["shape"][0] != "(":
        raise ValueError(f"header {text[:40]!r}")
    shape = tuple(int(n.strip().removesuffix("L")) for n in items["shape"][1:-1].split(",") if n.strip())
    return NpyHeader(shape, np.dtype(items["descr"][1:-1]), items["fortran_order"] == "True")
