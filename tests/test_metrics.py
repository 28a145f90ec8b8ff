"""Metrics of a run: means, clocks, resumes, half-written lines and full disks, with a real Trainer."""

import io
import json
import resource
import sys
import time

import lightning
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from tiny_run import BATCHES, ROWS, Recorder, TinyLoader, TinyModule, lines, make_batch, quiet, run

from mmssl.callbacks import Checkpoints, MetricsWriter, Progress, ValidationMonitor
from mmssl.callbacks.metrics import cut_after, window_means
from mmssl.callbacks.pace import Pace
from mmssl.errors import ConfigError, StorageError

pytestmark = pytest.mark.filterwarnings("ignore")
__all__ = ["quiet"]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_line_holds_the_means_of_its_window(tmp_path, accumulate):
    seen = Recorder()
    run(tmp_path, [seen, MetricsWriter(tmp_path, every=4)], steps=10, accumulate=accumulate)
    rows = lines(tmp_path)
    assert [row["step"] for row in rows] == [4, 8, 10]  # the last window is shorter
    batches = {1: [(0, 4), (4, 8), (8, 10)], 2: [(0, 7), (7, 14), (14, 17)]}[accumulate]  # an epoch's 5th steps alone
    for row, (a, b) in zip(rows, batches, strict=True):
        for name in ("loss", "first"):
            assert row[name] == pytest.approx(sum(p[name] for p in seen.parts[a:b]) / (b - a), rel=1e-6)
    assert [row["lr"] for row in rows] == [seen.lr[3], seen.lr[7], seen.lr[9]]
    assert rows[0]["lr"] != rows[1]["lr"]
    assert [row["epoch"] for row in rows] == ([0, 1, 1] if accumulate == 1 else [1, 2, 3])


def test_speed_and_wait_come_from_the_loader(tmp_path):
    run(tmp_path, [MetricsWriter(tmp_path, every=5)], steps=5)
    row = lines(tmp_path)[0]
    assert row["samples_per_s"] > 0 and 0 < row["data_wait"] <= 1


def test_a_plain_loader_has_no_wait(tmp_path):
    class Plain:
        def __len__(self):
            return BATCHES
        def __iter__(self):
            return iter([make_batch(0, i) for i in range(BATCHES)])
    run(tmp_path, [MetricsWriter(tmp_path, every=5)], steps=5, loader=Plain())
    assert "data_wait" not in lines(tmp_path)[0] and lines(tmp_path)[0]["samples_per_s"] > 0


def test_pace_leaves_out_pauses_and_counts_all_devices(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    loader = TinyLoader()
    pace = Pace(loader, world=3)
    pace.count(None)
    pace.count(None)
    clock[0], loader.wait_seconds = 104.0, 1.0
    pace.pause()
    clock[0] = 200.0
    pace.go_on()
    assert pace.read() == (2 * ROWS / 4, 0.25)  # the loader's batch size is over all devices
    clock[0] = 202.0
    assert pace.read() == (0, 0)
    plain = Pace(object(), world=3)
    plain.count([1, 2])
    clock[0] = 203.0
    assert plain.read() == (6.0, None)


def test_loggers_get_the_same_numbers_at_the_same_step(tmp_path):
    run(tmp_path, [MetricsWriter(tmp_path, every=4)], steps=8, logger=CSVLogger(tmp_path, name="csv", version=""))
    head, *rows = [row.split(",") for row in (tmp_path / "csv" / "metrics.csv").read_text().splitlines()]
    table = [dict(zip(head, row, strict=True)) for row in rows]
    written = [(r["step"], r["loss"]) for r in lines(tmp_path)]
    assert [(int(r["step"]), float(r["train/loss"])) for r in table] == written


def test_validation_has_lines_of_its_own(tmp_path):
    run(tmp_path, [MetricsWriter(tmp_path, every=4), ValidationMonitor()], steps=10, val=5, num_sanity_val_steps=2)
    rows = [row for row in lines(tmp_path) if row.get("split") == "val"]
    assert [row["step"] for row in rows] == [5, 10] and {"val/size", "val/left_to_right_R@1"} <= rows[0].keys()
    assert "loss" not in rows[0] and [row["step"] for row in lines(tmp_path)] == [4, 5, 8, 10, 10]


def test_the_device_is_read_only_where_a_line_is_due(tmp_path, monkeypatch):
    reads, step = [], [0]
    class Step(lightning.pytorch.Callback):
        def on_train_batch_end(self, trainer, *_):
            step[0] = trainer.global_step
    for name in ("item", "tolist", "__float__", "cpu", "numpy"):
        original = getattr(torch.Tensor, name)
        def spy(self, *args, _original=original, _name=name, **kwargs):
            caller = sys._getframe(1).f_code.co_filename
            if "callbacks/" in caller and "mmssl" in caller:
                reads.append(step[0])
            return _original(self, *args, **kwargs)
        monkeypatch.setattr(torch.Tensor, name, spy)
    run(tmp_path, [Step(), MetricsWriter(tmp_path, every=4), Progress(every=6, stream=io.StringIO()),
                   Checkpoints(tmp_path, every=100)], steps=12, loader=TinyLoader(batches=100))
    assert set(reads) == {4, 6, 8, 12}


def test_values_that_a_captured_graph_writes_over_are_kept(tmp_path):
    class Static(TinyModule):
        shared = torch.zeros(())
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.train_parts = {"loss": self.shared.fill_(float(batch_idx))}
            return loss
    run(tmp_path, [MetricsWriter(tmp_path, every=4)], Static(), steps=4)
    assert lines(tmp_path)[0]["loss"] == (0 + 1 + 2 + 3) / 4


def test_parts_may_come_and_go_and_be_broken(tmp_path):
    class Odd(TinyModule):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.train_parts = {"even" if batch_idx % 2 == 0 else "odd": torch.tensor(float(batch_idx)),
                                "bad": torch.tensor(float("nan") if batch_idx == 1 else 1.0)}
            return loss
    run(tmp_path, [MetricsWriter(tmp_path, every=4)], Odd(), steps=4)
    row = lines(tmp_path)[0]
    assert (row["even"], row["odd"], row["bad"]) == (1.0, 2.0, None)
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()


def test_means_do_not_depend_on_where_a_window_was_cut_by_a_checkpoint():
    values = torch.tensor([0.1, 1e8, -1e8, 0.3, 7.0])
    window = [(("a",), v[None]) for v in values]
    writer = MetricsWriter("unused", every=4)
    writer._window = window[:3]
    other = MetricsWriter("unused", every=4)
    other.load_state_dict(json.loads(json.dumps(writer.state_dict())))
    assert window_means(other._window + window[3:]) == window_means(window)
    assert window_means(window)["a"] == pytest.approx((0.1 + 0.3 + 7) / 5, rel=1e-6)
    assert window_means([]) == {}


def test_a_fresh_start_forgets_what_a_killed_one_wrote(tmp_path):
    run(tmp_path, [MetricsWriter(tmp_path, every=2)], steps=4)
    first = [row["loss"] for row in lines(tmp_path)]
    run(tmp_path, [MetricsWriter(tmp_path, every=2)], steps=2)
    assert [row["loss"] for row in lines(tmp_path)] == first[:1]


def test_a_checkpoint_of_a_run_without_the_writer_still_cuts_by_step(tmp_path):
    run(tmp_path, [Checkpoints(tmp_path, every=3)], steps=3)
    (tmp_path / "metrics.jsonl").write_text('{"step": 2, "loss": 1}\n{"step": 4, "loss": 2}\n')
    run(tmp_path, [Checkpoints(tmp_path), MetricsWriter(tmp_path, every=2)], steps=6,
        resume=tmp_path / "checkpoints" / "last.ckpt")
    assert [row["step"] for row in lines(tmp_path)] == [2, 4, 6] and lines(tmp_path)[1]["loss"] != 2


def test_lines_are_cut_by_step_count_and_wholeness(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = ['{"step": 2}', '{"step": 4}', '{"step": 4, "split": "val"}', '{"step": 6}']
    def cut(text, *how):
        path.write_text(text)
        count = cut_after(path, *how)
        assert count == len(path.read_text().splitlines())
        return path.read_text().splitlines()
    whole = "\n".join(rows) + "\n"
    assert cut(whole, 4) == rows[:3] and cut(whole, 4, 2) == rows[:2] and cut(whole, 9) == rows
    assert cut(whole + '{"step": 7, "lo', 9) == rows  # half a line, as a kill leaves it
    assert cut("\n".join(rows), 9) == rows[:3]  # a last line without its end could be half a number
    assert cut("garbage\n" + whole, 9) == rows
    path.unlink()
    assert cut_after(path, 3) == 0 and not path.exists()


def test_a_disk_that_refuses_a_line_is_named(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"metrics\.jsonl: could not be written.*Free some space"):
            run(tmp_path, [MetricsWriter(tmp_path, every=1)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_steps_between_lines_must_be_positive(tmp_path):
    with pytest.raises(ConfigError, match="log_every: expected a positive"):
        MetricsWriter(tmp_path, every=0)
