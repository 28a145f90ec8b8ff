"""Read and decode every sample of a data set, and say what is wrong with which."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mmssl.data.codecs import decode
from mmssl.data.files import list_splits
from mmssl.data.labels import misfit, parse_labels
from mmssl.data.schema import FILE_NAME, Manifest, ModalityInfo
from mmssl.data.split import Split, find_field
from mmssl.data.survey import hash_file
from mmssl.errors import DataError
from mmssl.registry import CODECS


@dataclass
class Problem:
    """Something wrong with a data set: where (shard, key; either may be "") and what."""

    shard: str
    key: str
    reason: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.shard, f"'{self.key}'" if self.key else "", self.reason) if part)


def verify(root: str | Path) -> Iterator[Problem]:
    """Every problem of a data set, found by reading and decoding all of it, record by record. No paper: ours.

    Checks the shards against the manifest (names, records, SHA-256), every file against its codec, rates, channels and
    shapes against the manifest, labels against their class names, and that no group lies in two splits. Shards without
    a manifest are checked on their own.

    Raises:
        DataError: no such folder, or a manifest that cannot be read.
    """
    splits = list_splits(root)
    manifest = Manifest.load(root) if (Path(root) / FILE_NAME).exists() else None
    home: dict[str, str] = {}
    for name in sorted(set(splits) | set(manifest.splits if manifest else ())):
        try:
            if manifest is not None:
                yield from _against_manifest(Path(root), name, manifest)
            split = Split(root, name)
        except DataError as error:
            yield Problem("", "", str(error))
            continue
        yield from (Problem(*row) for row in split.lost())
        for shard in range(len(split.counts)):
            for record in range(split.counts[shard]):
                yield from _record(split, shard, record, home)


def _against_manifest(root: Path, split: str, manifest: Manifest) -> Iterator[Problem]:
    for info in manifest.splits[split].shards if split in manifest.splits else ():
        path = root / info.name
        if path.exists() and path.stat().st_size != info.bytes:
            yield Problem(info.name, "", f"has {path.stat().st_size} bytes, the manifest says {info.bytes}")
        elif path.exists() and hash_file(path) != info.sha256:
            yield Problem(info.name, "", "its bytes changed since it was written (SHA-256 differs)")
    if split not in manifest.splits:
        yield Problem("", "", f"split '{split}' is not in the manifest")


def _record(split: Split, shard: int, record: int, home: dict[str, str]) -> Iterator[Problem]:
    where, fields = split.where(shard, record), split.fields(shard, record)
    try:
        files = split.read(shard, record, fields)
        labels, group = parse_labels(files.get("labels.json"))
    except DataError as error:
        yield Problem(*where, str(error))
        return
    if group and home.setdefault(group, split.name) != split.name:
        yield Problem(*where, f"group '{group}' lies in splits '{home[group]}' and '{split.name}'")
    wrong = misfit(labels, split.labels, split.several)
    if wrong:
        yield Problem(*where, wrong)
    known = {find_field(fields, name, (info.codec,)): info for name, info in split.modalities.items()}
    for field in fields:
        codec = field.rpartition(".")[2]
        metadata = field == "json" and "txt" in fields  # of plain webdataset shards, whose captions are the `txt`
        if field == "labels.json" or (field not in known and (metadata or codec not in CODECS.names())):
            continue
        reason = _decodes(codec, files[field], known.get(field))
        if reason:
            yield Problem(*where, f"{field}: {reason}")


def _decodes(codec: str, data: bytes, info: ModalityInfo | None) -> str:
    """Why a file is not what the manifest says; "" where it is."""
    try:
        clip = decode(codec, data, info)
    except DataError as error:
        return str(error)
    if info is None:
        return ""
    if info.rate is not None and clip.rate is not None and abs(clip.rate - info.rate) > 1e-3 * info.rate:
        return f"{clip.rate:g} Hz, the manifest says {info.rate:g}"
    if info.shape is not None and isinstance(clip.data, Tensor) and list(clip.data.shape) != list(info.shape):
        return f"shape {tuple(clip.data.shape)}, the manifest says {tuple(info.shape)}"
    return ""
