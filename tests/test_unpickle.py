"""Pickled arrays are read without running or trusting anything in them."""

import _codecs
import io
import pickle

import numpy as np
import pytest

from mmssl.data import unpickle
from mmssl.errors import DataError

TYPE, SCALAR = np.dtype, np.float64(0).__reduce__()[0]
REBUILD = np.empty(0).__reduce__()[0]


class Asks:
    """Pickled, it becomes a call of the first with the second; a third is the state that the result is given."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def loaded(value, tmp_path):
    (tmp_path / "v.pkl").write_bytes(pickle.dumps({"label": value}, protocol=3))
    return unpickle.load_pickle(tmp_path / "v.pkl", encoding="latin-1")["label"]


def object_array(path, body):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
    path.write_bytes(file.getvalue() + body)
    return path


@pytest.mark.parametrize("name", ["builtins.eval", "os.system", "numpy.load", "numpy.core.multiarray.fromstring",
                                  "numpy.ndarray.tofile", "_codecs.decode", "posix.system"])
def test_unpickler_refuses_every_other_name(tmp_path, name):
    module, _, word = name.rpartition(".")
    body = f"c{module}\n{word}\n(S'/tmp/x'\ntR.".encode()
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        unpickle.load_object_array(object_array(tmp_path / "bad.npy", body))


def test_unpickler_runs_nothing(tmp_path):
    class Bomb:
        def __reduce__(self):
            return open, (str(tmp_path / "made"), "w")

    with pytest.raises(DataError, match="open"):
        unpickle.load_object_array(object_array(tmp_path / "bad.npy", pickle.dumps(np.array(Bomb(), dtype=object))))
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_unpickler_reads_arrays_and_scalars(tmp_path, protocol):
    value = {"x": [np.arange(6.0).reshape(2, 3), np.float32(2.5)], "names": ["a", "b"]}
    array = np.empty((), dtype=object)
    array[()] = value
    if protocol == 5:  # NumPy then asks for another helper: refused, not guessed
        with pytest.raises(DataError):
            unpickle.load_object_array(object_array(tmp_path / "v.npy", pickle.dumps(array, protocol)))
        return
    got = unpickle.load_object_array(object_array(tmp_path / "v.npy", pickle.dumps(array, protocol))).item()
    np.testing.assert_array_equal(got["x"][0], value["x"][0])
    assert got["x"][1] == np.float32(2.5) and got["names"] == ["a", "b"]


def test_other_bytes_than_expected_are_refused(tmp_path):
    path = object_array(tmp_path / "v.npy", pickle.dumps(np.array({}, dtype=object), 2))
    with pytest.raises(DataError, match="sha256"):
        unpickle.load_object_array(path, "0" * 64)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match="not a readable object array"):
        unpickle.load_object_array(path)


@pytest.mark.parametrize("array", [
    np.arange(12, dtype=">i4").reshape(3, 4), np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.array(["ab", "c"]),
    np.array([b"xyz", b""]), np.zeros((0, 3), bool), np.array(2 + 3j), np.array([1, "two", None], dtype=object)],
    ids=lambda a: f"{a.dtype}{a.shape}")
def test_arrays_come_back_as_they_were(array, tmp_path):
    got = loaded(array, tmp_path)
    assert got.dtype == array.dtype.newbyteorder("=") and got.flags.f_contiguous == array.flags.f_contiguous
    np.testing.assert_array_equal(got, array)


@pytest.mark.parametrize("number", [np.float32(2.5), np.int64(-3), np.bool_(True), np.str_("ab"), np.bytes_(b"x")])
def test_numbers_come_back_as_they_were(number, tmp_path):
    got = loaded(number, tmp_path)
    assert got == number and type(got) is type(number)


FIELDS = np.dtype([("a", "O")]).__reduce__()
#: A record of one object whose type denies that it holds any: NumPy would take the eight bytes for its address.
FORGED = Asks(SCALAR, (Asks(TYPE, FIELDS[1], (*FIELDS[2][:-1], 0)), b"A" * 8))
ARRAY = (REBUILD, (np.ndarray, (0,), b"b"))
#: By what is tried: the pickle, and the words it is refused with.
TRICKS = {
    "an object's address from the file": (Asks(np.ndarray, (FORGED,)), "values of type"),
    "fields": (Asks(*ARRAY, (1, (1,), np.dtype([("a", "f8")]), False, b"A" * 8)), "values of type"),
    "fields given later": (Asks(*ARRAY, (1, (1,), Asks(TYPE, ("f8", False, True), FIELDS[2]), False, b"A" * 8)),
                           "type with fields"),
    "an array called for": (Asks(np.ndarray, ((2**33,), "f8")), "calls what it may only name"),
    "fewer bytes than the form has": (Asks(*ARRAY, (1, (4,), np.dtype("f8"), False, b"A" * 8)), "holds 8 bytes"),
    "bytes for objects": (Asks(*ARRAY, (1, (1,), np.dtype(object), False, b"A" * 8)), "holds 8 bytes"),
    "a form that overflows": (Asks(*ARRAY, (1, (2**62, 4, 0), np.dtype("f8"), False, b"")), "no known type or form"),
    "a number of objects": (Asks(SCALAR, (np.dtype(object), b"A" * 8)), "a number of no known type"),
    "a number that is too short": (Asks(SCALAR, (np.dtype("f8"), b"A" * 4)), "a number of no known type"),
    "another encoding": (Asks(_codecs.encode, ("A" * 99, "hex")), "encodes as 'hex'"),
}


@pytest.mark.parametrize("trick", TRICKS)
def test_nothing_that_a_pickle_says_of_memory_is_believed(trick, tmp_path):
    value, words = TRICKS[trick]
    with pytest.raises(DataError, match=words):
        loaded(value, tmp_path)


def test_a_pickle_can_not_change_what_stands_for_a_name(tmp_path):
    (tmp_path / "v.pkl").write_bytes(b"\x80\x02cnumpy\nndarray\n}X\x04\x00\x00\x00sizeK\x01sb.")
    with pytest.raises(DataError, match="gives a state to what has none"):
        unpickle.load_pickle(tmp_path / "v.pkl")
    again = b"\x80\x02cnumpy._core.multiarray\n_reconstruct\n)R"
    state = pickle.dumps((1, (1,), np.dtype("f8"), False, b"A" * 8), protocol=2)[2:-1]
    (tmp_path / "v.pkl").write_bytes(again + state + b"b" + state + b"b.")
    with pytest.raises(DataError, match="gives it twice"):
        unpickle.load_pickle(tmp_path / "v.pkl")
