"""What `mmssl probe` and `mmssl score` say of a run: labels they can not read, classes nobody has, files they keep."""

import json

import pytest
from finetune_common import mmssl, signals, tuned

pytestmark = pytest.mark.filterwarnings("ignore")
__all__ = ["signals", "tuned"]
ONCE = ("probe.seeds=1", "probe.fractions=[1.0]", "probe.features=[all]")


def test_a_label_of_several_classes_is_refused_before_anything_is_computed(capsys, signals):
    code, _, err = mmssl(capsys, "probe", "--run", signals / "run", "probe.labels=[act, tags]", *ONCE)
    assert code == 2 and "probe.labels: of 'tags' a sample may have several classes" in err and "mmssl bench" in err


def test_a_class_that_no_sample_has_counts_in_macro_f1_and_chance(capsys, signals):
    manifest = signals / "set" / "manifest.json"
    before = manifest.read_text()
    tables = []
    for more in ([], ["never"]):
        made = json.loads(before)
        made["labels"]["act"] += more
        manifest.write_text(json.dumps(made))
        assert mmssl(capsys, "probe", "--run", signals / "run", "probe.labels=[act]", *ONCE)[0] == 0
        found = json.loads((signals / "run" / "probe.json").read_text())
        assert (found["data"], found["test"]) == (str(signals / "set"), "test") and "train" in found["train"]
        tables.append(found["labels"]["act"]["trained"])
    manifest.write_text(before)
    plain, wider = tables
    assert (plain["classes"], wider["classes"]) == (3, 4) and wider["chance"]["uniform"] == 1 / 4
    assert wider["rows"][0]["accuracy"] == pytest.approx(plain["rows"][0]["accuracy"], abs=0.1)
    assert wider["rows"][0]["macro_f1"] == pytest.approx(plain["rows"][0]["macro_f1"] * 3 / 4, abs=0.1)


def test_scores_of_other_samples_do_not_take_the_place_of_the_runs_own(capsys, tuned):
    before = (tuned / "score.json").read_bytes()
    assert mmssl(capsys, "score", "--run", tuned, "--split", "val")[0] == 0
    assert (tuned / "score.json").read_bytes() == before
    assert json.loads((tuned / "score-val.json").read_text())["split"] == "val" and (tuned / "score-val.txt").is_file()
