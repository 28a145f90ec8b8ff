"""The seventeen choices between VATT's paper and its released code: one key fills them, each may be set alone."""

from pathlib import Path

import pytest
import torch
import yaml
from flat_recipes import resolved

from mmssl import build
from mmssl.cli import main
from mmssl.config import dump, full_dict, load
from mmssl.config.choices_vatt import CHOICES
from mmssl.config.published import lines, source_problems
from mmssl.dry_run import counts, parameter_lines
from mmssl.errors import ConfigError
from mmssl.registry import METHODS

#: By dotted place of vatt_base: what paper, code and suggestion say.
BASE = {
    "optim.warmup": (10_000, 5_000, 10_000),
    "optim.shape": ("quarter_cosine", "half_cosine", "quarter_cosine"),
    "method.total": ("sum", "mean", "mean"),
    "pairs.video-audio.form": ("once", "asymmetric", "asymmetric"),
    "pairs.video-text.form": ("once", "asymmetric", "asymmetric"),
    "head.linear_norm": (True, False, False),
    "head.coarse_relu": (False, True, True),
    "encoders.video.position_norm": (False, True, True),
    "encoders.audio.position_norm": (False, True, True),
    "encoders.video.summary_position": (True, False, False),
    "encoders.audio.summary_position": (True, False, False),
    "modalities.text.word_dim": (None, 300, 300),
    "modalities.text.trainable": (True, False, None),
    "trunks.text.relative_bias": ("first", "every", "every"),
    "modalities.video.crop.style": ("inception", "vgg", "inception"),
    "modalities.video.resample": ("nearest", "stride", "nearest"),
    "modalities.audio.noise": (0.0, 0.01, 0.0),
}
MA = {place: values for place, values in BASE.items() if not place.startswith("trunks")} | {
    f"encoders.{m}.{setting}": values for m in ("video", "audio", "text") for setting, values in (
        ("pre_projection", (False, True, True)), ("post_projection", (0, 1024, 1024)),
        ("position_norm", (False, True, True)), ("summary_position", (True, False, False)))}
SOURCES = ("paper", "code", "suggested")


@pytest.mark.parametrize(("name", "table"), [("vatt_base", BASE), ("vatt_ma_medium", MA)])
def test_a_source_fills_every_choice_and_nothing_else(name, table):
    found = {source: resolved(name, f"source={source}") for source in SOURCES}
    for place, values in table.items():
        assert tuple(found[source][place] for source in SOURCES) == values, place
    assert resolved(name) == found["suggested"]
    for source in SOURCES:
        changed = {k for k in found[source] if found[source][k] != found["suggested"][k]}
        assert changed <= {*table, "source"}, changed


@pytest.mark.parametrize("place", BASE)
def test_each_choice_can_be_set_alone_and_wins_over_the_source(place):
    paper, code, suggested = BASE[place]
    other = code if suggested == paper else paper
    found, plain = resolved("vatt_base", f"{place}={yaml.safe_dump(other).splitlines()[0]}"), resolved("vatt_base")
    assert found[place] == other and {k for k in found if found[k] != plain[k]} == {place}
    assert resolved("vatt_base", "source=paper", f"{place}={yaml.safe_dump(code).splitlines()[0]}")[place] == code


def test_what_a_recipe_file_says_wins_too(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(dump(load("vatt_base")).replace("source: suggested", "source: paper"))
    assert resolved(path) | {"source": "suggested"} == resolved("vatt_base")  # it says everything itself


def test_recipes_without_a_source_keep_the_defaults_of_their_parts():
    for name in ("vatt_tiny", "vatt_ma_tiny"):
        found = resolved(name)
        assert "source" not in found and found["optim.zero_nan"] is False
    tiny = resolved("vatt_tiny")
    assert (tiny["optim.warmup"], tiny["optim.shape"], tiny["modalities.video.resample"]) == (50, "half_cosine", "none")
    code = {k: v for k, (_, v, _) in BASE.items() if k.split(".")[0] in ("method", "pairs", "head", "encoders")}
    assert {k: tiny[k] for k in code} == code
    assert resolved("vatt_tiny", "source=paper")["head.linear_norm"] is True  # they may name one


def test_a_recipe_from_before_there_were_sources_still_loads_as_it_was(tmp_path):
    tree = full_dict(load("vatt_base"))
    new = ("total", "drop", "position_norm", "summary_position", "relative_bias", "coarse_relu", "linear_norm",
           "zero_nan", "source")
    old = tmp_path / "recipe.yaml"
    old.write_text(yaml.safe_dump(strip(tree, new)))
    assert resolved(old) == {k: v for k, v in resolved("vatt_base").items() if k != "source"}


def strip(tree, keys):
    return {k: strip(v, keys) for k, v in tree.items() if k not in keys} if isinstance(tree, dict) else tree


def test_a_pair_that_no_recipe_names_follows_the_source_too():
    own = ["modalities.imu={name: series, channels: 6, rate: 50, seconds: 1}",
           "encoders.imu={name: conv, width: 8}"]
    for source, form in (("paper", "once"), ("code", "asymmetric")):
        built = build.pairs(load("vatt_base", [*own, f"source={source}"]))
        assert [(p.a, p.b, p.loss.form) for p in built] == [
            ("video", "audio", form), ("video", "text", form), ("video", "imu", form)]


def test_a_source_for_a_method_without_variants_or_a_wrong_one_is_told(monkeypatch):
    monkeypatch.setitem(METHODS._parts, "lonely", object)
    assert source_problems({"method": {"name": "lonely"}, "source": "paper"}) == [
        "source: the method 'lonely' has no published variants (crossl, vatt, vatt_ma have); leave it out"]
    with pytest.raises(ConfigError, match="source: expected one of paper, code, suggested or null, got 'papers'"):
        load("vatt_base", ["source=papers"])


def test_there_are_seventeen_and_each_says_something():
    assert [choice.number for choice in CHOICES] == list(range(1, 18))
    assert all(choice.settings or choice.elsewhere for choice in CHOICES)


def test_the_page_of_the_choices_has_the_same_table():
    page = (Path(__file__).parents[1] / "docs" / "vatt.md").read_text()
    rows = {int(cells[1]): cells for cells in (line.split("|") for line in page.splitlines())
            if len(cells) == 8 and cells[1].strip().isdigit()}
    assert sorted(rows) == list(range(1, 18))
    for choice in CHOICES:
        for setting in choice.settings:
            where, *values = rows[choice.number][3:7]
            assert f"`{setting.place}`" in where
            for source, cell in zip(SOURCES, values, strict=True):
                value = setting.values[SOURCES.index(source)]
                assert f"`{'null' if value is None else setting.said(value)}`" in cell, (choice.number, source, cell)


def test_recipes_show_prints_what_runs_and_marks_what_was_set_by_hand(capsys, tmp_path):
    assert main(["recipes", "show", "vatt_base", "source=paper", "optim.warmup=5000", "pairs.video-text.form=symmetric",
                 "modalities.text.word_dim=128"]) == 0
    said = capsys.readouterr().out
    rows = [line.lstrip("# ") for line in said.splitlines() if line.startswith("#")]
    assert sum(row[0].isdigit() for row in rows) == 17 and "source: paper" in rows[0]
    for text, whose in (("optim.warmup: 5000", "code, set by hand"), ("optim.shape: quarter_cosine", "paper"),
                        ("pairs.video-audio.form: once", "paper"),
                        ("modalities.video.crop: inception", "paper"), ("encoders.*.position_norm: false", "paper"),
                        ("pairs.video-text.form: symmetric", "neither, set by hand"),
                        ("modalities.text.word_dim: 128", "neither, set by hand")):
        assert [row for row in rows if text in row and row.endswith(f"  {whose}")], text
    assert next(row for row in rows if row.startswith("10 ")).endswith("no such part in this recipe")
    shown = tmp_path / "shown.yaml"
    shown.write_text(said)
    assert resolved(shown) == resolved("vatt_base", "source=paper", "optim.warmup=5000", "modalities.text.word_dim=128",
                                       "pairs.video-text.form=symmetric")
    assert "no source" in lines(full_dict(load("vatt_tiny")))[0]


COUNTS = {"vatt_base": (193_877_292, 1_314_048), "vatt_medium": (260_905_772, 1_445_120),
          "vatt_large": (412_060_460, 1_445_120), "vatt_ma_base": (93_965_568, 1_707_264),
          "vatt_ma_medium": (162_990_336, 1_707_264), "vatt_ma_large": (314_145_024, 1_707_264)}


def on_meta(name, *overrides):
    recipe = load(name, list(overrides))
    parts = build.modalities(recipe)
    with torch.device("meta"):
        return build.method(recipe, parts)


@pytest.mark.parametrize("name", COUNTS)
def test_published_recipes_have_the_published_counts_and_say_so(name):
    trainable, head = COUNTS[name]
    model = on_meta(name)
    found = counts(model)
    assert (found["trainable"], found["head"]) == (trainable, head)
    said = " ".join("\n".join(parameter_lines(model)).split())
    assert f"trainable {trainable:,} without the word table" in said
    assert "word table 19,660,800 65,536 × 300, trainable" in said
    frozen = " ".join("\n".join(parameter_lines(on_meta(name, "source=code"))).split())
    assert f"trainable {trainable:,} without" in frozen and "word table 19,660,800 65,536 × 300, frozen" in frozen


def test_counts_of_the_parts_and_of_the_paper_s_variant():
    found = counts(on_meta("vatt_base"))
    assert (found["video"], found["audio"], found["text"]) == (87_446_016, 86_078_976, 19_038_252)
    model = on_meta("vatt_base", "source=paper")
    paper = counts(model)
    assert paper["video"] == found["video"] - 2 * 768 + 768  # no LayerNorm on positions, one for the summary token
    assert paper["text"] == found["text"] - 300 * 512 - 300 + 512  # no Dense after the table; the summary is as wide
    assert paper["head"] == found["head"] + 512 + 256  # gains and biases of two norms for two biases
    assert "65,536 × 512, trainable" in " ".join(parameter_lines(model))
    found, paper = counts(on_meta("vatt_ma_base")), counts(on_meta("vatt_ma_base", "source=paper"))
    assert found["trunk (shared)"] == paper["trunk (shared)"] == 85_056_000
    assert found["video"] - paper["video"] == 768 * 768 + 768 + 768 * 1024 + 1024 + 2 * 768 - 768
