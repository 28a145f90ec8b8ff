"""Every recipe, shrunk, takes two steps, repeats them exactly, and keeps the promises of `mmssl.testing`."""

import re
from pathlib import Path

import pytest
import torch
from methods_common import SMALL, holey_batch, small

from mmssl import build, training
from mmssl.cli import main, parser
from mmssl.config import load
from mmssl.cost import random_batch
from mmssl.dry_run import counts, dry_run
from mmssl.optim import build_optimizer
from mmssl.recipe_files import recipe_names
from mmssl.testing import check_aggregator, check_encoder, check_method

ROOT = Path(__file__).parents[1]
TINY = "{name: transformer, dim: 32, depth: 1, heads: 2}"
SHRINK = ["modalities.video.frames=4", "modalities.video.size=32", "modalities.audio.seconds=0.05",
          "modalities.text.vocabulary_size=50", "modalities.text.texts=2"]


def shrunk(name):
    if name in SMALL:
        return load(name, SMALL[name])
    trunks = [f"trunks.shared={TINY}"] if name.startswith("vatt_ma") else [
        f"trunks.video={TINY}", f"trunks.audio={TINY}", "trunks.text={name: t5, dim: 32, depth: 1, heads: 2, mlp: 64}"]
    return load(name, [*SHRINK, *trunks])


def two_steps(recipe):
    parts = build.modalities(recipe)
    model = build.method(recipe, parts)
    optimizer, losses = build_optimizer(model, recipe.optim), []
    for i in range(2):
        loss = model.training_step(holey_batch(parts, 8, seed=i), i)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("name", recipe_names())
def test_two_steps_repeat(name):
    recipe = shrunk(name)
    (losses, weights), (again, weights_again) = two_steps(recipe), two_steps(recipe)
    assert losses == again and torch.equal(weights, weights_again)
    assert losses[0] != losses[1] and torch.isfinite(weights).all()


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "examples").glob("vatt_*.yaml")), ids=lambda p: p.stem)
def test_examples_for_own_clips_learn_from_a_batch(path):
    recipe = load(str(path), ["modalities.text.vocabulary_size=50", "optim.warmup=0"])
    parts = build.modalities(recipe)
    model = build.method(recipe, parts)
    optimizer, batch = build_optimizer(model, recipe.optim), holey_batch(parts, 8)
    losses = []
    for _ in range(4):
        losses.append(model.training_step(batch, 0))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", recipe_names())
def test_promises_of_the_method_and_its_parts(name):
    recipe = shrunk(name)
    parts = build.modalities(recipe)
    model = build.method(recipe, parts)
    batch = random_batch(parts, 6)
    check_method(model, batch)
    for key, encoder in model.encoders.items():
        check_encoder(encoder, parts[key].on_device(batch.streams[key].data, None))
    if hasattr(model, "aggregator"):
        check_aggregator(model.aggregator, len(parts), next(iter(model.encoders.values())).dim)


def test_vatt_ma_has_one_trunk_and_says_so_when_it_has_not():
    recipe = shrunk("vatt_ma_tiny")
    model = build.method(recipe, build.modalities(recipe))
    assert len({id(e.trunk) for e in model.encoders.values()}) == 1
    shared, found = sum(p.numel() for p in model.encoders["video"].trunk.parameters()), counts(model)
    assert found["trunk (shared)"] == shared
    tables = sum(p.numel() for n, p in model.named_parameters() if "table.weight" in n)
    assert found["trainable"] == sum(p.numel() for p in model.parameters()) - tables
    apart = load("vatt_tiny", [*SMALL["vatt_tiny"], "method=vatt_ma"])
    with pytest.raises(Exception, match="on one trunk"):
        build.method(apart, build.modalities(apart))


def test_a_modality_in_no_pair_meets_the_anchor_in_a_space_of_its_own():
    recipe = load("vatt_tiny", [*SMALL["vatt_tiny"], "modalities.imu={name: series, channels: 6, rate: 50, seconds: 1}",
                                "encoders.imu={trunk: text}"])
    parts = build.modalities(recipe)
    model = build.method(recipe, parts)
    assert model.pairs[-1] == ("video", "imu")
    z_a, z_b, both = model.project(random_batch(parts, 4), ("video", "imu"))
    assert z_a.shape == z_b.shape and both.all()


def test_gradients_are_accumulated_to_the_batch_of_a_step():
    recipe = load("vatt_tiny", ["data.batch_per_device=16", "data.batch=64"])
    assert training.accumulation(recipe) == 4
    with pytest.raises(Exception, match=r"data\.batch: 40 is no multiple of 16"):
        training.accumulation(load("vatt_tiny", ["data.batch_per_device=16", "data.batch=40"]))


def test_the_dry_run_prints_the_published_counts_and_needs_no_data(capsys, monkeypatch):
    monkeypatch.setenv("MMSSL_CACHE", "/nowhere")
    published = ["source=reference", "aggregator=mlp", "encoders.acc.width=96", "encoders.gyro.width=96"]
    assert main(["fit", "--recipe", "crossl_tiny", "--dry-run", *published]) == 0
    said = capsys.readouterr().out
    aggregator = 192 * 64 + 64 + 64 * 32 + 32 + 32 * 32 + 32 + 64  # of two modalities
    assert said.count("57,696") == 2 and f"{aggregator:,}" in said


def test_the_dry_run_says_what_no_patch_covers():
    whole, cut = (dry_run(small("vatt_tiny", f"modalities.video.frames={frames}")[0]) for frames in (4, 5))
    assert "NOT READ" not in whole and cut.count("NOT READ") == 1
    assert "NOT READ: [1, 0, 0] at the ends of [5, 16, 16, 3], which patches of [2, 8, 8] do not fill" in cut


def test_the_readme_names_only_what_exists():
    text = (ROOT / "README.md").read_text() + (ROOT / "docs" / "extending.md").read_text()
    for line in re.findall(r"^mmssl (.+)$", text, flags=re.M):
        for command in re.split(r"; mmssl ", line.split("  #")[0]):
            parser().parse_known_args(command.split())
    for name in re.findall(r"`(vatt_\w+|crossl_\w+)`", text):
        assert name in recipe_names(), name
    for path in re.findall(r"\]\((docs/[^)]+|examples/[^)]+)\)", text):
        assert (ROOT / path).exists() or (ROOT / "docs" / path).exists(), path
