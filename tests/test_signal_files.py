"""Signals from EDF and WFDB files that a description names: units, rates, annotations, and what does not fit."""

import sys

import numpy as np
import pytest
from raw_sets import records
from scipy.signal import resample_poly

from mmssl.data import Manifest
from mmssl.data.sources import pack_signals
from mmssl.errors import ConfigError, DataError

EDF = """
modalities:
  heart: {key: "{subject}_{recording}.edf", columns: [ECG], rate: 250, resample: 100, channels: [ecg], units: [mV]}
  breath: {key: "{subject}_{recording}.edf", columns: [chest, belly], rate: 25, channels: [chest, belly], units: [V, V]}
label: {name: state, key: "{subject}_{recording}.edf", classes: {calm: rest, sums: stress, sums2: stress}, drop: ["*"]}
window: {seconds: 4, step: 4}
split: {folds: each, fold: 1, val: 1}
"""


def write_edf(path, seed, seconds=60):
    edfio = pytest.importorskip("edfio", reason="the extra `edf` is not installed")
    rng = np.random.default_rng(seed)
    parts = [("ECG", 250, "uV", 500), ("belly", 25, "V", 2), ("chest", 25, "V", 2)]
    signals = [edfio.EdfSignal(rng.uniform(-size, size, seconds * rate), rate, label=label, physical_dimension=unit,
                               physical_range=(-size, size)) for label, rate, unit, size in parts]
    rows = ((0.3, 9.7, "calm"), (10, None, "sums"), (21.3, 12, "sums2"), (40, 2, "a door"))
    notes = [edfio.EdfAnnotation(*row) for row in rows]
    path.parent.mkdir(exist_ok=True)
    edfio.Edf(signals, annotations=notes).write(path)
    return {signal.label: signal.data for signal in signals}


def test_edf_files_with_annotations_units_and_another_rate(tmp_path):
    written = {name: write_edf(tmp_path / "raw" / f"{name}.edf", seed)
               for seed, name in enumerate(("p1_a", "p1_b", "p2_a", "p10_a"))}
    (tmp_path / "raw.yaml").write_text(EDF)
    report = pack_signals(str(tmp_path / "raw"), str(tmp_path / "raw.yaml"), str(tmp_path / "out"))
    found = Manifest.load(tmp_path / "out")
    assert found.assignment == {"train": ["p1"], "val": ["p10"], "test": ["p2"]} and not report.bad
    starts = [(0.3, 0), (4.3, 0), *((start, 1) for start in range(10, 30, 4))]  # "sums" holds until "sums2" begins
    found = records(tmp_path / "out", "state")
    assert len(found) == 4 * len(starts)
    for name, signals in written.items():
        heart = resample_poly(np.pad(signals["ECG"], 2500, mode="edge"), 2, 5)[1000:] / 1000  # mV
        for number, (start, label) in enumerate(starts):
            arrays, got, group = found[f"{name.replace('_', '-')}-w{number:05d}"]
            assert got == label and group == name.split("_")[0]
            at, slow = round(start * 100), round(start * 25)
            np.testing.assert_allclose(arrays["heart"][0], heart[at:at + 400], rtol=1e-5, atol=1e-6)
            both = np.stack([signals["chest"], signals["belly"]])[:, slow:slow + 100]
            np.testing.assert_allclose(arrays["breath"], both, rtol=1e-6)


@pytest.mark.parametrize("old, new, error, words", [
    ("rate: 250", "rate: 256", DataError, "'ECG' has 250 Hz, the description says 256"),
    ("units: [mV]", "units: [g]", DataError, "'ECG': is in 'uV', but 'g' is expected"),
    ("[ECG]", "[EKG]", DataError, "no channel is called 'EKG'; did you mean 'ECG'"),
    ("columns: [chest, belly]", "columns: [chest]", DataError, "has 1 columns, but the description names 2"),
    ('drop: ["*"]', "drop: []", ConfigError, "label a door is neither in label.classes nor in label.drop"),
    ("{subject}_{recording}.edf\", columns: [ECG]", "{subject}{recording}.edf\", columns: [ECG]", ConfigError,
     "something must stand between"),
    ("resample: 100", "resample: 99.99", ConfigError, "cannot be resampled"),
    ("_{recording}.edf\", columns: [ECG]", "-{recording}.edf\", columns: [ECG]", DataError, "nothing fits"),
])
def test_descriptions_that_do_not_fit_the_files(tmp_path, old, new, error, words):
    write_edf(tmp_path / "raw" / "p1_a.edf", 0)
    assert old in EDF
    text = EDF.replace(old, new).replace("split: {folds: each, fold: 1, val: 1}", "split: {}")
    (tmp_path / "raw.yaml").write_text(text)
    with pytest.raises(error, match=words):
        pack_signals(str(tmp_path / "raw"), str(tmp_path / "raw.yaml"), str(tmp_path / "out"))


def test_an_edf_file_cut_in_half_keeps_its_windows_and_one_that_is_none_is_listed(tmp_path):
    for seed, name in enumerate(("p1_a", "p2_a", "p3_a")):
        write_edf(tmp_path / "raw" / f"{name}.edf", seed)
    path = tmp_path / "raw" / "p1_a.edf"
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 3])
    (tmp_path / "raw" / "p3_a.edf").write_bytes(b"nothing")
    (tmp_path / "raw.yaml").write_text(EDF.replace("{folds: each, fold: 1, val: 1}", "{test: [p2]}"))
    report = pack_signals(str(tmp_path / "raw"), str(tmp_path / "raw.yaml"), str(tmp_path / "out"))
    assert report.records == {"train": 4, "test": 7} and len(report.bad) == 2  # 18 s: windows at 0.3, 4.3, 10 and 14
    assert "p1_a.edf: shorter than its header says; 18 s" in report.bad[0] and "p3-a: " in report.bad[1]


WFDB = """
modalities: {ecg: {key: "r{subject}.hea", columns: [V1, MLII], rate: 360, channels: [v1, ii], units: [uV, mV]}}
label: {name: rhythm, key: "r{subject}.atr", classes: {(N: normal, (AFIB: fibrillation}}
window: {seconds: 2, step: 2}
split: {test: ["101"]}
"""


def test_wfdb_records_with_rhythms(tmp_path, monkeypatch):
    wfdb = pytest.importorskip("wfdb", reason="the extra `wfdb` is not installed")
    (tmp_path / "raw").mkdir()
    rng, whole = np.random.default_rng(0), {}
    for subject in ("100", "101"):
        x = np.round(rng.normal(size=(3600, 2)), 2)
        whole[subject] = x
        wfdb.wrsamp(f"r{subject}", fs=360, units=["mV", "mV"], sig_name=["MLII", "V1"], p_signal=x, fmt=["16", "16"],
                    adc_gain=[1000, 1000], baseline=[0, 0], write_dir=str(tmp_path / "raw"))
        wfdb.wrann(f"r{subject}", "atr", np.array([0, 500, 1800, 2000]), symbol=["+", "N", "+", "V"],
                   aux_note=["(N", "", "(AFIB", ""], fs=360, write_dir=str(tmp_path / "raw"))
    (tmp_path / "raw.yaml").write_text(WFDB)
    report = pack_signals(str(tmp_path / "raw"), str(tmp_path / "raw.yaml"), str(tmp_path / "out"))
    assert report.records == {"train": 4, "test": 4} and not report.bad  # 0-2, 2-4 s, then from the change at 5 s on
    found = records(tmp_path / "out", "rhythm")
    for subject, x in whole.items():
        for number, (start, label) in enumerate(((0, 0), (720, 0), (1800, 1), (2520, 1))):
            arrays, got, group = found[f"{subject}-w{number:05d}"]
            assert got == label and group == subject
            want = x[start:start + 720, ::-1].T * [[1000], [1]]
            np.testing.assert_allclose(arrays["ecg"], want, rtol=1e-5, atol=1e-6)
    data = tmp_path / "raw" / "r100.dat"
    data.write_bytes(data.read_bytes()[:data.stat().st_size // 2])
    cut = pack_signals(str(tmp_path / "raw"), str(tmp_path / "raw.yaml"), str(tmp_path / "cut"))
    assert cut.records == {"train": 2, "test": 4} and "r100.hea: not a readable WFDB file" in cut.bad[0]
    monkeypatch.setitem(sys.modules, "wfdb", None)
    with pytest.raises(ConfigError, match=r'run: pip install "mmssl\[wfdb\]"'):
        pack_signals(str(tmp_path / "raw"), str(tmp_path / "raw.yaml"), str(tmp_path / "none"))


def test_wfdb_channels_at_several_rates_are_read_at_their_own(tmp_path):
    pytest.importorskip("wfdb", reason="the extra `wfdb` is not installed")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.hea").write_text("a 2 50 500\na.dat 16x2 200 16 0 0 0 0 ecg\na.dat 16 100 16 0 0 0 0 resp\n")
    frames = np.stack([np.arange(0, 1000, 2), np.arange(1, 1000, 2), np.arange(500)], axis=1).astype("<i2")
    frames[300, 0] = -32768  # not a sample
    (tmp_path / "raw" / "a.dat").write_bytes(frames.tobytes())
    (tmp_path / "raw.yaml").write_text(
        'modalities:\n  ecg: {key: "{subject}.hea", columns: [ecg], rate: 100, channels: [ecg], units: [mV]}\n'
        '  resp: {key: "{subject}.hea", columns: [resp], rate: 50, channels: [resp], units: [mV]}\n'
        "window: {seconds: 1.5, step: 1.5}\nsplit: {}\n")
    report = pack_signals(str(tmp_path / "raw"), str(tmp_path / "raw.yaml"), str(tmp_path / "out"))
    found = Manifest.load(tmp_path / "out")
    assert report.records == {"train": 6} and found.modalities["ecg"].shape == [1, 150]
    assert "ecg is missing from 1 of 6 windows" in report.notes
