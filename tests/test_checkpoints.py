"""A run continues exactly from any of its checkpoints, however it was stopped; and its best is kept."""

import os
import shutil
import signal
import threading
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from tiny_run import HeldOut, TinyLoader, TinyModule, lines, quiet, run, standard

from mmssl.callbacks import FORMAT, Checkpoints, MetricsWriter, read_checkpoint
from mmssl.errors import ConfigError, DataError, StorageError, TooManyBadSamples

pytestmark = pytest.mark.filterwarnings("ignore")
__all__ = ["quiet"]


def clockless(folder: Path) -> list[dict]:
    """Metrics without what a clock says."""
    return [{k: v for k, v in row.items() if k not in ("samples_per_s", "data_wait")} for row in lines(folder)]


def same_weights(a: TinyModule, b: TinyModule) -> bool:
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


def step_in(path: Path) -> int:
    return read_checkpoint(path)["global_step"]


class Keep(Checkpoints):
    """Keeps a copy of every `last.ckpt`."""

    def _save_last(self, trainer):
        super()._save_last(trainer)
        shutil.copy(self.last, self.last.with_name(f"step{trainer.global_step}.ckpt"))


@pytest.mark.parametrize("accumulate, val", [(1, None), (1, 5), (1, 2), (2, 4), (3, 2)])
def test_a_run_continues_exactly_from_any_step(tmp_path, accumulate, val):
    """Mid-epoch, at its end, before and after validations, between accumulated gradients: weights, batches,
    validations and metrics of the rest are those of the uninterrupted run."""
    monitor = "val/size" if val else None
    how = {"val": val, "accumulate": accumulate}
    folder = tmp_path / "whole"
    whole, _ = run(folder, [Keep(folder, 1, monitor), MetricsWriter(folder, 3)], **how)
    for step in (1, 4, 5, 6, 9, 10, 11):
        folder = tmp_path / str(step)
        folder.mkdir()
        shutil.copy(tmp_path / "whole" / "metrics.jsonl", folder)
        rest, _ = run(folder, standard(folder, monitor=monitor),
                      resume=tmp_path / "whole" / "checkpoints" / f"step{step}.ckpt", **how)
        assert rest.trace and rest.trace == whole.trace[-len(rest.trace):], step
        assert rest.trace[0][3] == step  # it starts where the checkpoint says, not earlier
        assert same_weights(whole, rest) and clockless(folder) == clockless(tmp_path / "whole"), step


def test_a_run_stopped_after_every_step_is_the_uninterrupted_one(tmp_path):
    whole, _ = run(tmp_path / "whole", standard(tmp_path / "whole"), val=5)
    class Stop(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if self.steps and trainer.global_step == self.first + 1:
                raise RuntimeError("stop")
            self.first, self.steps = trainer.global_step if not self.steps else self.first, True
    folder, trace, last = tmp_path / "often", [], None
    for _ in range(12):
        stop, module = Stop(), TinyModule()
        stop.steps, stop.first = False, 0
        try:
            run(folder, [stop, *standard(folder)], module, resume=last, val=5)
        except RuntimeError:
            pass
        trace += module.trace
        last = folder / "checkpoints" / "last.ckpt"
    assert trace == whole.trace and same_weights(whole, module) and clockless(folder) == clockless(tmp_path / "whole")


def test_a_longer_run_continues_from_the_end_of_a_shorter_one(tmp_path):
    whole, _ = run(tmp_path / "long", standard(tmp_path / "long", log_every=4), val=5, steps=17)
    run(tmp_path / "short", standard(tmp_path / "short", every=100, log_every=4), val=5, steps=11)
    assert [row["step"] for row in clockless(tmp_path / "short")] == [4, 5, 8, 10, 11]
    rest, _ = run(tmp_path / "short", standard(tmp_path / "short", log_every=4), val=5, steps=17,
                  resume=tmp_path / "short" / "checkpoints" / "last.ckpt")
    assert rest.trace == whole.trace[-len(rest.trace):] and rest.trace[0][3] == 11
    assert same_weights(whole, rest) and clockless(tmp_path / "short") == clockless(tmp_path / "long")


@pytest.mark.parametrize("epoch, position, saved, accumulate", [
    (0, 3, 3, 1), (1, 0, 5, 1), (1, 2, 7, 1), (1, 1, 2, 2), (1, 2, 4, 2), (2, 4, 8, 2)])
def test_data_that_fails_is_answered_by_a_checkpoint(tmp_path, epoch, position, saved, accumulate):
    """Of the last whole step; at the first batch of an epoch too; within accumulated gradients the older one stays."""
    fails = TinyLoader(fails_at=lambda e, p: TooManyBadSamples("2 of 100") if (e, p) == (epoch, position) else None)
    how = {"val": 5, "accumulate": accumulate}
    whole, _ = run(tmp_path / "whole", standard(tmp_path / "whole"), **how)
    with pytest.raises(TooManyBadSamples):
        run(tmp_path / "cut", standard(tmp_path / "cut", every=2 if accumulate > 1 else 100), loader=fails, **how)
    last = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    assert step_in(last) == saved
    rest, _ = run(tmp_path / "cut", standard(tmp_path / "cut"), resume=last, **how)
    assert rest.trace == whole.trace[-len(rest.trace):] and rest.trace[0][3] == saved
    assert same_weights(whole, rest) and clockless(tmp_path / "cut") == clockless(tmp_path / "whole")


@pytest.mark.parametrize("signum, leaves, name", [(signal.SIGINT, SystemExit, "KeyboardInterrupt"),
                                                  (signal.SIGTERM, SystemExit, "SIGTERMException")])
@pytest.mark.parametrize("where, call, saved", [("train", 7, 7), ("train", 5, 5), ("train", 6, 6), ("val", 2, 5)])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_signal_ends_the_run_after_the_step_it_hit(tmp_path, signum, leaves, name, where, call, saved, accumulate):
    """In the middle of a forward pass, in a step that a validation follows, in a validation: nothing half done is
    saved, nothing done is lost."""
    seen = []
    class Watch(Callback):
        def on_exception(self, trainer, module, exception):
            seen.append(type(exception).__name__)
    module, calls, before = TinyModule(), {"train": 0, "val": 0}, signal.getsignal(signum)
    def interrupt(module, at):
        calls[at] += 1
        if (at, calls[at]) == (where, call):
            signal.raise_signal(signum)
    module.interrupt = interrupt
    how = {"val": 5, "accumulate": accumulate}
    whole, _ = run(tmp_path / "whole", standard(tmp_path / "whole"), **how)
    with pytest.raises(leaves):
        run(tmp_path / "cut", [Watch(), *standard(tmp_path / "cut", every=100)], module, **how)
    assert seen == [name] and signal.getsignal(signum) == before
    last = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    stopped = step_in(last)
    assert stopped == saved or accumulate > 1
    rest, _ = run(tmp_path / "cut", standard(tmp_path / "cut"), resume=last, **how)
    assert rest.trace[0][3] == stopped and module.trace + rest.trace == whole.trace
    assert same_weights(whole, rest) and clockless(tmp_path / "cut") == clockless(tmp_path / "whole")


def test_a_second_signal_stops_at_once_and_saves_nothing_half_done(tmp_path):
    module = TinyModule()
    def interrupt(module, at):
        if at == "train" and module.global_step == 7:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
    module.interrupt = interrupt
    with pytest.raises(SystemExit):
        run(tmp_path, standard(tmp_path, every=3), module)
    assert step_in(tmp_path / "checkpoints" / "last.ckpt") == 6 and len(module.trace) == 8


def test_any_other_error_in_a_step_keeps_the_last_checkpoint(tmp_path):
    module = TinyModule()
    def interrupt(module, at):
        if module.global_step == 7:
            raise DataError("in the middle of a step")
    module.interrupt = interrupt
    with pytest.raises(DataError):
        run(tmp_path, standard(tmp_path, every=3), module)
    assert step_in(tmp_path / "checkpoints" / "last.ckpt") == 6


def test_held_out_data_that_fails_costs_that_validation_alone(tmp_path):
    whole, _ = run(tmp_path / "whole", standard(tmp_path / "whole"), val=5)
    with pytest.raises(TooManyBadSamples):
        run(tmp_path / "cut", standard(tmp_path / "cut", every=5), val=5, held_out=HeldOut(TooManyBadSamples("2 of 9")))
    last = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    assert step_in(last) == 5
    rest, _ = run(tmp_path / "cut", standard(tmp_path / "cut"), val=5, resume=last)
    assert rest.trace == whole.trace[-len(rest.trace):] and rest.trace[0][:4] == ("train", 1, 0, 5)
    assert same_weights(whole, rest)
    assert clockless(tmp_path / "cut") == [
        row for row in clockless(tmp_path / "whole") if (row["step"], "split" in row) != (5, True)]


def test_an_error_within_a_validation_step_keeps_the_last_checkpoint(tmp_path):
    module = TinyModule()
    def interrupt(module, at):
        if at == "val" and module.global_step == 10:
            raise DataError("in the middle of a validation step")
    module.interrupt = interrupt
    with pytest.raises(DataError):
        run(tmp_path, standard(tmp_path, every=5), module, val=5)
    assert step_in(tmp_path / "checkpoints" / "last.ckpt") == 5


def test_a_full_disk_stops_the_run_and_is_not_tried_again(tmp_path, monkeypatch):
    saves = []
    def save(tree, file):
        saves.append(tree["global_step"])
        if len(saves) > 1:
            file.write(b"half")
            raise OSError(28, "No space left on device")
        file.write(b"whole")
    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(StorageError, match=r"last\.ckpt: could not be written \(No space left"):
        run(tmp_path, standard(tmp_path, every=3))
    assert saves == [3, 6] and os.listdir(tmp_path / "checkpoints") == ["last.ckpt"]
    assert (tmp_path / "checkpoints" / "last.ckpt").read_bytes() == b"whole"


def test_last_is_saved_every_n_steps_and_at_the_end(tmp_path):
    for steps, expected in ((12, [5, 10, 12]), (10, [5, 10])):
        folder = tmp_path / str(steps)
        run(folder, [Keep(folder, every=5)], steps=steps)
        assert sorted(int(p.stem[4:]) for p in (folder / "checkpoints").glob("step*")) == expected
        assert step_in(folder / "checkpoints" / "last.ckpt") == expected[-1]


def test_a_run_that_ends_by_epochs_or_early_is_saved_at_its_end(tmp_path):
    class Enough(Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.should_stop = trainer.global_step == 3
    run(tmp_path / "early", [Enough(), *standard(tmp_path / "early", every=100)])
    assert step_in(tmp_path / "early" / "checkpoints" / "last.ckpt") == 3


def test_empty_validation_does_not_keep_a_run_from_being_saved(tmp_path):
    run(tmp_path, standard(tmp_path, every=5), val=5, limit_val_batches=0)
    assert step_in(tmp_path / "checkpoints" / "last.ckpt") == 12


def run_with_values(folder, values, mode, steps=12, resume=None, **settings):
    """Validate after every step, with these values of val/score."""
    class Score(TinyModule):
        def on_validation_epoch_end(self):
            self.log("val/score", torch.tensor(values[self.global_step - 1]))
    keeper = Checkpoints(folder, every=1, monitor="val/score", mode=mode)
    run(folder, [keeper, MetricsWriter(folder, 3)], Score(), val=1, steps=steps, resume=resume, **settings)
    return keeper


NAN = float("nan")


@pytest.mark.parametrize("values, mode, best", [
    ([1, 3, 2, 3, 0, NAN], "max", 2), ([NAN, 3, 2, 3, 2, 4], "min", 3), ([5, 5, 5, 5, 5, 5], "max", 1)])
def test_best_is_the_first_best_value(tmp_path, values, mode, best):
    values = [float(v) for v in values]
    keeper = run_with_values(tmp_path, values, mode, steps=6)
    assert (keeper.best_step, keeper.best_value) == (best, values[best - 1]) and step_in(keeper.best) == best
    assert torch.load(keeper.best, weights_only=True)["callbacks"]["Checkpoints"]["best_step"] == best


def test_best_is_remembered_across_a_resume(tmp_path):
    run_with_values(tmp_path, [1.0, 9, 3], "max", steps=3)
    last = tmp_path / "checkpoints" / "last.ckpt"
    keeper = run_with_values(tmp_path, [1.0, 9, 3, 4, 8, 2], "max", steps=6, resume=last)
    assert (keeper.best_step, keeper.best_value) == (2, 9.0) and step_in(keeper.best) == 2


@pytest.mark.parametrize(("state", "best"), [({}, 9.0), ({"monitor": "val/size", "mode": "max"}, 9.0),
                                             ({"monitor": "val/other", "mode": "max"}, None),
                                             ({"monitor": "val/size", "mode": "min"}, None)])
def test_the_best_by_another_metric_is_nothing_to_better(tmp_path, state, best):
    keeper = Checkpoints(tmp_path, monitor="val/size", mode="max")
    keeper.load_state_dict({"best_value": 9.0, "best_step": 2, **state})
    assert keeper.best_value == best and keeper.best_step == (2 if best else None)
    assert keeper.state_dict()["monitor"] == "val/size" and keeper.state_dict()["mode"] == "max"


def test_no_monitor_no_best(tmp_path):
    run(tmp_path, standard(tmp_path), val=5)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["last.ckpt"]


def test_an_unknown_metric_or_setting_is_named_with_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match=r"no validation metric is called 'val/sise'; .*'val/size'.*--resume"):
        run(tmp_path, standard(tmp_path, monitor="val/sise"), val=5)
    for wrong in ({"every": 0}, {"mode": "best"}):
        with pytest.raises(Exception) as error:
            Checkpoints(tmp_path, **wrong)
        assert isinstance(error.value, ConfigError) or "jaxtyp" in type(error.value).__module__


def test_the_sanity_pass_saves_nothing(tmp_path):
    keeper = Checkpoints(tmp_path, every=100, monitor="val/size")
    run(tmp_path, [keeper, MetricsWriter(tmp_path, 100)], val=5, num_sanity_val_steps=2, steps=4)
    assert keeper.best_value is None and not keeper.best.exists()


def test_a_trainer_without_atomic_files_is_given_them(tmp_path):
    trainer = lightning.Trainer(max_steps=2, accelerator="cpu", logger=False, callbacks=[Checkpoints(tmp_path)],
                                enable_progress_bar=False, enable_model_summary=False)
    trainer.fit(TinyModule(), TinyLoader())
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["format_version"] == FORMAT


def test_elsewhere_than_in_the_main_thread_signals_stay_as_they_are(tmp_path):
    before, failed = signal.getsignal(signal.SIGINT), []
    def work():
        try:
            run(tmp_path, standard(tmp_path))
        except BaseException as error:
            failed.append(error)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failed and signal.getsignal(signal.SIGINT) == before
    assert step_in(tmp_path / "checkpoints" / "last.ckpt") == 12
