"""Search with one modality for another: a sentence or a file finds the clips of a data set that a run holds nearest."""

from __future__ import annotations

import base64
import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmssl import build, completing, plots
from mmssl.data import collate_clips, decode, decode_file, transform_clips
from mmssl.data.labels import parse_labels
from mmssl.data.split import Split
from mmssl.errors import ConfigError, DataError
from mmssl.eval import frozen, on_device
from mmssl.eval.retrieval import unit_rows
from mmssl.evaluate import device_of, open_model, reading
from mmssl.methods import Method
from mmssl.methods.base import first_item
from mmssl.modalities import codecs_of
from mmssl.page import Section, figure, page, text
from mmssl.registry import nearest
from mmssl.rundir import RunDir
from mmssl.storage import write_whole
from mmssl.transforms import words_of
from mmssl.types import Clip

#: How a browser plays files, by extension.
PLAYERS = {"mp4": ("video", "video/mp4"), "webm": ("video", "video/webm"), "flac": ("audio", "audio/flac"),
           "wav": ("audio", "audio/wav"), "mp3": ("audio", "audio/mpeg"), "ogg": ("audio", "audio/ogg"),
           "m4a": ("audio", "audio/mp4"), "jpg": ("img", "image/jpeg"), "png": ("img", "image/png")}


@dataclasses.dataclass(frozen=True)
class Hit:
    """A sample that was found.

    Args:
        key: of the sample.
        score: cosine to the query in the common space, -1 to 1.
        labels: names of its classes, by label.
        files: of the sample, by field (`video.mp4`), as the shard holds them.
    """

    key: str
    score: float
    labels: dict[str, str]
    files: dict[str, bytes]


@dataclasses.dataclass(frozen=True)
class Found:
    """What a search gave.

    Args:
        query, kind: what was asked with, and of which modality that is.
        target: the modality that was asked for.
        among: samples that were searched.
        hits: best first.
        notes: what the user should know, e.g. words that the run never saw.
    """

    query: str
    kind: str
    target: str
    among: int
    hits: list[Hit]
    notes: list[str]

    @property
    def text(self) -> str:
        """For a terminal."""
        lines = [f"{self.kind} → {self.target} among {self.among} samples: {self.query}", *self.notes]
        for place, hit in enumerate(self.hits, 1):
            labels = "  ".join(f"{name}={value}" for name, value in hit.labels.items())
            said = _words(hit.files)
            lines.append(f"{place:>3}  {hit.score:+.3f}  {hit.key}  {labels}{f'  “{said}”' if said else ''}")
        return "\n".join(lines)


def search(run_dir: str | Path, query: str, target: str, *, top: int = 5, data: str | None = None,
           split: str | None = None, checkpoint: str = "last", overrides: list[str] | None = None) -> Found:
    """Find the samples whose `target` lies nearest to a query in the common space of the two modalities. Exact; the
    gallery is embedded once, a batch at a time.

    Args:
        run_dir: folder of the run.
        query: a sentence, or a media file; `modality=path` where the extension does not tell.
        target: modality to find.
        top: how many.
        data: data set to search; default, the run's.
        split: of it; default, the run's test split.
        checkpoint: "last", "best", or a file.
        overrides: `modalities.…=…`, where files are to be read otherwise, e.g. `modalities.audio.resample=sinc`.

    Raises:
        ConfigError: `top` below 1; an override of something else; no such modality, or none that the query's is
            compared with; words that say nothing.
        DataError: a file or data set that cannot be read, or no sample that has the target.
    """
    if top < 1:
        raise ConfigError(f"--top {top}: expected at least 1")
    run = RunDir(Path(run_dir))
    recipe = reading(run, "retrieve", overrides)
    model, parts = open_model(run, recipe, checkpoint)
    model = model.to(device_of(recipe))
    if target not in parts:
        raise ConfigError(f"--target {target}: no modality is called that{nearest(target, parts)}")
    kind, tensor, notes = _read_query(query, parts)
    pair = _pair(model, kind, target)
    batch = collate_clips([{kind: tensor}], parts, keys=["query"])
    with frozen(model):
        wanted = _side(model, batch, pair, kind)[0]
    if data is not None:
        recipe = completing.moved(recipe, data)
    module = build.datamodule(recipe, parts)
    name = split or recipe.data.test
    keys, scores = _scores(model, module.loader(name), pair, target, wanted)
    if not keys:
        raise DataError(f"{recipe.data.root}: no sample of split '{name}' has {target}")
    order = scores.sort(descending=True, stable=True).indices[:top].tolist()
    hits = _open_hits(module.open(name), {keys[i]: float(scores[i]) for i in order}, list(parts))
    return Found(query, kind, target, len(keys), hits, notes)


def write_page(found: Found, path: str | Path) -> None:
    """Write what was found as one HTML file in which the clips play; it needs no other file."""
    sections = [Section(f"{place}. cosine {hit.score:+.3f} ({hit.key})", [
        *(_shown(field, data) for field, data in sorted(  # what was asked for comes first
            hit.files.items(), key=lambda file: file[0].split(".")[0] != found.target)),
        text("  ".join(f"{name}: {value}" for name, value in hit.labels.items()))])
        for place, hit in enumerate(found.hits, 1)]
    title = f"{found.kind} → {found.target}: {found.query}"
    below = f"The {len(found.hits)} nearest of {found.among} samples. {' '.join(found.notes)}"
    write_whole(Path(path), page(title, below, sections).encode())


def _read_query(query: str, parts: dict[str, Any]) -> tuple[str, Tensor, list[str]]:
    name, mark, path = query.partition("=")
    if mark and name in parts and Path(path).is_file():
        clips = decode_file(Path(path), parts, name)
    elif Path(query).is_file():
        clips = decode_file(Path(query), parts, None)
        clips = {m: c for m, c in clips.items() if c is not None}
        if len(clips) != 1:
            raise ConfigError(f"--query {query}: gives {' and '.join(clips) or 'nothing this run reads'}; write e.g. "
                              f"{next(iter(clips or parts))}={query}")
        name = next(iter(clips))
    else:
        return _read_sentence(query, parts)
    try:
        return name, transform_clips({name: clips[name]}, parts)[name], []
    except (DataError, ValueError) as error:
        raise DataError(f"{query}: {error}") from None


def _read_sentence(query: str, parts: dict[str, Any]) -> tuple[str, Tensor, list[str]]:
    readers = [name for name, part in parts.items() if "txt" in codecs_of(part)]
    if not readers:
        raise ConfigError(f"--query {query}: no such file, and the run reads no text; give a file of "
                          f"{', '.join(parts)}")
    name, part = readers[0], parts[readers[0]]
    tensor = transform_clips({name: Clip([query])}, parts)[name]
    words = words_of(query)
    unknown = [word for word in words if word not in part.numbers]
    if len(unknown) == len(words):
        raise ConfigError(f"--query '{query}': no word of it is in the run's vocabulary, and no file is called that")
    return name, tensor, [f"not in the run's vocabulary: {', '.join(unknown)}"] if unknown else []


def _pair(model: Method, kind: str, target: str) -> tuple[str, str]:
    for pair in model.pairs:
        if kind != target and {kind, target} == set(pair):
            return pair
    known = [next(m for m in pair if m != kind) for pair in model.pairs if kind in pair]
    raise ConfigError(f"--target {target}: the run compares {kind} with {', '.join(known) or 'nothing'}, not with "
                      f"{target}")


def _side(model: Method, batch: Any, pair: tuple[str, str], which: str) -> tuple[Tensor, Tensor]:
    """One modality of a batch in the pair's common space, unit rows (B, D), and which rows have it, (B,) bool."""
    latents, present = model.embed(on_device(batch, next(model.parameters()).device))
    z = model.project_latents(latents, present, pair)[pair.index(which)]
    return unit_rows(z.cpu())[0], (first_item(present[which]) & batch.valid.to(z.device)).cpu()


def _scores(model: Method, loader: Any, pair: tuple[str, str], target: str, wanted: Tensor) -> tuple[list[str], Tensor]:
    keys: list[str] = []
    scores = []
    with frozen(model):
        for batch in loader:
            z, there = _side(model, batch, pair, target)
            keys += [key for key, here in zip(batch.keys, there.tolist(), strict=True) if here]
            scores.append((z @ wanted[0])[there])
    return keys, torch.cat(scores) if scores else torch.zeros(0)


def _open_hits(split: Split, wanted: dict[str, float], modalities: list[str]) -> list[Hit]:
    places = {index.key(record): (shard, record) for shard, index in enumerate(split.indices)
              for record in range(len(index)) if index.key(record) in wanted}
    hits = []
    for key, score in wanted.items():
        fields = [f for f in split.fields(*places[key]) if f.split(".")[0] in (*modalities, "labels")]
        files = split.read(*places[key], fields)
        labels, _ = parse_labels(files.pop("labels.json", None))
        hits.append(Hit(key, score, {name: _class_name(split, name, number) for name, number in labels.items()}, files))
    return hits


def _class_name(split: Split, label: str, number: Any) -> str:
    names = split.labels.get(label, [])
    numbers = number if isinstance(number, list) else [number]
    return ", ".join(names[n] if 0 <= n < len(names) else str(n) for n in numbers)


def _words(files: dict[str, bytes]) -> str:
    for field, content in files.items():
        if field.endswith((".json", ".txt")):
            return str(decode(field.rpartition(".")[2], content).data[0])
    return ""


def _shown(field: str, content: bytes) -> str:
    """One file of a sample as a browser shows it."""
    extension = field.rpartition(".")[2]
    if extension in PLAYERS:
        tag, kind = PLAYERS[extension]
        source = f'src="data:{kind};base64,{base64.b64encode(content).decode()}"'
        return f"<img {source}>" if tag == "img" else f'<{tag} controls loop {source}></{tag}>'
    if extension in ("json", "txt"):
        return text(" / ".join(decode(extension, content).data))
    clip = decode(extension, content)
    steps = torch.arange(clip.data.shape[-1]).tolist()
    curves = {f"channel {c}": (steps, row.tolist()) for c, row in enumerate(clip.data)}
    return figure(plots.svg(plots.lines(curves, "step", f"{field} (units of the file)")), field)
