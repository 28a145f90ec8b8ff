"""A suite over real small runs: its numbers against direct computation, what is kept, what is skipped and named."""

import html
import json
import re

import numpy as np
import pytest
import torch
from bench_common import lab, write_suite  # noqa: F401 a fixture
from small_runs import mmssl

from mmssl import build
from mmssl.bench import bench
from mmssl.bench import latents as latents_module
from mmssl.bench.suite import read_task
from mmssl.eval import Labelled, Linear, Ridge, extract, join, label_draw, label_fraction, run_probe
from mmssl.evaluate import open_model, retrieve
from mmssl.methods import Method
from mmssl.rundir import RunDir


@pytest.fixture
def passes(monkeypatch):
    """How many batches went through encoders."""
    seen, embed = [], Method.embed
    monkeypatch.setattr(Method, "embed", lambda self, batch, rng=None: seen.append(1) or embed(self, batch, rng))
    return seen


def features(run, splits):
    recipe = RunDir(run).load_recipe()
    model, parts = open_model(RunDir(run), recipe, "last")
    return join([extract(model, build.datamodule(recipe, parts).loader(split)) for split in splits])


def cell(report, task, subject, name, fraction=1.0, missing=()):
    result = next(r for r in report.results if (r.task, r.subject) == (task, subject))
    return next(c for c in result.cells if (c.features, c.fraction, c.missing) == (name, fraction, list(missing)))


@pytest.fixture(scope="module")
def report(lab):  # noqa: F811
    return bench(str(lab / "suite.yaml"), [lab / "run_signals", lab / "run_clips"], seeds=2, out=lab / "out")


def test_probe_numbers_are_those_of_a_probe_on_the_features(lab, report):  # noqa: F811
    train, test = (features(lab / "run_signals", splits) for splits in (["train", "val"], ["test"]))
    for name in ("acc", "global"):
        for fraction in (0.5, 1.0):
            found = cell(report, "act", "small_signals", name, fraction)
            for seed, run in enumerate(found.runs):
                place, y = label_draw(0, "act", seed), train.labels["act"]
                rows = label_fraction(y, fraction, place)
                direct = run_probe(Linear([0.01, 1.0]), Labelled(train.x[name], y, train.groups).take(rows),
                                   Labelled(test.x[name], test.labels["act"]), 3, place.at("penalty"))
                assert run["values"] == direct.score.values and run["confusion"] == direct.score.confusion
                assert run["setting"] == [direct.penalty] and run["rows"] == [direct.rows]
    there = train.present["gyro"]
    gyro = cell(report, "act", "small_signals", "gyro")
    assert gyro.runs[0]["rows"] == [int(there.sum())] and len(gyro.rows) == int(test.present["gyro"].sum())
    video = features(lab / "run_clips", ["train"]), features(lab / "run_clips", ["test"])
    direct = run_probe(Ridge(), *(Labelled(f.x["video"], f.labels["way"]) for f in video), 2,
                       label_draw(0, "way", 0).at("penalty"))
    assert cell(report, "way", "small_clips", "video").runs[0]["values"] == direct.score.values


def test_retrieval_numbers_are_those_of_the_run(lab, report):  # noqa: F811
    run = RunDir(lab / "run_clips")
    recipe = run.load_recipe()
    model, parts = open_model(run, recipe, "last")
    direct = retrieve(model, build.datamodule(recipe, parts).loader("test"))
    for name, key in (("text > video", "text_to_video"), ("audio > video", "audio_to_video")):
        found = cell(report, "match", "small_clips", name)
        values = found.runs[0]["values"]
        assert values["R@5"] == direct[key].r_at[5] and values["MedR"] == direct[key].median_rank
        assert values["mAP"] == pytest.approx(direct[key].mean_average_precision) and not found.drawn
        n = direct[key].rows
        assert found.chance["R@5"] == pytest.approx(min(1, 5 / n))
        assert found.chance["mAP"] == pytest.approx(np.mean([1 / (i + 1) for i in range(n)]))
        assert np.mean(np.array(found.runs[0]["rank"]) < 5) == values["R@5"]


def test_missing_devices_are_absent_for_the_aggregator(lab, report):  # noqa: F811
    run = RunDir(lab / "run_signals")
    model = open_model(run, run.load_recipe(), "last")[0]
    train, test = (features(lab / "run_signals", splits) for splits in (["train", "val"], ["test"]))
    fitted = Linear([0.01, 1.0]).fit(Labelled(train.x["global"], train.labels["act"], train.groups), 3,
                          label_draw(0, "act", 0).at("penalty"))
    latents = {m: torch.from_numpy(test.x[m]) for m in ("acc", "gyro")}
    present = {m: torch.from_numpy(test.present[m]) for m in ("acc", "gyro")}
    for gone, other in (("acc", "gyro"), ("gyro", "acc")):
        with torch.no_grad():
            x = model.aggregate(latents, present, [other]).numpy()[test.present[other]]
        found = cell(report, "act", "small_signals", "global", missing=[gone])
        assert found.runs[0]["guess"] == fitted.output(x).argmax(1).tolist()
        assert len(found.rows) == int(test.present[other].sum())
    assert not [c for r in report.results for c in r.cells if c.features == "acc" and c.missing]


def test_what_stands_beside_and_what_could_not_run_is_said(lab, report):  # noqa: F811
    states = {(r.task, r.subject): r.state for r in report.results}
    assert states["act", "small_clips"] == "skipped" and states["far", "small_signals"] == "missing"
    assert states["act", "hand-made features"] == states["act", "small_signals, random weights"] == "done"
    text = report.text
    row = next(line for line in text.splitlines() if re.match(r"way +small_clips +video", line))
    twin = cell(report, "way", "small_clips, random weights", "video").metrics["accuracy"]["mean"]
    own = cell(report, "way", "small_clips", "video").metrics["accuracy"]["mean"]
    assert f" {own:.3f} " in row and f" {twin:.3f} " in row
    assert "far: not here: 'elsewhere' under" in text and "Get: the moon. Pack: mmssl data pack moon" in text
    assert "small_clips has no encoder for acc, gyro, only for video, audio, text" in text
    assert "devices missing from the test samples" in text and "(without acc)" in text
    assert "was trained, without labels, on" not in text  # test groups are not among those of the training split
    lines = (lab / "out" / "bench.md").read_text().splitlines()
    assert any(line.startswith("| act | hand-made features | all |") for line in lines)
    digest = next(r.digest for r in report.results if r.subject == "small_clips")
    records = next(r.split_hash["test"] for r in report.results if r.task == "way" and r.split_hash)
    assert digest[:12] in text and records[:12] in text and len(digest) == len(records) == 64


def test_the_page_shows_every_number_and_a_picture_of_each_task_without_the_network(lab, report):  # noqa: F811
    page = (lab / "out" / "bench.html").read_text()
    assert not re.search(r"(src|href)=.?(https?:|//)|<script|<link|@import", page)
    for section in ("act", "way", "match", "All numbers", "Encoders", "Remarks", "Environment"):
        assert f"<h2>{section}</h2>" in page
    assert "<h2>far</h2>" not in page  # what is not there has no picture
    act, way, match = (page.split(f"<h2>{name}</h2>")[1].split("</section>")[0] for name in ("act", "way", "match"))
    for axis in ("macro-F1 (0 to 1)", "share of the training labels (%)", "missing", "guessed class"):
        assert f">{axis}</text>" in act
    assert act.count("<svg") == act.count("<figcaption") == 4 and way.count("<svg") == 2
    for row in ("small_signals: global", "small_signals, random weights: acc", "hand-made features: all"):
        assert f">{row}</text>" in act
    lost = cell(report, "act", "small_signals", "all", missing=["acc"]).metrics["macro_f1"]["mean"]
    assert f">{lost:.2f}</text>" in act  # in the heat map
    for name in ("text &gt; video", "audio &gt; video"):
        found = cell(report, "match", "small_clips", html.unescape(name))
        told = [found.metrics[k]["mean"] for k in ("R@1", "R@5", "R@10")]
        assert f"<td>small_clips: {name}</td>" + "".join(f"<td>{v:.3f}</td>" for v in told) in match
    for line in report.text.splitlines()[3:6]:
        assert all(f"<td>{html.escape(word)}</td>" in page for word in re.split(" {2,}", line))


def test_the_second_time_all_is_kept_and_a_new_task_costs_no_feature(lab, report, passes, monkeypatch):  # noqa: F811
    before = json.loads((lab / "out" / "bench.json").read_text())
    fits = []
    fit = Ridge.fit
    monkeypatch.setattr(Ridge, "fit", lambda self, *args: fits.append(1) or fit(self, *args))
    again = bench(str(lab / "suite.yaml"), [lab / "run_signals", lab / "run_clips"], seeds=2, out=lab / "out")
    assert again.text == report.text and not passes and not fits
    assert json.loads((lab / "out" / "bench.json").read_text()) == before
    fresh = bench(str(lab / "suite.yaml"), [lab / "run_signals", lab / "run_clips"], seeds=2, out=lab / "out2")
    assert fresh.text == report.text and not passes and fits  # numbers anew from kept features
    plain = [[c.runs for c in r.cells] for r in fresh.results]
    assert json.dumps(plain) == json.dumps([[c.runs for c in r.cells] for r in report.results])
    more = "tasks.more={root: clips, label: way, features: [audio], probe: {name: knn, k: 3}}"
    wider = bench(str(lab / "suite.yaml"), [lab / "run_clips"], seeds=1, out=lab / "out3", overrides=[more],
                  only=["more"])
    assert not passes and cell(wider, "more", "small_clips", "audio").metrics["accuracy"]["mean"] is not None


def test_other_weights_views_or_records_are_other_features(lab, report, passes):  # noqa: F811
    suite, run, only = str(lab / "suite.yaml"), lab / "run_clips", ["way"]
    bench(suite, [run], seeds=1, out=lab / "o4", overrides=["tasks.way.views={test: 2}"], only=only)
    assert sum(passes) > 0
    passes.clear()
    bench(suite, [run], seeds=1, out=lab / "o4", overrides=["tasks.way.views={test: 2}"], only=only)
    assert not passes
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    checkpoint["state_dict"]["encoders.video.summary"] += 1
    torch.save(checkpoint, lab / "other.ckpt")
    bench(suite, [run], seeds=1, out=lab / "o5", checkpoint=str(lab / "other.ckpt"), only=only)
    assert sum(passes) > 0


def test_half_written_features_are_computed_anew(lab, report, passes):  # noqa: F811
    home = lab / "run_signals" / "features"
    entries = [path for path in home.iterdir() if path.is_dir()]
    assert entries and not list(home.glob(".*.part"))
    for entry in entries:
        array = next(entry.glob("latents.*.npy"))
        array.write_bytes(array.read_bytes()[:-8])
    leftover = home / f".{entries[0].name}.12345.part"
    leftover.mkdir()
    again = bench(str(lab / "suite.yaml"), [lab / "run_signals"], seeds=2, out=lab / "out6",
                  overrides=["tasks.act.fractions=[1.0]"], only=["act"])
    assert sum(passes) > 0 and not leftover.exists()
    for name in ("acc", "global"):
        assert cell(again, "act", "small_signals", name).runs == cell(report, "act", "small_signals", name).runs


def test_a_failure_is_one_line_and_the_others_run(lab, report, capsys):  # noqa: F811
    code, out, err = mmssl(capsys, "bench", "--suite", lab / "suite.yaml", "--run", lab / "run_clips", "--seeds", 1,
                           "--out", lab / "out7", "--task", "way", "--task", "match", "tasks.way.label=wai")
    assert code == 2 and "way: failed: tasks.way.label: no label is called 'wai'; did you mean 'way'?" in out
    assert re.search(r"match +small_clips +text > video", out) and f"written: {lab / 'out7'}/bench.json" in out
    assert "[1/2] way: small_clips" in err


def test_a_run_tested_on_its_own_groups_is_told(lab, report):  # noqa: F811
    own = bench(str(lab / "suite.yaml"), [lab / "run_signals"], seeds=1, out=lab / "out8", overrides=[
        "tasks.act={root: signals, label: act, features: [acc], folds: {by: group, count: 3}, test: [train, test]}"],
        only=["act"])
    assert ("act: TESTED ON WHAT IT HAS SEEN: small_signals was trained, without labels, on 5 of the 10 groups that "
            "test: train0, train1") in own.text
    result = next(r for r in own.results if r.subject == "small_signals" and r.state == "done")
    assert [fold["rows"] for fold in result.cells[0].runs[0]["folds"]] == [16, 28, 36]
    assert len(result.cells[0].rows) == 80 and len(set(result.samples["fold"])) == 3
    values = [fold["values"]["accuracy"] * fold["rows"] for fold in result.cells[0].runs[0]["folds"]]
    assert sum(values) / 80 == pytest.approx(result.cells[0].runs[0]["values"]["accuracy"])


def test_one_process_computes_while_another_waits(lab, report, monkeypatch):  # noqa: F811
    """Two threads ask for the same features; locks are per open file, so they wait as processes would."""
    from concurrent.futures import ThreadPoolExecutor

    from mmssl.bench.latents import Source, Store
    from mmssl.bench.subject import run_subject
    calls, compute = [], latents_module.compute
    monkeypatch.setattr(latents_module, "compute", lambda *args: calls.append(1) or compute(*args))
    subjects = [run_subject(lab / "run_signals") for _ in range(2)]
    for subject in subjects:
        subject.home = lab / "elsewhere"
    with ThreadPoolExecutor(2) as pool:
        a, b = pool.map(lambda s: Store().get(s, Source(lab / "signals", "test")), subjects)
    assert len(calls) == 1 and np.array_equal(a.latents["acc"], b.latents["acc"]) and len(a) == 20


def test_splits_of_other_groups_are_other_features_whatever_they_are_called(lab, report):  # noqa: F811
    from mmssl.bench.latents import Source, Store
    from mmssl.bench.subject import run_subject
    subject, store, root = run_subject(lab / "run_signals"), Store(), lab / "signals"
    whole = store.get(subject, Source(root, "train"))
    for group in ("train1", "train2"):  # the store remembers decoded samples between them
        found, mine = store.get(subject, Source(root, "train", groups=[group])), whole.groups == group
        assert set(found.groups) == {group} and len(found) == mine.sum() == 12
        np.testing.assert_allclose(found.latents["acc"], whole.latents["acc"][mine], rtol=1e-5, atol=1e-6)
    assert len({store.records(Source(root, "train", groups=groups)) for groups in (None, ["train1"], ["train2"])}) == 3
    task, wrong = read_task("act", {"root": "signals", "label": "act", "groups": {"test": [101]}}, "tasks.act")
    assert task.groups == {"test": ["101"]} and not wrong
    _, wrong = read_task("act", {"root": "signals", "label": "act", "groups": [101]}, "tasks.act")
    assert wrong[0].startswith("tasks.act.groups: expected")


def test_a_fold_in_which_nothing_is_left_is_no_part_of_that_scenario(lab, report):  # noqa: F811
    own = bench(str(lab / "suite.yaml"), [lab / "run_signals"], seeds=1, out=lab / "out9", overrides=[
        "tasks.act={root: signals, label: act, features: [all], folds: {by: group}, train: [test], missing: all}"],
        only=["act"])
    assert own.exit_code == 0  # the samples of group test0 have no gyroscope
    assert "act: small_signals: all: samples that really lack a device" in own.text
    assert "20 with nothing missing, 16 without acc" in own.text
    result = own.results[0]
    by = {tuple(c.missing): [fold["name"] for fold in c.runs[0]["folds"]] for c in result.cells}
    everyone = [f"test{n}" for n in range(5)]
    assert by == {(): everyone, ("acc",): everyone[1:], ("gyro",): everyone}
