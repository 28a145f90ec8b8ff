"""The packer of sensor arrays: windows inside one label, sensors that agree in time, statistics of training."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from real_data import REAL, needs

from mmssl.data import Split, codecs, schema
from mmssl.data.groups import Moments
from mmssl.data.labels import parse_labels
from mmssl.data.sources import pack_signals
from mmssl.data.sources.recordings.stores import FolderStore, NpzStore
from mmssl.data.sources.series.standardise import Standardised
from mmssl.errors import ConfigError, DataError

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


def records(root, name):
    split = Split(root, name)
    return {split.where(s, r)[1]: split.read(s, r, split.fields(s, r))
            for s, count in enumerate(split.counts) for r in range(count)}


DESCRIPTION = """
modalities:
  pulse: {key: "{subject}_pulse", rate: 8, channels: [pulse], units: [V]}
  move: {key: "{subject}_move", rate: 4, channels: [x, y], units: [g, g]}
label: {name: state, key: "{subject}_state", rate: 1, classes: {0: rest, 1: stress}, drop: [-1]}
window: {seconds: 3, step: 2}
split: {test: [c], val: [b]}
"""


@pytest.fixture
def sensors(tmp_path):
    """Three subjects of 20 s whose samples are their own time in seconds (x, y: negative); labels by the second."""
    labels = np.array([0] * 7 + [-1] * 2 + [1] * 8 + [0] * 3, np.int8)
    arrays = {}
    for subject in "abc":
        arrays[f"{subject}_pulse"] = (np.arange(160) / 8).astype(np.float32)
        arrays[f"{subject}_move"] = -np.stack([np.arange(80) / 4, np.arange(80) / 2], 1)
        arrays[f"{subject}_state"] = labels
    np.savez(tmp_path / "raw.npz", **arrays)
    (tmp_path / "raw.yaml").write_text(DESCRIPTION)
    return tmp_path, arrays, labels


def test_a_modality_in_units_of_each_recording_s_own_deviation(sensors):
    folder, arrays, _ = sensors
    arrays["b_pulse"] = 100 + 7 * arrays["a_pulse"]  # another wearer, another level and strength
    np.savez(folder / "raw.npz", **arrays)
    (folder / "raw.yaml").write_text(DESCRIPTION.replace("units: [V]}", "units: [V], standardise: true}"))
    pack_signals(str(folder / "raw.npz"), str(folder / "raw.yaml"), str(folder / "out"))
    info = schema.Manifest.load(folder / "out").modalities
    assert info["pulse"].units == ["1"] and info["move"].units == ["g", "g"]
    whole = np.arange(160) / 8
    for (start, _), *both in zip(windows_by_hand(sensors[2], 3, 2), records(folder / "out", "train").values(),
                                 records(folder / "out", "val").values(), strict=True):
        for files in both:
            pulse = codecs.decode("npy", files["pulse.npy"], info["pulse"]).data.numpy()
            np.testing.assert_allclose(pulse[0], (start + np.arange(24) / 8 - whole.mean()) / whole.std(), rtol=1e-5,
                                       atol=1e-6)


def windows_by_hand(labels, seconds, step):
    """Starts with their label: within each run of one label, a window every `step` seconds as long as it fits."""
    starts, first = [], 0
    while first < len(labels):
        last = first
        while last < len(labels) and labels[last] == labels[first]:
            last += 1
        starts += [(s, labels[first]) for s in range(first, last, step) if s + seconds <= last and labels[first] >= 0]
        first = last
    return starts


def test_windows_stay_inside_a_label_and_sensors_agree_in_time(sensors):
    folder, _, labels = sensors
    report = pack_signals(str(folder / "raw.npz"), str(folder / "raw.yaml"), str(folder / "out"))
    want = windows_by_hand(labels, 3, 2)
    assert len(want) == 7 and report.records == {"train": 7, "val": 7, "test": 7}
    manifest = schema.Manifest.load(folder / "out")
    assert manifest.assignment == {"train": ["a"], "val": ["b"], "test": ["c"]}
    assert manifest.labels == {"state": ["rest", "stress"]}
    seen = []
    for (start, label), files in zip(want, records(folder / "out", "train").values(), strict=True):
        pulse, move = (codecs.decode("npy", files[f"{m}.npy"], manifest.modalities[m]).data.numpy()
                       for m in ("pulse", "move"))
        np.testing.assert_allclose(pulse, [start + np.arange(24) / 8])
        np.testing.assert_allclose(move[0], -(start + np.arange(12) / 4))
        assert parse_labels(files["labels.json"]) == ({"state": label}, "a")
        seen.append(move)
    info = manifest.modalities["move"]
    np.testing.assert_allclose(info.mean, np.concatenate(seen, 1).mean(1), rtol=1e-6)
    np.testing.assert_allclose(info.std, np.concatenate(seen, 1).std(1), rtol=1e-6)
    assert (info.rate, info.channels, info.units, info.shape) == (4, ["x", "y"], ["g", "g"], [2, 12])


def test_folder_of_csv_gives_the_same_as_npz(sensors):
    folder, arrays, labels = sensors
    (folder / "csv").mkdir()
    for s in "abc":
        np.savetxt(folder / "csv" / f"{s}_pulse.csv", arrays[f"{s}_pulse"], header="pulse", comments="", fmt="%.9g")
        table = np.concatenate([arrays[f"{s}_move"][:, ::-1], np.repeat(labels, 4)[:, None]], 1)
        np.savetxt(folder / "csv" / f"{s}_move.csv", table, header="y,x,state", comments="", delimiter=",", fmt="%.9g")
    text = DESCRIPTION.replace('_pulse"', '_pulse.csv"').replace('_move"', '_move.csv", columns: [x, y]')
    text = text.replace('_state", rate: 1', '_move.csv", column: state, rate: 4')
    (folder / "csv.yaml").write_text(text)
    pack_signals(str(folder / "csv"), str(folder / "csv.yaml"), str(folder / "one"))
    pack_signals(str(folder / "raw.npz"), str(folder / "raw.yaml"), str(folder / "two"))
    assert records(folder / "one", "train") == records(folder / "two", "train")


def test_recordings_one_after_the_other(tmp_path):
    signal = np.arange(60.0)[:, None] * [1, 10]
    np.savez(tmp_path / "raw.npz", signal=signal, offsets=[0, 25, 40, 60], who=[1, 2, 1], y=[4, 5, 5])
    (tmp_path / "raw.yaml").write_text(
        "modalities: {a: {key: signal, columns: [1], rate: 5, channels: [a], units: [g]}}\n"
        "recordings: {offsets: offsets, subject: who}\nlabel: {key: y, classes: {4: up, 5: down}}\n"
        "window: {seconds: 2, step: 1}\nsplit: {test: [2]}\n")
    report = pack_signals(str(tmp_path / "raw.npz"), str(tmp_path / "raw.yaml"), str(tmp_path / "out"))
    assert report.records == {"train": 4 + 3, "test": 2}
    firsts = [codecs.decode("npy", f["a.npy"]).data[0, 0].item() for f in records(tmp_path / "out", "train").values()]
    assert firsts == [0, 50, 100, 150, 400, 450, 500]  # none begins in one recording and ends in the next
    labels = [parse_labels(f["labels.json"])[0]["class"] for f in records(tmp_path / "out", "train").values()]
    assert labels == [0] * 4 + [1] * 3


def test_a_sensor_with_values_that_are_no_numbers_is_missing_from_its_window(sensors):
    folder, arrays, _ = sensors
    arrays["a_pulse"][10] = np.nan
    np.savez(folder / "nan.npz", **arrays)
    report = pack_signals(str(folder / "nan.npz"), str(folder / "raw.yaml"), str(folder / "out"))
    assert report.records["train"] == 7 and not report.bad and "pulse is missing from 1 of 21 windows" in report.notes
    lacking = [set(files) for files in records(folder / "out", "train").values() if "pulse.npy" not in files]
    assert lacking == [{"move.npy", "labels.json"}]
    assert np.isfinite(schema.Manifest.load(folder / "out").modalities["pulse"].mean).all()


@pytest.mark.parametrize("old, new, error, words", [
    ("rate: 8", "rate: quick", ConfigError, "modalities.pulse.rate: expected float"),
    ("rate: 1, classes", "rate: 0, classes", ConfigError, "label.rate: expected a positive number of Hz, got 0"),
    ("channels: [x, y]", "channels: [x]", ConfigError, "1 channels but 2 units"),
    ("seconds: 3", "second: 3", ConfigError, "did you mean 'seconds'"),
    ("test: [c]", "test: [d]", ConfigError, "no group is called 'd'; known: a, b, c"),
    ("test: [c]", "tets: [c]", ConfigError, "split.tets: no such setting; did you mean 'test'"),
    ("test: [c]", "test: [b]", ConfigError, "group 'b' is in test and in val; keep one"),
    ("1: stress}", "2: stress}", ConfigError, "label 1 is neither in label.classes nor in label.drop"),
    ('_move", rate', '_mov", rate', DataError, "nothing fits '{subject}_mov', the key of move; did you mean 'a_move'"),
    ("channels: [pulse], units: [V]", "channels: [p, q], units: [V, V]", DataError, "has 1 columns, but"),
    ("seconds: 3", "seconds: 30", DataError, "a: no stretch with a label holds a window of 30 s; the longest has 8 s"),
])
def test_descriptions_that_do_not_fit(sensors, old, new, error, words):
    folder, _, _ = sensors
    assert old in DESCRIPTION
    (folder / "bad.yaml").write_text(DESCRIPTION.replace(old, new))
    with pytest.raises(error, match=words.replace("[", r"\[")):
        pack_signals(str(folder / "raw.npz"), str(folder / "bad.yaml"), str(folder / "out"))


def test_a_description_may_be_mended_while_nothing_is_packed(sensors):
    folder, _, _ = sensors
    (folder / "raw.yaml").write_text(DESCRIPTION.replace("1: stress}", "2: stress}"))
    with pytest.raises(ConfigError, match="label 1 is neither"):
        pack_signals(str(folder / "raw.npz"), str(folder / "raw.yaml"), str(folder / "out"))
    (folder / "raw.yaml").write_text(DESCRIPTION)
    report = pack_signals(str(folder / "raw.npz"), str(folder / "raw.yaml"), str(folder / "out"))
    assert report.records == {"train": 7, "val": 7, "test": 7}
    (folder / "raw.yaml").write_text(DESCRIPTION.replace("step: 2", "step: 1"))
    with pytest.raises(ConfigError, match="packed with other layout, settings; choose an empty folder"):
        pack_signals(str(folder / "raw.npz"), str(folder / "raw.yaml"), str(folder / "out"))


LABELLED = """
modalities: {x: {key: "{subject}/{recording}.csv", columns: [x], rate: 5, channels: [x], units: [g]}}
label: {key: "{subject}/{recording}.csv", column: y, rate: 5, classes: {0: no, 1: yes}, drop: [9]}
window: {seconds: 2, step: 2}
split: {folds: each, fold: 0, val: 1}
"""


def pack_csv(folder, labels):
    """Pack CSV files whose values count up from the number of the file; `labels` by name, five a second."""
    for number, (name, values) in enumerate(labels.items()):
        path = folder / "raw" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x,y\n" + "".join(f"{100 * number + i},{value}\n" for i, value in enumerate(values)))
    (folder / "raw.yaml").write_text(LABELLED)
    return pack_signals(str(folder / "raw"), str(folder / "raw.yaml"), str(folder / "out"))


def test_names_that_look_alike_as_keys_keep_their_windows(tmp_path):
    names = ["Müller/a.csv", "Möller/a.csv", "東京/a.csv", "大阪/a.csv", "a-b/c.csv", "a/b-c.csv", "plain/a.csv",
             f"{'l' * 60}/a.csv", f"{'l' * 60}/b.csv"]
    report = pack_csv(tmp_path, {name: [0] * 10 for name in names})
    found = records(tmp_path / "out", "all")
    assert not report.bad and len(found) == len(names) and "plain-a-w00000" in found
    firsts = {int(codecs.decode("npy", files["x.npy"]).data[0, 0]): parse_labels(files["labels.json"])[1]
              for files in found.values()}
    assert firsts == {100 * number: name.split("/")[0] for number, name in enumerate(names)}
    again = pack_signals(str(tmp_path / "raw"), str(tmp_path / "raw.yaml"), str(tmp_path / "out"))
    assert again.kept == len(names) and again.records == report.records


def test_a_recording_without_a_window_is_listed_with_the_reason_and_the_folds_say_who_is_not_in_them(tmp_path):
    report = pack_csv(tmp_path, {"a/r.csv": [0] * 10, "b/r.csv": [1] * 20, "c/r.csv": [0] * 10, "d/r.csv": ["nan"] * 30,
                                 "e/r.csv": [0] * 8 + [1] * 9 + [0] * 3, "f/r.csv": [9] * 30})
    assert report.bad == ["d-r: there is no stretch with a label",
                          "e-r: no stretch with a label holds a window of 2 s; the longest has 1.8 s",
                          "f-r: there is no stretch with a label"]
    assert (tmp_path / "out" / "left_out.txt").read_text().splitlines() == report.bad
    assert report.notes == ["of subject d, e, f nothing could be packed; the split is dealt among 3 others",
                            "split by subject: test a; val b; train c (change it in a recipe with data.split)"]


def test_npz_never_unpickles(tmp_path):
    np.savez(tmp_path / "raw.npz", a=np.array([{}], dtype=object))
    with pytest.raises(DataError, match="array 'a' cannot be read"):
        NpzStore(tmp_path / "raw.npz").read("a")


@pytest.mark.parametrize("part", [0, 0.5, None])
def test_npz_files_that_are_none(tmp_path, part):
    np.savez(tmp_path / "raw.npz", a=np.arange(100))
    whole = (tmp_path / "raw.npz").read_bytes()
    (tmp_path / "raw.npz").write_bytes(b"no zip" if part is None else whole[:int(part * len(whole))])
    with pytest.raises(DataError, match=r"raw.npz: not a readable npz file \(.*copy it again"):
        NpzStore(tmp_path / "raw.npz")


@pytest.mark.parametrize("values", [np.full(160, 1j), np.full(160, "1"), np.arange(160).astype("M8[s]")])
def test_signals_that_are_no_real_numbers_are_left_out(sensors, values):
    folder, arrays, _ = sensors
    np.savez(folder / "raw.npz", **arrays | {"a_pulse": values, "d_pulse": arrays["a_pulse"],
                                             "d_state": arrays["a_state"]})
    report = pack_signals(str(folder / "raw.npz"), str(folder / "raw.yaml"), str(folder / "out"))
    assert report.records == {"train": 7, "val": 7, "test": 7}
    assert f"array 'a_pulse' has values of type {values.dtype}; expected whole or floating" in report.bad[0]


def test_labels_as_texts(sensors):
    folder, arrays, labels = sensors
    for s in "abc":
        arrays[f"{s}_state"] = np.array(["lost", "calm", "stress"])[labels + 1]
    np.savez(folder / "raw.npz", **arrays)
    (folder / "raw.yaml").write_text(DESCRIPTION.replace("{0: rest, 1: stress}, drop: [-1]",
                                                         "{calm: rest, stress: stress}, drop: [lost]"))
    assert pack_signals(str(folder / "raw.npz"), str(folder / "raw.yaml"), str(folder / "out")).records["train"] == 7
    found = [parse_labels(files["labels.json"])[0]["state"] for files in records(folder / "out", "train").values()]
    assert found == [label for _, label in windows_by_hand(labels, 3, 2)]


@pytest.mark.parametrize("offsets", [["0", "20"], [0, 9.5, 20], []])
def test_positions_of_recordings_that_are_none(tmp_path, offsets):
    np.savez(tmp_path / "raw.npz", signal=np.arange(20.0), offsets=np.array(offsets), who=[1])
    (tmp_path / "raw.yaml").write_text("modalities: {a: {key: signal, rate: 5, channels: [a], units: [g]}}\n"
                                       "recordings: {offsets: offsets, subject: who}\n"
                                       "window: {seconds: 2, step: 1}\nsplit: {}\n")
    with pytest.raises(DataError, match=r"'offsets' holds . values of type .*; expected whole numbers"):
        pack_signals(str(tmp_path / "raw.npz"), str(tmp_path / "raw.yaml"), str(tmp_path / "out"))


def test_a_csv_file_is_not_much_larger_in_memory_than_its_numbers(tmp_path):
    values = np.random.default_rng(0).normal(size=(20_000, 4)).round(3)
    np.savetxt(tmp_path / "a.csv", values, delimiter=",", header="a,b,c,d", comments="", fmt="%.3f")
    store = FolderStore(tmp_path / "a.csv")
    tracemalloc.start()
    found = store.read("a.csv")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(found, values)
    assert peak < 1.5 * values.nbytes


def test_a_constant_channel_is_zeros_in_units_of_its_deviation():
    for constant in (np.full((10007, 1), 0.1), np.full((300_000, 3), 0.1),
                     np.where(np.arange(10007) % 2, 0.3, 0.1 + 0.2)[:, None]):  # apart by one bit
        assert np.abs(Standardised(constant)[0:500]).max() < 1e-15
    assert Moments.of(np.full((3, 10007), 0.1)).std.tolist() == [1, 1, 1]
    small = 1e8 + 1e-3 * np.random.default_rng(0).normal(size=(1, 10_000))
    np.testing.assert_allclose(Moments.of(small).std, small.std(axis=1))  # small beside the mean, but no rounding


@pytest.mark.slow
@needs("stress_predict.npz")
def test_real_wristband_with_four_rates(tmp_path):
    description = EXAMPLES / "stress_signals.yaml"
    report = pack_signals(str(REAL / "stress_predict.npz"), str(description), str(tmp_path / "out"))
    assert report.records == {"train": 2018, "val": 378, "test": 1007} and not report.bad
    shapes = {name: info.shape for name, info in schema.Manifest.load(tmp_path / "out").modalities.items()}
    assert shapes == {"bvp": [1, 1920], "acc": [3, 960], "eda": [1, 240], "temp": [1, 240]}
