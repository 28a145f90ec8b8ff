"""The files of a data set: which splits and shards there are."""

from __future__ import annotations

import re
from pathlib import Path

from mmssl.errors import DataError

SHARD = re.compile(r"(?P<split>.+?)-\d+\.tar\Z")


def list_splits(root: str | Path) -> dict[str, list[Path]]:
    """The shards in a folder by split, in order of their names: `train-000000.tar` belongs to `train`.

    Raises:
        DataError: there is no such folder.
    """
    if not Path(root).is_dir():
        raise DataError(f"{root}: no such folder. Set `data.root` to a data set made by `mmssl data pack` or "
                        "`mmssl data demo`.")
    found: dict[str, list[Path]] = {}
    for path in sorted(Path(root).glob("*.tar")):
        if not path.name.startswith("."):
            match = SHARD.match(path.name)
            found.setdefault(match["split"] if match else path.stem, []).append(path)
    return found


def split_shards(root: str | Path, split: str) -> list[Path]:
    """The shards of one split, in order. Raises DataError where there are none, naming the splits there are."""
    found = list_splits(root)
    if split not in found:
        known = f"it has {', '.join(sorted(found))}" if found else "it has no .tar files at all"
        raise DataError(f"{root}: no split '{split}'; {known}. Change the split's name in `data`, or pack the split.")
    return found[split]
