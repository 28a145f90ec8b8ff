"""The source "table": a CSV or JSONL file that names media files and captions, to shards. No paper: ours."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmssl.data import codecs, schema
from mmssl.data.labels import Classes
from mmssl.data.progress import progress_line
from mmssl.data.sources.packer import Item, Packer, PackReport
from mmssl.data.sources.tables.rows import KINDS, Columns, class_names, find_columns, read_rows
from mmssl.data.sources.tables.splits import choose_splits
from mmssl.data.survey import finish
from mmssl.errors import ConfigError, DataError
from mmssl.registry import SOURCES
from mmssl.storage import write_whole
from mmssl.transforms import count_words, resize_shorter, sound_window, vocabulary
from mmssl.types import Clip


@dataclass(frozen=True)
class Encoding:
    """How media are stored: a part of the picture, its shorter side in pixels, frames and samples per second (None: as
    they are), or copied."""

    region: list[float] | None
    size: int | None
    video_rate: float | None
    audio_rate: int | None
    copy: bool


@SOURCES.register("table")
def pack_table(csv: str, out: str, media: str | None = None, video: str | None = None, audio: str | None = None,
               image: str | None = None, text: list[str] = [], labels: list[str] = [],  # noqa: B006 (never changed)
               split: str | None = None, group: str | None = None, val: float = 0.1, test: float = 0.1, seed: int = 0,
               region: list[float] | None = None, size: int | None = None, video_rate: float | None = None,
               audio_rate: int | None = None, copy: bool = False, min_count: int = 1, workers: int = 0) -> PackReport:
    """Pack media files and captions that a table names. Interrupted, the same call goes on where it stopped.

    A cell that is empty is a missing modality; a file that is missing or broken makes its row a bad one, which is
    listed and left out. The words of the training captions become `vocab.txt`, the most frequent first.

    Args:
        csv: CSV with a header line, or JSONL; one row for each record.
        out: folder of the new data set.
        media: folder that paths in the table start from; default: the folder of the table.
        video, audio, image: columns of media files; default: found by the extensions in them; "none": no such.
            Without a column of sound, or with the same one as for video, the sound track of the video is taken.
        text: columns of captions, each with one or several parted by "|"; default: found by their titles.
        labels: columns of classes; a column in which a cell holds several, parted by "|", is one of which every sample
            may have any number.
        split: column that says train, val or test; default: the column "split", else splits are drawn.
        group: column whose equal values must not straddle a split; default: the media file, however it is spelt.
        val, test: share of the records below 1, or their number, where splits are drawn.
        seed: of that draw.
        region: top, left, bottom and right edge of the part of every video to keep, as shares of its height and width
            from the upper left corner, where a camera that does not move shows what matters in one place.
        size: pixels of the shorter side of videos, after `region`; default: as it is.
        video_rate: frames per second, by leaving out or repeating frames; default: as it is.
        audio_rate: samples per second; default: as it is.
        copy: keep the bytes of media files (video, images, sound files); default: video as H.264 with a key frame
            every 12 frames and sound as mono FLAC, both quick to read.
        min_count: words that occur less often in training captions are left out of the vocabulary.
        workers: threads; 0: one for each processor.

    Raises:
        ConfigError: a column that is not there, settings that do not fit, a group or a file that is stated to be in two
            splits, or `out` holds something else.
        DataError: the table cannot be read, or no row can be packed. StorageError: a full disk.
    """
    path = Path(csv)
    rows = read_rows(path)
    columns = find_columns(rows, Columns(video, audio, image, list(text), list(labels), split, group))
    encoding = checked(Encoding(region, size, video_rate, audio_rate, copy))
    folder = Path(media) if media else path.parent
    splits = choose_splits(rows, columns, folder, val, test, seed)
    classes = {name: class_names([word for row in rows for word in parted(row[name])]) for name in columns.labels}
    several = [name for name in columns.labels if any("|" in row[name] for row in rows)]
    tables = [Row(number, row, columns, classes, several, folder, encoding)
              for number, row in enumerate(rows)]
    with Packer(out, {
            "source": "table", "csv": hashlib.sha256(path.read_bytes()).hexdigest(), "encoding": vars(encoding),
            "media": str(folder.resolve()),
            "columns": {k: v for k, v in vars(columns).items() if k != "guessed"},
            "splits": hashlib.sha256("\n".join(splits).encode()).hexdigest()}, workers) as packer:
        pack_splits(packer, tables, splits)
        if columns.text:
            texts = (t for row, s in zip(tables, splits, strict=True) if s == "train" for t in row.texts())
            words = vocabulary(count_words(texts), min_count)
            write_whole(Path(out) / "vocab.txt", ("\n".join(words) + "\n").encode())
        packer.report.notes += columns.guessed
        report = packer.close()
        finish(out, name=Path(out).resolve().name, modalities=infos(packer), labels=classes,
               notes=f"Packed from {path.name}; rights as those of the source.")
    return report


def checked(encoding: Encoding) -> Encoding:
    """The same encoding. Raises ConfigError where `copy` is to change something, or a number is out of its range."""
    wanted = {"size": encoding.size, "video_rate": encoding.video_rate, "audio_rate": encoding.audio_rate}
    problems = [f"{name}={value}: expected a positive number" for name, value in wanted.items()
                if value is not None and value <= 0]
    region = encoding.region
    if region is not None and not (len(region) == 4 and 0 <= region[0] < region[2] <= 1
                                   and 0 <= region[1] < region[3] <= 1):
        problems.append(f"region={region}: expected top, left, bottom and right as shares from 0 to 1, the first "
                        f"two smaller than the last two, e.g. 0.5 0.25 1 0.75")
    changed = [name for name, value in {"region": region, **wanted}.items() if value is not None]
    if encoding.copy and changed:
        problems.append(f"copy keeps files as they are and cannot go with {', '.join(changed)}; leave one out")
    if problems:
        raise ConfigError(problems)
    return encoding


def pack_splits(packer: Packer, rows: list[Row], splits: list[str]) -> None:
    """Write all records, split by split, with one line of progress."""
    show, before = progress_line(f"packing {packer.root}"), 0
    for name in ("train", "val", "test"):
        items = [Item(row.key, row.make) for row, split in zip(rows, splits, strict=True) if split == name]
        packer.write(name, items, lambda done, start=before: show(start + done, len(rows)))
        before += len(items)


def parted(cell: str) -> list[str]:
    """What a cell holds, parted by "|", without what is empty."""
    return [part.strip() for part in cell.split("|") if part.strip()]


def infos(packer: Packer) -> dict[str, schema.ModalityInfo]:
    """What the manifest says of each modality, from what packing saw."""
    names = {"video": ["red", "green", "blue"], "image": ["red", "green", "blue"], "audio": ["mono"], "text": []}
    return {name: schema.ModalityInfo(
        codec=packer.facts[name]["codec"][0], rate=packer.fact(name, "rate"), shape=packer.fact(name, "shape"),
        channels=names[name] if name != "audio" or packer.fact(name, "channels") == 1 else [])
        for name in names if name in packer.facts}


@dataclass(frozen=True)
class Row:
    """One row of the table on its way to a record."""

    number: int
    cells: dict[str, str]
    columns: Columns
    classes: dict[str, list[str]]
    several: list[str]
    media: Path
    encoding: Encoding

    @property
    def key(self) -> str:
        """A key of its own: the row's number, and the name of its first media file for people to read."""
        first = next((self.cells[c] for c in self.columns.media() if self.cells[c]), "")
        return f"{self.number:07d}-{re.sub(r'[^A-Za-z0-9_-]+', '_', Path(first).stem)[:60]}".rstrip("-")

    def texts(self) -> list[str]:
        """Its captions, without empty ones."""
        return [t for c in self.columns.text for t in parted(self.cells[c])]

    def labels(self) -> dict[str, Classes]:
        """Its class numbers by label; an empty cell is an unknown class."""
        numbers = {name: sorted({names.index(word) for word in parted(self.cells[name])})
                   for name, names in self.classes.items() if self.cells[name].strip()}
        return {name: found if name in self.several else found[0] for name, found in numbers.items()}

    def make(self) -> tuple[dict[str, bytes], dict[str, dict[str, Any]]]:
        """The files of its record and what they are. Raises DataError where the row is a bad one."""
        files, facts = {}, {}
        try:
            parts = self.parts()
        except (OSError, ValueError) as error:  # nothing is written here: what fails is one of the row's own files
            raise DataError(f"cannot be read or encoded ({error})") from None
        for name, (ext, data, clip) in parts.items():
            files[f"{name}.{ext}"] = data
            facts[name] = {"codec": ext, "rate": clip.rate, "shape": list(clip.data.shape), "channels":
                           clip.data.shape[0] if name == "audio" else None}
        texts = self.texts()
        if texts:
            files["text.json"], facts["text"] = codecs.encode_json(texts), {"codec": "json"}
        if not files:
            raise DataError("names no media file and no caption")
        group = self.cells[self.columns.group].strip() if self.columns.group else ""
        files["labels.json"] = codecs.encode_json({"labels": self.labels(), "group": group})
        return files, facts

    def parts(self) -> dict[str, tuple[str, bytes, Clip]]:
        """By modality: extension, bytes and decoded clip of each media file that the row names."""
        columns, made = self.columns, {}
        video = self.file(columns.video)
        if video:
            film, track = codecs.read_video_and_sound(video)
            if film is None:
                raise DataError(f"{video}: holds no video; name the column with --audio instead")
            made["video"] = keep("video", video, film) if self.encoding.copy else encode_film(film, self.encoding)
            if columns.audio == columns.video and track is not None:
                made["audio"] = encode_sound(track, self.encoding)
        sound = self.file(columns.audio) if columns.audio != columns.video else None
        if sound:
            track = codecs.read_video_and_sound(sound)[1]
            if track is None:
                raise DataError(f"{sound}: holds no sound")
            audible = sound.suffix[1:].lower() in KINDS["audio"]
            made["audio"] = (keep("audio", sound, track) if self.encoding.copy and audible
                             else encode_sound(track, self.encoding))
        picture = self.file(columns.image)
        if picture:
            ext, data, _ = keep("image", picture, None)
            made["image"] = ext, data, codecs.decode(ext, data)
        return made

    def file(self, column: str | None) -> Path | None:
        """The file that a cell names; None for an empty cell. Raises DataError where there is no such file."""
        if column is None or not self.cells[column].strip():
            return None
        path = self.media / self.cells[column].strip()
        if not path.is_file():
            raise DataError(f"{path}: no such file (column '{column}'); correct the cell, or set --media to the folder "
                            f"that paths start from")
        return path


def keep(kind: str, path: Path, clip: Clip | None) -> tuple[str, bytes, Clip | None]:
    """A media file as it is. Raises DataError for an extension under which it would not be read again."""
    ext = path.suffix[1:].lower()
    if ext not in KINDS[kind]:
        raise DataError(f"{path}: has {f'the extension .{ext}' if ext else 'no extension'}, by which no {kind} is read "
                        f"({', '.join(KINDS[kind])}); " + ("convert it" if kind == "image" else "pack without --copy"))
    return ext, path.read_bytes(), clip


def encode_film(clip: Clip, encoding: Encoding) -> tuple[str, bytes, Clip]:
    """The wanted part of a video at the wanted rate and size, with even sides, as H.264."""
    frames, rate = clip.data, clip.rate
    if encoding.video_rate is not None and rate != encoding.video_rate:
        count = max(1, round(len(frames) / rate * encoding.video_rate))
        nearest_frame = (torch.arange(count, dtype=torch.float64) * rate / encoding.video_rate + 0.5).long()
        frames, rate = frames[nearest_frame.clamp(max=len(frames) - 1)], encoding.video_rate
    if encoding.region is not None:
        (top, bottom), (left, right) = (edges(*encoding.region[i::2], frames.shape[1 + i]) for i in (0, 1))
        frames = frames[:, top:bottom, left:right]
    if encoding.size is not None:
        frames = resize_shorter(frames, encoding.size)
    height, width = (n - n % 2 for n in frames.shape[1:3])
    frames = frames[:, :height, :width].contiguous()
    return "mp4", codecs.encode_mp4(frames, rate), Clip(frames, rate)


def edges(first: float, last: float, pixels: int) -> tuple[int, int]:
    """Where a stretch between two shares of a side begins and ends, at least two pixels apart."""
    begin = min(round(first * pixels), pixels - 2)
    return begin, max(round(last * pixels), begin + 2)


def encode_sound(clip: Clip, encoding: Encoding) -> tuple[str, bytes, Clip]:
    """Sound at the wanted rate, one channel, as FLAC."""
    wave, rate = clip.data.mean(dim=0), clip.rate
    if encoding.audio_rate is not None and rate != encoding.audio_rate:
        wanted = float(encoding.audio_rate)
        wave = sound_window(clip.data, rate, wanted, 0.0, max(1, int(len(wave) * wanted / rate)), "sinc")
        rate = wanted
    return "flac", codecs.encode_flac(wave[None], round(rate)), Clip(wave[None], rate)
