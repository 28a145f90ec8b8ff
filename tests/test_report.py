"""The report of a run: one file that shows what the run left behind, drawn by a real browser where there is one."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from small_runs import CLIPS, make_clips, write_recipe

from mmssl import plots
from mmssl.cli import main
from mmssl.eval import Features, probe_table
from mmssl.reporting import report
from mmssl.reporting.classes import confusion
from mmssl.reporting.history import curves, read_metrics

BROWSER = next((b for b in ("chromium", "chromium-browser", "google-chrome") if shutil.which(b)), None)


class Page(HTMLParser):
    """What a page refers to, and its figures: the texts of each picture and its caption."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references, self.tags, self.figures, self.path = [], set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.path.append(tag)
        self.references += [v for k, v in attributes if k in ("src", "href", "xlink:href", "data", "action")]
        if tag == "figure":
            self.figures.append({"text": [], "caption": ""})

    def handle_endtag(self, tag):
        while self.path and self.path.pop() != tag:
            pass

    def handle_data(self, data):
        if "figcaption" in self.path:
            self.figures[-1]["caption"] += data
        elif "figure" in self.path and data.strip():
            self.figures[-1]["text"].append(data.strip())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    extra = "probe: {labels: [way], features: [video, all]}\nonline: {labels: [way], features: [video, text]}\n"
    recipe = write_recipe(root, CLIPS, make_clips(root / "set"), extra)
    assert main(["fit", "--recipe", str(recipe), "--run-dir", str(root / "run")]) == 0
    return root / "run"


def test_the_report_is_one_file_with_axes_units_and_captions_and_nothing_from_outside(run, capsys):
    assert main(["report", "--run", str(run)]) == 0
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    text = (run / "report.html").read_text()
    page = Page(text)
    assert all(r.startswith(("#", "data:image")) for r in page.references)
    assert not re.search(r"@import|url\((?!#)", text) and not page.tags & {"script", "link", "img", "iframe"}
    axes = [" | ".join(f["text"]) for f in page.figures]
    for wanted in ("loss (no unit)", "learning rate", "samples per second", "R@10 (share of queries)", "modality gap",
                   "effective rank (dimensions)", "t-SNE, first axis", "first principal axis", "cosine",
                   "true class", "video, linear | video, knn | text, linear | text, knn | chance"):
        assert any(wanted in a for a in axes), wanted
    assert all(len(f["caption"]) > 20 for f in page.figures)
    assert sum("optimiser step" in a for a in axes) >= 8
    probe = json.loads((run / "probe.json").read_text())["labels"]["way"]["trained"]["rows"][0]
    assert f"{probe['accuracy']:.3f} ± {probe['accuracy_std']:.3f}" in text
    assert "torch" in text and "keep_rate: 0.5" in text


def test_a_confusion_matrix_holds_the_answers_of_all_draws_and_is_drawn_as_shares(run):
    found = json.loads((run / "probe.json").read_text())
    assert found["classes"] == {"way": ["left", "right"]}
    row = found["labels"]["way"]["trained"]["rows"][1]
    counts = np.array(row["confusion"])
    assert counts.sum(axis=1).tolist() == [12, 12]  # three draws, four test samples of each class
    assert np.trace(counts) / counts.sum() == pytest.approx(row["accuracy"])
    drawn = next(f for f in Page(report(run).read_text()).figures if "frozen features 'all'" in f["caption"])
    assert {"left", "right", "true class", *(f"{share:.2f}" for share in (counts / 12).ravel())} <= set(drawn["text"])
    empty = Page(confusion([[0, 0], [1, 3]], ["a", "b"], "what")).figures[0]["text"]
    assert {"0.25", "0.75"} <= set(empty) and not any("nan" in t for t in empty)


def test_a_confusion_matrix_is_kept_of_the_largest_share_of_a_label_with_few_classes():
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    features = Features(x={"a": rng.normal(size=(40, 3)).astype(np.float32)}, present={"a": np.ones(40, dtype=bool)},
                        labels={"y": y}, keys=np.array(["k"] * 40), groups=np.array([""] * 40))
    table = probe_table(features, features, "y", fractions=(0.5, 1.0), seeds=2)
    assert [row.confusion is not None for row in table.rows] == [False, True]
    assert np.sum(table.rows[1].confusion) == 80
    assert probe_table(features, features, "y", fractions=(1.0,), classes=101).rows[0].confusion is None


def test_the_same_run_gives_the_same_file(run, tmp_path):
    assert report(run, tmp_path / "a.html").read_bytes() == report(run, tmp_path / "b.html").read_bytes()


@pytest.mark.skipif(BROWSER is None, reason="no browser installed")
def test_a_browser_draws_every_picture(run, tmp_path):
    page = report(run, tmp_path / "page.html")
    measure = ("<script>document.title = JSON.stringify([...document.querySelectorAll('figure svg')].map(s => { const "
               "b = s.getBBox(), r = s.getBoundingClientRect(); return [b.width, b.height, r.width, r.height] }))"
               "</script>")
    measured = tmp_path / "measured.html"
    measured.write_text(page.read_text().replace("</body>", measure + "</body>"))
    answer = subprocess.run([BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/user",
                             "--dump-dom", f"file://{measured}"], capture_output=True, text=True, timeout=120)
    boxes = json.loads(re.search(r"<title>(.*?)</title>", answer.stdout).group(1))
    assert len(boxes) == len(Page(page.read_text()).figures) >= 12
    assert all(min(box) > 100 for box in boxes), boxes


def test_a_run_without_checkpoint_or_with_broken_metrics_says_so(run, tmp_path, capsys):
    early = tmp_path / "early"
    shutil.copytree(run, early)
    shutil.rmtree(early / "checkpoints")
    text = report(early).read_text()
    assert "no such checkpoint" in text and "t-SNE" not in text and "loss (no unit)" in text
    with open(early / "metrics.jsonl", "a") as file:
        file.write("{broken\n")
    lines = len((early / "metrics.jsonl").read_text().splitlines())
    assert main(["report", "--run", str(early)]) == 4
    said = capsys.readouterr().err
    assert f"metrics.jsonl, line {lines}: expected a JSON object" in said and said.count("\n") == 1


def test_curves_keep_steps_and_leave_gaps_where_a_value_was_not_finite(tmp_path):
    rows = [{"step": 2, "loss": 1.5}, {"step": 4, "loss": None, "part": 2.0}, {"step": 4, "split": "val", "val/x": 1}]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    training, held_out = read_metrics(tmp_path / "m.jsonl")
    assert held_out == [rows[2]]
    found = curves(training, lambda key: None if key == "step" else key)
    assert found["part"] == ([4], [2.0]) and found["loss"][0] == [2, 4]
    assert found["loss"][1][0] == 1.5 and np.isnan(found["loss"][1][1])


def test_a_heat_map_writes_each_number_in_its_cell(tmp_path):
    table = np.array([[0.125, 0.5], [np.nan, 0.875]])
    drawn = plots.svg(plots.heat_map(table, ["r0", "r1"], ["c0", "c1"], "rows", "columns", "share"))
    found = Page(f"<figure>{drawn}</figure>").figures[0]["text"]
    assert {"r0", "r1", "c0", "c1", "rows", "columns", "share", "0.12", "0.50", "0.88"} <= set(found)
    assert not any("nan" in t for t in found)
    plots.png(plots.heat_map(table, [], [], "rows", "columns", "share"), tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
