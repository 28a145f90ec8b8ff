"""One split of a data set, opened: its shards, their indices, and what the manifest says of them."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmssl.data.codecs import SOUND, VIDEO
from mmssl.data.files import list_splits, split_shards
from mmssl.data.schema import FILE_NAME, Manifest, ModalityInfo
from mmssl.data.shards import ShardIndex, read_files
from mmssl.data.survey import survey
from mmssl.errors import DataError
from mmssl.registry import CODECS

#: What a plain file name extension without a modality's name in front most likely is.
USUAL = {"video": VIDEO, "audio": SOUND, "text": ("txt", "json"), "series": ("npy",), "image": ("jpg", "jpeg", "png")}


class Split:
    """The records of one split by (shard, record). No paper: ours.

    It is a stored one, made of the shards that bear its name; or, where `groups` or the manifest's assignment say of
    which groups it is made, the records of those, from whatever shards they lie in.

    Args:
        root: folder of the data set, with or without a manifest.
        name: of the split.
        groups: whose records it is made of; None: as the data set itself says.

    Raises:
        DataError: no such folder, split or group, a shard that the manifest names and that is not there, or no records.
    """

    def __init__(self, root: str | Path, name: str, groups: Sequence[str] | None = None) -> None:
        self.root, self.name = Path(root), name
        manifest = Manifest.load(self.root) if (self.root / FILE_NAME).exists() else None
        if groups is None and manifest is not None:
            groups = manifest.assignment.get(name)
        parts = [name] if groups is None else list(list_splits(self.root))
        self.paths = [path for part in parts for path in stored_shards(self.root, part, manifest)]
        self.indices = [ShardIndex.load(path) for path in self.paths]
        if groups is not None:
            self._select(groups)
        self.counts = [len(index) for index in self.indices]
        self.modalities = manifest.modalities if manifest else infer_modalities(self.indices)
        self.labels = manifest.labels if manifest else {}
        self.several = {label: len(self.labels[label]) for label in manifest.several if label in self.labels
                        } if manifest else {}
        self._kept: list[np.ndarray] | None = None  # of a part: by shard, the records that it has
        if not len(self):
            raise DataError(f"{self.root}: split '{name}' has no readable record. Pack it again.")

    def __len__(self) -> int:
        return sum(self.counts)

    def _select(self, groups: Sequence[str]) -> None:
        """Keep the records of these groups, and of the shards those that hold any."""
        owners = [np.array(index.groups_of(path), dtype=np.str_)
                  for path, index in zip(self.paths, self.indices, strict=True)]
        unknown = sorted(set(groups) - {name for names in owners for name in names.tolist()})
        if unknown or not groups:
            what = f"its groups {', '.join(unknown)} are not there" if groups else "it has no group"
            damaged = [path.name for path, index in zip(self.paths, self.indices, strict=True) if index.lost]
            if unknown and damaged:
                raise DataError(f"{self.root}: split '{self.name}': {what}, and {', '.join(damaged[:5])} cannot be "
                                f"read whole; copy that again (`mmssl data verify {self.root}` names what is lost)")
            raise DataError(f"{self.root}: split '{self.name}': {what}; change data.split, or data.{self.name} to the "
                            f"name of another split")
        keep = [np.isin(names, list(groups)) for names in owners]
        rows = [(p, i.select(k)) for p, i, k in zip(self.paths, self.indices, keep, strict=True) if k.any()]
        self.paths, self.indices = [path for path, _ in rows], [index for _, index in rows]

    def narrow(self, rows: np.ndarray) -> Split:
        """A part of the split, in the same order.

        Args:
            rows: (n,) numbers of records, counted through all shards as stored; at least one.
        """
        part, ends = copy.copy(self), np.cumsum(self.counts)
        parts = np.split(np.unique(rows), np.searchsorted(np.unique(rows), ends[:-1]))
        kept = [numbers - (end - count) for numbers, end, count in zip(parts, ends, self.counts, strict=True)]
        part._kept = kept if self._kept is None else [mine[k] for mine, k in zip(self._kept, kept, strict=True)]
        part.counts = [len(numbers) for numbers in kept]
        return part

    def stored(self, shard: int, record: int) -> int:
        """The number in its shard of record number `record` of this split, which differ where it is a part."""
        return record if self._kept is None else int(self._kept[shard][record])

    def where(self, shard: int, record: int) -> tuple[str, str]:
        """File name of the shard and key of the record, for messages."""
        return self.paths[shard].name, self.indices[shard].key(self.stored(shard, record))

    def place(self, shard: int, record: int) -> tuple[str, int]:
        """File name of the shard and where in it the record begins: the same in every split that has the record."""
        index = self.indices[shard]
        return self.paths[shard].name, int(index.offsets[index.starts[self.stored(shard, record)]])

    def shared(self, other: Split) -> int:
        """How many of its records another split of the same data set has too."""
        there = other._places()
        return sum(int(np.isin(places, there[name]).sum()) for name, places in self._places().items() if name in there)

    def _places(self) -> dict[str, np.ndarray]:
        """By file name of the shard, where in it each record begins, as `place` has it."""
        starts = [index.offsets[index.starts[:-1]] for index in self.indices]
        kept = starts if self._kept is None else [s[k] for s, k in zip(starts, self._kept, strict=True)]
        return {path.name: places for path, places in zip(self.paths, kept, strict=True)}

    def fields(self, shard: int, record: int) -> list[str]:
        """The fields that a record has; reads nothing."""
        return [name for name, _, _ in self.indices[shard].members(self.stored(shard, record))]

    def all_fields(self) -> list[str]:
        """The fields that any record has; reads nothing."""
        kept = self.indices if self._kept is None else [
            index.select(np.isin(np.arange(len(index)), numbers))
            for index, numbers in zip(self.indices, self._kept, strict=True)]
        return sorted({index.fields[number] for index in kept for number in np.unique(index.field_numbers)})

    def read(self, shard: int, record: int, only: list[str]) -> dict[str, bytes]:
        """The files of a record under the fields `only`. Raises DataError where they cannot be read."""
        return read_files(self.paths[shard], self.indices[shard], self.stored(shard, record), only)

    def lost(self) -> list[tuple[str, str, str]]:
        """(shard, what, why) for every record or stretch of bytes that could not be indexed."""
        return [(path.name, *row) for path, index in zip(self.paths, self.indices, strict=True) for row in index.lost]

    def index_hash(self) -> str:
        """Hex digest over the names of the shards and the keys in them: equal where the order of samples is."""
        digest = hashlib.sha256()
        for path, index in zip(self.paths, self.indices, strict=True):
            digest.update(f"{path.name}\0{len(index)}\0{index.keys.dtype.itemsize}\0".encode())
            digest.update(np.ascontiguousarray(index.keys).tobytes())
        for numbers in self._kept or []:
            digest.update(np.ascontiguousarray(numbers, dtype=np.int64).tobytes())
        return digest.hexdigest()[:32]


def stored_shards(root: Path, part: str, manifest: Manifest | None) -> list[Path]:
    """The shards that bear the name of a stored split; where the manifest knows it, those that it names.

    Raises:
        DataError: there are none, or one that the manifest names is missing.
    """
    paths = split_shards(root, part)
    if manifest is None or part not in manifest.splits:
        return paths
    promised, here = [shard.name for shard in manifest.splits[part].shards], {path.name for path in paths}
    missing = [shard for shard in promised if shard not in here]
    if missing:
        raise DataError(f"{root}: the manifest names {', '.join(missing[:5])} of split '{part}', but {len(missing)} of "
                        f"its {len(promised)} shards are not there. Copy them again, or delete {FILE_NAME} to go on "
                        f"with those that are there.")
    return [path for path in paths if path.name in promised]


def infer_modalities(indices: list[ShardIndex]) -> dict[str, ModalityInfo]:
    """What the fields of plain shards say of their modalities: `video.mp4`, or `mp4` alone as its usual modality."""
    found: dict[str, ModalityInfo] = {}
    held = {field for index in indices for field in index.fields} - {"labels.json"}
    for field in sorted(held, key=lambda field: (field == "json", field)):  # as `find_field` prefers them
        name, dot, codec = field.rpartition(".")
        if codec not in CODECS.names():
            continue
        name = name if dot else next((kind for kind, codecs in USUAL.items() if codec in codecs), codec)
        found.setdefault(name, ModalityInfo(codec=codec))
    return found


def find_field(fields: list[str], name: str, codecs: tuple[str, ...]) -> str | None:
    """The field that holds modality `name` in one of its codecs; None where the record lacks it.

    `<name>.<codec>` first; a bare `<codec>`, as plain webdataset shards have it, where no field bears the name. A bare
    `json` comes last: beside a `txt` it is metadata.
    """
    named = [f"{name}.{codec}" for codec in codecs if f"{name}.{codec}" in fields]
    bare = sorted((codec for codec in codecs if codec in fields), key="json".__eq__)
    return next(iter(named + bare), None)


def inspect(root: str | Path) -> Manifest:
    """The manifest of a data set; for a folder of plain tar shards, one made up from what they hold (not saved).

    Raises:
        DataError: no such folder, no shards, or a broken manifest.
    """
    if (Path(root) / FILE_NAME).exists():
        return Manifest.load(root)
    indices = [ShardIndex.load(path) for shards in list_splits(root).values() for path in shards]
    return survey(root, Path(root).resolve().name, infer_modalities(indices), {})
