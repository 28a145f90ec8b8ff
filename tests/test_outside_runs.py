"""VATT with encoders of other libraries, from the recipe in the documentation, over real files."""

from pathlib import Path

import timm
import torch
from small_runs import checkpoint, make_clips, mmssl, one_message

import mmssl as library
from mmssl import build
from mmssl.bench.subject import random_twin, run_subject
from mmssl.config import load
from mmssl.nn.outside import TorchaudioEncoder

RECIPE = Path(__file__).parents[1] / "docs" / "examples" / "vatt_outside.yaml"


def test_the_documented_recipe_trains_with_a_frozen_and_a_trained_encoder(tmp_path, capsys):
    """Weights come from files that are gone afterwards; the frozen ones are as they were, the others moved."""
    torch.manual_seed(1)
    picture, sound = timm.create_model("test_vit", num_classes=7), TorchaudioEncoder(_Wave, "tiny").model
    torch.save(picture.state_dict(), tmp_path / "vit.pth")
    torch.save(sound.state_dict(), tmp_path / "sound.pth")
    words = [f"data.root={make_clips(tmp_path / 'set')}", "data.batch_per_device=4", "modalities.video.frames=2",
             "modalities.video.size=32", "modalities.audio={rate: 8000, seconds: 0.2}", "trainer.max_steps=2",
             "trainer.val_every=2", "trainer.monitor=null",
             f"encoders.video={{name: timm, model: test_vit, weights: {tmp_path / 'vit.pth'}, frozen: true}}",
             f"encoders.audio={{name: torchaudio, model: tiny, weights: {tmp_path / 'sound.pth'}}}"]
    code, _, err = mmssl(capsys, "fit", "--recipe", RECIPE, "--run-dir", tmp_path / "run", *words)
    assert code == 0, err
    for name in ("vit.pth", "sound.pth"):
        (tmp_path / name).unlink()
    weights = checkpoint(tmp_path / "run")["state_dict"]
    kept = picture.state_dict()
    assert all(torch.equal(weights[f"encoders.video.model.{k}"], v) for k, v in kept.items()
               if not k.startswith("head.") and k != "pos_embed")
    moved = [not torch.equal(weights[f"encoders.audio.model.{k}"], v) for k, v in sound.state_dict().items()]
    assert sum(moved) > 0.9 * len(moved)
    model = library.load(tmp_path / "run")
    assert torch.equal(model.encoders["audio"].state_dict()["model.encoder.transformer.layer_norm.weight"],
                       weights["encoders.audio.model.encoder.transformer.layer_norm.weight"])
    recipe = load(tmp_path / "run" / "recipe.yaml")
    random = build.method(build.at_random(recipe), build.modalities(recipe))
    twin = random_twin(run_subject(tmp_path / "run"), tmp_path / "run")
    for encoders in (random.encoders, twin.encoders):
        assert not torch.equal(encoders["video"].model.state_dict()["blocks.0.attn.qkv.weight"],
                               kept["blocks.0.attn.qkv.weight"])


def test_weights_that_are_not_there_or_of_another_model_stop_before_a_run_has_a_folder(tmp_path, capsys):
    torch.save({"nothing": torch.zeros(2)}, tmp_path / "x.pth")
    root = make_clips(tmp_path / "set")
    for file, said in ((tmp_path / "none.pth", "encoders.video.weights: no file"), (tmp_path / "x.pth", "do not fit")):
        code, _, err = mmssl(capsys, "fit", "--recipe", RECIPE, "--run-dir", tmp_path / "run", f"data.root={root}",
                             "data.batch_per_device=4", "modalities.audio.rate=8000",
                             f"encoders.video={{name: timm, model: test_vit, weights: {file}}}")
        assert code == 2 and not (tmp_path / "run").exists()
        one_message(err, said)


class _Wave:
    shape = (1600,)
