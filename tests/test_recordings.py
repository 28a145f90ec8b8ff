"""Packing recordings: killed anywhere and run again, the result is the same to the byte, and nothing is read twice."""

import hashlib
import json
import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
from raw_sets import records

from mmssl.data import Manifest, Split, verify
from mmssl.data.folds import SplitRule
from mmssl.data.groups import total
from mmssl.data.shards import KEY
from mmssl.data.sources import folder as pack_folder
from mmssl.data.sources.recordings import packing
from mmssl.data.sources.recordings.packing import Collection, Unit, pack_recordings
from mmssl.data.sources.recordings.windows import Layout, Sensor, Stretch, slug
from mmssl.errors import ConfigError, DataError

LAYOUT = Layout({"a": Sensor(10.0, ["x", "y"], ["g", "g"]), "b": Sensor(5.0, ["z"], ["V"])}, 2.0, 1.0, "kind",
                ["up", "down"])
PLAN = {"r1": ("p1", 7), "r2": ("p2", 0), "r3": ("p1", 9), "r4": ("p3", 12), "r5": ("p2", 5), "r6": ("p4", 4)}


def collection(folder, reads=None, **changes):
    """Six recordings of four subjects; r2 cannot be read at all, r4 breaks off, a sensor of r5 stops for a while, and
    something is said of it.

    A file that somebody has written anew is whole.
    """
    def read(name, notes):
        if reads is not None:
            reads.append(name)
        rng, whole = np.random.default_rng(int(name[1:])), (folder / f"{name}.raw").read_text() != name
        seconds = PLAN[name][1] + 1 if name != "r2" else 8
        signals = {"a": rng.normal(size=(seconds * 10, 2)) + 100, "b": rng.normal(size=(seconds * 5, 1))}
        if name == "r2" and not whole:
            raise DataError("is no recording")
        if name == "r5":
            signals["b"][10:12] = np.nan
        if name == "r5":
            notes.append("r5: its last line is cut")
        for half in (0, 1):
            yield Stretch(signals, half * seconds / 2, (half + 1) * seconds / 2, half)
            if name == "r4" and half == 0 and not whole:
                raise DataError("breaks off")

    folder.mkdir(exist_ok=True)
    units = []
    for name, (group, _) in PLAN.items():
        path = folder / f"{name}.raw"
        if not path.exists():
            path.write_text(name)
        units.append(Unit(name, group, {path.name: path}, lambda notes, name=name: read(name, notes)))
    made = {"source": "test", "layout": LAYOUT, "units": units, "settings": {"x": 1},
            "rule": lambda groups: SplitRule(test=["p4"], val=["p3"])}
    return Collection(**{**made, **changes})


def tree(root):
    return {path.name: path.read_bytes() for path in root.iterdir()}


def dies(call, number):
    """Run `call` in a process that is killed just before its rename `number`; whether it got that far."""
    child = os.fork()
    if child == 0:
        real, count = os.replace, [0]

        def replace(source, target):
            count[0] += 1
            if count[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)
            real(source, target)

        os.replace = replace
        try:
            call()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_killed_between_any_two_renames_and_run_again_the_result_is_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "SHARD_RECORDS", 7)
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # a kill loses nothing that the system already has
    things = collection(tmp_path / "raw")
    whole = pack_recordings(things, tmp_path / "whole" / "set")
    want = tree(tmp_path / "whole" / "set")
    assert len([name for name in want if name.endswith(".tar")]) == 4
    for number in range(1, 100):
        out = tmp_path / str(number) / "set"
        killed = dies(lambda: pack_recordings(things, out), number)  # noqa: B023 (called at once)
        if number % 3 == 0:
            dies(lambda: pack_recordings(things, out), 3)  # noqa: B023  and once more on the way
        report = pack_recordings(things, out)
        assert tree(out) == want and report.records == whole.records and report.bad == whole.bad
        if not killed:
            break
    assert number > 20


def test_what_is_there_is_not_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "SHARD_RECORDS", 3)
    out, reads = tmp_path / "set", []
    counted = dies(lambda: pack_recordings(collection(tmp_path / "raw"), out), 24)
    done = list(json.loads((out / pack_folder.STATE).read_text())["tallies"])
    assert counted and done and not (out / "manifest.json").exists()
    report = pack_recordings(collection(tmp_path / "raw", reads), out)
    assert set(reads) == {name for name in PLAN if name not in done or name == "r2"} and report.kept > 0
    again = pack_recordings(collection(tmp_path / "raw", reads := []), out)
    assert reads == ["r2"] and again.kept == sum(again.records.values()) == sum(report.records.values())


def without_order(root):
    """What a manifest says apart from how records lie in shards."""
    made = json.loads((root / "manifest.json").read_text())
    return {name: made[name] for name in ("groups", "assignment", "split_hash", "modalities", "sources")}


def test_a_recording_that_failed_is_packed_once_its_file_is_whole_and_the_rest_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "SHARD_RECORDS", 5)
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    plan, failed = collection(tmp_path / "raw"), tmp_path / "failed" / "set"
    pack_recordings(plan, failed)
    before, reads = tree(failed), []
    (tmp_path / "raw" / "r2.raw").write_text("copied again")
    fresh = pack_recordings(plan, tmp_path / "fresh" / "set")
    for number in range(1, 30):  # killed on the way or not
        out = tmp_path / str(number) / "set"
        shutil.copytree(failed, out)
        killed = dies(lambda: pack_recordings(plan, out), number)  # noqa: B023 (called at once)
        report = pack_recordings(collection(tmp_path / "raw", reads), out)
        want = tree(out) if number == 1 else want
        assert tree(out) == want and report.records == fresh.records and report.bad == fresh.bad
        if not killed:
            break
    assert number > 5 and set(reads) == {"r2"}
    assert all(want[name] == data for name, data in before.items() if name.startswith("all-"))
    assert without_order(out) == without_order(tmp_path / "fresh" / "set") and not list(verify(out))
    assert {key for key in records(out, "kind") if key.startswith("r2-")} == {f"r2-w{n:05d}" for n in range(6)}


@pytest.mark.parametrize(("name", "text"), [("r4", "R4"), ("r4", "longer"), ("r5", "longer")])
def test_a_recording_that_was_not_whole_is_packed_anew_with_all_that_stands_after_it(tmp_path, monkeypatch, name, text):
    monkeypatch.setattr(packing, "SHARD_RECORDS", 4)
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    plan, out = collection(tmp_path / "raw"), tmp_path / "set"
    pack_recordings(plan, out)
    (tmp_path / "raw" / f"{name}.raw").write_text(text)
    pack_recordings(plan, tmp_path / "fresh" / "set")
    want = tree(tmp_path / "fresh" / "set")
    dies(lambda: pack_recordings(plan, out), 4)
    report = pack_recordings(plan, out)
    assert tree(out) == want and ("r4: breaks off" in report.bad) == (name != "r4")
    assert pack_recordings(plan, out).kept == sum(report.records.values())  # and stays


def test_a_recording_that_was_under_way_may_be_mended_too(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "SHARD_RECORDS", 3)
    plan, out = collection(tmp_path / "raw"), tmp_path / "set"
    dies(lambda: pack_recordings(plan, out), 7)
    assert json.loads((out / pack_folder.STATE).read_text())["at"] == ["r1", 3]
    (tmp_path / "raw" / "r1.raw").write_text("longer")
    pack_recordings(plan, tmp_path / "fresh" / "set")
    pack_recordings(plan, out)
    assert tree(out) == tree(tmp_path / "fresh" / "set")


def test_a_recording_that_is_tried_again_and_killed_is_held_against_its_new_files(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "SHARD_RECORDS", 2)
    plan, out = collection(tmp_path / "raw"), tmp_path / "set"
    pack_recordings(plan, out)
    (tmp_path / "raw" / "r2.raw").write_text("mended")
    done = len(list(out.glob("all-*.tar")))
    number = next(n for n in range(1, 40) if dies(lambda: pack_recordings(plan, out), n)
                  and len(list(out.glob("all-*.tar"))) > done + 1)
    digest = hashlib.sha256(b"mended").hexdigest()
    assert number > 1 and json.loads((out / pack_folder.STATE).read_text())["at"][0] == "r2"
    report = pack_recordings(replace(plan, checksums={"r2.raw": digest}), out)
    assert not any(line.startswith("r2") for line in report.bad) and len(records(out, "kind")) > 6


def test_a_file_behind_a_link_to_nowhere_is_listed_and_the_rest_is_packed(tmp_path):
    plan = collection(tmp_path / "raw")
    (tmp_path / "raw" / "r3.raw").unlink()
    (tmp_path / "raw" / "r3.raw").symlink_to(tmp_path / "nowhere")
    report = pack_recordings(plan, tmp_path / "set")
    assert any("r3.raw: cannot be read (No such file" in line for line in report.bad)
    assert {key.partition("-")[0] for key in records(tmp_path / "set", "kind")} == {"r1", "r4", "r5", "r6"}


def test_a_recording_that_is_new_is_added_and_one_that_is_gone_is_refused(tmp_path):
    plan, out = collection(tmp_path / "raw"), tmp_path / "part" / "set"
    few = collection(tmp_path / "raw", units=[*plan.units[:1], *plan.units[3:4], *plan.units[5:]])
    first = pack_recordings(few, out)
    before = tree(out)["all-000000.tar"]
    report = pack_recordings(plan, out)
    pack_recordings(plan, tmp_path / "fresh" / "set")
    assert report.kept == sum(first.records.values()) > 0 and tree(out)["all-000000.tar"] == before
    assert without_order(out) == without_order(tmp_path / "fresh" / "set")
    with pytest.raises(ConfigError, match="holds windows of r3, r5, which are not asked for now, not found, or named"):
        pack_recordings(few, out)


def test_a_recording_that_gives_less_than_was_packed_of_it_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "SHARD_RECORDS", 3)
    out = tmp_path / "set"
    dies(lambda: pack_recordings(collection(tmp_path / "raw"), out), 7)  # within r1
    assert json.loads((out / pack_folder.STATE).read_text())["at"] == ["r1", 3]
    sums = {"r1.raw": "0" * 64}
    with pytest.raises(DataError, match=r"r1: .*sha256 is .*\n.*holds 3 windows of r1, of which 0 can be made now"):
        pack_recordings(collection(tmp_path / "raw", checksums=sums), out)


def test_two_recordings_of_one_name_keep_their_windows(tmp_path):
    plan = collection(tmp_path / "raw")
    units = [replace(unit, name="same") for unit in plan.units if unit.name in ("r1", "r6")]
    report = pack_recordings(replace(plan, units=units, rule=lambda groups: SplitRule(test=["p4"])), tmp_path / "set")
    found = records(tmp_path / "set", "kind")
    assert [group for *_, group in found.values()] == ["p1"] * 6 + ["p4"] * 2
    assert report.records == {"train": 6, "test": 2}
    with pytest.raises(DataError, match=r"recording 'same \(of p1\)' is there twice, in r1\.raw and in r3\.raw"):
        units = [replace(unit, name="same") for unit in plan.units if unit.name in ("r1", "r3")]
        pack_recordings(replace(plan, units=units), tmp_path / "twice")


def test_keys_of_plain_names_are_those_names_and_others_stay_apart():
    assert [slug(name, "s") for name in ("SC4001", "a-b_c", "x" * 60)] == ["SC4001", "a-b_c", "x" * 60]
    names = ["Müller", "Möller", "M_ller", "Мария", "東京", "大阪", "p 1", "p.1", "x" * 61, "x" * 62, "__init"]
    keys = [slug(name, "s") for name in names]
    assert len(set(keys)) == len(keys) == len({key.encode("ascii") for key in keys})
    assert all(KEY.match(key) and len(key) <= 60 for key in keys) and slug("a b", "s") != slug("a b", "t")
    assert slug("Müller", "Müller").startswith("M_ller-")


def test_a_shard_that_nobody_wrote_down_goes_even_if_it_cannot_be_made_again(tmp_path):
    out = tmp_path / "set"
    pack_recordings(collection(tmp_path / "raw"), out)
    want = tree(out)
    for name in ("tar", "index.npz"):  # moved into place by an attempt that died before it could say so
        (out / f"all-000001.{name}").write_bytes((out / f"all-000000.{name}").read_bytes())
    pack_recordings(collection(tmp_path / "raw"), out)
    assert tree(out) == want


def test_the_manifest_tells_of_each_subject_what_its_records_hold(tmp_path):
    report = pack_recordings(collection(tmp_path / "raw"), tmp_path / "set")
    manifest, found = Manifest.load(tmp_path / "set"), records(tmp_path / "set", "kind")
    assert set(manifest.groups) == {"p1", "p2", "p3", "p4"} == {group for _, _, group in found.values()}
    for name, info in manifest.groups.items():
        mine = [(arrays, label) for arrays, label, group in found.values() if group == name]
        assert info.records == len(mine) and info.classes == {"kind": [sum(c == k for _, c in mine) for k in (0, 1)]}
        for modality in ("a", "b"):
            there = [arrays[modality].astype(np.float64) for arrays, _ in mine if modality in arrays]
            together = np.concatenate(there, 1)
            np.testing.assert_allclose(total([info.moments[modality]]).mean, together.mean(1), rtol=1e-12)
            np.testing.assert_allclose(total([info.moments[modality]]).std, together.std(1), rtol=1e-9)
    train = np.concatenate([arrays["a"] for arrays, _, group in found.values() if group in ("p1", "p2")], 1)
    np.testing.assert_allclose(manifest.modalities["a"].mean, train.mean(1, dtype=np.float64), rtol=1e-9)
    assert report.bad == ["r2: is no recording", "r4: breaks off", "r5: its last line is cut"]
    assert "b is missing from 1 of" in report.notes[0] and not list(verify(tmp_path / "set"))
    assert "all" in manifest.splits and len(Split(tmp_path / "set", "all")) == len(found)


def test_another_packing_is_refused_and_so_are_two_at_once(tmp_path):
    out = tmp_path / "set"
    pack_recordings(collection(tmp_path / "raw"), out)
    with pytest.raises(ConfigError, match="packed with other settings; choose an empty folder"):
        pack_recordings(collection(tmp_path / "raw", settings={"x": 2}), out)
    (tmp_path / "raw" / "r1.raw").write_text("longer than before")
    with pytest.raises(ConfigError, match=r"holds windows of r1, packed with other files \(r1\.raw\)"):
        pack_recordings(collection(tmp_path / "raw"), out)
    with pytest.raises(ConfigError, match=r"split\.test: no group is called 'p9'"):
        pack_recordings(collection(tmp_path / "raw", rule=lambda groups: SplitRule(test=["p9"])), tmp_path / "new")
    assert not (tmp_path / "new").exists()
    busy = tmp_path / "busy"
    with pack_folder.PackFolder(busy, {}, {}), pytest.raises(ConfigError, match="another process is packing"):
        pack_recordings(collection(tmp_path / "raw"), busy)


def test_a_split_that_lost_its_subject_is_said_after_packing_and_can_be_mended(tmp_path):
    plan, out = collection(tmp_path / "raw"), tmp_path / "set"
    only = [unit for unit in plan.units if unit.name in ("r1", "r2", "r4")]
    with pytest.raises(ConfigError, match=r"no group is called 'p2'.*\n.*left_out\.txt says what was left out"):
        pack_recordings(collection(tmp_path / "raw", units=only, rule=lambda groups: SplitRule(test=["p2"])), out)
    assert "r2: is no recording" in (out / "left_out.txt").read_text()
    report = pack_recordings(collection(tmp_path / "raw", units=only, rule=lambda groups: SplitRule(test=["p3"])), out)
    assert report.kept == sum(report.records.values()) > 0
