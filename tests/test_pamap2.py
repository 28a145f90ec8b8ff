"""PAMAP2 from its `.dat` files: windows and gaps as slow loops over the text make them; what is broken is listed."""

import numpy as np
import pytest
from raw_sets import pamap2_rows, records, write_dat, write_pamap2

from mmssl.data import Manifest
from mmssl.data.sources import pack_pamap2
from mmssl.data.sources.recordings.pamap2 import ACTIVITIES, AXES
from mmssl.data.sources.series import dat
from mmssl.errors import ConfigError, DataError


def by_hand(path, size, step, limit, heart_limit):
    """(activity, arrays by modality) of each window, from the text alone, one row and one cell after the other."""
    rows = [[float(cell) for cell in line.split()] for line in path.read_text().splitlines()]
    for c in (c for first in AXES.values() for c in range(first, first + 3)):
        t = 0
        while t < len(rows):
            end = t
            while end < len(rows) and np.isnan(rows[end][c]):
                end += 1
            if t < end < len(rows) and t and end - t <= limit:
                a, b = rows[t - 1][c], rows[end][c]
                for i in range(t, end):
                    rows[i][c] = a + (b - a) * (i - t + 1) / (end - t + 1)
            t = end + 1
    heart = []
    for t in range(len(rows)):
        near = [*range(t, min(len(rows), t + heart_limit + 1)), *range(t, max(-1, t - heart_limit - 1), -1)]
        heart.append(next((rows[i][2] for i in near if not np.isnan(rows[i][2])), np.nan))
    windows, first = [], 0
    while first < len(rows):
        last = first
        while last < len(rows) and rows[last][1] == rows[first][1]:
            last += 1
        for start in range(first, last - size + 1, step) if rows[first][1] else ():
            arrays = {name: np.array([row[c:c + 3] for row in rows[start:start + size]]).T for name, c in AXES.items()}
            arrays["heart_rate"] = np.array([heart[start:start + size]])
            windows.append((int(rows[first][1]), {k: x for k, x in arrays.items() if np.isfinite(x).all()}))
        first = last
    return windows


def test_windows_are_those_of_slow_loops_over_the_text(tmp_path, monkeypatch):
    rows = pamap2_rows(3, activities=(4, 24, 4), seconds=3.7, pause=0.4, lost=0.02)
    rows[500:515, 3:20] = np.nan  # 0.15 s of the hand: bridged
    rows[700:730, 37:54] = np.nan  # 0.3 s of the ankle: it is missing from the windows there
    rows[40:60, 20:37] = np.nan  # over the beginning of an activity
    path = tmp_path / "raw" / "Protocol" / "subject105.dat"
    write_dat(path, rows)
    want = by_hand(path, 128, 64, 20, 200)
    assert len(want) > 10 and any("ankle_acc" not in arrays for _, arrays in want)
    for lines in (20_000, 97):  # however much is read at a time
        monkeypatch.setattr(dat, "LINES", lines)
        out = tmp_path / f"out{lines}"
        report = pack_pamap2(str(tmp_path / "raw"), str(out), seconds=1.28, step=0.64)
        found = list(records(out, "activity").values())
        assert len(found) == len(want) and not report.bad
        for (arrays, label, group), (activity, expected) in zip(found, want):
            assert list(ACTIVITIES)[label] == activity and group == "105" and arrays.keys() == expected.keys()
            for name, x in expected.items():
                np.testing.assert_allclose(arrays[name], x, rtol=1e-6, atol=1e-7)
    gone = sum("ankle_acc" not in arrays for _, arrays in want)
    assert f"ankle_acc is missing from {gone} of {len(want)} windows" in report.notes


def test_names_units_subjects_and_statistics_go_to_the_manifest(tmp_path):
    write_pamap2(tmp_path / "raw", subjects=("101", "102", "107", "108", "109"), seconds=5.2, pause=0.1)
    report = pack_pamap2(str(tmp_path / "raw"), str(tmp_path / "out"))
    manifest = Manifest.load(tmp_path / "out")
    assert manifest.assignment == {"train": ["101", "102"], "val": ["107"], "test": ["108"]}
    assert report.records == {"train": 6, "val": 3, "test": 3} and "not packed: subject 109" in report.notes[0]
    assert manifest.labels == {"activity": list(ACTIVITIES.values())}
    assert list(manifest.groups) == ["101", "102", "107", "108"]
    info = manifest.modalities["ankle_gyro"]
    assert (info.rate, info.units, info.shape) == (100.0, ["rad/s"] * 3, [3, 512])
    mine = records(tmp_path / "out", "activity", "train").values()
    train = np.concatenate([arrays["ankle_gyro"] for arrays, _, _ in mine], 1)
    np.testing.assert_allclose(info.mean, train.mean(1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(info.std, train.std(1), rtol=1e-5)
    assert manifest.groups["108"].classes == {"activity": [1, 0, 0, 1, *[0] * 7, 1]}
    assert set(manifest.sources) == {f"PAMAP2_Dataset/Protocol/subject{s}.dat" for s in ("101", "102", "107", "108")}
    # chosen again: nothing is read anew, the shards stay, mean and std follow
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").glob("*.tar")}
    again = pack_pamap2(str(tmp_path / "raw"), str(tmp_path / "out"), test_subjects=["101"], val_subjects=["102"])
    moved = Manifest.load(tmp_path / "out")
    assert again.kept == 12 and before == {p.name: p.read_bytes() for p in (tmp_path / "out").glob("*.tar")}
    assert moved.assignment["train"] == ["107", "108"] and moved.split_hash != manifest.split_hash
    assert moved.modalities["ankle_gyro"].mean != info.mean
    with pytest.raises(ConfigError, match="leave out --folds"):
        pack_pamap2(str(tmp_path / "raw"), str(tmp_path / "out"), test_subjects=["101"], folds=2)


def test_broken_lines_and_jumps_in_time_are_listed_and_nothing_crosses_them(tmp_path):
    rows = pamap2_rows(1, activities=(4,), seconds=10.0, pause=0.0)
    rows[650:, 0] += 30.0  # the recorder was off for half a minute
    path = tmp_path / "raw" / "Protocol" / "subject101.dat"
    write_dat(path, rows)
    good = [arrays for _, arrays in by_hand(path, 100, 100, 20, 200)]
    lines = path.read_text().splitlines()
    lines[100] = " ".join(lines[100].split()[:40])
    lines[101] += " 7"
    lines[205] = lines[205].replace(lines[205].split()[6], "oops", 1)
    lines[300] = "NaN " + lines[300].partition(" ")[2]
    path.write_text("\n".join(lines) + "\n\n")
    report = pack_pamap2(str(tmp_path / "raw"), str(tmp_path / "out"), seconds=1.0, step=1.0)
    assert report.bad == [f"subject101.dat, line {line}" for line in (
        "101: 40 columns, expected 54", "102: 55 columns, expected 54",
        "206: could not convert string to float: 'oops'; expected numbers", "301: has no time or no label")]
    assert (tmp_path / "out" / "left_out.txt").read_text().splitlines() == report.bad
    found = list(records(tmp_path / "out", "activity").values())
    assert len(found) == 6 + 3  # six whole seconds before the jump and three after it, none across
    np.testing.assert_allclose(found[0][0]["hand_acc"], good[0]["hand_acc"], rtol=1e-6)
    x, y = found[1][0]["hand_acc"], good[1]["hand_acc"]  # its first two rows were lost: straight lines take their place
    line = good[0]["hand_acc"][:, -1:] + (y[:, 2:3] - good[0]["hand_acc"][:, -1:]) * np.array([1 / 3, 2 / 3])
    np.testing.assert_allclose(x[:, :2], line, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(x[:, 2:], y[:, 2:], rtol=1e-6)
    np.testing.assert_allclose(found[6][0]["hand_acc"], rows[650:750, 4:7].T, rtol=1e-6)


def test_a_folder_that_is_something_else_is_one_line(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match=r"holds no Protocol/subject1\?\?.dat; expected the unpacked PAMAP2"):
        pack_pamap2(str(tmp_path / "photos"), str(tmp_path / "out"))
    (tmp_path / "photos" / "holidays.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"; if the download is among its zips \(holidays\.zip\), unpack it first"):
        pack_pamap2(str(tmp_path / "photos"), str(tmp_path / "out"))
    (tmp_path / "photos" / "PAMAP2_Dataset.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"; unpack PAMAP2_Dataset\.zip first"):
        pack_pamap2(str(tmp_path / "photos"), str(tmp_path / "out"))
    with pytest.raises(DataError, match="no such folder; give the folder of the unpacked download"):
        pack_pamap2(str(tmp_path / "nowhere"), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    write_dat(tmp_path / "photos" / "Protocol" / "subject101.dat", pamap2_rows(0, seconds=0.5, pause=0.1))
    with pytest.raises(DataError, match=r"(?s)not one record.*subject101: no stretch with a label holds a window of "
                                        r"5\.12 s; the longest has 0\.5 s"):
        pack_pamap2(str(tmp_path / "photos"), str(tmp_path / "out"))
    with pytest.raises(ConfigError, match=r"--subjects: nobody is called '110'; did you mean '101'"):
        pack_pamap2(str(tmp_path / "photos"), str(tmp_path / "out"), subjects=["110"])
