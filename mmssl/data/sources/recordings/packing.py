"""Packing recordings one after the other into shards of all groups; splits are chosen later. No paper: ours."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmssl.data.folds import by_name, deal
from mmssl.data.groups import GroupInfo
from mmssl.data.progress import progress_line
from mmssl.data.schema import Manifest
from mmssl.data.shards import ShardWriter
from mmssl.data.sources.folder import PackFolder
from mmssl.data.sources.packer import LEFT_OUT, PackReport
from mmssl.data.sources.recordings.attempts import ALL, ANEW, fresh, hold, read_hash
from mmssl.data.sources.recordings.collection import Collection, Unit
from mmssl.data.sources.recordings.windows import Layout, Tally, records
from mmssl.data.survey import survey
from mmssl.errors import ConfigError, DataError, few

SHARD_RECORDS = 500
SHARD_BYTES = 64 << 20


def pack_recordings(collection: Collection, out: str | Path) -> PackReport:
    """Write a collection as shards and describe them. Interrupted, the same call goes on; done, it only deals anew.

    The result does not depend on interruptions: shards, manifest and reports are equal byte for byte. A recording of
    which nothing could be packed is tried again by every call, and one that was not there before is added: their
    windows stand after those that are there.

    Raises:
        ConfigError: a split that does not fit the groups, a list of checksums that names none of the files, or `out`
            holds something else.
        DataError: not one window could be made, or `out` holds windows of files with other checksums than the list
            says. StorageError: the disk refuses.
    """
    begun, collection = time.monotonic(), collection.named_apart()
    groups, unlisted = by_name({unit.group for unit in collection.units}), collection.unlisted()
    deal(collection.rule(groups), groups, "split")  # what cannot be dealt is said before hours of work
    recipe = {"source": collection.source, "settings": collection.settings, "layout": asdict(collection.layout)}
    with PackFolder(out, recipe, fresh()) as folder:
        hold(folder, collection)
        kept = _write(folder, collection)
        tallies = {unit.name: _tally(folder.state["tallies"][unit.name]) for unit in collection.units}
        bad = [line for tally in tallies.values() for line in tally.bad]
        report = PackReport(folder.root, kept=kept, bad=bad).close(begun)
        manifest = _describe(folder.root, collection, tallies)
        report.records = {split: sum(manifest.groups[g].records for g in groups)
                          for split, groups in manifest.assignment.items() if groups}
        report.notes = [*collection.messages, *_lacking(collection.layout, tallies),
                        *([f"not in the list of checksums: {few(unlisted)}"] if unlisted else []),
                        *_split_lines(manifest, groups)]
    return report


def read_checksums(path: str | None) -> dict[str, str]:
    """SHA-256 by file name from a list as `sha256sum` writes it; nothing for None. Raises DataError."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines() if path else []
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a list of checksums ({error})") from None
    rows = [line.split(maxsplit=1) for line in lines if line.strip()]
    if any(len(row) != 2 or len(row[0]) != 64 for row in rows):
        raise DataError(f"{path}: expected lines of a SHA-256 and a file name, as `sha256sum` writes them")
    return {name.lstrip("*").removeprefix("./"): digest.lower() for digest, name in rows}


def _write(folder: PackFolder, collection: Collection) -> int:
    """Write what is not there yet; the number of records that were. The state is saved with each shard."""
    state, units = folder.state, collection.units
    skip = dict([state["at"]] if state["at"] else [])
    there = {name: row["info"]["records"] for name, row in state["tallies"].items()}
    # the one that was interrupted comes first, so that its records stay together
    todo = sorted((unit for unit in units if not there.get(unit.name)), key=lambda unit: unit.name not in skip)
    sizes = {unit.name: unit.sizes() for unit in units}
    bytes_of = {name: sum(row.values()) for name, row in sizes.items()}
    everything, left = sum(bytes_of.values()), sum(bytes_of[unit.name] for unit in todo)
    show, hashes = progress_line(f"packing {folder.root}"), {}
    with ShardWriter(folder.stage, ALL, SHARD_BYTES, SHARD_RECORDS) as writer:
        for unit in todo:
            tally, number, before = Tally(), 0, skip.get(unit.name, 0)
            state["tallies"].pop(unit.name, None)  # of an attempt that packed nothing
            state["files"][unit.name] = sizes[unit.name]
            for number, (key, files) in enumerate(_records(unit, collection, tally, hashes), 1):
                if number > before:
                    writer.add(key, files)
                    _publish(folder, writer, [unit.name, number])
            if number < before:
                why = f"{folder.root}: holds {before} windows of {unit.name}, of which {number} can be made now; {ANEW}"
                raise DataError("\n".join([*tally.bad, why]))
            state["tallies"][unit.name] = asdict(tally)
            left -= bytes_of[unit.name]
            show(everything - left, everything)
    _publish(folder, writer, None)
    state |= {"tallies": {unit.name: state["tallies"][unit.name] for unit in units},
              "files": {unit.name: state["files"][unit.name] for unit in units}, "at": None}
    folder.save()
    return sum(there.values()) + sum(skip.values())


def _records(unit: Unit, collection: Collection, tally: Tally, hashes: dict[Path, str]
             ) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Key and files of each window of a recording; what cannot be read is noted in the tally.

    `hashes` keeps the SHA-256 of files that were read already: many recordings may lie in one.
    """
    number, longest = 0, None
    try:
        for name, path in unit.files.items():
            if path not in hashes:
                hashes[path] = read_hash(path)
            tally.files[name] = _checked(hashes[path], path, collection.wanted(name))
        for stretch in unit.read(tally.bad):
            longest = max(longest or 0.0, stretch.end - max(stretch.start, 0.0))
            for files in records(stretch, collection.layout, unit.group, tally):
                if files is not None:
                    yield f"{unit.key}-w{number:05d}", files
                number += 1
        if not number:
            tally.bad.append(f"{unit.name}: {_no_window(collection.layout, longest)}")
    except DataError as error:
        tally.bad.append(f"{unit.name}: {error}")
    if tally.empty:
        tally.bad.append(f"{unit.name}: {tally.empty} windows in which no sensor has values throughout")


def _checked(digest: str, path: Path, wanted: list[str]) -> str:
    if wanted and digest not in wanted:
        raise DataError(f"{path}: sha256 is {digest}, the list of checksums says {' or '.join(wanted)}; download it "
                        f"again")
    return digest


def _no_window(layout: Layout, longest: float | None) -> str:
    """Why a recording gave none, from the seconds of its longest stretch; None: it has no stretch."""
    what = "stretch with a label" if layout.label else "stretch"
    return f"there is no {what}" if longest is None else (
        f"no {what} holds a window of {layout.seconds:g} s; the longest has {longest:g} s")


def _publish(folder: PackFolder, writer: ShardWriter, at: list[Any] | None) -> None:
    """Move whole shards out of the stage; `at` is the recording and the number of its records up to their end."""
    state = folder.state
    for path in writer.shards:
        if path.exists():
            folder.publish(path, f"{ALL}-{state['shards']:06d}.tar")
            state["shards"], state["at"] = state["shards"] + 1, at
            folder.save()


def _tally(row: Mapping[str, Any]) -> Tally:
    return Tally(**{**row, "info": GroupInfo(**row["info"])})


def _describe(root: Path, collection: Collection, tallies: Mapping[str, Tally]) -> Manifest:
    layout = collection.layout
    labels = {layout.label: layout.classes} if layout.label else {}
    manifest = survey(root, root.resolve().name, layout.infos(), labels, collection.notes)
    for unit in collection.units:
        if tallies[unit.name].info.records:
            manifest.groups.setdefault(unit.group, GroupInfo()).add(tallies[unit.name].info)
        manifest.sources |= tallies[unit.name].files
    manifest.groups = {name: manifest.groups[name] for name in by_name(manifest.groups)}
    try:
        manifest.assign(collection.rule(manifest.all_groups()))
    except ConfigError as error:
        raise ConfigError([*error.problems, f"{root / LEFT_OUT} says what was left out"]) from None
    manifest.save(root)
    return manifest


def _lacking(layout: Layout, tallies: Mapping[str, Tally]) -> list[str]:
    """One line for each modality that some windows lack."""
    total = sum(tally.info.records for tally in tallies.values())
    counts = {name: sum(tally.lacks.get(name, 0) for tally in tallies.values()) for name in layout.modalities}
    return [f"{name} is missing from {n} of {total} windows" for name, n in counts.items() if n]


def _split_lines(manifest: Manifest, groups: Sequence[str]) -> list[str]:
    """Who is in which split; before it, who of the groups that were to be packed is in none."""
    shown = [f"{split} {', '.join(names)}" for split, names in reversed(manifest.assignment.items()) if names]
    there = manifest.all_groups()
    lost = [name for name in groups if name not in there]
    without = [f"of subject {', '.join(lost)} nothing could be packed; the split is dealt among {len(there)} others"]
    return [*(without if lost else []),
            f"split by subject: {'; '.join(shown)} (change it in a recipe with data.split)"]
