"""A trained run put to use: load it, probe it, embed shards or media files with it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmssl import build
from mmssl.callbacks import read_checkpoint
from mmssl.config import Recipe
from mmssl.data import DataModule, StreamLoader, collate_clips, decode_file, transform_clips
from mmssl.data.demo import resolve_root
from mmssl.errors import ConfigError, DataError
from mmssl.eval import (
    Features,
    ProbeTable,
    RetrievalResult,
    extract,
    frozen,
    join,
    on_device,
    probe_table,
    render,
    retrieval_table,
)
from mmssl.methods import Method
from mmssl.modalities import codecs_of
from mmssl.registry import nearest
from mmssl.rundir import RunDir, write_json
from mmssl.storage import write_whole


@dataclasses.dataclass(frozen=True)
class ProbeReport:
    """Linear probes of one checkpoint.

    Args:
        tables: by label, then "trained" and "random weights".
        retrieval: by "a_to_b", how well a finds its own b among all test samples.
        text: the same for a reader.
    """

    tables: dict[str, dict[str, ProbeTable]]
    retrieval: dict[str, RetrievalResult]
    text: str


def load(run_dir: str | Path, checkpoint: str = "last") -> Method:
    """A run's model with its trained weights, in evaluation mode.

    Args:
        run_dir: folder of the run.
        checkpoint: "last", "best", or a file.

    Raises:
        DataError: no run there, no such checkpoint, or one that does not fit the run's recipe.
    """
    run = RunDir(Path(run_dir))
    return _model(run, run.load_recipe(), checkpoint)[0].eval()


def load_weights(model: Method, path: Path) -> dict[str, Any]:
    """Put the weights of a checkpoint into a model, all of them.

    Returns:
        all that the checkpoint holds.

    Raises:
        DataError: it cannot be read, or is of another model.
    """
    content = read_checkpoint(path)
    try:
        model.load_state_dict(content["state_dict"])
    except (KeyError, RuntimeError) as error:
        first = str(error).splitlines()[-1].strip()[:160]
        raise DataError(f"{path}: does not fit the run's recipe ({first} …); give a checkpoint of this run") from None
    return content


def probe(run_dir: str | Path, checkpoint: str = "last", overrides: list[str] | None = None) -> ProbeReport:
    """Fit a linear classifier on frozen features of the training splits, test it on the test split; and retrieve the
    test samples of one modality from those of another, ties counted against the model.

    Beside it: chance, and the same classifier on the same encoders with random weights (drawn anew, seed + 1).

    Args:
        run_dir: folder of the run; the result is written there as `probe.json` and `probe.txt`.
        checkpoint: "last", "best", or a file.
        overrides: `probe.…=…` or `data.…=…`.

    Raises:
        ConfigError: an override of another section, or a recipe without `probe.labels`.
        DataError: a label or split that the data set lacks.
    """
    run = RunDir(Path(run_dir))
    wrong = [o for o in overrides or [] if not o.startswith(("probe.", "data."))]
    if wrong:
        raise ConfigError([f"probe: '{o}': only probe.* and data.* may change" for o in wrong])
    recipe = run.load_recipe(overrides)
    if not recipe.probe.labels:
        raise ConfigError("probe.labels: empty; name labels of the data set, e.g. probe.labels=[digit] "
                          "(`mmssl data inspect` lists them)")
    trained, parts = _model(run, recipe, checkpoint)
    untrained = build.method(dataclasses.replace(recipe, seed=recipe.seed + 1), parts)
    data = build.datamodule(recipe, parts, run)
    device = _device(recipe)
    found = {heading: _features(model.to(device), recipe, data)
             for heading, model in (("trained", trained), ("random weights", untrained))}
    how = recipe.probe
    tables = {label: {heading: probe_table(train, test, label, how.features, how.fractions, how.seeds, recipe.seed)
                      for heading, (train, test) in found.items()} for label in how.labels}
    matches = retrieve(trained, data.loader(recipe.data.test))
    text = "\n\n".join([*(render(t) for t in tables.values()), *([_retrieval_text(matches)] if matches else [])])
    write_json(run.root / "probe.json", {
        "checkpoint": checkpoint, "retrieval": {name: dataclasses.asdict(result) for name, result in matches.items()},
        "labels": {label: {heading: t.as_dict() for heading, t in by.items()} for label, by in tables.items()}})
    write_whole(run.root / "probe.txt", (text + "\n").encode())
    return ProbeReport(tables, matches, text)


def retrieve(model: Method, loader: StreamLoader) -> dict[str, RetrievalResult]:
    """Retrieval in both directions of every pair of the method, over all samples that a loader gives.

    Args:
        model: trained; compared is what its `validation_step` projects.
        loader: of a held-out split.

    Returns:
        by "a_to_b".
    """
    found: dict[str, list[tuple[torch.Tensor, ...]]] = {}
    device = next(model.parameters()).device
    with frozen(model):
        for i, batch in enumerate(loader):
            for name, row in model.validation_step(on_device(batch, device), i)["pairs"].items():
                found.setdefault(name, []).append(row)
    return retrieval_table({name: tuple(map(torch.cat, zip(*rows, strict=True))) for name, rows in found.items()})


def _retrieval_text(matches: dict[str, RetrievalResult]) -> str:
    rows = next(iter(matches.values())).rows
    lines = [f"retrieval among the test samples; chance among {rows}: R@1 {1 / rows:.3f}, R@5 {min(1, 5 / rows):.3f}, "
             f"R@10 {min(1, 10 / rows):.3f}, median rank {(rows + 1) / 2:g}"]
    for name, result in matches.items():
        shares = "  ".join(f"R@{k} {share:.3f}" for k, share in result.r_at.items())
        name = name.replace("_to_", " → ")
        lines.append(f"{name:<18} {shares}  median rank {result.median_rank:g}  of {result.rows}")
    return "\n".join(lines)


def embed(run_dir: str | Path, sources: list[str], out: str | Path, *, split: str = "test",
          checkpoint: str = "last") -> str:
    """Write features to an npz file: `<modality>` (N, D) float32 and `<modality>.present` (N,) bool, `keys`, `groups`,
    `label.<name>`; also `global` and `all` where there are any.

    Args:
        run_dir: folder of the run.
        sources: one data set (folder of shards, `demo:clips`), or media files as in `embed_files`.
        out: file to write; ends in .npz.
        split: of the data set.
        checkpoint: "last", "best", or a file.

    Returns:
        one line that says what was written, then one for each bad sample of the data set.
    """
    if Path(out).suffix != ".npz":
        raise ConfigError(f"--out {out}: expected a name that ends in .npz")
    if len(sources) == 1 and (sources[0].startswith("demo:") or Path(sources[0]).is_dir()):
        run = RunDir(Path(run_dir))
        recipe = run.load_recipe()
        model, parts = _model(run, recipe, checkpoint)
        moved = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, root=str(resolve_root(sources[0]))))
        loader = build.datamodule(moved, parts).loader(split)
        features = extract(model.to(_device(recipe)), loader)
        left_out = "".join(f"\nleft out: {shard} '{key}': {why}" for (shard, key), why in loader.quarantine.bad.items())
    else:
        features, left_out = embed_files(run_dir, sources, checkpoint=checkpoint), ""
    _write_npz(Path(out), features)
    shapes = ", ".join(f"{name} {x.shape}" for name, x in features.x.items())
    return f"{out}: {len(features)} samples: {shapes}{left_out}"


def embed_files(run_dir: str | Path, files: list[str | Path], *, checkpoint: str = "last") -> Features:
    """Features of media files, without packing them: one sample per file, centre window, nothing random.

    Args:
        run_dir: folder of the run.
        files: each a path, or `modality=path` where the extension does not tell. A film gives video and sound.
        checkpoint: "last", "best", or a file.

    Raises:
        DataError: a file that is missing, unreadable, or of a kind that no modality of the run reads.
    """
    run = RunDir(Path(run_dir))
    recipe = run.load_recipe()
    model, parts = _model(run, recipe, checkpoint)
    device, lots = _device(recipe), []
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


def _model(run: RunDir, recipe: Recipe, checkpoint: str) -> tuple[Method, dict[str, Any]]:
    path = run.checkpoint(checkpoint)
    parts = build.modalities(recipe)
    model = build.method(recipe, parts)
    load_weights(model, path)
    return model.eval(), parts


def _features(model: Method, recipe: Recipe, data: DataModule) -> tuple[Features, Features]:
    train = join([extract(model, data.loader(split)) for split in recipe.probe.train])
    return train, extract(model, data.loader(recipe.data.test))


def _device(recipe: Recipe) -> torch.device:
    gpu = torch.cuda.is_available() and recipe.trainer.accelerator in ("auto", "gpu", "cuda")
    return torch.device("cuda" if gpu else "cpu")


def _write_npz(path: Path, features: Features) -> None:
    import io
    arrays: dict[str, np.ndarray] = {"keys": features.keys, "groups": features.groups}
    for name, x in features.x.items():
        arrays |= {name: x, f"{name}.present": features.present[name]}
    arrays |= {f"label.{name}": y for name, y in features.labels.items()}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_whole(path, buffer.getvalue())
