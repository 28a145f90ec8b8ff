"""Read pickled NumPy arrays without running anything: the one exception to "no pickle". No paper: ours.

Nor is anything believed that NumPy would believe: its own dtype takes flags from a file, by which bytes of the file
become addresses. Types are made anew from a letter and a width, and an array gets as many bytes as its form has.
"""

from __future__ import annotations

import hashlib
import io
import math
import pickle
import re
from pathlib import Path
from reprlib import repr as short
from typing import Any, BinaryIO

import numpy as np

from mmssl.data.npy import npy_header
from mmssl.errors import DataError

#: Letters and widths of the types that are read: numbers, strings, and objects, which are read like anything else.
CODE = re.compile(r"[biufcSU]\d{1,9}|O8?")


class _Type:
    """What a pickle says of a dtype. NumPy's own would take its flags from the file, and follow pointers in it."""

    __slots__ = ("dtype",)

    def __init__(self, code: str) -> None:
        self.dtype = np.dtype(code[0] if code[0] == "O" else code)

    def __setstate__(self, state: Any) -> None:
        """The order of the bytes; all else follows from the letter and the width."""
        _, order, *inner = state[:5]
        if order not in ("<", ">", "=", "|") or any(part is not None for part in inner):
            raise DataError(f"the pickle holds a type with fields or a form of its own, {short(state)}")
        self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray):
    """An array that takes from a pickle no more than its form and as many bytes or items as that form has."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        """Form and content, held against each other."""
        _, shape, kind, fortran, raw = state
        if self.size or not isinstance(kind, _Type) or not all(type(n) is int and 0 <= n < 2**40 for n in shape):
            raise DataError("the pickle holds an array of no known type or form, or gives it twice")
        raw = raw.encode("latin-1") if isinstance(raw, str) else raw
        items, size = (list, 1) if kind.dtype.hasobject else (bytes, kind.dtype.itemsize)
        if type(raw) is not items or len(raw) != math.prod(shape) * size:
            raise DataError(f"the pickle holds {len(raw)} bytes or items for an array {tuple(shape)} of {kind.dtype}")
        super().__setstate__((1, tuple(shape), kind.dtype, bool(fortran), raw))


class _Name:
    """Stands for a name of NumPy's that a pickle asks for. A file can neither change it nor give it a state."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        """Never."""
        raise DataError("the pickle gives a state to what has none")

    def __call__(self, *given: Any) -> Any:
        """Never, but where a subclass says what is made."""
        raise DataError(f"the pickle calls what it may only name, with {short(given)}")


class _MakeType(_Name):
    __slots__ = ()

    def __call__(self, code: Any, *_: Any) -> _Type:
        if not isinstance(code, str) or not CODE.fullmatch(code):
            raise DataError(f"the pickle holds values of type {short(code)}; expected plain numbers or strings")
        return _Type(code)


class _MakeArray(_Name):
    __slots__ = ()

    def __call__(self, *_: Any) -> _Array:
        return np.empty(0).view(_Array)


class _MakeNumber(_Name):
    __slots__ = ()

    def __call__(self, kind: Any, raw: Any) -> Any:
        raw = raw.encode("latin-1") if isinstance(raw, str) else raw
        if not isinstance(kind, _Type) or kind.dtype.hasobject or type(raw) is not bytes \
                or len(raw) != kind.dtype.itemsize:
            raise DataError("the pickle holds a number of no known type or length")
        return np.ndarray((), kind.dtype, raw)[()]


class _Encode(_Name):
    __slots__ = ()

    def __call__(self, text: Any, encoding: Any = "latin1") -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise DataError(f"the pickle encodes as {short(encoding)}; expected latin1")
        return text.encode("latin-1")


#: The only names such a file may ask for, each in full; the first two modules were renamed between NumPy 1 and 2.
#: Nothing is imported by name, and none of NumPy's own objects is handed out: a file gets these.
ALLOWED: dict[tuple[str, str], _Name] = {
    ("numpy.core.multiarray", "_reconstruct"): _MakeArray(),
    ("numpy._core.multiarray", "_reconstruct"): _MakeArray(),
    ("numpy.core.multiarray", "scalar"): _MakeNumber(),
    ("numpy._core.multiarray", "scalar"): _MakeNumber(),
    ("numpy", "ndarray"): _Name(),
    ("numpy", "dtype"): _MakeType(),
    ("_codecs", "encode"): _Encode(),
}


class RestrictedUnpickler(pickle.Unpickler):
    """An unpickler that knows the names in `ALLOWED` and no other. Raises DataError naming what else was asked for."""

    def find_class(self, module: str, name: str) -> _Name:
        """What stands for that full name; compared as a whole, never by prefix."""
        if (module, name) not in ALLOWED:
            raise DataError(f"the pickle asks for '{module}.{name}', which could run code; only NumPy arrays of plain "
                            f"numbers and strings are read. Do not load this file by other means unless you made it")
        return ALLOWED[module, name]


def load_pickle(path: Path, encoding: str = "ASCII") -> Any:
    """Read a pickle of containers, numbers, strings and NumPy arrays; nothing else can be in it.

    Args:
        path: the file.
        encoding: of the byte strings of a pickle that Python 2 wrote; "latin-1" for one that holds arrays.

    Raises:
        DataError: it cannot be read, is damaged, or asks for a name beyond `ALLOWED`; with that name.
    """
    try:
        with Path(path).open("rb") as file:
            return _load(file, path, encoding)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _load(file: BinaryIO, path: Path, encoding: str = "ASCII") -> Any:
    try:
        return RestrictedUnpickler(file, encoding=encoding).load()
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except OSError:
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise DataError(f"{path}: not a readable pickle ({type(error).__name__}: {error}); the file may be cut off, "
                        f"copy it again") from None


def load_object_array(path: Path, sha256: str | None = None) -> np.ndarray:
    """Read an `.npy` file that holds a pickled object array, e.g. a dict as a 0-d array.

    Args:
        path: the file.
        sha256: expected digest of the whole file in hex; None: not compared.

    Raises:
        DataError: another file than expected, not such an array, damaged, or asking for a name beyond `ALLOWED`.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256:
        raise DataError(f"{path}: sha256 is {found}, expected {sha256}: another version of the file, or a damaged one")
    stream = io.BytesIO(content)
    try:
        shape = npy_header(stream, kinds="O").shape
        array = RestrictedUnpickler(stream).load()
    except DataError as error:
        message = str(error)
        raise DataError(message if message.startswith(str(path)) else f"{path}: {message}") from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise DataError(f"{path}: not a readable object array ({type(error).__name__}: {error})") from None
    if not isinstance(array, np.ndarray) or array.shape != shape:
        raise DataError(f"{path}: the header promises an array of shape {shape}, the pickle holds "
                        f"{type(array).__name__} {getattr(array, 'shape', '')}".rstrip())
    return array
