"""Weights of one model as the beginning of another: what fits is taken, and all that happens to the rest is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from mmssl.callbacks import read_checkpoint
from mmssl.errors import ConfigError, DataError, few
from mmssl.nn import Positions, stretch


def init_weights(model: nn.Module, path: str | Path, renamed: Mapping[str, str] | None = None,
                 whole: Sequence[str] = ()) -> str:
    """Copy weights of a checkpoint into a model by name, where the shapes agree; a table of positions of another length
    is stretched (see `mmssl.nn.positions`), as in the released code of arXiv 2104.11178.

    Args:
        model: changed in place.
        path: checkpoint of any run, or a plain state dict saved by `torch.save`.
        renamed: beginnings of the model's names that are called otherwise in the file, e.g.
            {"encoders.image.": "encoders.video."}.
        whole: beginnings of names that must all come from the file.

    Returns:
        what was taken, stretched, left as drawn, and not needed, for the user.

    Raises:
        ConfigError: nothing fits, or something under `whole` does not.
        DataError: the file is no checkpoint.
    """
    stored, own = _stored(path), model.state_dict()
    source = {name: _renamed(name, renamed or {}) for name in own}
    taken, stretched = _fitting(model, own, source, stored)
    fresh = [name for name in own if name not in taken and source[name] not in stored]
    other = [name for name in own if name not in taken and source[name] in stored]
    if not taken:
        raise ConfigError(f"{path}: none of its {len(stored)} tensors fits this model ({len(own)} tensors); "
                          "expected a checkpoint of the same method and sizes")
    lost = [f"{name} ({_shape(stored.get(source[name]))} in the file, {_shape(own[name])} here)"
            for name in (*fresh, *other) if name.startswith(tuple(whole))] if whole else []
    if lost:
        raise ConfigError(f"{path}: {len(lost)} tensors that the encoders need are not in it, or of another shape: "
                          f"{few(lost)}; leave the sizes of encoders and trunks as they were trained (an input may "
                          "grow, a patch may not)")
    if not any(tensor.is_meta for tensor in own.values()):  # in a rehearsal there is nothing to copy to
        model.load_state_dict(taken, strict=False)
    needed = {source[name] for name in taken}
    notes = [f"weights from {path}: {len(taken)} of {len(own)} tensors matched"]
    ignored = stored.keys() - needed - {source[name] for name in other}
    for what, names, shown in (("tables of positions stretched", stretched, few(stretched)),
                               ("of another shape, kept as drawn", other, few(other)),
                               ("not in the file, kept as drawn", fresh, _parts(fresh)),
                               ("in the file only, ignored", ignored, _parts(ignored))):
        if names:
            notes.append(f"  {len(names)} {what}: {shown}")
    return "\n".join(notes)


def _stored(path: str | Path) -> dict[str, Tensor]:
    content = read_checkpoint(path, foreign=True)
    stored = content.get("state_dict", content)
    if not isinstance(stored, dict) or not all(isinstance(v, Tensor) for v in stored.values()):
        raise DataError(f"{path}: holds no weights by name; expected a checkpoint of a run, or a state_dict() that "
                        "torch.save wrote")
    return stored


def _renamed(name: str, renamed: Mapping[str, str]) -> str:
    for mine, theirs in renamed.items():
        if name.startswith(mine):
            return theirs + name[len(mine):]
    return name


def _fitting(model: nn.Module, own: Mapping[str, Tensor], source: Mapping[str, str], stored: Mapping[str, Tensor]
             ) -> tuple[dict[str, Tensor], list[str]]:
    """What the model can take, by its own names; and which of it was stretched, with the number of rows."""
    tables = {f"{place}.tables.{axis}" for place, part in model.named_modules() if isinstance(part, Positions)
              for axis in range(len(part.tables))}
    taken, stretched = {}, []
    for name, mine in own.items():
        theirs = stored.get(source[name])
        if theirs is None:
            continue
        if theirs.shape == mine.shape:
            taken[name] = theirs
        elif name in tables and theirs.ndim == 2 and theirs.shape[1] == mine.shape[1]:
            taken[name] = stretch(theirs, len(mine))
            stretched.append(f"{name} ({len(theirs)} to {len(mine)})")
    return taken, stretched


def _shape(x: Tensor | None) -> str:
    return "nothing" if x is None else f"{list(x.shape)}"


def _parts(names: Iterable[str]) -> str:
    """Names by the part of the model they belong to, with how many: "encoders.text (30), head (4)"."""
    counts = Counter(".".join(name.split(".")[:2 if name.startswith("encoders.") else 1]) for name in names)
    return ", ".join(f"{part} ({count})" for part, count in sorted(counts.items()))
