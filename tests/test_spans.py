"""When which class holds: neighbours are joined, nothing counts twice, and what is said of two classes is left out."""

import numpy as np
import pytest

from mmssl.data.sources.recordings.description import LabelInfo
from mmssl.data.sources.recordings.spans import Labels, find_spans
from mmssl.errors import DataError

STAGES = LabelInfo("x.edf", {"W": "wake", "N1": "light", "N2": "light"}, drop=["*"])


def spans(rows, end=1000.0, slack=0.01, info=STAGES):
    notes = []
    return find_spans(Labels(rows), info, "night", end, slack, notes), notes


@pytest.mark.parametrize("rows, wanted", [
    ([(0, 30, "W"), (30, 30, "W"), (60.004, 30, "W")], [(0, 90.004, 0)]),  # ends within a sample of the next onset
    ([(0, 30, "N1"), (30, 30, "N2")], [(0, 60, 1)]),  # two texts of one class
    ([(0, 30, "W"), (30.5, 30, "W")], [(0, 30, 0), (30.5, 60.5, 0)]),
    ([(0, 30, "W"), (0, 30, "W"), (20, 30, "W")], [(0, 50, 0)]),  # annotated twice
    ([(30, 30, "N2"), (0, 30, "W")], [(0, 30, 0), (30, 60, 1)]),
    ([(0, 29.995, "W"), (29.995, 0.005, "?"), (30, 30, "W")], [(0, 29.995, 0), (30, 60, 0)]),
    ([(0, 100, "W"), (40, 5, "a door")], [(0, 100, 0)]),  # what is dropped says nothing
    ([(0, None, "W"), (50, None, "door"), (60, None, "N2")], [(0, 50, 0), (60, 1000, 1)]),
    ([(0, None, "W"), (0, None, "door"), (60, None, "N1")], [(0, 60, 0), (60, 1000, 1)]),
])
def test_spans(rows, wanted):
    made, notes = spans(rows)
    np.testing.assert_allclose(made, wanted, rtol=1e-12)
    assert notes == []


def test_what_is_said_of_two_classes_counts_for_none_and_is_told():
    made, notes = spans([(0, 100, "W"), (40, 20, "N2"), (100.005, 30, "N1"), (120, 30, "W")])
    np.testing.assert_allclose(made, [(0, 40, 0), (60, 100.005, 0), (100.005, 120, 1), (130.005, 150, 0)])
    assert notes == ["night: its labels say several classes of 30.005 s (first at 40 s: wake and light), which are "
                     "left out; name in label.drop what is no class"]


def test_arrays_of_numbers_and_texts():
    numbers = LabelInfo("y", {1: "up", 2: "down", 3: "down"}, drop=[0])
    for values in ([1, 1, 0, 2, 3], [1.0, 1.0, np.nan, 2.0, 3.0]):
        labels = Labels.of(np.array(values), 0.5, "'y'")
        assert labels.seconds == 10
        assert find_spans(labels, numbers, "a", 10, 0.5, []) == [(0, 4, 0), (6, 10, 1)]
    texts = LabelInfo("y", {"rest": "calm", "stress": "stress"})
    for values in (["rest", "rest", "", "stress"], [b"rest", b"rest", b"", b"stress"]):
        assert find_spans(Labels.of(np.array(values), 1, "'y'"), texts, "a", 4, 0.1, []) == [(0, 2, 0), (3, 4, 1)]
    one = Labels.of(np.array([True]), None, "'y'")
    assert one.whole and find_spans(one, numbers, "a", 7, 0.1, []) == [(0, 7, 0)]


@pytest.mark.parametrize("values, words", [
    ([0.0, 0.6], "'y' has the label 0.6; expected whole numbers or texts"),
    ([0.0, np.inf], "'y' has the label inf"),
    ([1j], "values of type complex128; expected whole numbers or texts as labels"),
    (np.array(["2020-01-01"], "M8[D]"), r"values of type datetime64\[D\]"),
])
def test_what_is_no_label(values, words):
    with pytest.raises(DataError, match=words):
        Labels.of(np.array(values), 1, "'y'")
