"""Files of one recording that begin or end at different times are laid side by side by the clock, or refused."""

import datetime

import numpy as np
import pytest
from raw_sets import records

from mmssl.data.sources import pack_signals
from mmssl.errors import DataError

NIGHT = """
modalities:
  eeg: {key: "{subject}_eeg.edf", columns: [C3], rate: 8, channels: [c3], units: [uV]}
  breath: {key: "{subject}_resp.edf", columns: [Thorax], rate: 4, channels: [thorax], units: [uV]}
label: {name: stage, key: "{subject}_hyp.edf", classes: {W: awake, N2: asleep}}
window: {seconds: 10, step: 10}
split: {}
"""
TEN = datetime.datetime(2020, 3, 1, 22)


def write_clock(path, label, rate, seconds, begins, zero=TEN):
    """A channel whose values are the seconds since `zero`."""
    edfio = pytest.importorskip("edfio", reason="the extra `edf` is not installed")
    values = (begins - zero).total_seconds() + np.arange(seconds * rate) / rate
    signal = edfio.EdfSignal(values, rate, label=label, physical_dimension="uV", physical_range=(-500, 4000))
    write(edfio.Edf([signal], starttime=begins.time(), recording=edfio.Recording(startdate=begins.date())), path)


def write_stages(path, rows, begins):
    edfio = pytest.importorskip("edfio", reason="the extra `edf` is not installed")
    write(edfio.Edf([], annotations=[edfio.EdfAnnotation(*row) for row in rows], starttime=begins.time(),
                    recording=edfio.Recording(startdate=begins.date())), path)


def write(edf, path):
    path.parent.mkdir(exist_ok=True)
    edf.write(path)


def later(seconds):
    return TEN + datetime.timedelta(seconds=seconds)


def packed(folder, plan=NIGHT, out="out"):
    (folder / "raw.yaml").write_text(plan)
    return pack_signals(str(folder / "raw"), str(folder / "raw.yaml"), str(folder / out))


def write_night(folder, eeg=0, breath=40, stages=25):
    """200 s of each, beginning so many seconds after ten; awake for the first 100 s that are staged."""
    write_clock(folder / "raw" / "a_eeg.edf", "C3", 8, 200, later(eeg))
    write_clock(folder / "raw" / "a_resp.edf", "Thorax", 4, 200, later(breath))
    write_stages(folder / "raw" / "a_hyp.edf", [(0, 100, "W"), (100, 60, "N2")], later(stages))


def test_edf_files_that_begin_at_different_times_are_laid_side_by_side(tmp_path):
    write_night(tmp_path)
    report = packed(tmp_path)
    assert report.bad == [
        "a: a_eeg.edf begins 40 s before the last signal does; so much of eeg is left out",
        "a: eeg 160 s, breath 200 s: what lies beyond 160 s is left out; check `rate` in the description if none of "
        "them was cut off"]
    found = records(tmp_path / "out", "stage")
    # awake from 22:00:25 to 22:02:05, its windows on a grid that begins there; the signals are there from 22:00:40 on
    starts = [(45 + 10 * n, 0) for n in range(8)] + [(125 + 10 * n, 1) for n in range(6)]
    assert len(found) == len(starts)
    for (arrays, label, _), (start, wanted) in zip(found.values(), starts, strict=True):
        assert label == wanted
        np.testing.assert_allclose(arrays["eeg"][0], start + np.arange(80) / 8, atol=0.05)
        np.testing.assert_allclose(arrays["breath"][0], start + np.arange(40) / 4, atol=0.05)


def test_files_without_a_common_time_or_grid_are_refused_with_their_times(tmp_path):
    write_night(tmp_path, breath=3600)
    with pytest.raises(DataError, match=r"a_eeg.edf begins at 2020-03-01 22:00:00; a_resp.edf begins at 2020-03-01 "
                                        r"23:00:00; .*eeg has ended by 2020-03-01 23:00:00, correct the times in the"):
        packed(tmp_path)
    write_night(tmp_path, eeg=0.05)
    with pytest.raises(DataError, match=r"39.95 s are no whole samples of eeg at 8 Hz"):
        packed(tmp_path, out="other")
    write_night(tmp_path)
    (tmp_path / "raw" / "a_hyp.csv").write_text("stage\n" + "0\n" * 200)
    plan = NIGHT.replace('_hyp.edf", classes: {W: awake, N2: asleep}', '_hyp.csv", rate: 1, classes: {0: awake}')
    with pytest.raises(DataError, match=r"a_hyp.csv begins at a time it does not say; these cannot be laid side by"):
        packed(tmp_path, plan, "third")


def test_wfdb_records_that_begin_at_different_times(tmp_path):
    wfdb = pytest.importorskip("wfdb", reason="the extra `wfdb` is not installed")
    (tmp_path / "raw").mkdir()
    for name, rate, seconds in (("ecg", 10, 0), ("resp", 5, 30)):
        values = np.array(seconds + np.arange(100 * rate) / rate)[:, None]
        wfdb.wrsamp(f"a_{name}", fs=rate, units=["mV"], sig_name=[name], p_signal=values, fmt=["16"], adc_gain=[100],
                    baseline=[0], write_dir=str(tmp_path / "raw"), base_date=TEN.date(),
                    base_time=later(seconds).time())
    wfdb.wrann("a_ecg", "atr", np.array([0, 500]), symbol=["+", "+"], aux_note=["(N", "(AFIB"], fs=10,
               write_dir=str(tmp_path / "raw"))
    packed(tmp_path, """
modalities:
  ecg: {key: "{subject}_ecg.hea", rate: 10, channels: [ecg], units: [mV]}
  resp: {key: "{subject}_resp.hea", rate: 5, channels: [resp], units: [mV]}
label: {key: "{subject}_ecg.atr", classes: {(N: normal, (AFIB: fibrillation}}
window: {seconds: 10, step: 10}
split: {}
""")
    found = [(arrays["ecg"][0, 0], arrays["resp"][0, 0], label)
             for arrays, label, _ in records(tmp_path / "out", "class").values()]
    assert np.allclose(found, [(30, 30, 0), (40, 40, 0), *((t, t, 1) for t in range(50, 100, 10))], atol=0.01)


CSV = """
modalities:
  acc: {key: "{subject}_acc", rate: 32, channels: [x], units: [g]}
  eda: {key: "{subject}_eda", rate: 4, channels: [e], units: [uS]}
label: {key: "{subject}_lab", rate: 1, classes: {0: a}}
window: {seconds: 5, step: 5}
split: {}
"""


def test_a_rate_that_does_not_fit_the_other_sensors_is_told(tmp_path):
    sizes = {"acc": 32 * 100, "eda": 4 * 98, "lab": 96}  # within a window of one another
    np.savez(tmp_path / "raw.npz", **{f"a_{name}": np.zeros(size, np.int8) for name, size in sizes.items()})
    (tmp_path / "raw.yaml").write_text(CSV)
    report = pack_signals(str(tmp_path / "raw.npz"), str(tmp_path / "raw.yaml"), str(tmp_path / "right"))
    assert report.records == {"train": 19} and report.bad == []
    (tmp_path / "raw.yaml").write_text(CSV.replace("rate: 32", "rate: 64"))
    report = pack_signals(str(tmp_path / "raw.npz"), str(tmp_path / "raw.yaml"), str(tmp_path / "wrong"))
    wanted = ("a: acc 50 s, eda 98 s, the labels 96 s: what lies beyond 50 s is left out; check `rate` in the "
              "description if none of them was cut off")
    assert report.records == {"train": 10} and report.bad == [wanted]
    assert (tmp_path / "wrong" / "left_out.txt").read_text() == wanted + "\n"


def test_annotations_past_the_end_of_the_signals_are_told(tmp_path):
    write_night(tmp_path, breath=0, stages=0)
    write_stages(tmp_path / "raw" / "a_hyp.edf", [(0, 100, "W"), (100, 160, "N2")], TEN)
    report = packed(tmp_path)
    assert report.records == {"train": 20}
    assert report.bad[0].startswith("a: eeg 200 s, breath 200 s, the labels 260 s: what lies beyond 200 s is left out")
