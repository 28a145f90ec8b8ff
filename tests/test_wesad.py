"""WESAD from pickles as Python 2 wrote them: what is read, what is refused by name, where windows lie."""

import hashlib
import pickle

import numpy as np
import pytest
from raw_sets import Python2Pickler, records, wesad_tree, write_wesad
from scipy.signal import resample_poly

from mmssl.data import Manifest
from mmssl.data.sources import pack_wesad
from mmssl.data.sources.recordings.wesad import CONDITIONS
from mmssl.errors import ConfigError, DataError


def write(path, tree):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        Python2Pickler(file).dump(tree)
    return path


def test_the_fixture_is_what_python_2_wrote(tmp_path):
    write_wesad(tmp_path, subjects=(2,), seconds=1, pause=1)
    data = (tmp_path / "S2" / "S2.pkl").read_bytes()
    assert data[:2] == b"\x80\x02" and b"cnumpy.core.multiarray\n_reconstruct\n" in data and b"_codecs" not in data
    assert b"X" + (5).to_bytes(4, "little") + b"label" not in data and b"U\x05label" in data  # no Unicode


def test_windows_lie_inside_a_condition_and_are_those_of_the_whole_recording_filtered(tmp_path):
    tree = wesad_tree(2, conditions=(1, 3, 4), seconds=23, pause=2)
    tree["label"] = np.roll(tree["label"], 3)  # conditions begin between two samples of the result
    write(tmp_path / "raw" / "S2" / "S2.pkl", tree)
    report = pack_wesad(str(tmp_path / "raw"), str(tmp_path / "out"), step=5.0)
    labels, chest, want = tree["label"], tree["signal"]["chest"], []
    whole = {name.lower(): resample_poly(np.pad(chest[name][:, 0], 7000, mode="edge"), 1, 7)[1000:]
             for name in ("ECG", "EMG", "EDA")}
    first = 0
    while first < len(labels):
        last = first
        while last < len(labels) and labels[last] == labels[first]:
            last += 1
        at = -(-first // 7)
        while labels[first] in CONDITIONS and (at + 1000) * 7 <= last:
            want.append((list(CONDITIONS).index(labels[first]), at))
            assert (labels[7 * at:7 * (at + 999) + 1] == labels[first]).all()
            at += 500
        first = last
    found = list(records(tmp_path / "out", "condition").values())
    assert len(found) == len(want) == 9 and not report.bad
    for (arrays, label, group), (expected, at) in zip(found, want):
        assert label == expected and group == "S2"
        for name, x in whole.items():
            np.testing.assert_allclose(arrays[name][0], x[at:at + 1000], rtol=1e-5, atol=1e-5)


class Bomb:
    def __reduce__(self):
        return eval, ("open('/tmp/mmssl-was-here', 'w')",)


class Half:
    def __reduce__(self):
        return np.lib.format.open_memmap, ("/tmp/mmssl-was-here", "w+", "f8", (1,))


def test_a_pickle_that_asks_for_more_is_refused_by_name_and_the_others_are_kept(tmp_path):
    folder = write_wesad(tmp_path / "raw", subjects=(2, 3, 4, 5), seconds=10, pause=1)
    for subject, bomb in ((3, Bomb()), (4, Half())):
        (folder / f"S{subject}" / f"S{subject}.pkl").write_bytes(
            pickle.dumps({**wesad_tree(subject, seconds=10, pause=1), "notes": bomb}, protocol=2))
    data = (folder / "S5" / "S5.pkl").read_bytes()
    (folder / "S5" / "S5.pkl").write_bytes(data[:len(data) // 2])
    report = pack_wesad(str(folder), str(tmp_path / "out"))
    lines = dict(line.split(": ", 1) for line in report.bad)
    assert "the pickle asks for '__builtin__.eval', which could run code" in lines["S3"]
    assert "asks for 'numpy.lib" in lines["S4"] and "not a readable pickle" in lines["S5"]
    assert {g for _, _, g in records(tmp_path / "out", "condition").values()} == {"S2"}
    import os
    assert not os.path.exists("/tmp/mmssl-was-here")
    assert Manifest.load(tmp_path / "out").sources.keys() >= {"S2/S2.pkl"}


def test_files_of_another_form_are_listed_and_what_is_there_is_kept(tmp_path):
    good = wesad_tree(2, seconds=10, pause=1)
    chest = good["signal"]["chest"]
    trees = {2: {**good, "signal": {"chest": {k: v for k, v in chest.items() if k != "EMG"}}},
             3: {**good, "signal": {"wrist": {}}}, 4: {**good, "label": good["label"] / 2},
             5: {**good, "signal": {"chest": {**chest, "ECG": chest["ECG"][:-7], "EDA": chest["ACC"]}}}}
    for subject, tree in trees.items():
        write(tmp_path / "raw" / f"S{subject}" / f"S{subject}.pkl", tree)
    for subject, tree in {6: {**good, "signal": {"chest": good["label"]}},
                          7: {"label": good["label"][:0], "signal": {"chest": {"ECG": chest["ECG"][:0]}}}}.items():
        write(tmp_path / "raw" / f"S{subject}" / f"S{subject}.pkl", tree)
    report = pack_wesad(str(tmp_path / "raw"), str(tmp_path / "out"), test_subjects=["S5"])
    text = "\n".join(report.bad)
    assert "'signal.chest' holds no sensors by name" in text and "S7: there is no stretch with a label" in text
    assert "S2.pkl: signal.chest.EMG is missing" in text and "has no 'signal.chest'" in text
    assert "'label' is no row of whole numbers" in text and "signal.chest.EDA is missing, or no column" in text
    assert f"signal.chest.ECG has {len(chest['ECG']) - 7} samples for {len(good['label'])} labels" in text
    kept = {group: set(arrays) for arrays, _, group in records(tmp_path / "out", "condition").values()}
    assert kept == {"S2": {"ecg", "eda"}, "S5": {"emg"}}
    with pytest.raises(DataError, match=r"holds no S2/S2\.pkl or the like; expected the unpacked WESAD"):
        (tmp_path / "empty").mkdir()
        pack_wesad(str(tmp_path / "empty"), str(tmp_path / "out2"))
    for name in ("S2_E4_Data.zip", "wesad+wearable+stress.zip"):
        (tmp_path / "empty" / name).write_bytes(b"PK")
    with pytest.raises(DataError, match=r"set 465\); unpack wesad\+wearable\+stress\.zip first"):
        pack_wesad(str(tmp_path / "empty"), str(tmp_path / "out2"))
    write(tmp_path / "raw" / "old" / "S2.pkl", good)
    with pytest.raises(DataError, match=r"old/S2\.pkl: is there twice, also as .*S2/S2\.pkl; give the folder of one"):
        pack_wesad(str(tmp_path / "raw"), str(tmp_path / "out2"))


def test_files_are_held_against_a_list_of_checksums(tmp_path):
    folder = write_wesad(tmp_path / "raw", subjects=(2, 3), seconds=10, pause=1)
    sums = {s: hashlib.sha256((folder / f"S{s}" / f"S{s}.pkl").read_bytes()).hexdigest() for s in (2, 3)}
    (tmp_path / "sums").write_text(f"{sums[2]}  WESAD/S2/S2.pkl\n{'0' * 64} *S3/S3.pkl\n")
    report = pack_wesad(str(folder), str(tmp_path / "out"), checksums=str(tmp_path / "sums"))
    assert len(report.bad) == 1 and f"S3.pkl: sha256 is {sums[3]}, the list of checksums says 0000" in report.bad[0]
    assert Manifest.load(tmp_path / "out").sources == {"S2/S2.pkl": sums[2]}
    (tmp_path / "sums").write_text("no list\n")
    with pytest.raises(DataError, match="expected lines of a SHA-256"):
        pack_wesad(str(folder), str(tmp_path / "out"), checksums=str(tmp_path / "sums"))


def sums_of(folder, *subjects):
    """The list that `sha256sum` writes of the pickles as they are now."""
    paths = [folder / f"S{s}" / f"S{s}.pkl" for s in subjects]
    rows = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n" for path in paths]
    (folder / "sums").write_text("".join(rows))
    return str(folder / "sums")


@pytest.mark.parametrize("listed", [True, False])
def test_a_file_that_is_mended_is_packed_by_the_same_command(tmp_path, listed):
    folder, out = write_wesad(tmp_path / "raw", subjects=(2, 3, 4), seconds=10, pause=1), str(tmp_path / "set")
    settings, path = {"checksums": sums_of(folder, 2, 3, 4)} if listed else {}, folder / "S3" / "S3.pkl"
    whole = path.read_bytes()
    # with a list, one byte of the numbers is another; without, the copy was cut off
    path.write_bytes(whole[:-5000] + bytes([whole[-5000] ^ 1]) + whole[-4999:] if listed else whole[:-5000])
    report = pack_wesad(str(folder), out, **settings)
    assert len(report.bad) == 1 and ("download it again" if listed else "not a readable pickle") in report.bad[0]
    assert "of subject S3 nothing could be packed; the split is dealt among 2 others" in report.notes
    first = (tmp_path / "set" / "all-000000.tar").read_bytes()
    path.write_bytes(whole)
    report = pack_wesad(str(folder), out, **settings)
    assert not report.bad and report.kept == 8 and not (tmp_path / "set" / "left_out.txt").exists()
    assert (tmp_path / "set" / "all-000000.tar").read_bytes() == first
    assert [group for *_, group in records(out, "condition").values()] == ["S2"] * 4 + ["S4"] * 4 + ["S3"] * 4
    assert Manifest.load(out).sources["S3/S3.pkl"] == hashlib.sha256(whole).hexdigest()


def test_a_list_of_checksums_is_held_against_what_was_packed_before_and_must_name_it(tmp_path):
    folder, out = write_wesad(tmp_path / "raw", subjects=(2, 3), seconds=10, pause=1), str(tmp_path / "set")
    sums = sums_of(folder, 2, 3)
    data = (folder / "S3" / "S3.pkl").read_bytes()
    (folder / "S3" / "S3.pkl").write_bytes(data[:-5000] + bytes([data[-5000] ^ 1]) + data[-4999:])
    assert not pack_wesad(str(folder), out).bad
    with pytest.raises(DataError, match=r"4 windows of S3 were made of S3/S3.pkl when its sha256 was .* Download it"):
        pack_wesad(str(folder), out, checksums=sums)
    report = pack_wesad(str(folder), out, checksums=sums_of(folder, 2))
    assert report.kept == 8 and "not in the list of checksums: S3/S3.pkl" in report.notes
    (folder / "sums").write_text(f"{'0' * 64}  S2/S2.zip\n{'1' * 64}  S3/S3.zip\n")
    with pytest.raises(ConfigError, match=r"names none of the files.* has S2/S2.zip, S3/S3.zip, expected S2/S2.pkl"):
        pack_wesad(str(folder), out, checksums=sums)


def test_of_several_lines_that_fit_a_name_any_will_do(tmp_path):
    folder = write_wesad(tmp_path / "raw", subjects=(2,), seconds=10, pause=1)
    digest = sums_of(folder, 2) and (folder / "sums").read_text().split()[0]
    (folder / "sums").write_text(f"{'0' * 64}  old/S2.pkl\n{digest}  new/S2.pkl\n")
    assert not pack_wesad(str(folder / "S2"), str(tmp_path / "set"), checksums=str(folder / "sums")).bad
