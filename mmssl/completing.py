"""A recipe and its data set: where that lies, and what only it knows of the model that the recipe describes."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmssl import labelled
from mmssl.config import Recipe
from mmssl.data import Split, assignment_hash, inspect, training_statistics
from mmssl.data.demo import resolve_root
from mmssl.data.folds import by_name
from mmssl.data.split import find_field
from mmssl.errors import ConfigError, DataError, few
from mmssl.modalities import codecs_of
from mmssl.registry import MODALITIES, signature_of
from mmssl.rundir import RunDir

log = logging.getLogger("mmssl")
#: By section of a recipe, the settings that are names of files.
FILES = {"modalities": ("vocabulary", "vectors"), "encoders": ("weights",)}


def data_root(recipe: Recipe) -> Path:
    """Where the recipe's data set lies; makes `demo:clips` or `demo:signals` if need be.

    Raises:
        DataError: it is not there, and the recipe says how to get it.
    """
    root = recipe.data.root
    if not root.startswith("demo:") and not Path(root).is_absolute() and (Path(recipe.folder) / root).is_dir():
        return Path(recipe.folder) / root
    found = resolve_root(root)
    if recipe.data.obtain and not found.is_dir():
        raise DataError(f"{found}: no such folder. {recipe.data.obtain}")
    return found


def complete(recipe: Recipe) -> Recipe:
    """The recipe with what only its data set knows: mean and std per channel, channels, vocabulary, groups by split,
    classes.

    Mean and std are those of the groups that train. What the recipe says itself stays; but paths are absolute, because
    a run is continued from any folder. The result needs the data set no more to build its model.

    Raises:
        ConfigError: a setting that does not fit the data set; or a sensor that no training sample has, so that nothing
            tells its mean and std, and later samples of it would come in the units of their files.
        DataError: the data set is not there or broken.
    """
    recipe = located(recipe)
    root = data_root(recipe)
    manifest = inspect(root)
    groups = manifest.deal(recipe.data.split)
    normalised = [key for key, node in recipe.modalities.items()
                  if "mean" in signature_of(MODALITIES.find(node["name"])) and node.get("mean") is None]
    statistics = training_statistics(root, manifest, normalised, groups.get(recipe.data.train))
    nodes = {}
    for key, node in recipe.modalities.items():
        takes, info = signature_of(MODALITIES.find(node["name"])), manifest.modalities.get(key)
        facts: dict[str, Any] = {}
        if info is not None:
            mean, std = statistics.get(key, (None, None))
            facts = {"mean": mean, "std": std, "channels": len(info.channels) or None}
        if (root / "vocab.txt").is_file():
            facts["vocabulary"] = str((root / "vocab.txt").resolve())
        facts = {k: v for k, v in facts.items() if k in takes and v is not None and node.get(k) is None}
        nodes[key] = {**node, **facts}
    recipe = dataclasses.replace(recipe, modalities=nodes, data=dataclasses.replace(recipe.data, split=groups or None))
    unknown = [key for key in normalised if nodes[key].get("mean") is None]
    if unknown and (lines := never_there(recipe, _built(nodes, unknown))):
        raise ConfigError([f"modalities.{key}: {line}, and nothing tells its mean and std; leave it out of the recipe, "
                           f"choose another data.split, or say modalities.{key}.mean and .std"
                           for key, line in lines.items()])
    if recipe.finetune is None:
        return recipe
    return labelled.complete(recipe, manifest, root, _built(nodes, nodes))


def _built(nodes: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: MODALITIES.build(nodes[name], f"modalities.{name}") for name in names}


def training_split(recipe: Recipe) -> Split:
    """What a complete recipe trains on. Raises DataError where it is not there."""
    return Split(data_root(recipe), recipe.data.train, (recipe.data.split or {}).get(recipe.data.train))


def never_there(recipe: Recipe, parts: Mapping[str, Any]) -> dict[str, str]:
    """Of each modality that no training sample has, a line that says so.

    Args:
        recipe: complete.
        parts: modalities by name, built.
    """
    split, groups = training_split(recipe), (recipe.data.split or {}).get(recipe.data.train, [])
    fields, whose = split.all_fields(), f" (of {few(groups)})" if groups else ""
    return {name: f"none of the {len(split)} training samples{whose} has it, so its encoder learns nothing"
            for name, part in parts.items() if find_field(fields, name, codecs_of(part)) is None}


def located(recipe: Recipe) -> Recipe:
    """The recipe with absolute paths of the files and the data that it names. Raises ConfigError where one is not."""
    data = recipe.data
    if not data.root.startswith("demo:") and "data\x1froot" not in recipe.interpolations and data_root(recipe).is_dir():
        data = dataclasses.replace(data, root=str(data_root(recipe).resolve()))
    online = recipe.online
    if online.root and not online.root.startswith("demo:") and "online\x1froot" not in recipe.interpolations:
        there = data_root(dataclasses.replace(recipe, data=dataclasses.replace(data, root=online.root, obtain="")))
        online = dataclasses.replace(online, root=str(there.resolve()))
    nodes = {section: absolute_files(recipe, section) for section in FILES}
    return dataclasses.replace(recipe, data=data, online=online, **nodes)


def moved(recipe: Recipe, root: str) -> Recipe:
    """The recipe on another data set, whose splits are its own; or on the same one, with the recipe's."""
    there, here = resolve_root(root), resolve_root(recipe.data.root)
    split = recipe.data.split if there.resolve() == here.resolve() else None
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, root=str(there), split=split))


def reopened(run: RunDir, verb: str, overrides: Sequence[str]) -> Recipe:
    """A run's recipe with other settings: on the data it was trained on by its own split; on others by theirs, or by
    the one that is typed, which takes the whole place of the run's.

    Args:
        run: trained.
        verb: what is done with it, for messages.
        overrides: each `a.b=c`.

    Raises:
        ConfigError: another split of the data that the run was trained on, or an override that is wrong otherwise.
        DataError: the folder is no run.
    """
    typed = [o for o in overrides if o.startswith(("data.split=", "data.split."))]
    elsewhere = False
    if any(o.startswith("data.root=") for o in overrides):
        other = run.load_recipe(["data.split=null", *overrides])
        elsewhere = not same_data(other, run.load_recipe())
    if typed and not elsewhere:
        raise ConfigError([f"{verb}: '{o}': the run was trained on its own split, and what was trained on must not be "
                           f"tested on; leave it out" for o in typed])
    if not elsewhere:
        return run.load_recipe(list(overrides))
    return other if typed else elsewhere_split(other, run.load_recipe())


def elsewhere_split(recipe: Recipe, trained: Recipe) -> Recipe:
    """The recipe with its data set's own split in place of that of the run; says so, since a copy of the run's data
    looks like other data."""
    if trained.data.split:
        log.warning("data.root: %s is not the data that the run was trained on (%s), so it is split as it says itself; "
                    "if they are the same data, type the run's data.split too", recipe.data.root, trained.data.root)
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, split=None))


def same_data(a: Recipe, b: Recipe) -> bool:
    """Whether two recipes read the same data set, however its folder is written."""
    there, here = (data_root(dataclasses.replace(r, data=dataclasses.replace(r.data, obtain=""))) for r in (a, b))
    return there.resolve() == here.resolve()


def seen(trained: Recipe, name: str, tested: Iterable[str], splits: Iterable[str]) -> list[str]:
    """A line where a run learned from what is tested on; such a number flatters it.

    Args:
        trained: complete recipe of the run, which reads the same data set.
        name: of the run, for the line.
        tested: groups that test; none: the records have no groups.
        splits: names of the splits that test.
    """
    tested = set(tested)
    both = by_name(set(groups_of(trained, trained.data.train)) & tested)
    how = f"TESTED ON WHAT IT HAS SEEN: {name} was trained, with{'' if trained.finetune else 'out'} labels, on"
    if both:
        return [f"{how} {len(both)} of the {len(tested)} groups that test: {few(both, 6)}"]
    if not tested and trained.data.train in splits:
        return [f"{how} the split '{trained.data.train}', which is tested on"]
    return []


def groups_of(recipe: Recipe, split: str) -> list[str]:
    """The groups whose records a split is made of, by the recipe's `data.split` or as the data set says; [] where it
    has none. Raises like `dealt`."""
    manifest = inspect(data_root(recipe))
    info = manifest.splits.get(split)
    return manifest.deal(recipe.data.split).get(split) or (info.groups if info else [])


def dealt(recipe: Recipe) -> dict[str, list[str]]:
    """By split, the groups that it is made of by the recipe's `data.split`; {}: splits are as the data set says.

    Raises:
        ConfigError: a rule that does not fit the groups. DataError: the data set is not there, or has no groups.
    """
    return inspect(data_root(recipe)).deal(recipe.data.split) if recipe.data.split else {}


def split_hash(recipe: Recipe) -> str:
    """SHA-256 that tells which split results were made with: the recipe's own, else the data set's."""
    groups = dealt(recipe)
    return assignment_hash(groups) if groups else inspect(data_root(recipe)).split_hash


def absolute_files(recipe: Recipe, section: str = "modalities") -> dict[str, Any]:
    """The nodes of a section, with the files they name where they were found."""
    found = {}
    for key, node in getattr(recipe, section).items():
        files = {s: _find(node[s], recipe, f"{section}.{key}.{s}") for s in FILES[section]
                 if isinstance(node, dict) and isinstance(node.get(s), str)}
        found[key] = {**node, **files} if files else node
    return found


def _find(name: str, recipe: Recipe, where: str) -> str:
    for folder in (Path(recipe.folder), Path.cwd()):
        if (folder / name).is_file():
            return str((folder / name).absolute())
    raise ConfigError(f"{where}: no file '{name}' in {recipe.folder} or {Path.cwd()}; give a path relative to one of "
                      "them")
