"""Small versions of the three methods' recipes, and batches with holes, for several tests."""

import dataclasses

import torch

from mmssl import build
from mmssl.config import load
from mmssl.cost import random_batch
from mmssl.methods import Finetune

SMALL = {
    "vatt_tiny": ["modalities.video={frames: 4, size: 16, rate: 10, patch: [2, 8, 8], jitter: 0.8}",
                  "modalities.audio={name: mel, rate: 8000, seconds: 0.4, window: 128, hop: 64, mels: 16,"
                  " band: [80, 3900], patch: [10, 8]}",
                  "modalities.text={words: 6, texts: 3, word_dim: 16, vocabulary_size: 40}",
                  "trunks.video={name: transformer, dim: 24, depth: 2, heads: 2}",
                  "head={name: common_space, fine: 16, coarse: 8}"],
    "crossl_tiny": ["encoders.acc.width=16", "encoders.gyro.width=16"],
}
WORN = [f"{place}_{sensor}" for place in ("hand", "ankle", "chest") for sensor in ("acc", "gyro")]
SENSORS = {"pamap2": WORN, "pamap2_hr": [*WORN, "heart_rate"], "wesad": ["ecg", "emg", "eda"],
           "sleep_edf": ["eeg_fpz", "eeg_pz", "eog", "emg"]}
SMALL |= {f"crossl_{name}": [w for m in sensors for w in (f"encoders.{m}.width=16", f"modalities.{m}.seconds=0.5")]
          for name, sensors in SENSORS.items()}
SMALL["vatt_ma_tiny"] = [*SMALL["vatt_tiny"][:3], "trunks.shared={name: transformer, dim: 24, depth: 2, heads: 2}",
                         SMALL["vatt_tiny"][4],
                         *(f"encoders.{m}.post_projection=24" for m in ("video", "audio", "text"))]
SMALL["vatt_tiny"] += [f"trunks.{m}={{name: transformer, dim: 24, depth: 1, heads: 2}}" for m in ("audio", "text")]


def small(name, *overrides, seed=0):
    """A shrunken recipe, its modalities, and its method in float64, so that equality is not a matter of rounding."""
    recipe = dataclasses.replace(load(name, [*SMALL[name], *overrides]), seed=seed)
    parts = build.modalities(recipe)
    return recipe, parts, build.method(recipe, parts)


def classifier(name, features, *overrides, loss="cross_entropy", **how):
    """The modalities and a classifier on the encoders of a shrunken recipe; its label is "kind", of three classes."""
    how = {"label": "kind", "classes": {"kind": ["a", "b", "c"]}, "features": features, **how}
    recipe = load(name, [*SMALL[name], "method=classifier", "source=null", f"loss={loss}", "mask=null", "pairs={}",
                         "head={name: classifier, hidden: [8], dropout: 0.3}", "finetune={}", *overrides])
    keep = [*recipe.modalities] if features in ("all", "global") else [features]
    recipe = dataclasses.replace(
        recipe, finetune=Finetune(**how), modalities={m: recipe.modalities[m] for m in keep},
        encoders={m: recipe.encoders[m] for m in keep}, aggregator=recipe.aggregator if features == "global" else None)
    parts = build.modalities(recipe)
    return parts, build.method(recipe, parts)


def labels_for(model, batch, seed=0):
    """Give a batch a class of every label, in place."""
    for label, names in model.finetune.classes.items():
        batch.labels[label] = torch.randint(len(names), (len(batch),), generator=torch.Generator().manual_seed(seed))


def holey_batch(parts, size, seed=0):
    """Random samples in which a third of each modality is missing; the first rows lack the last modality altogether."""
    batch = random_batch(parts, size, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    for stream in batch.streams.values():
        stream.present = torch.rand(size, generator=generator) > 0.33
    next(reversed(batch.streams.values())).present[: size // 2] = False
    for stream in batch.streams.values():
        stream.data[~stream.present] = 0
    if "text" in batch.streams:  # some samples have fewer captions
        batch.streams["text"].data[1::3, 1:] = 0
    return batch


def rows_of(batch, rows):
    """A part of a batch, as a rank would get it."""
    streams = {m: type(s)(data=s.data[rows], present=s.present[rows]) for m, s in batch.streams.items()}
    labels = {name: y[rows] for name, y in batch.labels.items()}
    return type(batch)(streams=streams, valid=batch.valid[rows], rows=batch.rows[rows], labels=labels)
