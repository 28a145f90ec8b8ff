"""Recipes: whole, checked at once, written back as they were."""

import dataclasses

import pytest
from omegaconf import OmegaConf

from mmssl.cli import main
from mmssl.config import dump, full_dict, load
from mmssl.errors import ConfigError
from mmssl.recipe_files import recipe_names
from mmssl.registry import LOSSES, Registry, check_settings, signature_of


def problems(*overrides, recipe="vatt_tiny"):
    with pytest.raises(ConfigError) as caught:
        load(recipe, list(overrides))
    return caught.value.problems


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads_and_comes_back_the_same(name, tmp_path):
    recipe = load(name)
    again = tmp_path / "again.yaml"
    again.write_text(dump(recipe))
    assert full_dict(load(again)) == full_dict(recipe)
    assert recipe.name == name
    assert sum(1 for line in open(again)) > 30, "the resolved recipe writes the defaults out"


def test_an_override_reaches_its_place_with_its_type():
    recipe = load("vatt_tiny", ["optim.lr=2e-3", "trainer.max_steps=7", "pairs.video-text.temperature=0.1", "seed=3"])
    assert (recipe.optim.lr, recipe.trainer.max_steps, recipe.seed) == (2e-3, 7, 3)
    assert recipe.pairs["video-text"]["temperature"] == 0.1
    assert dataclasses.replace(recipe, seed=4).optim is recipe.optim


def test_an_override_may_set_what_a_bare_name_leaves_open():
    recipe = load("vatt_tiny", ["method.total=sum", "trunks.text=small", "trunks.text.dropout=0.2",
                                "encoders.text=text", "encoders.text.keep_rate=0.5", "optim.clip.encoders=0.75"])
    assert recipe.method == {"name": "vatt", "total": "sum"}
    assert recipe.trunks["text"] == {"name": "small", "dropout": 0.2}
    assert recipe.encoders["text"] == {"name": "tokens", "trunk": "text", "keep_rate": 0.5}
    assert recipe.optim.clip == {"encoders": 0.75} and load("vatt_tiny", ["optim.clip=2"]).optim.clip == 2.0
    assert problems("optim.clip={encoders: much}") == ["optim.clip: expected float or dict[str, float] or null, got "
                                                       "{'encoders': 'much'}"]


def test_all_problems_are_reported_at_once_each_with_key_expectation_and_nearest_word():
    found = problems("optim.lrr=1", "trainer.max_steps=soon", "pairs.video-audio.temprature=1",
                     "trunks.video.name=transfomer", "encoders.imu=shared", "data.batch_per_device=null",
                     "traner.max_steps=1", "pairs.video-smell=nce")
    text = "\n".join(found)
    for part in ("optim.lrr: no such setting; did you mean 'lr'?",
                 "trainer.max_steps: expected int, got 'soon'",
                 "pairs.video-audio.temprature: no such setting; did you mean 'temperature'?",
                 "trunks.video: no trunk is called 'transfomer'; did you mean 'transformer'?",
                 "encoders.imu: no such modality",
                 "data.batch_per_device: expected int, got None",
                 "traner: no such section; did you mean 'trainer'?",
                 "pairs.video-smell: no such modality 'smell'"):
        assert part in text, f"{part!r} not in\n{text}"
    assert all(len(line) < 200 and "\n" not in line for line in found)


def test_values_out_of_range_are_reported_with_all_other_problems():
    found = problems("optim.lr=-1", "data.batch_per_device=0", "data.workers=-1", "trainer.max_steps=0",
                     "trainer.devices=-1", "probe.fractions=[0.5,2]", "probe.seeds=0", "online.k=0", "optim.lrr=1",
                     "trainer.val_every=soon")
    assert sorted(found) == [
        "data.batch_per_device: expected at least 1, got 0", "data.workers: expected 0 or more threads, got -1",
        "online.k: expected at least 1, got 0", "optim.lrr: no such setting; did you mean 'lr'?",
        "probe.fractions: expected shares above 0, up to 1, got [0.5, 2.0]", "probe.seeds: expected at least 1, got 0",
        "trainer.val_every: expected int, got 'soon'"]
    assert sorted(problems("optim.lr=-1", "trainer.max_steps=0", "trainer.devices=-1")) == [
        "optim.lr: expected a positive number, got -1.0", "trainer.devices: expected a positive number, got -1",
        "trainer.max_steps: expected a positive number, got 0"]


def test_missing_values_are_named():
    found = "\n".join(problems("modalities.acc.rate=???", "aggregator=null", recipe="crossl_tiny"))
    assert "aggregator: missing" in found
    assert "modalities.acc.rate" in found


def test_a_section_the_method_does_not_take_is_a_problem():
    assert any(line.startswith("mask: the method 'vatt' takes no mask") for line in problems("mask=modality"))


def test_a_trunk_that_nobody_names_is_a_problem():
    assert any("trunks.spare" in line for line in problems("trunks.spare=small"))


def test_the_command_line_says_it_in_short_lines_with_code_2_and_no_traceback(capsys):
    assert main(["fit", "--recipe", "vatt_tiny", "optim.lrr=1", "optim.warmup=x"]) == 2
    said = capsys.readouterr().err
    assert sorted(said.splitlines()) == ["mmssl: optim.lrr: no such setting; did you mean 'lr'?",
                                         "mmssl: optim.warmup: expected int, got 'x'"]
    assert main(["fit", "--recipe", "vatt_tniy"]) == 2
    assert "did you mean 'vatt_tiny'" in capsys.readouterr().err
    assert main(["fit", "--recipe", "nowhere.yaml"]) == 2
    assert main(["fit"]) == 2
    assert "--recipe" in capsys.readouterr().err


def test_broken_yaml_and_foreign_files_are_named(tmp_path):
    for text in ("a: [1", "- 1\n- 2", "name: ${nowhere}", "\x00"):
        path = tmp_path / "broken.yaml"
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"broken\.yaml"):
            load(path)


def test_an_environment_value_is_used_but_never_written(tmp_path, monkeypatch):
    monkeypatch.setenv("MMSSL_TEST_DATA", "/a/secret/place")
    recipe = load("vatt_tiny", ["data.root=${oc.env:MMSSL_TEST_DATA}"])
    assert recipe.data.root == "/a/secret/place"
    assert "secret" not in dump(recipe)
    assert OmegaConf.create(dump(recipe)).data.root == "/a/secret/place"


def test_a_typed_signature_is_the_schema():
    def part(width: int, rate: float | None = None, kind: str = "a", sizes: list[int] = (1,)):
        """A part."""
    good, wrong = check_settings(signature_of(part), {"width": "3", "rate": "1e-3", "sizes": [1, "2"]}, "here")
    assert good == {"width": 3, "rate": 1e-3, "sizes": [1, 2]} and wrong == []
    good, wrong = check_settings(signature_of(part), {"rate": "x", "kid": 1}, "here")
    assert wrong == ["here.rate: expected float or null, got 'x'", "here.kid: no such setting; did you mean 'kind'?",
                     "here.width: missing; expected int"]


@dataclasses.dataclass(frozen=True)
class Grain:
    size: float = 2.0
    kind: str = "fine"

    def __post_init__(self):
        if self.size < 0:
            raise ConfigError("size: below 0")


def test_a_setting_may_be_a_dataclass_whose_fields_are_its_settings():
    def part(grain: Grain = Grain(), other: Grain | None = None):
        """A part."""
    def check(**settings):
        return check_settings(signature_of(part), settings, "here")
    assert check(grain=3) == ({"grain": Grain(3.0)}, [])
    assert check(grain={}, other={"kind": "coarse"}) == ({"grain": Grain(), "other": Grain(kind="coarse")}, [])
    assert check(other=None) == ({"other": None}, [])
    assert check(grain={"sise": 1, "kind": [1]}, other=-1)[1] == [
        "here.grain.sise: no such setting; did you mean 'size'?", "here.grain.kind: expected str, got [1]",
        "here.other.size: below 0"]


def test_settings_that_are_dataclasses_are_written_out_in_full():
    nodes = full_dict(load("vatt_base"))["modalities"]["video"]
    assert nodes["crop"] == {"style": "inception", "area": [0.08, 1.0], "aspect": [0.5, 2.0], "scale": [0.8, 1.2],
                             "scale_rate": 0.8}
    assert nodes["jitter"]["rate"] == 0.8 and nodes["jitter"]["hue"] == 0.2
    tiny = full_dict(load("vatt_tiny", ["modalities.video.jitter={hue: 0.1}"]))["modalities"]["video"]
    assert tiny["jitter"]["hue"] == 0.1 and tiny["jitter"]["contrast"] == 0.4 and tiny["crop"]["area"] == [0.75, 1.0]
    assert full_dict(load("vatt_ma_tiny"))["modalities"]["video"]["jitter"] is None


def test_a_name_belongs_to_one_part():
    registry = Registry("thing")
    first, second = (lambda: 1), (lambda: 2)
    registry.register("x")(first)
    registry.register("x")(first)
    with pytest.raises(ValueError, match="'x' is taken"):
        registry.register("x")(second)
    assert "nce" in LOSSES.names()
