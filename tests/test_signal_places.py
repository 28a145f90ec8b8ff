"""Which subjects and recordings a folder has: a sensor that one of them lacks is missing from its windows."""

import numpy as np
import pytest
from raw_sets import records

from mmssl.data import Manifest
from mmssl.data.sources import pack_signals
from mmssl.errors import DataError

PLAN = """
modalities:
  acc: {key: "{subject}_acc.csv", rate: 4, channels: [x], units: [g]}
  eda: {key: "{subject}_eda.csv", rate: 2, channels: [e], units: [uS]}
label: {key: "{subject}_lab.csv", rate: 1, classes: {0: a, 1: b}}
window: {seconds: 5, step: 5}
split: {test: [b]}
"""
RATES = {"acc": 4, "eda": 2, "lab": 1}


def write(folder, *names, seconds=20):
    """CSV files whose rate is that of the second part of their names; what they hold is the time in seconds, or 0."""
    folder.mkdir(exist_ok=True)
    for name in names:
        rate = RATES[name.split("_")[-1]]
        values = np.arange(seconds * rate) / rate * (rate > 1)
        (folder / f"{name}.csv").write_text("value\n" + "\n".join(map(str, values)) + "\n")


def packed(folder, plan=PLAN):
    (folder / "raw.yaml").write_text(plan)
    return pack_signals(str(folder / "raw"), str(folder / "raw.yaml"), str(folder / "out"))


def test_a_sensor_that_is_not_there_is_missing_and_the_rest_is_packed(tmp_path):
    write(tmp_path / "raw", "a_acc", "a_eda", "a_lab", "b_acc", "b_lab", "c_eda", "c_lab", "d_acc", "d_eda", "e_lab")
    report = packed(tmp_path)
    assert report.bad == ["b: there is no b_eda.csv, so eda is missing from all its windows",
                          "c: there is no c_acc.csv, so acc is missing from all its windows",
                          f"d: {tmp_path / 'raw'}: no file 'd_lab.csv'; did you mean 'e_lab.csv'?",
                          "e: there is none of e_acc.csv, e_eda.csv"]
    assert report.notes[:2] == ["acc is missing from 4 of 12 windows", "eda is missing from 4 of 12 windows"]
    found = records(tmp_path / "out", "class")
    assert {group: set(arrays) for arrays, _, group in found.values()} == {
        "a": {"acc", "eda"}, "b": {"acc"}, "c": {"eda"}}
    starts = [arrays["eda"][0, 0] for arrays, _, group in found.values() if group == "c"]
    assert starts == [0, 5, 10, 15]
    manifest = Manifest.load(tmp_path / "out")
    assert manifest.assignment == {"train": ["a", "c"], "val": [], "test": ["b"]}
    assert manifest.statistics("acc", ["c"]) is None and manifest.modalities["eda"].mean == [9.75]


def test_a_modality_that_nobody_has_is_refused(tmp_path):
    write(tmp_path / "raw", "a_acc", "a_eda", "a_lab", "b_acc", "b_eda", "b_lab")
    with pytest.raises(DataError, match=r"nothing fits '{subject}_ede.csv', the key of eda; did you mean 'a_eda.csv'"):
        packed(tmp_path, PLAN.replace("_eda.csv", "_ede.csv"))
    with pytest.raises(DataError, match="no key fits anything of subject c"):
        packed(tmp_path, PLAN + "subjects: [a, b, c]\n")


def test_a_file_belongs_to_the_key_that_says_most_of_its_name(tmp_path):
    write(tmp_path / "raw", "a_acc", "a_eda", "a_lab", "b_eda", "b_lab")
    (tmp_path / "raw" / "a_acc.csv").rename(tmp_path / "raw" / "a.csv")
    report = packed(tmp_path, PLAN.replace("_acc.csv", ".csv"))
    assert report.records == {"train": 4, "test": 4}  # nobody is called a_eda, b_eda or a_lab
    assert report.bad == ["b: there is no b.csv, so acc is missing from all its windows"]


def test_recordings_of_one_subject_and_a_sensor_of_some(tmp_path):
    write(tmp_path / "raw", "a_1_acc", "a_1_eda", "a_2_eda", "b_1_acc", "a_lab", "b_lab")
    plan = PLAN.replace("{subject}_acc", "{subject}_{recording}_acc").replace("_eda", "_{recording}_eda")
    report = packed(tmp_path, plan)
    assert report.bad == ["a-2: there is no a_2_acc.csv, so acc is missing from all its windows",
                          "b-1: there is no b_1_eda.csv, so eda is missing from all its windows"]
    assert [(group, sorted(arrays)) for arrays, _, group in records(tmp_path / "out", "class").values()] == (
        [("a", ["acc", "eda"])] * 4 + [("a", ["eda"])] * 4 + [("b", ["acc"])] * 4)
