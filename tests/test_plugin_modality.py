"""A sensor defined in one file outside the package learns inside VATT-MA and CroSSL, beside built-in modalities."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mmssl import build
from mmssl.config import load
from mmssl.data import ModalityInfo, ShardWriter, encode_json, encode_mp4, encode_npy, finish
from mmssl.eval import retrieval
from mmssl.evaluate import load as load_run
from mmssl.run import fit

EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "my_imu.py"
COMMON = """
plugins: [my_imu.py]
data: {root: $ROOT, batch_per_device: 24, workers: 0}
optim: {name: adamw, lr: 3.0e-3, warmup: 5}
trainer: {max_steps: $STEPS, log_every: 20, val_every: 1000, checkpoint_every: 1000, accelerator: cpu}
"""
VATT_MA = """
name: ma_with_imu
method: vatt_ma
modalities:
  video: {frames: 4, size: 16, rate: 4, patch: [2, 8, 8]}
  imu: {rate: 50, seconds: 1.0}
trunks: {shared: {name: transformer, dim: 32, depth: 2, heads: 2}}
encoders: {video: shared, imu: shared}
head: {name: common_space, other: 32}
""" + COMMON
CROSSL = """
name: crossl_with_imu
method: crossl
modalities:
  pulse: {name: series, channels: 1, rate: 50, seconds: 1.0}
  imu: {rate: 50, seconds: 1.0}
encoders:
  pulse: {name: conv, width: 16, pool: mean_std}
  imu: {name: conv, width: 16, pool: mean_std}
aggregator: mlp
mask: complementary
loss: vicreg
""" + COMMON


def record(rng, kind):
    """Video, pulse and sensor that share what sort of thing happens (8 kinds): where it is bright, and how fast."""
    frames = rng.integers(0, 60, (4, 16, 16, 3), dtype=np.uint8)
    top, left = 8 * (kind & 1), 8 * (kind >> 1 & 1)
    frames[:, top:top + 8, left:left + 8] += np.uint8(90 + 100 * (kind >> 2))
    t = np.arange(60) / 50
    wave = np.sin(2 * np.pi * (2 + 2 * kind) * t + rng.uniform(0, 6.28))
    imu = np.stack([wave * (1 + a % 3) for a in range(6)]) + 0.2 * rng.standard_normal((6, 60))
    pulse = np.abs(wave)[None] * (1 + kind % 3) + 0.1 * rng.standard_normal((1, 60))
    return {"video.mp4": encode_mp4(frames, 4), "imu.npy": encode_npy(imu.astype(np.float32)),
            "pulse.npy": encode_npy(pulse.astype(np.float32)), "labels.json": encode_json({"labels": {"kind": kind}})}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("sensor")
    rng = np.random.default_rng(0)
    for split, count in (("train", 192), ("val", 32)):
        with ShardWriter(root / "set", split) as writer:
            for i in range(count):
                files = record(rng, i % 8)
                if split == "train" and i % 10 == 0:
                    files.pop("imu.npy")
                writer.add(f"{split}{i:04d}", files)
    finish(root / "set", "sensor", {"video": ModalityInfo("mp4", rate=4.0), "imu": ModalityInfo("npy", rate=50.0),
                                    "pulse": ModalityInfo("npy", rate=50.0, channels=["pulse"])},
           {"kind": [str(i) for i in range(8)]})
    shutil.copy(EXAMPLE, root / "my_imu.py")
    return root


@pytest.mark.slow
@pytest.mark.parametrize(("name", "text", "steps", "pair"), [
    ("ma", VATT_MA, 100, ("video", "imu")), ("crossl", CROSSL, 80, ("pulse", "imu"))])
def test_it_learns_beside_built_in_ones(folder, tmp_path, name, text, steps, pair):
    assert EXAMPLE.read_text().count("\n") <= 30
    path = folder / f"{name}.yaml"
    path.write_text(text.replace("$ROOT", str(folder / "set")).replace("$STEPS", str(steps)))
    run = fit(load(path), tmp_path / "run")
    model = load_run(run.root)
    recipe = run.load_recipe()
    batch = next(iter(build.datamodule(recipe, model.modalities).loader("val")))
    kinds = batch.labels["kind"]
    with torch.no_grad():
        z_a, z_b, both = model.project(batch, pair)
    assert both.sum() == len(batch) >= 24
    nearest = (torch.nn.functional.normalize(z_a, dim=1) @ torch.nn.functional.normalize(z_b, dim=1).T).argmax(dim=1)
    right = (kinds[nearest] == kinds).float().mean()
    assert right > 3 / 8, f"the nearest {pair[1]} is of the right kind for {right:.2f}; chance is 1/8"
    assert retrieval(z_a, z_b).r_at[10] > 2 * 10 / len(batch) * 0.6
