"""docs/biosignals.md: its commands, as they stand there, take raw files of three data sets to a probe."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from raw_sets import write_night, write_pamap2, write_sleep_edf, write_wesad

from mmssl.cli import main
from mmssl.config import load
from mmssl.data import Manifest, assignment_hash
from mmssl.data.sources.recordings.description import load_description
from mmssl.dry_run import counts
from mmssl.rundir import RunDir

TEXT = (Path(__file__).parents[1] / "docs" / "biosignals.md").read_text()
FEWER = ["data.batch_per_device=3", "trainer.max_steps=2", "trainer.val_every=2", "trainer.log_every=1",
         "probe.fractions=[1.0]", "probe.seeds=1"]


def commands(section):
    """The commands of one section of the page, as lists of words."""
    part = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", TEXT, flags=re.S | re.M)[1]
    lines = [line for block in re.findall(r"```bash\n(.*?)```", part, flags=re.S) for line in block.splitlines()]
    assert all(line.startswith("mmssl ") for line in lines) and lines
    return [shlex.split(line)[1:] for line in lines]


def run(section):
    """Carry out a section; `fit` with fewer steps and narrower encoders than its recipe has."""
    for words in commands(section):
        if words[0] == "fit":
            recipe = words[words.index("--recipe") + 1]
            words = [*words, *FEWER, *(f"encoders.{m}.width=8" for m in load(recipe).encoders)]
        assert main(words) == 0, words


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def probed(here, name):
    return json.loads((here / "runs" / name / "probe.json").read_text())


def test_pamap2(here, capsys):
    write_pamap2(here / "PAMAP2_Dataset", seconds=5.2, pause=0.2)
    run("PAMAP2")
    said = capsys.readouterr().out
    assert "split by subject: test 108; val 107; train 101" in said and "hand_acc_x in m/s^2" in said
    manifest = Manifest.load(here / "pamap2_shards")
    for name in ("pamap2", "pamap2_hr"):
        assert probed(here, name)["split_hash"] == manifest.split_hash and "activity" in probed(here, name)["labels"]
        recipe = RunDir(here / "runs" / name).load_recipe()
        assert recipe.data.split == manifest.assignment
        assert recipe.modalities["chest_acc"]["mean"] == manifest.modalities["chest_acc"].mean
    assert "heart_rate" in recipe.modalities


def test_wesad_and_other_splits_of_the_same_shards(here, capsys):
    write_wesad(here / "WESAD", seconds=10, pause=1)
    write_pamap2(here / "PAMAP2_Dataset", seconds=5.2, pause=0.2)
    run("WESAD")
    first = Manifest.load(here / "wesad_shards")
    assert probed(here, "wesad")["split_hash"] == first.split_hash and first.assignment["test"] == ["S2"]
    main(["data", "pack", "pamap2", "--source", "PAMAP2_Dataset", "--out", "pamap2_shards"])
    run("Who trains, validates and tests")
    assert Manifest.load(here / "pamap2_shards").assignment == {"train": ["108"], "val": ["101"], "test": ["107"]}
    assert Manifest.load(here / "wesad_shards").assignment["test"] == ["S4"]
    splits = {name: RunDir(here / "runs" / name).load_recipe().data.split for name in ("fold3", "without101", "drawn")}
    assert splits["fold3"] == {"train": ["S3", "S4"], "val": ["S2", "S6"], "test": ["S5"]}
    assert splits["without101"] == {"train": ["108"], "val": ["107"], "test": ["101"]}
    assert len({probed(here, name)["split_hash"] for name in ("fold3", "drawn", "wesad")}) == 3
    assert probed(here, "fold3")["split_hash"] == assignment_hash(splits["fold3"])
    mean = RunDir(here / "runs" / "fold3").load_recipe().modalities["ecg"]["mean"]
    assert mean == first.statistics("ecg", ["S3", "S4"])[0] != first.statistics("ecg", ["S5", "S6"])[0]
    assert main(["probe", "--run", "runs/fold3", "--missing", "all", "probe.features=[global]", "probe.seeds=1"]) == 0
    lots = json.loads((here / "runs" / "fold3" / "missing" / "bench.json").read_text())["results"]
    assert [set(r["samples"]["group"]) for r in lots if r["state"] == "done"] == [{"S5"}] * 2
    assert "train train (S3, S4)+val (S2, S6), test test (S5);" in capsys.readouterr().out
    assert main(["probe", "--run", "runs/fold3", "data.split={test: [S3]}"]) == 2
    assert "what was trained on must not be tested on" in capsys.readouterr().err


def test_sleep_edf(here, capsys):
    pytest.importorskip("edfio", reason="the extra `edf` is not installed")
    stages = (("W", 2), ("1", 2), ("2", 3), ("R", 2), ("?", 2))
    write_sleep_edf(here / "sleep-cassette", stages=stages)
    write_night(here / "sleep-cassette", "SC4171", stages=stages, hypnogram=False)
    run("Sleep-EDF")
    said = capsys.readouterr().out
    assert "left out 1 (all in" in said and "SC4171: there is no SC4171*-Hypnogram.edf" in said
    assert probed(here, "sleep")["split_hash"] == Manifest.load(here / "sleep_edf_shards").split_hash


def test_your_own_recordings_are_described_as_the_page_shows(here):
    plan = here / "night.yaml"
    plan.write_text(re.search(r"```yaml\n(.*?)```", TEXT, flags=re.S)[1])
    found = load_description(plan)
    assert found.modalities["eeg"].stored_rate == 128 and found.label.names == ["awake", "asleep"]
    assert yaml.safe_load(plan.read_text())["split"]["folds"] == found.split.folds == 5


@pytest.mark.parametrize("name, total", [("crossl_pamap2", 386_304), ("crossl_pamap2_hr", 448_992),
                                         ("crossl_wesad", 191_328), ("crossl_sleep_edf", 254_016)])
def test_parameters_are_those_of_the_released_code(name, total):
    from mmssl import build
    recipe = load(name, ["source=reference"])
    assert counts(build.method(recipe, build.modalities(recipe)))["trainable"] == total and f"{total:,}" in TEXT
