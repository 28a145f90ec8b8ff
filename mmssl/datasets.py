"""Data sets on disk, for the command line: make the embedded ones, pack raw files, look inside, verify."""

from __future__ import annotations

import inspect
from typing import Any

from mmssl.config import announce_plugins, read  # importing it registers every built-in part
from mmssl.data import Manifest, verify
from mmssl.data import inspect as manifest_of
from mmssl.data.demo.cache import NAMES, resolve_root
from mmssl.data.demo.sheet import contact_sheet
from mmssl.data.schema import FILE_NAME
from mmssl.data.vocabulary import build_vocabulary
from mmssl.errors import ConfigError, few
from mmssl.plugins import announced, load_waiting
from mmssl.recipe_files import recipe_path
from mmssl.registry import ALL, SOURCES, check_settings, describe, signature_of


def make_demo(picture: str | None = None) -> str:
    """Make the embedded data sets unless they are made, and describe them.

    Args:
        picture: PNG file to write a sheet of clips to; None: none.
    """
    texts = [inspect_data(f"demo:{name}") for name in NAMES]
    if picture:
        contact_sheet(resolve_root("demo:clips"), "test", picture)
        texts.append(f"a sheet of clips: {picture}")
    return "\n\n".join(texts)


def inspect_data(root: str) -> str:
    """What a data set holds: modalities, splits, labels, hashes; one line each."""
    folder = resolve_root(root)
    manifest = manifest_of(folder)
    lines = [f"{manifest.name} in {folder}"]
    if manifest.notes:
        lines.append(f"  {manifest.notes}")
    for name, info in manifest.modalities.items():
        facts = [f"{info.rate:g} Hz" if info.rate else "", f"shape {tuple(info.shape)}" if info.shape else "",
                 ", ".join(f"{c} in {u}" for c, u in zip(info.channels, info.units, strict=False)),
                 "mean and std of the training split" if info.mean else ""]
        lines.append(f"  {name:<10} {info.codec:<6} {', '.join(f for f in facts if f)}")
    for name, split in manifest.splits.items():
        size = sum(shard.bytes for shard in split.shards) / 2**20
        groups = f", {len(split.groups)} groups" if split.groups else ""
        lines.append(f"  {name:<10} {split.records:,} samples in {len(split.shards)} shards, {size:,.1f} MiB{groups}")
    lines += [_assigned(manifest, name, groups) for name, groups in manifest.assignment.items()]
    for name, classes in manifest.labels.items():
        several = ", several to a sample" if name in manifest.several else ""
        lines.append(f"  label {name}: {len(classes)} classes{several}: {few(classes, 12)}")
    lines.append(f"  split hash {manifest.split_hash[:16]}, format {manifest.format_version}")
    return "\n".join(lines)


def _assigned(manifest: Manifest, name: str, groups: list[str]) -> str:
    """One line about a split that is chosen among the groups: how many samples, whose, of which classes."""
    infos = [manifest.groups[group] for group in groups if group in manifest.groups]
    counts = {label: [sum(column) for column in zip(*(info.classes[label] for info in infos if label in info.classes))]
              for label in manifest.labels}
    classes = [f"{cls} {n:,}" for label, names in manifest.labels.items()
               for cls, n in zip(names[:12], counts[label], strict=False)]
    return (f"  {name:<10} {sum(info.records for info in infos):,} samples of {len(groups)} groups"
            + (f" ({few(groups, 8)})" if groups else "") + (f": {', '.join(classes)}" if classes else ""))


def verify_data(root: str) -> tuple[str, int]:
    """Read and decode every sample.

    Returns:
        one line per problem, a note where there is no manifest, and a summary; and the number of problems.
    """
    folder = resolve_root(root)
    notes = [] if (folder / FILE_NAME).exists() else [
        f"note: {folder} has no {FILE_NAME}; shards are checked on their own"]
    problems = [str(problem) for problem in verify(folder)]
    records = sum(split.records for split in manifest_of(folder).splits.values())
    return "\n".join([*notes, *problems, f"{folder}: {records:,} samples, {len(problems)} problems"]), len(problems)


def make_vocabulary(captions: str, out: str, size: int, min_count: int, split: str, column: str | None) -> str:
    """Write the words of a data set's or a table's captions to a file; see `build_vocabulary`. What was written."""
    source = resolve_root(captions) if captions.startswith("demo:") else captions
    return str(build_vocabulary(source, out, size, min_count, split, column))


def pack_data(source: str | None, words: list[str]) -> str:
    """Turn raw files into shards with a registered source.

    Args:
        source: its name; None or "-h": list the sources.
        words: `--setting value` pairs, as the source's signature has them; `-h` describes them.

    Returns:
        what was packed.

    Raises:
        ConfigError: an unknown source or setting; one line each.
    """
    load_waiting()
    if source is None or source.startswith("-"):
        return "usage: mmssl data pack SOURCE --setting value ...\nsources: " + ", ".join(SOURCES.names())
    part = SOURCES.find(source)
    signature = signature_of(part)
    if {"-h", "--help"} & set(words):
        return _usage(source, part, signature)
    settings, problems = check_settings(signature, _pairs(words, signature), "")
    if problems:
        raise ConfigError([f"data pack {source}: --{p}" for p in problems])
    return f"{part(**settings)}\n{inspect_data(str(settings['out']))}"


def list_plugins(recipe: str | None = None) -> str:
    """All plug-ins that are installed or that a recipe names, with what they add or why they fail; then all parts."""
    if recipe:
        path = recipe_path(recipe)  # the recipe may not load as a whole: only its `plugins` are wanted
        announce_plugins(path, read(path, [])[0].get("plugins") or [])
    load_waiting()
    lines = [f"{p.source} ({p.origin}): {p.state}{': ' + p.reason if p.reason else ''}"
             + "".join(f"\n    {part}" for part in p.parts) for p in announced()]
    lines = lines or ["no plug-ins: none is installed under the entry-point group mmssl.plugins"]
    plural = {"modality": "modalities", "loss": "losses"}
    rows = [f"  {plural.get(r.kind, r.kind + 's'):<12} {', '.join(r.names())}" for r in ALL]
    return "\n".join([*lines, "", "registered parts", *rows])


def _usage(source: str, part: Any, signature: dict[str, inspect.Parameter]) -> str:
    lines = [f"usage: mmssl data pack {source} --setting value ...", "", inspect.getdoc(part) or "", "", "settings:"]
    for name, p in signature.items():
        default = "required" if p.default is p.empty else f"default {p.default!r}"
        lines.append(f"  --{name.replace('_', '-'):<18} {describe(p.annotation)}; {default}")
    return "\n".join(lines)


def _pairs(words: list[str], signature: dict[str, inspect.Parameter]) -> dict[str, Any]:
    """`--a x --b y z` as {"a": "x", "b": ["y", "z"]}; a list setting always gets a list, `null` is nothing."""
    found: dict[str, Any] = {}
    key = None
    for word in words:
        if word.startswith("--"):
            key, _, value = word[2:].partition("=")
            key = key.replace("-", "_")
            found[key] = [value] if value else []
        elif key is None:
            raise ConfigError(f"data pack: expected --setting before '{word}'")
        else:
            found[key].append(word)
    for key, values in found.items():
        wants_list = key in signature and "list" in str(signature[key].annotation)
        plain = [None if v == "null" else v for v in values]
        found[key] = plain if wants_list else True if not plain else plain[0] if len(plain) == 1 else plain
    return found
