"""Checkpoints of VATT's released code: what they hold lands where it belongs, and computes what it did there."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from released_forward import Released
from released_names import BASES, ROOT, SUFFIX, UNIFIED, beside, drawn, tuned, write_npz
from released_small import AUDIO, MA, RECIPES, SHAPES, TEXT, VIDEO, recipe

from mmssl import build
from mmssl.cli import main
from mmssl.convert import convert
from mmssl.convert.tensorflow_export import write
from mmssl.errors import ConfigError
from mmssl.evaluate import load as load_run
from mmssl.nn.positions import stretch_matrix
from mmssl.run import init_weights


def inputs(rows=3):
    rng = np.random.default_rng(5)
    words = rng.integers(1, 11, (rows, 14))
    words[0, 9:] = words[1, 1:] = words[2] = 0  # short, one word, none
    return {"video": rng.standard_normal((rows, 4, 16, 16, 3)), "audio": rng.standard_normal((rows, 320)),
            "text": words}


def reference(kind, weights, x):
    """Features of each modality by the NumPy code, then the head's four embeddings."""
    code, waves = Released(weights), x["audio"][..., None]
    if kind == "unified":
        features = [code.unified(m, waves if m == "audio" else x[m], MA[m]) for m in ("video", "audio", "text")]
    else:
        features = [code.encoder("video", x["video"], VIDEO), code.encoder("audio", waves, AUDIO),
                    code.text(x["text"], TEXT)]
    return [*features, *code.head(*features)]


def ours(model, x):
    model = model.double().eval()
    x = {name: torch.from_numpy(value) for name, value in x.items()}
    with torch.no_grad():
        latents = {name: encoder(x[name]) for name, encoder in model.encoders.items()}
        present = {name: torch.ones(len(z), dtype=torch.bool) for name, z in latents.items()}
        (fine, audio), (coarse, text) = model.head(latents, present).values()
    return [z.numpy() for z in (latents["video"], latents["audio"], latents["text"], fine, audio, coarse, text)]


@pytest.mark.parametrize("kind", RECIPES)
def test_converted_model_computes_what_the_released_code_does(kind, tmp_path):
    weights = drawn(SHAPES[kind])
    source = write_npz(tmp_path / "ckpt.npz", weights, write)
    said = convert(str(source), recipe(tmp_path, kind), tmp_path / "run")
    model, x = load_run(tmp_path / "run"), inputs()
    expected, found = reference(kind, weights, x), ours(model, x)
    for a, b in zip(found, expected, strict=True):
        assert np.ptp(b, axis=0).mean() > 0.05  # rows differ, so an input that is lost would show
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)
    record = json.loads((tmp_path / "run" / "converted.json").read_text())
    assert sorted({s for sources in record["tensors"].values() for s in sources}) == sorted(weights)
    assert sorted(record["ignored"]) == sorted(beside(weights))
    assert f"{len(weights)} tensors fill all {len(model.state_dict())} parameters and buffers of the model" in said
    assert f"ignored: {len(beside(weights))} " in said and "no vocabulary" in said


def test_every_parameter_is_the_transposed_source(tmp_path):
    """Spelled out for one layer of each layout; the rest is in the forward pass."""
    weights = drawn(SHAPES["separate"])
    convert(str(write_npz(tmp_path / "c.npz", weights, write)), recipe(tmp_path, "separate"), tmp_path / "w.ckpt")
    state = torch.load(tmp_path / "w.ckpt", weights_only=True)["state_dict"]

    def theirs(name):
        return torch.from_numpy(weights[f"{ROOT}/{name}{SUFFIX}"])

    patch = theirs("_base_layer/vid_backbone/_base/voxel_to_patch/kernel")  # (t, h, w, channels, D)
    assert torch.equal(state["encoders.video.tokenizer.projection.weight"].reshape(16, 2, 8, 4, 3),
                       patch.permute(4, 0, 1, 2, 3))
    wave = theirs("_base_layer/aud_backbone/_base/wave_to_patch/kernel")  # (k, 1, D)
    assert torch.equal(state["encoders.audio.tokenizer.projection.weight"], wave[:, 0].T)
    layer = "_base_layer/txt_backbone/base_lm/layers/1/self_attention/attention"
    _, k, _ = state["encoders.text.trunk.blocks.1.attention.qkv.weight"].chunk(3)
    assert torch.equal(k, theirs(f"{layer}/k/kernel").T)
    assert torch.equal(state["head.tower.coarse_norm.running_var"],
                       theirs("_head_layer/_bridge_heads/0/va_to_vat/bn/moving_variance"))
    assert all(value.is_contiguous() for value in state.values())


def test_shared_trunk_is_stored_once_and_weights_start_a_run(tmp_path):
    source = write_npz(tmp_path / "c.npz", drawn(SHAPES["unified"]), write)
    convert(str(source), recipe(tmp_path, "unified"), tmp_path / "run")
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    state = torch.load(last, weights_only=True)["state_dict"]
    wide = [state[f"encoders.{m}.trunk.blocks.0.mlp_in.weight"].data_ptr() for m in ("video", "audio", "text")]
    assert len(set(wide)) == 1
    made = recipe(tmp_path, "unified", "seed=3")
    fresh = build.method(made, build.modalities(made))
    assert init_weights(fresh, last).endswith(f"{len(state)} of {len(state)} tensors matched")
    assert all(torch.equal(value, state[name]) for name, value in fresh.state_dict().items())


@pytest.mark.parametrize("modality", ["video", "audio"])
@pytest.mark.parametrize("post", [0, 18])
def test_fine_tuned_encoder(modality, post, tmp_path):
    """One encoder, of VATT or of VATT-MA, without its classifier, for --init-from; it computes the same."""
    kind = "unified" if post else "separate"
    size = MA[modality] if post else {"video": VIDEO, "audio": AUDIO}[modality]
    weights = drawn(tuned(modality, size, 7, post), seed=2)
    source, out = write_npz(tmp_path / "c.npz", weights, write), tmp_path / "tuned.ckpt"
    said = convert(str(source), recipe(tmp_path, kind), out)
    assert f"fill all {len(torch.load(out)['state_dict'])} parameters and buffers of the encoder of {modality}" in said
    assert f"{ROOT}/_ops/cls/kernel" in said and "left out" in said
    fresh = build.method(recipe(tmp_path, kind), build.modalities(recipe(tmp_path, kind)))
    init_weights(fresh, out)
    x = inputs()[modality]
    with torch.no_grad():
        found = fresh.double().encoders[modality](torch.from_numpy(x)).numpy()
    expected = Released(weights).encoder(modality, x[..., None] if modality == "audio" else x, size, "_base")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    with pytest.raises(ConfigError, match=r"one encoder, of \w+, .*--out .*run\.ckpt"):
        convert(str(source), recipe(tmp_path, kind), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_positions_are_stretched_only_when_asked(tmp_path):
    made = recipe(tmp_path, "separate", "modalities.video.frames=8", "modalities.video.size=24")
    weights = drawn(SHAPES["separate"])
    source = str(write_npz(tmp_path / "c.npz", weights, write))
    with pytest.raises(ConfigError) as refused:
        convert(source, made, tmp_path / "run")
    assert sum("--stretch-positions" in line for line in refused.value.problems) == 3
    said = convert(source, made, tmp_path / "run", stretch_positions=True)
    state = load_run(tmp_path / "run").state_dict()
    # the grid is 4 x 3 x 6, the checkpoint's 2 x 2 x 4
    for i, (axis, rows, size) in enumerate([("temporal", 2, 4), ("vertical", 2, 3), ("horizontal", 4, 6)]):
        name = f"{ROOT}/{BASES['video']}/pos_embedding_lookup/{axis}_position_embeddings/embeddings{SUFFIX}"
        table = state[f"encoders.video.positions.tables.{i}"]
        np.testing.assert_allclose(table, stretch_matrix(rows, size).numpy() @ weights[name], atol=1e-6)
        np.testing.assert_allclose(table[0], weights[name][0], atol=1e-6)  # the clip's beginning stays its beginning
        assert f"resampled: encoders.video.positions.tables.{i}: {rows} rows to {size}" in said


def test_run_can_be_used_at_once(tmp_path, capsys, monkeypatch):
    """From the command line: convert with a vocabulary, embed a sound file and a text; the same numbers as in NumPy."""
    recipe(tmp_path, "unified")
    words = [*"<pad> <bos> <eos> <unk> a b c d e f g".split()]
    (tmp_path / "words.txt").write_text("\n".join(words) + "\n")
    weights = drawn(SHAPES["unified"])
    write_npz(tmp_path / "c.npz", weights, write)
    monkeypatch.chdir(tmp_path)
    assert main(["convert", "--checkpoint", "c.npz", "--recipe", "unified.yaml", "--out", "run",
                 "modalities.text.vocabulary=words.txt"]) == 0
    assert "no vocabulary" not in capsys.readouterr().out
    Path("t.txt").write_text("a c c, G")
    assert main(["embed", "--run", "run", "--data", "t.txt", "--out", "f.npz"]) == 0
    with np.load("f.npz") as features:
        ids = np.zeros((1, 14), int)
        ids[0, :4] = [words.index(w) for w in "accg"]
        np.testing.assert_allclose(features["text"], Released(weights).unified("text", ids, MA["text"]), atol=1e-5)
    typed = Path("run/recipe.typed.yaml").read_text()
    assert typed.startswith("# mmssl convert c.npz --recipe unified.yaml modalities.text")
    assert UNIFIED in Path("run/converted.json").read_text()
    assert main(["convert", "--checkpoint", "c.npz", "--recipe", "unified.yaml", "--out", "run"]) == 2
    assert "not empty" in capsys.readouterr().err
