"""Features of data sets and of media files, by a trained run."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from mmssl import build, completing
from mmssl.data import collate_clips, decode_file, transform_clips
from mmssl.errors import ConfigError, DataError
from mmssl.eval import Features, extract, join
from mmssl.evaluate.loading import device_of, open_model, reading
from mmssl.modalities import codecs_of
from mmssl.registry import nearest
from mmssl.rundir import RunDir
from mmssl.storage import write_whole


def embed(run_dir: str | Path, sources: list[str], out: str | Path, *, split: str = "test",
          checkpoint: str = "last", overrides: list[str] | None = None) -> str:
    """Write features to an npz file: `<modality>` (N, D) float32 and `<modality>.present` (N,) bool, `keys`, `groups`,
    `label.<name>`; also `global` and `all` where there are any.

    Args:
        run_dir: folder of the run.
        sources: one data set (folder of shards, `demo:clips`), or media files as in `embed_files`.
        out: file to write; ends in .npz.
        split: of the data set.
        checkpoint: "last", "best", or a file.
        overrides: `modalities.…=…`, where files are to be read otherwise, e.g. `modalities.audio.resample=sinc`.

    Returns:
        one line that says what was written, then one for each bad sample of the data set.
    """
    if Path(out).suffix != ".npz":
        raise ConfigError(f"--out {out}: expected a name that ends in .npz")
    if len(sources) == 1 and (sources[0].startswith("demo:") or Path(sources[0]).is_dir()):
        run = RunDir(Path(run_dir))
        recipe = reading(run, "embed", overrides)
        model, parts = open_model(run, recipe, checkpoint)
        loader = build.datamodule(completing.moved(recipe, sources[0]), parts).loader(split)
        features = extract(model.to(device_of(recipe)), loader)
        left_out = "".join(f"\nleft out: {shard} '{key}': {why}" for (shard, key), why in loader.quarantine.bad.items())
    else:
        features, left_out = embed_files(run_dir, sources, checkpoint=checkpoint, overrides=overrides), ""
    _write_npz(Path(out), features)
    shapes = ", ".join(f"{name} {x.shape}" for name, x in features.x.items())
    return f"{out}: {len(features)} samples: {shapes}{left_out}"


def embed_files(run_dir: str | Path, files: list[str | Path], *, checkpoint: str = "last",
                overrides: list[str] | None = None) -> Features:
    """Features of media files, without packing them: one sample per file, centre window, nothing random.

    Args:
        run_dir: folder of the run.
        files: each a path, or `modality=path` where the extension does not tell. A film gives video and sound.
        checkpoint: "last", "best", or a file.
        overrides: as in `embed`.

    Raises:
        ConfigError: an override of something else than modalities.
        DataError: a file that is missing, unreadable, or of a kind that no modality of the run reads.
    """
    run = RunDir(Path(run_dir))
    recipe = reading(run, "embed", overrides)
    model, parts = open_model(run, recipe, checkpoint)
    device, lots = device_of(recipe), []
    for file in files:
        name, path = _named(str(file), parts)
        clips = {m: c for m, c in decode_file(path, parts, name).items() if c is not None}
        try:
            tensors = transform_clips(clips, parts)
        except (DataError, ValueError) as error:
            raise DataError(f"{path}: {error}") from None
        batch = collate_clips([tensors], parts, keys=[str(path)])
        lots.append(extract(model.to(device), [batch]))
    return join(lots)


def _named(file: str, parts: dict[str, Any]) -> tuple[str | None, Path]:
    """`modality=path` as the two; a bare path without a modality, unless only its extension can tell one."""
    name, mark, path = file.partition("=")
    if mark and not Path(file).exists():
        if name not in parts:
            raise ConfigError(f"--data {file}: no modality is called '{name}'{nearest(name, parts)}")
        return name, Path(path)
    if not Path(file).is_file():
        raise DataError(f"--data {file}: no such file; give media files, `modality=file`, or a folder of shards")
    extension = Path(file).suffix.lstrip(".").lower()
    readers = [m for m, part in parts.items() if extension in codecs_of(part)]
    if len(readers) > 1:
        raise ConfigError(f"--data {file}: {' and '.join(readers)} read .{extension}; write e.g. {readers[0]}={file}")
    return (readers[0] if readers else None), Path(file)


def _write_npz(path: Path, features: Features) -> None:
    arrays: dict[str, np.ndarray] = {"keys": features.keys, "groups": features.groups}
    for name, x in features.x.items():
        arrays |= {name: x, f"{name}.present": features.present[name]}
    arrays |= {f"label.{name}": y for name, y in features.labels.items()}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_whole(path, buffer.getvalue())
