"""CroSSL as released and as recommended: one key fills what a recipe leaves open, and the page has the same table."""

from pathlib import Path

import pytest
import yaml
from flat_recipes import resolved

from mmssl.cli import main
from mmssl.config import load
from mmssl.config.choices_crossl import CROSSL
from mmssl.errors import ConfigError

SENSORS = ("hand_acc", "hand_gyro", "ankle_acc", "ankle_gyro", "chest_acc", "chest_gyro")
#: By dotted place of crossl_pamap2: as released (code and its command line), and as recommended.
TABLE = {
    **{f"encoders.{m}.pool": ("mean", "mean_std") for m in SENSORS},
    **{f"encoders.{m}.init_seed": (0, None) for m in SENSORS},
    "mask.keep_rate": (0.9, 0.7),
    "mask.min_kept": (0, 1),
    "loss.sim": (10.0, 25.0), "loss.std": (10.0, 25.0), "loss.cov": (100.0, 1.0),
    "method.l2": (1e-4, 0.0),
    "data.batch_per_device": (8, 128),
    "optim.name": ("adam", "adamw"),
    "optim.weight_decay": (0.0, 0.01),
    "optim.lr": (1e-4, 1e-3),
    "optim.shape": ("constant", "half_cosine"),
    "optim.warmup": (0, 20),
    "optim.final_lr": (1e-4, 1e-5),
    **{f"modalities.{m}.{how}": (0.0, rate) for m in SENSORS for how, rate in (("jitter", 0.1), ("scale", 0.2))},
}
SAME = {"aggregator.hidden": [64, 32], "aggregator.dim": 32,
        **{f"encoders.{m}.{setting}": value for m in SENSORS for setting, value in (("width", 96), ("dropout", 0.0))},
        "loss.variance": "population", "mask.name": "modality", "loss.name": "vicreg"}


def test_a_source_fills_every_choice_and_nothing_else():
    reference, recommended = (resolved("crossl_pamap2", f"source={s}") for s in ("reference", "recommended"))
    assert resolved("crossl_pamap2") == recommended
    assert {place: (reference[place], recommended[place]) for place in TABLE} == TABLE
    assert {k for k in recommended if reference[k] != recommended[k]} == {*TABLE, "source"}
    assert {place: reference[place] for place in SAME} == {place: recommended[place] for place in SAME} == SAME


@pytest.mark.parametrize("place", [p for p in TABLE if "." in p and not p.startswith(("encoders", "modalities"))])
def test_each_choice_can_be_set_alone_and_wins_over_the_source(place):
    released, _ = TABLE[place]
    said = yaml.safe_dump(released, default_flow_style=True).splitlines()[0]
    found, plain = resolved("crossl_pamap2", f"{place}={said}"), resolved("crossl_pamap2")
    assert {k: found[k] for k in found if found[k] != plain[k]} == {place: released}


def test_what_another_part_has_is_filled_and_what_it_lacks_is_not():
    found = resolved("crossl_pamap2", "mask={name: cell}", "loss=cmc", "aggregator=concat", "source=reference")
    assert (found["mask.keep_rate"], found["mask.min_kept"]) == (0.9, 0)
    assert {k for k in found if k.startswith(("loss.", "aggregator."))} == {"loss.name", "loss.temperature",
                                                                          "aggregator.name"}
    assert resolved("crossl_pamap2", "mask={name: cell, keep_rate: 0.3}")["mask.keep_rate"] == 0.3


def test_without_a_source_the_parts_have_their_defaults():
    found = resolved("crossl_pamap2", "source=null")
    assert (found["mask.keep_rate"], found["mask.min_kept"], found["aggregator.dim"]) == (0.9, 1, 32)
    assert (found["optim.lr"], found["optim.shape"], found["data.batch_per_device"]) == (1e-4, "half_cosine", 32)


def test_each_method_has_its_own_sources():
    for name, wrong, right in (("crossl_tiny", "paper", "reference, recommended"),
                               ("vatt_base", "reference", "paper, code, suggested")):
        with pytest.raises(ConfigError, match=f"source: expected one of {right} or null, got '{wrong}'"):
            load(name, [f"source={wrong}"])


def test_recipes_show_prints_what_runs_and_marks_what_was_set_by_hand(capsys, tmp_path):
    words = ("mask.keep_rate=0.9", "loss.cov=7.5", "data.batch_per_device=8")
    assert main(["recipes", "show", "crossl_tiny", *words]) == 0
    said = capsys.readouterr().out
    rows = [line.lstrip("# ") for line in said.splitlines() if line.startswith("#")]
    assert "source: recommended" in rows[0] and sum(row[:2].strip().isdigit() for row in rows) == len(CROSSL.choices)
    for text, whose in (("mask.keep_rate: 0.9", "reference, set by hand"), ("mask.min_kept: 1", "recommended"),
                        ("loss.cov: 7.5", "neither, set by hand"), ("encoders.*.pool: mean_std", "recommended"),
                        ("data.batch_per_device: 8", "reference, set by hand"), ("loss.std: 25.0", "recommended")):
        assert [row for row in rows if text in row and row.endswith(f"  {whose}")], text
    shown = tmp_path / "shown.yaml"
    shown.write_text(said)
    assert resolved(shown) == resolved("crossl_tiny", *words)


def test_the_page_has_the_same_table():
    page = (Path(__file__).parents[1] / "docs" / "crossl.md").read_text()
    rows = {int(cells[1]): cells for cells in (line.split("|") for line in page.splitlines())
            if len(cells) == 7 and cells[1].strip().isdigit()}
    assert sorted(rows) == [choice.number for choice in CROSSL.choices] == list(range(1, len(rows) + 1))
    for choice in CROSSL.choices:
        for setting in choice.settings:
            assert f"`{setting.place}`" in rows[choice.number][3]
            for value, cell in zip(setting.values, rows[choice.number][4:6], strict=True):
                assert f"`{'null' if value is None else setting.said(value)}`" in cell, (choice.number, cell)
