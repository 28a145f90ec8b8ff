"""Checkpoint files: whole or absent whatever happens in a save, and refused by name where they claim too much."""

import os
import resource
import signal
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from mmssl.callbacks import FORMAT, AtomicIO, read_checkpoint
from mmssl.callbacks.checkpoint_files import check_plain
from mmssl.errors import DataError, StorageError

GOOD = {"state_dict": {"w": torch.arange(12.0).reshape(3, 4)}, "epoch": 2, "callbacks": {"x": {"best": None}}}


def test_what_is_written_is_read_back_with_its_format(tmp_path):
    path = tmp_path / "new" / "a.ckpt"
    AtomicIO().save_checkpoint(GOOD, path)
    content = AtomicIO().load_checkpoint(path)
    assert torch.equal(content["state_dict"]["w"], GOOD["state_dict"]["w"]) and content["format_version"] == FORMAT
    assert content["callbacks"] == GOOD["callbacks"] and os.listdir(path.parent) == ["a.ckpt"]
    assert torch.equal(torch.load(path, weights_only=True)["state_dict"]["w"], GOOD["state_dict"]["w"])
    AtomicIO().remove_checkpoint(path)
    AtomicIO().remove_checkpoint(path)
    assert not path.exists()


def test_a_full_disk_leaves_the_old_checkpoint_and_nothing_else(tmp_path):
    path = tmp_path / "a.ckpt"
    AtomicIO().save_checkpoint(GOOD, path)
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))  # the kernel refuses to write on, as on a full disk
    try:
        with pytest.raises(StorageError, match=r"a\.ckpt: could not be written.*Free some space"):
            AtomicIO().save_checkpoint({"w": torch.zeros(100_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.ckpt"]


@pytest.mark.parametrize("refusing", ["fsync", "replace"])
def test_a_disk_that_refuses_late_is_reported_too(tmp_path, monkeypatch, refusing):
    path = tmp_path / "a.ckpt"
    AtomicIO().save_checkpoint(GOOD, path)
    def refuse(*_):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(os, refusing, refuse)
    with pytest.raises(StorageError, match="No space left on device"):
        AtomicIO().save_checkpoint({**GOOD, "epoch": 3}, path)
    monkeypatch.undo()
    assert read_checkpoint(path)["epoch"] == 2 and os.listdir(tmp_path) == ["a.ckpt"]


@pytest.mark.parametrize("dies_in", ["write", "fsync", "replace"])
def test_sigkill_in_a_save_leaves_the_old_checkpoint(tmp_path, monkeypatch, dies_in):
    path = tmp_path / "a.ckpt"
    AtomicIO().save_checkpoint(GOOD, path)
    child = os.fork()
    if not child:
        def die(*_, **__):
            os.kill(os.getpid(), signal.SIGKILL)
        if dies_in == "write":
            torch.save = lambda tree, file: (file.write(b"half"), file.flush(), die())
        else:
            setattr(os, dies_in, die)
        AtomicIO().save_checkpoint({**GOOD, "epoch": 3}, path)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert read_checkpoint(path)["epoch"] == 2
    AtomicIO().save_checkpoint({**GOOD, "epoch": 3}, path)
    assert read_checkpoint(path)["epoch"] == 3 and os.listdir(tmp_path) == ["a.ckpt"]  # the remains were written over


def test_the_order_is_write_sync_rename_sync_folder(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda h: (calls.append(("fsync", os.readlink(f"/proc/self/fd/{h}"))), fsync(h)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append(("replace", str(a), str(b))), replace(a, b)))
    path, beside = tmp_path / "a.ckpt", str(tmp_path / ".a.ckpt.part")
    AtomicIO().save_checkpoint(GOOD, path)
    assert calls == [("fsync", beside), ("replace", beside, str(path)), ("fsync", str(tmp_path))]


def broken_files(folder: Path) -> dict[str, Path]:
    good = folder / "good.ckpt"
    AtomicIO().save_checkpoint(GOOD, good)
    data = good.read_bytes()
    names = ("missing", "short", "empty", "text", "flipped", "code", "foreign", "newer", "zip", "list")
    found = {name: folder / f"{name}.ckpt" for name in names}
    found["short"].write_bytes(data[:len(data) // 2])
    found["empty"].write_bytes(b"")
    found["text"].write_text("step,loss\n1,2\n")
    place = data.index(GOOD["state_dict"]["w"].numpy().tobytes()) + 8
    found["flipped"].write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1:])
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(folder / "ran"),)
    torch.save({"format_version": 1, "x": Bomb()}, found["code"])
    torch.save({"state_dict": {"w": torch.zeros(2)}}, found["foreign"])
    torch.save({"format_version": FORMAT + 1}, found["newer"])
    with zipfile.ZipFile(found["zip"], "w") as archive:
        archive.writestr("readme", "no weights")
    torch.save([1, 2], found["list"])
    return found


@pytest.mark.parametrize("name, message", [
    ("missing", "no such checkpoint"), ("short", "not a checkpoint, or cut short"), ("empty", "not a checkpoint"),
    ("text", "not a checkpoint"), ("flipped", "checksum differs"), ("code", "objects that only code could restore"),
    ("foreign", "not a checkpoint of mmssl.*--init-from"), ("newer", f"format {FORMAT + 1}.*reads up to {FORMAT}"),
    ("zip", "no checkpoint that torch can read"), ("list", "not a checkpoint of mmssl")])
def test_each_bad_file_is_refused_by_name_and_runs_nothing(tmp_path, name, message):
    path = broken_files(tmp_path)[name]
    with pytest.raises(DataError, match=message) as error:
        AtomicIO().load_checkpoint(path, weights_only=False)  # not even when asked to
    assert str(path) in str(error.value) and not (tmp_path / "ran").exists()


def test_a_foreign_file_of_weights_can_be_read_when_asked_for(tmp_path):
    found = broken_files(tmp_path)
    assert read_checkpoint(found["foreign"], foreign=True)["state_dict"]["w"].tolist() == [0, 0]
    for name in ("code", "newer", "short"):
        with pytest.raises(DataError):
            read_checkpoint(found[name], foreign=True)


def test_too_large_a_file_is_refused_by_what_it_would_become(tmp_path):
    AtomicIO().save_checkpoint({"w": torch.zeros(10_000)}, tmp_path / "a.ckpt")
    with pytest.raises(DataError, match=r"bytes, more than the 20000"):
        AtomicIO(limit=20_000).load_checkpoint(tmp_path / "a.ckpt")
    assert AtomicIO(limit=60_000).load_checkpoint(tmp_path / "a.ckpt")["w"].shape == (10_000,)
    with zipfile.ZipFile(tmp_path / "bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.pkl", bytes(1_000_000))
    assert (tmp_path / "bomb.ckpt").stat().st_size < 20_000
    with pytest.raises(DataError, match="more than the 20000"):
        AtomicIO(limit=20_000).load_checkpoint(tmp_path / "bomb.ckpt")


@pytest.mark.parametrize("thing, place", [
    ({"a": {"b": [1, np.float64(2)]}}, r"checkpoint\['a'\]\['b'\]\[1\] is a numpy.float64"),
    ({"a": Path("x")}, r"checkpoint\['a'\] is a pathlib"),
    ({"a": {np.int64(1): 2}}, r"the key np.int64\(1\) of checkpoint\['a'\]"),
    ({"a": lambda: 0}, "function")])
def test_what_could_not_be_read_back_is_refused_before_writing(tmp_path, thing, place):
    with pytest.raises(TypeError, match=place):
        AtomicIO().save_checkpoint(thing, tmp_path / "a.ckpt")
    assert not os.listdir(tmp_path)


def test_every_plain_thing_is_read_back(tmp_path):
    thing = {"a": [1, 2.5, True, None, "x", b"y", (1, 2), {3}, torch.float16, torch.device("cpu"), torch.Size([2])],
             1: {"z": torch.nn.Parameter(torch.ones(2))}}
    check_plain(thing)
    AtomicIO().save_checkpoint(thing, tmp_path / "a.ckpt")
    back = read_checkpoint(tmp_path / "a.ckpt")
    assert back["a"] == thing["a"] and back[1]["z"].tolist() == [1, 1]
