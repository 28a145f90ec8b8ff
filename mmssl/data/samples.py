"""From the files of one record, or one raw file, to the tensors a batch is made of."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmssl.data.codecs import FILE_LIMIT, SOUND, VIDEO, decode, read_video_and_sound
from mmssl.data.labels import Classes, label_tensors, misfit, parse_labels
from mmssl.data.schema import ModalityInfo
from mmssl.data.split import Split, find_field
from mmssl.errors import DataError
from mmssl.modalities import codecs_of
from mmssl.registry import nearest
from mmssl.rng import Rng
from mmssl.types import MIDDLE, Batch, Clip, Stream, View


@dataclass
class Sample:
    """One record as its codecs read it: clips by modality (absent ones left out), class numbers by label, group."""

    clips: dict[str, Clip]
    labels: dict[str, Classes] = field(default_factory=dict)
    group: str = ""

    @property
    def bytes(self) -> int:
        """Memory it takes, roughly for texts."""
        return 1000 + sum(clip.data.nbytes if isinstance(clip.data, Tensor) else sum(100 + len(t) for t in clip.data)
                          for clip in self.clips.values())


class ClipCache:
    """Decoded samples in memory, added until `budget` bytes are full and then kept. Safe for threads.

    Nothing is thrown out: under an order in which each record comes once per epoch, every choice hits equally often.
    No paper: ours.
    """

    def __init__(self, budget: int) -> None:
        self.budget, self.used = budget, 0
        self._held: dict[tuple, Sample] = {}
        self._lock = threading.Lock()

    def get(self, place: tuple) -> Sample | None:
        """The sample kept under `place`, or None."""
        return self._held.get(place)

    def add(self, place: tuple, sample: Sample) -> None:
        """Keep a sample if it fits."""
        size = sample.bytes
        with self._lock:
            if place not in self._held and self.used + size <= self.budget:
                self._held[place], self.used = sample, self.used + size


class Reader:
    """Records of a split as samples of the modalities asked for. Safe for threads. No paper: ours.

    Args:
        split: an open split.
        modalities: by name, those to read; other files of a record are not touched.
        cache: decoded samples; may be shared by several readers.

    Raises:
        DataError: no record of the first shards has any of the modalities.
    """

    def __init__(self, split: Split, modalities: Mapping[str, Any], cache: ClipCache | None = None) -> None:
        self.split, self.modalities, self.cache = split, dict(modalities), cache or ClipCache(0)
        self._infos = {name: split.modalities.get(name, ModalityInfo(codec=codecs_of(m)[0]))
                       for name, m in self.modalities.items()}
        held = {field for index in split.indices for field in index.fields}
        if not any(find_field(sorted(held), name, codecs_of(m)) for name, m in self.modalities.items()):
            raise DataError(f"{split.root}: split '{split.name}' holds {', '.join(sorted(held))}, but none of the "
                            f"modalities asked for ({', '.join(self.modalities)}). Change `modalities` in the recipe, "
                            "or `data.root`.")

    def read(self, shard: int, record: int) -> Sample:
        """Read and decode a record.

        Raises:
            DataError: a file that cannot be read or decoded, or none of the modalities; says which, not which record.
        """
        place = self.split.place(shard, record)
        kept = self.cache.get(place)
        if kept is not None:
            return kept
        fields = self.split.fields(shard, record)
        wanted = {name: find_field(fields, name, codecs_of(m)) for name, m in self.modalities.items()}
        present = {name: fieldname for name, fieldname in wanted.items() if fieldname is not None}
        if not present:
            raise DataError(f"has none of {', '.join(wanted)}, only {', '.join(fields)}")
        files = self.split.read(shard, record, [*present.values(), "labels.json"])
        clips = {}
        for name, fieldname in present.items():
            try:
                clips[name] = decode(fieldname.rpartition(".")[2], files[fieldname], self._infos[name])
            except DataError as error:
                raise DataError(f"{name}: {error}") from None
        labels, group = parse_labels(files.get("labels.json"))
        wrong = misfit(labels, self.split.labels, self.split.several)
        if wrong:
            raise DataError(wrong)
        sample = Sample(clips, labels, group)
        self.cache.add(place, sample)
        return sample


def window_start(clips: Mapping[str, Clip], modalities: Mapping[str, Any], rng: Rng | None = None,
                 view: View = MIDDLE) -> float:
    """Where the window that all modalities of a sample are cut to begins, in seconds; 0 where it does not fit.

    It begins on a step of the slowest of them (mostly video), so that the others, cut at the same time, stay in step.
    Of a sample of l steps, a window of n steps with stride s begins in training at any step from which all n fit, each
    equally likely, the last being l - (n - 1) s - 1; in evaluation at step (l - n s) // 2, or at the view's of
    int(linspace(0, l - n s, windows)). The modality that leaves least room decides how far.

    Source: temporal sampling of the released code of arXiv:2104.11178. There, sound follows video by the share of its
    own length; here by time, which is the same where both last as long.
    """
    timed = [(clip, modalities[name]) for name, clip in clips.items()
             if clip.seconds is not None and modalities[name].seconds is not None]
    if not timed:
        return 0.0
    step = min(clip.rate for clip, _ in timed)
    # In training a window ends with its last step, in evaluation one stride after it.
    over = [1 / m.rate - 1 / clip.rate if rng is not None and getattr(m, "rate", None) else 0.0 for clip, m in timed]
    room = min(clip.seconds - m.seconds + more for (clip, m), more in zip(timed, over, strict=True))
    last = max(0, math.floor(room * step + 1e-6))
    if last == 0:
        return 0.0
    if rng is not None:
        return int(rng.at("window").numpy().random() * (last + 1)) / step
    return (last // 2 if view.windows == 1 else int(np.linspace(0, last, view.windows)[view.window])) / step


def transform_clips(clips: Mapping[str, Clip], modalities: Mapping[str, Any], rng: Rng | None = None,
                    view: View = MIDDLE) -> dict[str, Tensor]:
    """Cut all clips of a sample to one shared window and bring each to its modality's shape. No paper: ours.

    Args:
        clips: by modality, those that are there.
        modalities: by name.
        rng: of the sample, for training; None: evaluation.
        view: which look at the sample; for evaluation alone.

    Raises:
        DataError: a transform refuses its clip, or gives another shape or type than the modality promises.
    """
    start = window_start(clips, modalities, rng, view)
    middle = start + max((m.seconds for m in map(modalities.get, clips) if m.seconds is not None), default=0.0) / 2
    out = {}
    for name, clip in clips.items():
        modality = modalities[name]
        when = start if modality.seconds is not None else middle
        if rng is None and view.crops > 1 and hasattr(modality, "transform_view"):
            x = modality.transform_view(clip, when, view)
        else:
            x = modality.transform(clip, when, None if rng is None else rng.at(name))
        shape, dtype = tuple(modality.shape), modality.dtype
        if tuple(x.shape) != shape or x.dtype != dtype:
            raise DataError(f"{name} has shape {tuple(x.shape)} ({x.dtype}) after its transform, but the recipe "
                            f"promises {shape} ({dtype}). Change modalities.{name} in the recipe")
        out[name] = x
    return out


class Draft:
    """A batch being filled, row by row, in any order and from several threads: memory taken once, zeros where absent.

    Args:
        rows: the global numbers of its B rows.
        modalities: by name.
        labels: names that the batch carries even where no sample has them.
        several: by name, the number of classes of the labels of which a sample may have several.
    """

    def __init__(self, rows: Sequence[int], modalities: Mapping[str, Any], labels: Sequence[str] = (),
                 several: Mapping[str, int] | None = None) -> None:
        size = len(rows)
        self.batch = Batch(
            streams={name: Stream(data=torch.zeros(size, *m.shape, dtype=m.dtype),
                                  present=torch.zeros(size, dtype=torch.bool)) for name, m in modalities.items()},
            valid=torch.zeros(size, dtype=torch.bool), rows=torch.tensor(list(rows), dtype=torch.int64),
            keys=[""] * size, groups=[""] * size)
        self._labels: list[dict[str, Classes]] = [{} for _ in rows]
        self._there: list[tuple[str, ...] | None] = [None] * size  # by row, the modalities that were put
        self._names, self._several = labels, several or {}

    def put(self, row: int, tensors: Mapping[str, Tensor], key: str = "",
            labels: Mapping[str, Classes] | None = None, group: str = "") -> None:
        """Fill one row with a sample's tensors."""
        for name, x in tensors.items():
            self.batch.streams[name].data[row] = x
        self._there[row] = tuple(tensors)
        self.batch.keys[row], self.batch.groups[row], self._labels[row] = key, group, dict(labels or {})

    def finish(self) -> Batch:
        """The batch, with what is present and valid, and the labels of all rows as `label_tensors` gives them."""
        self.batch.valid = torch.tensor([there is not None for there in self._there], dtype=torch.bool)
        for name, stream in self.batch.streams.items():
            stream.present = torch.tensor([there is not None and name in there for there in self._there],
                                          dtype=torch.bool)
        self.batch.labels = label_tensors(self._labels, self._names, self._several)
        return self.batch


def collate_clips(samples: Sequence[Mapping[str, Tensor]], modalities: Mapping[str, Any],
                  keys: Sequence[str] = ()) -> Batch:
    """A batch of samples as `transform_clips` gives them, for data that do not come from shards. No paper: ours."""
    draft = Draft(range(len(samples)), modalities)
    for row, tensors in enumerate(samples):
        draft.put(row, tensors, keys[row] if keys else str(row))
    return draft.finish()


def decode_file(path: str | Path, modalities: Mapping[str, Any], name: str | None = None) -> dict[str, Clip]:
    """The clips in one raw file, by modality. No paper: ours.

    A film gives its pictures to the modality that reads videos and its sound to the one that reads sound files.

    Args:
        modalities: by name, those of the model.
        name: the modality that the file is for; None: all that read its extension (or what is inside a film).

    Raises:
        DataError: no such file, damage, no modality that reads it, or several that could.
    """
    path, wanted = Path(path), {name: modalities[name]} if name in modalities else modalities
    if name is not None and name not in modalities:
        raise DataError(f"{path}: no modality is called '{name}'{nearest(name, modalities)}")
    ext = path.suffix.lower().lstrip(".")
    if ext in VIDEO:
        film = read_video_and_sound(path)
        found = {m: clip for clip, kinds in zip(film, (VIDEO, SOUND), strict=True) if clip is not None
                 for m, part in wanted.items() if set(codecs_of(part)) & set(kinds)}
    else:
        readers = [m for m, part in wanted.items() if ext in codecs_of(part)]
        if len(readers) > 1:
            raise DataError(f"{path}: {', '.join(readers)} all read .{ext} files; say which, as `{readers[0]}={path}`")
        found = {m: _decode_path(path, ext, wanted[m]) for m in readers}
    if not found:
        reads = "; ".join(f"{m} reads {', '.join(codecs_of(part))}" for m, part in wanted.items())
        raise DataError(f"{path}: no modality finds anything to read here ({reads})")
    return found


def _decode_path(path: Path, ext: str, modality: Any) -> Clip:
    """One file by its codec; an array has the rate that the modality was set to, since the file cannot say it."""
    try:
        if path.stat().st_size > FILE_LIMIT:
            raise DataError(f"more than {FILE_LIMIT} bytes; cut it into shorter files")
        return decode(ext, path.read_bytes(), ModalityInfo(codec=ext, rate=getattr(modality, "rate", None)))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
