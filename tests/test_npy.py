"""Array files: what NumPy writes is read as NumPy reads it, without the parser that threads cannot share."""

import ast
import io
import struct

import numpy as np
import pytest

from mmssl.data import ModalityInfo, decode, encode_npy, npy_header, plain, read_npy
from mmssl.errors import DataError

ARRAYS = [np.arange(12, dtype=">i4").reshape(3, 4), np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.array(5, "u1"),
          np.zeros((0, 3), bool), np.ones((1, 2, 3, 4), "<f2"), np.arange(3, dtype=np.longdouble)]


def saved(array, version):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=version, allow_pickle=False)
    return stream.getvalue()


def with_header(text, version=(1, 0)):
    text = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", len(text)) + text


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}{a.shape}")
def test_arrays_are_read_as_numpy_reads_them(array, version):
    data = saved(array, version)
    expected, got = np.load(io.BytesIO(data)), read_npy(data)
    assert got.dtype == expected.dtype and got.flags.f_contiguous == expected.flags.f_contiguous
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("array", [np.array(["ab", "c"]), np.array(["2020-01-01"], "M8[D]"), np.array([1 + 2j])])
def test_other_kinds_are_read_where_they_are_wanted(array):
    data = saved(array, (1, 0))
    np.testing.assert_array_equal(read_npy(data, array.dtype.kind), array)
    with pytest.raises(DataError, match="expected real numbers"):
        read_npy(data)


@pytest.mark.parametrize("text", [
    '{"shape": (2, 3), "descr": "<f4", "fortran_order": False}',
    "{ 'fortran_order' :False,'shape':(2L, 3L),'descr':'<f4' ,}"])
def test_what_other_programs_write_is_read(text):
    values = np.arange(6, dtype="<f4")
    np.testing.assert_array_equal(read_npy(with_header(text) + values.tobytes()), values.reshape(2, 3))


@pytest.mark.parametrize("text", [
    "{'descr': '<f4', 'fortran_order': False}", "{'descr': '<f4', 'fortran_order': 1, 'shape': (1,)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': 1}", "{'descr': '(9**9)f', 'fortran_order': False, 'shape': ()}",
    "{'descr': 'f4', 'descr': 'f4', 'shape': (1,)}", "{'descr': 'q9', 'fortran_order': False, 'shape': (1,)}",
    "{'descr': True, 'fortran_order': False, 'shape': (1,)}", "{'descr': '<f4', 'fortran_order': (), 'shape': (1,)}",
    "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", "__import__('os')"])
def test_no_other_header_is_believed(text):
    for version in ((1, 0), (2, 0)):
        with pytest.raises(DataError, match=r"not a NumPy array file of version 1 or 2 \("):
            npy_header(io.BytesIO(with_header(text, version) + bytes(4)))


@pytest.mark.parametrize("shape", ["(0, 1" + "0" * 30 + ")", "(" + "1, " * 80 + ")"])
def test_shapes_that_no_array_has_are_refused(shape):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}".ljust(400)
    text = header.encode() + b"\n"
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(4 * ("0, 1" not in shape))
    with pytest.raises(DataError, match="cannot be had"):
        read_npy(data)


def test_a_plain_array_where_objects_are_wanted_is_told_what_reads_it():
    with pytest.raises(DataError, match="float64, expected a pickled object array; read it with"):
        npy_header(io.BytesIO(encode_npy(np.ones(3))), kinds="O")


def test_a_header_is_never_longer_than_the_limit():
    data = b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 31) + b"{" * 20_000
    with pytest.raises(DataError, match="header of 2147483648 bytes, 10000 of them read"):
        npy_header(io.BytesIO(data))


def test_the_loader_never_enters_the_parser_that_threads_share(monkeypatch):
    """`ast` keeps one depth for all threads (CPython 3.11): two of them in it, and a sound sample is bad."""
    def entered(*args, **kwargs):
        raise SystemError("AST constructor recursion depth mismatch (before=36, after=32)")

    data = encode_npy(np.arange(6.0).reshape(2, 3))
    monkeypatch.setattr(ast, "parse", entered)
    monkeypatch.setattr(ast, "literal_eval", entered)
    with pytest.raises(SystemError):
        np.load(io.BytesIO(data))
    clip = decode("npy", data, ModalityInfo("npy", rate=50.0))
    np.testing.assert_array_equal(clip.data, np.arange(6.0).reshape(2, 3))


def test_arrays_beyond_the_limit_are_refused(monkeypatch):
    monkeypatch.setattr(plain, "SAMPLES_LIMIT", 5)
    with pytest.raises(DataError, match=r"shape \(2, 3\) has more than 5 values; cut it into shorter records"):
        decode("npy", encode_npy(np.ones((2, 3))), ModalityInfo("npy", rate=50.0))
