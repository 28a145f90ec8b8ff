"""Small data sets and a plain modality for the tests of loaders."""

import numpy as np
import torch

from mmssl.data import (
    ClipCache,
    ModalityInfo,
    Quarantine,
    Reader,
    ShardWriter,
    Split,
    StreamLoader,
    encode_json,
    encode_npy,
    finish,
)

RATE = 10.0


class Wave:
    """Cuts its window out of an array and adds noise in training; nothing else, so that values are easy to foretell."""

    codecs = ("npy",)
    dtype = torch.float32

    def __init__(self, channels: int = 2, seconds: float = 2.0, noise: float = 0.1) -> None:
        self.seconds, self.noise, self.shape = seconds, noise, (channels, round(seconds * RATE))

    def transform(self, clip, start, rng):
        first = round(start * clip.rate)
        x = clip.data[:, first:first + self.shape[1]]
        return x if rng is None else x + self.noise * torch.randn(x.shape, generator=rng.torch())


def signal(number: int, channels: int = 2, steps: int = 40) -> np.ndarray:
    return np.random.default_rng(number).normal(size=(channels, steps)).astype(np.float32)


def record(number: int, split: str, lacks=()) -> dict[str, bytes]:
    files = {"imu.npy": encode_npy(signal(number)), "ecg.npy": encode_npy(signal(1000 + number, 1))}
    files = {name: data for name, data in files.items() if name.split(".")[0] not in lacks}
    return {**files, "labels.json": encode_json({"labels": {"act": number % 3}, "group": f"{split}-{number % 4}"})}


def make_set(root, sizes=None, per_shard=6, lacks=lambda number: (), change=None):
    """A data set of two series. `change(number, files)` may spoil the files of a record."""
    for split, size in (sizes or {"train": 22, "val": 5}).items():
        with ShardWriter(root, split, shard_records=per_shard) as writer:
            for number in range(size):
                files = record(number, split, lacks(number))
                writer.add(f"{split}{number:03d}", change(number, files) if change else files)
    infos = {"imu": ModalityInfo("npy", rate=RATE, channels=["x", "y"]), "ecg": ModalityInfo("npy", rate=RATE)}
    finish(root, "small", infos,
           {"act": ["sit", "stand", "walk"]}, "made by the tests")
    return root


def modalities():
    return {"imu": Wave(2), "ecg": Wave(1, seconds=1.0)}


def loader(root, split="train", size=4, parts=None, cache=0, limit=0.01, file=None, **settings):
    opened = Split(root, split)
    quarantine = Quarantine(root, split, len(opened), limit, file)
    reader = Reader(opened, parts or modalities(), ClipCache(cache))
    return StreamLoader(reader, size, quarantine=quarantine, **settings)


def train(root, **settings):
    return loader(root, train=True, seed=3, **settings)


def keys(batches):
    return [key for batch in batches for key in batch.keys]
