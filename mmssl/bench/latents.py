"""Frozen features of a split, computed once and kept on the disk: what every task of a suite starts from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmssl import __version__
from mmssl.bench.kept import FORMAT, Latents, Writer, load
from mmssl.bench.subject import Subject
from mmssl.bench.suite import Node, NotServed
from mmssl.data import DataModule, Split
from mmssl.data.demo.cache import locked
from mmssl.data.progress import progress_line
from mmssl.data.schema import FILE_NAME, Manifest
from mmssl.errors import DataError
from mmssl.eval import frozen, on_device
from mmssl.modalities import codecs_of
from mmssl.storage import REFUSALS, refused
from mmssl.types import View


@dataclass
class Source:
    """Where samples come from, and how a subject looks at them.

    Args:
        root: folder of the data set.
        split: its name.
        changes: settings of modalities that differ from the subject's own.
        through: by modality of the data set, the one whose encoder takes it.
        windows, crops: views of each sample; see View.
        groups: those that the split is made of; None: as the data set itself says.
    """

    root: Path
    split: str
    changes: Mapping[str, Node] = field(default_factory=dict)
    through: Mapping[str, str] = field(default_factory=dict)
    windows: int = 1
    crops: int = 1
    groups: Sequence[str] | None = None


class Store:
    """Features kept by what decides them: weights, modalities and encoders, records, views. No paper: ours.

    They lie under the subject's `home`, one folder for each key, complete or not there at all; a second process that
    wants the same ones waits for the first. Delete the folder to free its space.

    Args:
        remember: megabytes of decoded samples that are kept while several subjects read the same ones.
    """

    def __init__(self, remember: int = 512) -> None:
        self.remember = remember
        self._data: dict[str, DataModule] = {}
        self._splits: dict[tuple, Split] = {}
        self._hashes: dict[tuple, str] = {}

    def split(self, source: Source) -> Split:
        """A split of a data set, opened once. Raises DataError where it is not there."""
        place = _place(source)
        if place not in self._splits:
            self._splits[place] = Split(source.root, source.split, source.groups)
        return self._splits[place]

    def records(self, source: Source) -> str:
        """`records_hash` of a split, made once."""
        place = _place(source)
        if place not in self._hashes:
            self._hashes[place] = records_hash(self.split(source))
        return self._hashes[place]

    def get(self, subject: Subject, source: Source) -> Latents:
        """The features of a split, from the disk where they are there.

        Raises:
            NotServed: none of the data set's modalities has an encoder.
            ConfigError, DataError: the data set is not there, or has a setting that does not fit.
            StorageError: the disk refuses.
        """
        there = list(self.split(source).modalities)
        parts = subject.parts(there, source.changes, source.through)
        if not parts:
            raise NotServed(f"has no encoder for {', '.join(there)}, only for {', '.join(subject.encoders)}")
        data = self._open(source, parts, subject)
        facts = key_facts(subject, source, sorted(parts), self.records(source))
        folder = subject.home / hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]
        found = load(folder)
        if found is not None:
            return found
        try:
            subject.home.mkdir(parents=True, exist_ok=True)
            with locked(subject.home / f".{folder.name}.lock"):
                found = load(folder)
                if found is None:
                    compute(subject, source, parts, data, folder, facts)
                    found = load(folder)
        except OSError as error:
            if error.errno not in REFUSALS and not isinstance(error, PermissionError):
                raise
            raise refused(Path(error.filename or folder), error) from None
        return found

    def _open(self, source: Source, parts: dict[str, Any], subject: Subject) -> DataModule:
        """One data module for the same root, so that subjects share decoded samples; each with its own modalities."""
        name = str(source.root.resolve())
        # A sample with nothing that this subject reads counts as bad; so any share may be, and how many are is told.
        data = DataModule(source.root, parts, batch_size=max(1, subject.batch), workers=subject.workers,
                          cache_bytes=self.remember << 20, bad_samples=1.0,
                          groups={} if source.groups is None else {source.split: source.groups})
        if name in self._data and codecs(self._data[name].modalities) == codecs(parts):
            data.cache = self._data[name].cache
        self._data = {name: data}
        return data


def _place(source: Source) -> tuple:
    """What decides which records a split has."""
    return source.root, source.split, None if source.groups is None else tuple(source.groups)


def compute(subject: Subject, source: Source, parts: dict[str, Any], data: DataModule, folder: Path,
            facts: Node) -> None:
    """Run the encoders over a split and write what they give into `folder`, whole or not at all.

    The encoders are in evaluation mode, and no gradient is recorded; both are asserted.

    Raises:
        DataError: no sample could be read.
    """
    views = View.grid(source.windows, source.crops)
    loader = data.loader(source.split, views=views)
    module, writer = subject.embedder(parts, source.changes, source.through), Writer(folder)
    show = progress_line(f"{subject.name}: features of {source.root.name}, {source.split}")
    hooks = [encoder.register_forward_hook(_no_gradient) for encoder in set(module.encoders.values())]
    try:
        with frozen(module):
            for number, batch in enumerate(loader, 1):
                assert not any(m.training for m in module.modules()), "a submodule refuses evaluation mode"
                latents, present = module.embed(on_device(batch, subject.device))
                keep = batch.valid.numpy()
                first = keep & (batch.rows.numpy() % len(views) == 0)
                for name, z in latents.items():
                    writer.add(f"latents.{name}", z.float().cpu().numpy()[keep])
                    writer.add(f"present.{name}", present[name].cpu().numpy()[keep])
                for name, y in batch.labels.items():
                    writer.add(f"labels.{name}", y.numpy()[first])
                writer.keys += [key for key, f in zip(batch.keys, first, strict=True) if f]
                writer.groups += [group for group, f in zip(batch.groups, first, strict=True) if f]
                show(number, len(loader))
        if not writer.keys:
            raise DataError(f"{source.root}: no sample of '{source.split}' has {' or '.join(parts)} that can be read; "
                            f"see `mmssl data verify {source.root}`")
        writer.publish({**facts, "format": FORMAT, "views": len(views), "left_out": len(loader.quarantine.bad)})
    finally:
        writer.close()
        for hook in hooks:
            hook.remove()


def _no_gradient(encoder: Any, args: Any, z: Any) -> None:
    assert not z.requires_grad, f"{type(encoder).__name__} records gradients although it is frozen"


def key_facts(subject: Subject, source: Source, names: list[str], records: str) -> Node:
    """All that decides the features of a split, as plain data."""
    nodes = {name: {**subject.nodes.get(source.through.get(name, name), {}), **source.changes.get(name, {})}
             for name in names}
    return {"version": __version__, "weights": subject.digest, "modalities": nodes, "facts": subject.facts,
            "through": dict(source.through), "split": source.split, "records": records,
            "windows": source.windows, "crops": source.crops}


def records_hash(split: Split) -> str:
    """Hex digest over the records of a split: their keys, and the bytes of their shards as far as a manifest or the
    size of the files tells."""
    digest = hashlib.sha256(split.index_hash().encode())
    known = {}
    if (split.root / FILE_NAME).is_file():
        splits = Manifest.load(split.root).splits.values()
        known = {shard.name: shard.sha256 for info in splits for shard in info.shards}
    for path in split.paths:
        digest.update(f"{path.name}\0{known.get(path.name) or path.stat().st_size}\0".encode())
    return digest.hexdigest()


def codecs(parts: Mapping[str, Any]) -> dict[str, tuple]:
    """What decides how the files of a sample are decoded: samples decoded for one may serve another."""
    return {name: (codecs_of(part), getattr(part, "rate", None)) for name, part in parts.items()}
