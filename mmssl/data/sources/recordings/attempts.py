"""What an earlier attempt packed, held against what is asked for now: kept, packed again, or refused. No paper: ours.

A shard is never changed, so windows that are in one stay as they are. A recording of which no window is in any is read
again by each attempt; its windows then stand after the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from mmssl.data.schema import FILE_NAME as MANIFEST
from mmssl.data.shards import ShardIndex, index_path, list_splits
from mmssl.data.sources.folder import PackFolder
from mmssl.data.sources.recordings.collection import Collection, Unit
from mmssl.data.survey import hash_file
from mmssl.errors import ConfigError, DataError, few

#: Name of the stored split that holds every record.
ALL = "all"
ANEW = "choose an empty folder, or delete this one"


def fresh() -> dict[str, Any]:
    """The state of a folder to begin with.

    By unit its Tally, and the bytes of its files; how many shards are whole; and the unit that goes on beyond the last
    of them, with the number of its records up to there.
    """
    return {"tallies": {}, "files": {}, "shards": 0, "at": None}


def hold(folder: PackFolder, collection: Collection) -> None:
    """Bring a folder to where packing a collection can go on. Shards that nobody wrote down go.

    A recording of which something was left out, or that was under way, and whose files have changed since, is taken
    out with all that stands after it.

    Raises:
        ConfigError: windows are there of recordings that are not asked for, or whose files have changed since.
        DataError: windows are there of files that have other checksums than the list says.
    """
    drop_unknown(folder)
    state, units = folder.state, {unit.name: unit for unit in collection.units}
    packed = [name for name, row in state["tallies"].items() if row["info"]["records"]]
    packed += [state["at"][0]] if state["at"] and state["at"][0] not in packed else []
    gone = [name for name in packed if name not in units]
    if gone:
        raise ConfigError(f"{folder.root}: holds windows of {few(gone)}, which are not asked for now, not found, or "
                          f"named otherwise since others have the same name; bring them back, or {ANEW}. A recipe can "
                          f"leave subjects out: data.split")
    mended = [name for name in packed if _mended(state, units[name])]
    changed = [name for name in packed if name not in mended and state["files"][name] != units[name].sizes()]
    if changed:
        raise ConfigError(f"{folder.root}: holds windows of {few(changed)}, packed with other files "
                          f"({few(list(units[changed[0]].files))}) than there are now, and shards are never "
                          f"changed; {ANEW}")
    _against_list(folder, collection, {name: state["tallies"][name] for name in packed
                                       if name in state["tallies"] and name not in mended})
    if mended:
        _rewind(folder, units, {units[name].key for name in mended})


def drop_unknown(folder: PackFolder) -> None:
    """Remove a shard that was moved here by an attempt which did not live to write it down; it is made again."""
    for path in list_splits(folder.root).get(ALL, [])[folder.state["shards"]:]:
        path.unlink()
        index_path(path).unlink(missing_ok=True)


def read_hash(path: Path) -> str:
    """SHA-256 of a raw file in hex. Raises DataError where it cannot be read."""
    try:
        return hash_file(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _mended(state: Mapping[str, Any], unit: Unit) -> bool:
    """Whether a recording is not whole, so that something was said of it or it was under way, and has other files now.

    Of one that was under way only the sizes are known.
    """
    row = state["tallies"].get(unit.name)
    if row is not None and not row["bad"]:
        return False
    return state["files"][unit.name] != unit.sizes() or (row is not None and any(
        read_hash(path) != row["files"].get(name) for name, path in unit.files.items()))


def _against_list(folder: PackFolder, collection: Collection, tallies: Mapping[str, Any]) -> None:
    problems = [f"{folder.root}: {row['info']['records']} windows of {unit} were made of {name} when its sha256 was "
                f"{digest}; the list of checksums says {' or '.join(wanted)}. Download it again, then {ANEW}"
                for unit, row in tallies.items() for name, digest in row["files"].items()
                if (wanted := collection.wanted(name)) and digest not in wanted]
    if problems:
        raise DataError("\n".join(problems))


def _rewind(folder: PackFolder, units: Mapping[str, Unit], stale: set[str]) -> None:
    """Remove the shards from the first one on that holds a key of `stale`; what is in them will be packed again."""
    state = folder.state
    shards = [ShardIndex.load(path) for path in list_splits(folder.root)[ALL]]
    keys = [[shard.key(i).rpartition("-w")[0] for i in range(len(shard))] for shard in shards]
    first = next(number for number, found in enumerate(keys) if not stale.isdisjoint(found))
    kept, lost = Counter(chain(*keys[:first])), set(chain(*keys[first:]))
    for unit in units.values():
        if unit.key in lost:
            state["tallies"].pop(unit.name, None)
    cut = [unit.name for unit in units.values() if unit.key in lost and kept[unit.key]]
    state["shards"], state["at"] = first, [cut[0], kept[units[cut[0]].key]] if cut else None
    (folder.root / MANIFEST).unlink(missing_ok=True)  # it describes what is no longer there
    folder.save()
    drop_unknown(folder)
