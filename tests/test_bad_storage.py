"""A disk that takes no more, and checkpoints that are none: refused by name, with nothing lost and nothing run."""

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_runs import checkpoint, fit, good, mmssl, one_message, run_copy, same_run

__all__ = ["good", "run_copy"]
pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_full_disk_stops_with_its_name_and_the_run_goes_on(capsys, tmp_path, good):
    size = (good / "run" / "checkpoints" / "last.ckpt").stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1000, limits[1]))
    try:
        code, _, err = fit(capsys, tmp_path, good / "recipe.yaml")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 5
    one_message(err, "last.ckpt: could not be written (File too large)", "Free some space",
                f"continue with: mmssl fit --resume {tmp_path / 'run'}")
    assert mmssl(capsys, "fit", "--resume", tmp_path / "run")[0] == 0
    assert not same_run(good / "run", tmp_path / "run")


@pytest.fixture
def tiny_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48k", "none", disk],
                                      capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.parametrize("kib", [8, 60, 130, 260])
def test_a_disk_that_is_full_at_any_point(capsys, tiny_disk, good, kib):
    """A real file system, full while the folder is made, while metrics, events or a checkpoint is written."""
    subprocess.run(["mount", "-o", f"remount,size={kib}k", tiny_disk], check=True)
    code, _, err = mmssl(capsys, "fit", "--recipe", good / "recipe.yaml", "--run-dir", tiny_disk / "run")
    assert code == 5 and "Logging error" not in err
    one_message(err, str(tiny_disk / "run"), "No space left on device")
    if (tiny_disk / "run" / "checkpoints" / "last.ckpt").exists():
        assert 0 < checkpoint(tiny_disk / "run")["global_step"] <= 6
    subprocess.run(["mount", "-o", "remount,size=8m", tiny_disk], check=True)
    if (tiny_disk / "run" / "recipe.yaml").exists():
        assert mmssl(capsys, "fit", "--resume", tiny_disk / "run")[0] == 0
        assert not same_run(good / "run", tiny_disk / "run")


def test_output_that_nobody_can_take(good):
    command = [sys.executable, "-m", "mmssl", "recipes", "list"]
    here = Path(__file__).parents[1]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=here, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 5 and done.stderr.startswith("mmssl: the output: No space left on device; free some")
    assert done.stderr.count("\n") == 1


class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def bad_checkpoints(folder: Path, good: Path) -> dict[str, tuple[Path, str]]:
    data = good.read_bytes()
    found = {name: folder / f"{name}.ckpt" for name in ("truncated", "pickled", "none", "list", "other")}
    found["truncated"].write_bytes(data[:len(data) // 2])
    torch.save({"state_dict": Bomb(folder / "ran")}, found["pickled"])
    torch.save([1, 2], found["list"])
    torch.save({"format_version": 1, "state_dict": {"w": torch.zeros(2)}}, found["other"])
    said = {"truncated": "cut short", "pickled": "holds objects that only code could restore",
            "list": "not a checkpoint", "none": "no such checkpoint", "other": "fit"}
    return {name: (path, said[name]) for name, path in found.items()}


@pytest.mark.parametrize("name", ["truncated", "pickled", "none", "list", "other"])
def test_a_checkpoint_that_is_none_is_refused_and_runs_nothing(capsys, tmp_path, good, run_copy, name):
    path, said = bad_checkpoints(tmp_path, good / "run" / "checkpoints" / "last.ckpt")[name]
    code, _, err = mmssl(capsys, "fit", "--recipe", good / "recipe.yaml", "--run-dir", tmp_path / "new",
                         "--init-from", path)
    assert code == (2 if name == "other" else 4) and not (tmp_path / "new").exists()
    one_message(err, f"{path}: ", said)
    out = tmp_path / "f.npz"
    code, _, err = mmssl(capsys, "embed", "--run", run_copy, "--data", good / "set", "--checkpoint", path, "--out", out)
    assert code == 4 and not out.exists()
    one_message(err, f"{path}: ", said)
    if name != "none":
        last = run_copy / "checkpoints" / "last.ckpt"
        shutil.copy(path, last)
        code, _, err = mmssl(capsys, "fit", "--resume", run_copy)
        assert code == 4 and last.read_bytes() == path.read_bytes()
        one_message(err, f"{last}: ")
    assert not (tmp_path / "ran").exists()


def test_init_from_says_what_matched(capsys, tmp_path, good):
    last = good / "run" / "checkpoints" / "last.ckpt"
    code, out, _ = fit(capsys, tmp_path, good / "recipe.yaml", "--init-from", last, "trainer.max_steps=1",
                       "modalities.gyro.channels=2", "data.bad_samples=1.0", "modalities.gyro.seconds=1.0")
    total = len(checkpoint(good / "run")["state_dict"])
    assert code == 3 or code == 0
    assert f"weights from {last}: {total - 1} of {total} tensors matched" in out
    assert "1 of another shape, kept as drawn: encoders.gyro." in out
    torch.save({"something": torch.zeros(3)}, tmp_path / "x.pt")
    code, _, err = mmssl(capsys, "fit", "--recipe", good / "recipe.yaml", "--run-dir", tmp_path / "no",
                         "--init-from", tmp_path / "x.pt")
    assert code == 2 and not (tmp_path / "no").exists()
    one_message(err, f"{tmp_path / 'x.pt'}: none of its 1 tensors fits this model ({total} tensors)")
