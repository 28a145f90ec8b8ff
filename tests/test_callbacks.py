"""Progress and the validation monitor, each with a real Trainer."""

import io
import re

import lightning
import pytest
import torch
from tiny_run import Recorder, TinyModule, make_batch, quiet, run

from mmssl.callbacks import Checkpoints, Progress, ValidationMonitor
from mmssl.callbacks.progress import duration
from mmssl.errors import ConfigError
from mmssl.eval import alignment, modality_gap, rankme, retrieval, uniformity

pytestmark = pytest.mark.filterwarnings("ignore")
__all__ = ["quiet"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_plain_lines_tell_step_parts_speed_wait_and_time_left(tmp_path):
    out, module = io.StringIO(), TinyModule()
    seen = Recorder()
    run(tmp_path, [seen, Progress(every=4, stream=out)], module, steps=10)
    rows = out.getvalue().splitlines()
    assert [row.split("  ")[0] for row in rows] == ["step 4/10", "step 8/10", "step 10/10"]
    number = r"[-+.e\d]+"
    facts = rf"loss {number}  first {number}  {number} samples/s  waiting \d+ %  left \d+:\d\d"
    assert re.fullmatch(rf"step 4/10  {facts}", rows[0])
    assert f"loss {seen.parts[3]['loss']:.4g}" in rows[0] and rows[-1].endswith("left 0:00")


def test_after_a_resume_it_goes_on_from_the_step(tmp_path):
    run(tmp_path, [Checkpoints(tmp_path, every=5)], steps=5)
    last = tmp_path / "checkpoints" / "last.ckpt"
    for out in (io.StringIO(), Terminal()):
        run(tmp_path, [Progress(every=2, stream=out, refresh=0.0)], steps=9, resume=last)
        shown = [int(n) for n in re.findall(r"step (\d+)/9", out.getvalue())]
        assert shown[0] in (5, 6) and shown[-1] == 9 and (not out.isatty() or 5 in shown)


def test_a_terminal_has_one_bar_that_is_not_drawn_too_often(tmp_path):
    eager, calm = Terminal(), Terminal()
    run(tmp_path, [Progress(stream=eager, refresh=0.0)], steps=40, val=10)
    run(tmp_path, [Progress(stream=calm, refresh=1000.0)], steps=40)
    drawn = [set(re.findall(r"step (\d+)/40", out.getvalue())) for out in (eager, calm)]
    assert len(drawn[0]) >= 40 and drawn[1] <= {"0", "1", "40"} and "40" in drawn[1]  # the first, and the last
    assert "samples/s" in eager.getvalue() and "waiting" in eager.getvalue() and "left 0:00" in eager.getvalue()
    assert "validating, step 10/40" in eager.getvalue() and eager.getvalue().count("\n") <= 6


class Clock(lightning.pytorch.Callback):
    """A clock by which the first step takes 30 s, as compiling may, and each further one 2 s."""

    now = 0.0

    def perf_counter(self):
        return self.now

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.now += 2 if batch_idx else 30


def test_time_left_knows_nothing_of_the_first_step(tmp_path, monkeypatch):
    out, clock = io.StringIO(), Clock()
    monkeypatch.setattr("mmssl.callbacks.progress.time", clock)
    run(tmp_path, [clock, Progress(every=1, stream=out)], steps=6)
    told = [row.partition("left ")[2] for row in out.getvalue().splitlines()]
    assert told == ["", "0:08", "0:06", "0:04", "0:02", "0:00"]


def test_validation_is_told_in_a_line(tmp_path):
    for out in (io.StringIO(), Terminal()):
        run(tmp_path, [ValidationMonitor(), Progress(every=100, stream=out)], steps=5, val=5, num_sanity_val_steps=1)
        told = [row for row in out.getvalue().replace("\r", "\n").splitlines() if "validation after" in row]
        assert len(told) == 1 and re.search(r"after step 5:  left_to_right_R@10 [\d.]+  right_to_left_R@10", told[0])


def test_steps_between_lines_must_be_positive():
    with pytest.raises(ConfigError, match="log_every: expected a positive"):
        Progress(every=0)


def test_durations_are_short():
    assert [duration(s) for s in (0.0, 59.6, 61.0, 3600.0, 36061.0)] == ["0:00", "1:00", "1:01", "1:00:00", "10:01:01"]


class Watch(lightning.pytorch.Callback):
    """Keeps the metrics of each validation."""

    def __init__(self):
        self.rows = []

    def on_validation_end(self, trainer, module):
        if not trainer.sanity_checking:
            self.rows.append({k: float(v) for k, v in trainer.callback_metrics.items()})


def test_retrieval_and_health_of_all_rows_are_logged(tmp_path):
    seen = Watch()
    module, _ = run(tmp_path, [ValidationMonitor(), seen], steps=5, val=5, num_sanity_val_steps=1)
    x = torch.cat([make_batch(100, i).streams["a"].data for i in range(3)])
    with torch.no_grad():
        a, b = module.a(x), module.b(x)
    there, back = retrieval(a, b), retrieval(b, a)
    expected = {**{f"val/left_to_right_R@{k}": v for k, v in there.r_at.items()},
                **{f"val/right_to_left_R@{k}": v for k, v in back.r_at.items()},
                "val/left_to_right_MedR": there.median_rank, "val/right_to_left_MedR": back.median_rank,
                "val/mean_R@10": (there.r_at[10] + back.r_at[10]) / 2,
                "val/gap_left-right": modality_gap(a, b), "val/alignment_left-right": alignment(a, b),
                "val/uniformity_left": uniformity(a), "val/rank_left": rankme(a),
                "val/std_left": a.std(dim=0).mean().item(), "val/rank_right": rankme(b)}
    assert len(seen.rows) == 1
    assert {k: seen.rows[0][k] for k in expected} == {k: pytest.approx(v, rel=1e-5) for k, v in expected.items()}
    assert 0 < seen.rows[0]["val/spread_left"] <= 1


def test_rows_that_lack_a_modality_are_left_out(tmp_path):
    class Half(TinyModule):
        def validation_step(self, batch, batch_idx):
            out = super().validation_step(batch, batch_idx)
            some, z = torch.tensor([True, False, True, False]), {}
            for name, (x, _) in out["embeddings"].items():
                z[name] = torch.where(some[:, None], x, torch.full_like(x, 1e6))
            none = ~some & some
            return {"pairs": {"left-right": (z["left"], z["right"], some), "left-none": (z["left"], z["left"], none)},
                    "embeddings": {"left": (z["left"], some), "none": (z["left"], none)}}
    seen = Watch()
    module, _ = run(tmp_path, [ValidationMonitor(rows=4), seen], Half(), steps=5, val=5)
    x = torch.cat([make_batch(100, i).streams["a"].data[[0, 2]] for i in range(3)])
    with torch.no_grad():
        a, b = module.a(x), module.b(x)
    row = seen.rows[0]
    assert row["val/left_to_right_R@1"] == pytest.approx(retrieval(a, b).r_at[1])
    four_of_six = a[torch.tensor([0, 1, 3, 5])]
    assert row["val/std_left"] == pytest.approx(four_of_six.std(dim=0).mean().item(), rel=1e-5)
    assert not any("none" in name for name in row)


def test_collapse_is_told_once_when_it_begins_and_once_when_it_ends(tmp_path, caplog):
    seen = Watch()
    with caplog.at_level("WARNING", logger="mmssl"):
        run(tmp_path, [ValidationMonitor(), seen], TinyModule(collapse_at={0, 4, 6, 8}), steps=12, val=2,
            num_sanity_val_steps=1)
    told = [r.getMessage() for r in caplog.records if r.name == "mmssl"]
    assert len(told) == 2
    assert told[0].startswith("COLLAPSE of 'left' at step 4: all embeddings point the same way")
    assert "What helps:" in told[0]
    assert told[1] == "'left' has recovered from its collapse at step 10."
    assert all(row["val/left_to_right_R@1"] <= 1 / 12 + 1e-6 for row in seen.rows[1:4])
    assert all(row["val/right_to_left_R@10"] == 0 for row in seen.rows[1:4])  # ties count against the model
    assert seen.rows[1]["val/rank_left"] == pytest.approx(1, abs=1e-3) and seen.rows[1]["val/spread_left"] < 1e-6


def test_a_resumed_run_does_not_tell_of_the_same_collapse_again(tmp_path, caplog):
    collapse = {2, 4, 6}
    run(tmp_path, [ValidationMonitor(), Checkpoints(tmp_path, every=4)], TinyModule(collapse), steps=4, val=2)
    caplog.clear()
    with caplog.at_level("WARNING", logger="mmssl"):
        run(tmp_path, [ValidationMonitor(), Checkpoints(tmp_path)], TinyModule(collapse), steps=8, val=2,
            resume=tmp_path / "checkpoints" / "last.ckpt")
    assert [r.getMessage()[:6] for r in caplog.records if r.name == "mmssl"] == ["'left'"]


class Shrinking(TinyModule):
    """Its embeddings are as wide as `widths` says, by step; the loss holds up that of "left" alone."""

    kept_wide = ("left",)

    def __init__(self, widths):
        super().__init__()
        self.widths = widths

    def validation_step(self, batch, batch_idx):
        out = super().validation_step(batch, batch_idx)
        x = make_batch(7, batch_idx).streams["a"].data * self.widths[self.trainer.global_step]
        return {**out, "embeddings": {name: (x, present) for name, (_, present) in out["embeddings"].items()}}


def test_a_standard_deviation_that_falls_is_told_once_with_a_remedy_and_when_it_has_risen(tmp_path, caplog):
    widths = {0: 9.0, 2: 0.5, 4: 1.0, 6: 0.6, 8: 0.4, 10: 0.3, 12: 0.7}
    with caplog.at_level("WARNING", logger="mmssl"):
        run(tmp_path, [ValidationMonitor()], Shrinking(widths), steps=12, val=2, num_sanity_val_steps=1)
    told = [r.getMessage() for r in caplog.records if r.name == "mmssl"]
    one = torch.cat([make_batch(7, i).streams["a"].data for i in range(3)]).std(dim=0).mean().item()
    assert len(told) == 2  # neither of "right", whose width no loss holds up, nor of the sanity pass at 9.0
    assert told[0].startswith(f"SHRINKING of 'left' at step 8: its deviation per dimension fell from {one:.3f} to "
                              f"{0.4 * one:.3f}. What helps: a larger data.batch_per_device")
    assert told[1] == f"'left' is as wide as {0.7 * one:.3f} again at step 12."


def test_a_resumed_run_knows_how_wide_it_was(tmp_path, caplog):
    widths = {2: 1.0, 4: 0.8, 6: 0.45, 8: 0.45}
    run(tmp_path, [ValidationMonitor(), Checkpoints(tmp_path, every=4)], Shrinking(widths), steps=4, val=2)
    with caplog.at_level("WARNING", logger="mmssl"):
        run(tmp_path, [ValidationMonitor(), Checkpoints(tmp_path)], Shrinking(widths), steps=8, val=2,
            resume=tmp_path / "checkpoints" / "last.ckpt")
    assert [r.getMessage()[:28] for r in caplog.records if r.name == "mmssl"] == ["SHRINKING of 'left' at step 6"[:28]]


def test_metrics_of_the_monitor_can_mark_the_best(tmp_path):
    keeper = Checkpoints(tmp_path, every=100, monitor="val/rank_left", mode="max")
    run(tmp_path, [keeper, ValidationMonitor()], TinyModule(collapse_at={2}), steps=4, val=2)
    assert keeper.best_step == 4 and keeper.best.exists()
