"""Every set of devices missing: as many as there are, the path of real absence, whose samples, a picture, a part of the
report."""

import json

import pytest
from small_runs import SIGNALS, make_signals, mmssl, write_recipe

from mmssl.bench import probe_missing
from mmssl.cli import main
from mmssl.reporting import report
from mmssl.rundir import RunDir

PROBE = "probe: {labels: [act], features: [acc, all, global], fractions: [0.5, 1.0], seeds: 2}\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("missing")
    recipe = write_recipe(root, SIGNALS, make_signals(root / "set"), PROBE)
    assert main(["fit", "--recipe", str(recipe), "--run-dir", str(root / "run"), "trainer.max_steps=6"]) == 0
    return root / "run"


def test_every_set_is_tried_and_a_sensor_that_is_really_absent_takes_the_same_path(run, capsys):
    assert main(["probe", "--run", str(run), "--missing", "all"]) == 0
    said = capsys.readouterr().out
    assert "none missing" in said and str(run / "missing" / "act.png") in said
    assert (run / "missing" / "act.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads((run / "missing" / "bench.json").read_text())["results"]
    assert {r["subject"] for r in results} >= {"small_signals", "small_signals, random weights", "hand-made features"}
    for result in results:
        names = result["samples"]["key"]
        for features in {c["features"] for c in result["cells"]}:
            by = {tuple(c["missing"]): c for c in result["cells"] if c["features"] == features}
            assert set(by) == {(), ("acc",), ("gyro",)}  # 2^2 - 1
            guesses = {lot: dict(zip((names[i] for i in c["rows"]), c["runs"][0]["guess"], strict=True))
                       for lot, c in by.items()}
            silent = [key for key in guesses[()] if int(key[4:]) % 5 == 0]  # these have no gyroscope
            assert silent and all(guesses[()][k] == guesses["gyro",][k] for k in silent)
    whole = next(c for c in results[0]["cells"] if c["missing"] == [] and c["features"] == "all")
    note = ("act: small_signals: {}: samples that really lack a device are scored where they have anything left, so "
            "numbers are of different samples: 10 with nothing missing, 8 without acc")
    assert said.count(note.format("all")) == said.count(note.format("global")) == 1
    assert "random weights: all" not in said
    assert {len(c["rows"]) for r in results for c in r["cells"] if c["missing"] == ["acc"]} == {8}
    text = report(run).read_text()
    assert "tested with every set of devices missing" in text.replace("\n", " ")
    assert f">{whole['metrics']['macro_f1']['mean']:.2f}<" in text


def test_devices_go_together_and_what_cannot_be_asked_is_told_at_once(run, capsys):
    found = probe_missing(run, overrides=["probe.devices={wrist: [acc, gyro]}", "probe.features=[all]"])
    capsys.readouterr()
    assert {tuple(c.missing) for r in found.results for c in r.cells} == {()}
    wrong = ["probe.features=[acc]", "probe.devices={wrist: [acc, gyr]}"]
    assert main(["probe", "--run", str(run), "--missing", "all", *wrong]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2 and "nothing can be missing" in lines[0] and "did you mean 'gyro'" in lines[1]


def test_the_runs_own_split_says_who_tests(tmp_path, capsys):
    recipe = write_recipe(tmp_path, SIGNALS, make_signals(tmp_path / "set"), PROBE)
    split = ["data.split={test: [train1], val: [train2]}", "trainer.max_steps=2", "probe.seeds=1"]
    assert mmssl(capsys, "fit", "--recipe", recipe, "--run-dir", tmp_path / "run", *split)[0] == 0
    kept = RunDir(tmp_path / "run").load_recipe().data.split
    assert kept["test"] == ["train1"] and len(kept["train"]) == 13
    words = ["probe", "--run", tmp_path / "run", "--missing", "all", "probe.features=[all]"]
    code, out, _ = mmssl(capsys, *words)
    assert code == 0 and "test test (train1)" in out and "TESTED ON" not in out
    results = json.loads((tmp_path / "run" / "missing" / "bench.json").read_text())["results"]
    for result in results:
        assert set(result["samples"]["group"]) == {"train1"} and len(result["samples"]["key"]) == 9
        assert result["protocol"]["groups"] == kept
        assert {r for c in result["cells"] for r in c["runs"][0]["rows"]} == {64 - 9 - 9}
    code, _, err = mmssl(capsys, *words, "data.split={test: [train3]}")
    assert code == 2 and "what was trained on must not be tested on" in err


def test_a_scenario_in_which_no_test_sample_has_anything_left_is_told_and_the_others_are_measured(tmp_path, capsys):
    def silent(split, number, files):
        return {name: data for name, data in files.items() if split != "test" or not name.startswith("gyro")}

    recipe = write_recipe(tmp_path, SIGNALS, make_signals(tmp_path / "set", change=silent), PROBE)
    words = ["trainer.max_steps=2", "probe.labels=[]"]
    assert mmssl(capsys, "fit", "--recipe", recipe, "--run-dir", tmp_path / "run", *words)[0] == 0
    code, out, _ = mmssl(capsys, "probe", "--run", tmp_path / "run", "--missing", "all", "probe.labels=[act]")
    assert code == 0 and "failed" not in out
    assert "small_signals: global: not measured, since no test sample has anything left: without acc\n" in out
    results = json.loads((tmp_path / "run" / "missing" / "bench.json").read_text())["results"]
    assert [{tuple(c["missing"]) for c in r["cells"]} for r in results] == [{(), ("gyro",)}] * 3
    assert all(len(c["rows"]) == 10 for r in results for c in r["cells"])


def test_another_data_set_is_found_from_the_working_directory_and_what_fails_there_gives_the_exit_code(
        run, tmp_path, capsys, monkeypatch):
    def unknown(split, number, files):
        return {**files, "labels.json": b'{"labels": {"act": -1}}'} if split == "test" else files

    words = ["probe", "--run", run, "--missing", "all", "probe.features=[all]", "probe.seeds=1"]
    make_signals(tmp_path / "other", {"train": 8, "test": 4}, unknown)
    monkeypatch.chdir(tmp_path)
    code, out, _ = mmssl(capsys, *words, "data.root=other")
    assert code == 4 and "act: failed: tasks.act: no test sample has all and the label 'act'" in out
    for word, status, said in (("data.root=nowhere", 4, "nowhere"), ("probe.labels=[atc]", 2, "did you mean 'act'?")):
        code, _, err = mmssl(capsys, *words, word)
        assert code == status and said in err
