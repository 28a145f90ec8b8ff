"""A run that is killed, at any moment and as often as you like, ends as the one that was left alone, bit for bit."""

import contextlib
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from small_runs import CLIPS, SIGNALS, checkpoint, make_clips, make_signals, metrics, same_run, write_recipe
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
SETS = {"signals": (SIGNALS, make_signals), "clips": (CLIPS, make_clips)}


def live(words, log, dies_in=None):
    """One life of a run: `mmssl WORDS` in a process of its own, which kills itself within a save if it is told where.

    `dies_in` is ("write" | "fsync" | "replace", n): in the middle of the n-th checkpoint's bytes, or before they are
    safe, or before they take the old one's place.
    """
    from mmssl.cli import main
    torch.set_num_threads(1)
    with open(log, "a") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    if dies_in is not None:
        die_in_a_save(*dies_in)
    code = main([str(word) for word in words])
    sys.stdout.flush()
    os._exit(code)


def die_in_a_save(place, number):
    saves, save = [], torch.save

    def counted(tree, file):
        saves.append(0)
        if len(saves) == number and place == "write":
            file.write(b"PK half a checkpoint")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        save(tree, file)
        if len(saves) == number:
            setattr(os, place, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    torch.save = counted


@pytest.fixture(scope="module")
def start():
    """Starts lives, real processes, from a server that has imported everything, so that none costs imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mmssl.run", "mmssl.cli", "tensorboard", "small_runs"])
    lives = []

    def begin(log, *words, dies_in=None):
        lives.append(context.Process(target=live, args=(words, log, dies_in)))
        lives[-1].start()
        return lives[-1]
    yield begin
    for one in lives:
        with contextlib.suppress(ValueError):
            one.kill()


@pytest.fixture(scope="module")
def whole(tmp_path_factory, start):
    """By name of a set, a recipe and the folder of its uninterrupted run; made when first asked for."""
    made = {}

    def get(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            text, make = SETS[name]
            recipe = write_recipe(folder, text, make(folder / "set"))
            end(start(folder / "log", "fit", "--recipe", recipe, "--run-dir", folder / "run"), folder)
            made[name] = recipe, folder / "run"
        return made[name]
    return get


def end(one, folder, code=0):
    one.join(120)
    assert one.exitcode == code, (one.exitcode, (folder / "log").read_text()[-2000:])


def wait(one, happened):
    """Wait until something has happened, or the process is over; whether it lives."""
    until = time.monotonic() + 100
    while not happened() and alive(one) and time.monotonic() < until:
        time.sleep(0.002)
    return alive(one)


def alive(one):
    return one.is_alive() if hasattr(one, "is_alive") else one.poll() is None


def saves_seen(path):
    """A function that says how many times `path` has been replaced since."""
    seen = []

    def count():
        with contextlib.suppress(OSError):
            now = (path.stat().st_ino, path.stat().st_mtime_ns)
            if not seen or seen[-1] != now:
                seen.append(now)
        return len(seen)
    return count


def kill_after(one, run, saves, delay):
    """SIGKILL a life `delay` seconds after it has saved so many times."""
    count = saves_seen(run / "checkpoints" / "last.ckpt")
    before = count()
    if wait(one, lambda: count() >= before + saves):
        time.sleep(delay)
        os.kill(one.pid, signal.SIGKILL)


@pytest.mark.parametrize("name, workers, seed, saves", [
    ("signals", 0, 1, ("write", "replace")), ("signals", 2, 2, ("fsync", "write")),
    ("clips", 2, 3, ("replace", "write")), ("clips", 0, 4, ("write", "fsync"))])
def test_killed_again_and_again_it_ends_as_if_left_alone(tmp_path, start, whole, name, workers, seed, saves):
    """Before the run is set up, in the first save and in a later one, and three times wherever it happens to be."""
    recipe, reference = whole(name)
    run, log, rng, killed = tmp_path / "run", tmp_path / "log", random.Random(seed), 0
    first = start(log, "fit", "--recipe", recipe, "--run-dir", run, f"data.workers={workers}")
    wait(first, (run / "log.txt").exists)
    time.sleep(rng.uniform(0, 0.1))
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    killed += first.exitcode == -signal.SIGKILL
    again = ("fit", "--resume", run, f"data.workers={workers}")
    for place, number in zip(saves, (1, rng.randint(2, 3)), strict=True):
        one = start(log, *again, dies_in=(place, number))
        end(one, tmp_path, -signal.SIGKILL)
        assert list((run / "checkpoints").glob(".*.part"))
        killed += 1
    for _ in range(3):
        one = start(log, *again)
        kill_after(one, run, rng.randint(1, 2), rng.uniform(0, 0.05))
        one.join()
        killed += one.exitcode == -signal.SIGKILL
    end(start(log, *again), tmp_path)
    assert killed >= 5
    assert not same_run(reference, run)
    rows = [(row["step"], "split" in row) for row in metrics(run)]
    assert rows == sorted(set(rows)) and rows[-1][0] == checkpoint(run)["global_step"]
    drawn = [e.step for e in EventAccumulator(str(run / "tensorboard")).Reload().Scalars("train/loss")]
    assert drawn == sorted(set(drawn)) and set(drawn) <= {step for step, held_out in rows if not held_out}
    assert checkpoint(run)["epoch"] >= 2 and not list((run / "checkpoints").glob(".*"))


def test_the_command_itself_killed_and_resumed(tmp_path, whole):
    """`python -m mmssl`, as it is typed, in processes of their own from the first import on."""
    recipe, reference = whole("signals")
    run, environment = tmp_path / "run", {**os.environ, "OMP_NUM_THREADS": "1"}
    command, here = [sys.executable, "-m", "mmssl", "fit"], Path(__file__).parents[1]
    with open(tmp_path / "log", "w") as log:
        one = subprocess.Popen([*command, "--recipe", recipe, "--run-dir", run], cwd=here, env=environment,
                               stdout=log, stderr=log)
        kill_after(one, run, 3, 0.01)
        assert one.wait() == -signal.SIGKILL
        last = subprocess.run([*command, "--resume", run], cwd=here, env=environment, stdout=log, stderr=log,
                              timeout=120)
    assert last.returncode == 0, (tmp_path / "log").read_text()
    assert not same_run(reference, run)


@pytest.mark.parametrize("signum, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_says_how_to_go_on_and_loses_nothing(tmp_path, start, whole, signum, code):
    recipe, reference = whole("signals")
    run, log = tmp_path / "run", tmp_path / "log"
    one = start(log, "fit", "--recipe", recipe, "--run-dir", run, "trainer.checkpoint_every=100")
    assert wait(one, (run / "metrics.jsonl").exists)
    os.kill(one.pid, signum)
    end(one, tmp_path, code)
    stopped = checkpoint(run)["global_step"]
    said = log.read_text()
    by = " by SIGTERM" if signum == signal.SIGTERM else ""
    assert f"mmssl: stopped{by} after step {stopped}; continue with: mmssl fit --resume {run}\n" in said
    assert 4 <= stopped < 18 and "Traceback" not in said and "Error" not in said
    end(start(log, "fit", "--resume", run, "trainer.checkpoint_every=100"), tmp_path)
    assert not same_run(reference, run)


def test_weights_it_started_from_are_not_lost_with_a_kill_before_the_first_checkpoint(tmp_path, start, whole):
    recipe, reference = whole("signals")
    other = tmp_path / "other.ckpt"
    shutil.copy(reference / "checkpoints" / "last.ckpt", other)
    words = ("fit", "--recipe", recipe, "--init-from", other, "seed=5", "trainer.max_steps=3")
    end(start(tmp_path / "log", *words, "--run-dir", tmp_path / "one", "trainer.max_steps=1"), tmp_path)
    given, first = (checkpoint(run)["state_dict"] for run in (reference, tmp_path / "one"))  # its learning rate is 0
    assert all(torch.equal(given[k], first[k]) for k in given if k.endswith(("weight", "bias")))
    end(start(tmp_path / "log", *words, "--run-dir", tmp_path / "whole"), tmp_path)
    one = start(tmp_path / "log", *words, "--run-dir", tmp_path / "cut", dies_in=("write", 1))
    end(one, tmp_path, -signal.SIGKILL)
    other.unlink()
    end(start(tmp_path / "log", "fit", "--resume", tmp_path / "cut"), tmp_path)
    assert not same_run(tmp_path / "whole", tmp_path / "cut")
    assert "weights from " + str(other) in (tmp_path / "log").read_text()


def test_a_run_that_is_over_can_be_resumed_and_stays_as_it_is(tmp_path, start, whole):
    _, reference = whole("signals")
    run = tmp_path / "run"
    shutil.copytree(reference, run)
    before = (run / "metrics.jsonl").read_bytes()
    end(start(tmp_path / "log", "fit", "--resume", run), tmp_path)
    assert not same_run(reference, run) and (run / "metrics.jsonl").read_bytes() == before
    assert re.search(r"all \d+ steps are done; to train on, add trainer.max_steps=", (tmp_path / "log").read_text())
