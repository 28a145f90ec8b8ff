"""Sleep-EDF from PSG and hypnogram files: epochs, stages and trimming by hand; what is kept of broken nights."""

import sys

import numpy as np
import pytest
from raw_sets import NIGHT, records, write_night, write_sleep_edf

from mmssl.data import Manifest
from mmssl.data.sources import pack_sleep_edf
from mmssl.errors import ConfigError, DataError

pytest.importorskip("edfio", reason="the extra `edf` is not installed")
NUMBERS = {"W": 0, "1": 1, "2": 2, "3": 3, "4": 3, "R": 4}


def epochs_by_hand(stages, wake_epochs=None, signal_epochs=None):
    """(number of the epoch in the recording, class) of all that is kept."""
    every = [stage for stage, count in stages for _ in range(count)]
    asleep = [i for i, stage in enumerate(every) if stage in "1234R"]
    first = max(0, asleep[0] - wake_epochs) if wake_epochs is not None else 0
    last = min(len(every), asleep[-1] + 1 + wake_epochs) if wake_epochs is not None else len(every)
    last = min(last, signal_epochs if signal_epochs is not None else last)
    return [(i, NUMBERS[every[i]]) for i in range(first, last) if every[i] in NUMBERS]


@pytest.mark.parametrize("record, wake", [(30, None), (60, 1.0), (30, 0.0)])
def test_epochs_and_stages_are_those_counted_by_hand(tmp_path, record, wake):
    written = write_night(tmp_path / "raw", "SC4362", record=record)
    report = pack_sleep_edf(str(tmp_path / "raw"), str(tmp_path / "out"), wake_minutes=wake)
    want = epochs_by_hand(NIGHT, None if wake is None else round(wake * 2))
    found = list(records(tmp_path / "out", "stage").values())
    assert [label for _, label, _ in found] == [label for _, label in want] and not report.bad
    assert {group for _, _, group in found} == {"SC36"}
    seconds = np.arange(len(written["EMG submental"]))
    for (arrays, _, _), (epoch, _) in zip(found, want):
        part = slice(3000 * epoch, 3000 * (epoch + 1))
        for name, channel in (("eeg_fpz", "EEG Fpz-Cz"), ("eeg_pz", "EEG Pz-Oz"), ("eog", "EOG horizontal")):
            np.testing.assert_allclose(arrays[name][0], written[channel][part], rtol=1e-6, atol=1e-5)
        lines = np.interp(np.arange(part.start, part.stop) / 100, seconds, written["EMG submental"])
        np.testing.assert_allclose(arrays["emg"][0], lines, rtol=1e-5)


def test_the_first_twenty_subjects_are_split_as_published_and_folds_are_a_setting(tmp_path):
    short = (("W", 1), ("2", 1))
    write_sleep_edf(tmp_path / "raw", [f"SC4{s:02d}1" for s in (0, 1, 11, 12, 15, 16, 19, 20)], stages=short, epochs=2)
    pack_sleep_edf(str(tmp_path / "raw"), str(tmp_path / "out"))
    manifest = Manifest.load(tmp_path / "out")
    assert manifest.assignment == {"train": ["SC00", "SC01", "SC11", "SC20"], "val": ["SC12", "SC15"],
                                   "test": ["SC16", "SC19"]}
    assert manifest.labels == {"stage": ["W", "N1", "N2", "N3", "R"]} and manifest.modalities["eog"].units == ["uV"]
    pack_sleep_edf(str(tmp_path / "raw"), str(tmp_path / "out"), folds=4, fold=1)
    assert Manifest.load(tmp_path / "out").assignment["test"] == ["SC11", "SC12"]
    pack_sleep_edf(str(tmp_path / "raw"), str(tmp_path / "few"), subjects=["SC0?"])
    assert Manifest.load(tmp_path / "few").all_groups() == ["SC00", "SC01"]


def test_telemetry_has_an_emg_of_its_own(tmp_path):
    written = write_night(tmp_path / "raw", "ST7011", emg_rate=100)
    write_night(tmp_path / "raw", "SC4001")
    pack_sleep_edf(str(tmp_path / "raw"), str(tmp_path / "out"), study="telemetry")
    arrays, _, group = next(iter(records(tmp_path / "out", "stage").values()))
    np.testing.assert_allclose(arrays["emg"][0], written["EMG submental"][:3000], rtol=1e-5)
    assert group == "ST01" and Manifest.load(tmp_path / "out").all_groups() == ["ST01"]
    pack_sleep_edf(str(tmp_path / "raw"), str(tmp_path / "native"), emg="native")
    info = Manifest.load(tmp_path / "native").modalities["emg"]
    assert (info.rate, info.shape) == (1.0, [1, 30])


def test_what_can_be_kept_of_broken_nights_is_kept_and_the_rest_is_listed(tmp_path):
    folder = tmp_path / "raw"
    write_sleep_edf(folder, ("SC4001", "SC4002", "SC4011", "SC4021", "SC4031", "SC4041"))
    cut = folder / "SC4001E0-PSG.edf"
    cut.write_bytes(cut.read_bytes()[:cut.stat().st_size // 2])
    (folder / "SC4002EC-Hypnogram.edf").unlink()
    (folder / "SC4011E0-PSG.edf").write_bytes(b"0       no EDF file at all")
    (folder / "SC4021EC-Hypnogram.edf").write_bytes((folder / "SC4021EC-Hypnogram.edf").read_bytes()[:600])
    (folder / "SC4031E0-PSG.edf").unlink()
    write_night(folder, "SC4041", stages=NIGHT[:-1], epochs=25)  # scored for longer than it was recorded
    report = pack_sleep_edf(str(folder), str(tmp_path / "out"))
    text, counts = "\n".join(report.bad), {}
    for _, _, group in records(tmp_path / "out", "stage").values():
        counts[group] = counts.get(group, 0) + 1
    whole = len(epochs_by_hand(NIGHT, 60))
    half = len(epochs_by_hand(NIGHT, 60, signal_epochs=14))
    assert counts == {"SC00": half, "SC04": len(epochs_by_hand(NIGHT, 60, signal_epochs=25))} and half < whole
    assert "SC4001E0-PSG.edf: shorter than its header says; 420 s are whole and kept" in text
    assert "SC4001EC-Hypnogram.edf: 15 epochs lie past the end of the signals and are cut" in text
    assert "SC4002: there is no SC4002*-Hypnogram.edf" in text and "SC4031: there is no SC4031*-PSG.edf" in text
    assert "SC4011E0-PSG.edf: not a readable EDF file" in text and "SC4021EC-Hypnogram.edf" in text
    assert "SC4041EC-Hypnogram.edf: 5 epochs lie past the end of the signals and are cut" in text
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no SC\*-PSG\.edf; expected the cassette study of Sleep-EDF Expanded"):
        pack_sleep_edf(str(tmp_path / "empty"), str(tmp_path / "none"))
    (tmp_path / "empty" / "sleep-edf-database-expanded-1.0.0.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"; unpack sleep-edf-database-expanded-1\.0\.0\.zip first"):
        pack_sleep_edf(str(tmp_path / "empty"), str(tmp_path / "none"))
    (folder / "copy").mkdir()
    (folder / "copy" / "SC4001E0-PSG.edf").write_bytes(b"0")
    with pytest.raises(DataError, match=r"copy/SC4001E0-PSG\.edf: is there twice, also as .*raw/SC4001E0-PSG\.edf"):
        pack_sleep_edf(str(folder), str(tmp_path / "none"))


def test_without_the_library_one_line_names_the_command(tmp_path, monkeypatch):
    write_night(tmp_path / "raw", "SC4001")
    monkeypatch.setitem(sys.modules, "edfio", None)
    with pytest.raises(ConfigError, match=r'edfio, which is not installed; run: pip install "mmssl\[edf\]"'):
        pack_sleep_edf(str(tmp_path / "raw"), str(tmp_path / "out"))
