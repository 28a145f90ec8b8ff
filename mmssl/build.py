"""Recipe to modules and loaders: the one place where the floors meet."""

from __future__ import annotations

import dataclasses
from typing import Any

import lightning
import torch
from torch import nn

from mmssl import labelled, training
from mmssl.callbacks import OnlineProbes, Pictures
from mmssl.completing import absolute_files, data_root, dealt, moved
from mmssl.config import Recipe, fill, world
from mmssl.data import DataModule, Split
from mmssl.errors import ConfigError
from mmssl.eval import feature_names
from mmssl.methods import Method, Pair
from mmssl.optim import build_optimizer
from mmssl.registry import (
    AGGREGATORS,
    ENCODERS,
    HEADS,
    LOSSES,
    MASKS,
    METHODS,
    MODALITIES,
    TRUNKS,
    nearest,
    signature_of,
)
from mmssl.rundir import RunDir


def rehearse(recipe: Recipe) -> Method:
    """Build all that a run needs, so that what cannot work is said before the run has a folder.

    Args:
        recipe: complete.

    Returns:
        its method on the meta device: shapes without numbers.

    Raises:
        ConfigError, DataError: parts that do not fit together, a split that is missing or too small, an unknown label.
    """
    training.accumulation(recipe)
    parts = modalities(recipe)
    with torch.device("meta"):
        model = method(recipe, parts)
    build_optimizer(model, recipe.optim)
    training.on_devices(recipe, logger=False, enable_checkpointing=False)
    data, how = datamodule(recipe, parts), recipe.probe
    data.train_dataloader()
    data.val_dataloader()
    splits = [data.open(name) for name in (*how.train, recipe.data.test)] if how.labels or recipe.finetune else []
    known, online = feature_names(model, parts), recipe.online
    problems = labelled.probe_problems(how, known, splits[0]) if how.labels else []
    problems += labelled.leaks("probe.train", splits[:-1], splits[-1:]) if how.labels else []
    problems += [f"online.features: no feature is called '{name}'{nearest(name, known)}"
                 for name in (online.features if online.labels else ()) if name not in known]
    try:
        watchers(recipe, parts, data)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    return model


def modalities(recipe: Recipe) -> dict[str, Any]:
    """All modalities of a recipe by name; file settings are sought beside the recipe, then in the working directory."""
    return {key: MODALITIES.build(node, f"modalities.{key}") for key, node in absolute_files(recipe).items()}


def method(recipe: Recipe, parts: dict[str, Any]) -> Method:
    """The recipe's method with fresh weights, drawn from its seed.

    Args:
        recipe: complete.
        parts: its modalities, built.

    Raises:
        ConfigError: parts that do not fit together.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        encoders = _encoders(recipe, parts)
        given: dict[str, Any] = {"modalities": parts, "encoders": encoders, "optim": recipe.optim, "seed": recipe.seed,
                                 "finetune": recipe.finetune}
        takes = signature_of(METHODS.find(recipe.method["name"]))
        if "pairs" in takes:
            given["pairs"] = pairs(recipe)
        if "aggregator" in takes and recipe.aggregator is not None:
            given["aggregator"] = AGGREGATORS.build(recipe.aggregator, "aggregator", modalities=len(encoders),
                                                    width=_common_width(encoders))
        if "head" in takes:
            given["head"] = HEADS.build(recipe.head, "head", **_head_facts(recipe, given))
        for key, registry in (("mask", MASKS), ("loss", LOSSES)):
            if key in takes:
                given[key] = registry.build(getattr(recipe, key), key, names=list(encoders))
        return METHODS.build(recipe.method, "method", **given)


def pairs(recipe: Recipe) -> list[Pair]:
    """The recipe's pairs, then each modality that is in none of them with `video`, or with the first modality."""
    built, named = [], set()
    for key, node in recipe.pairs.items():
        a, b = key.split("-")
        settings = dict(node)
        weight = float(settings.pop("weight", 1.0))
        built.append(Pair(a, b, LOSSES.build(settings, f"pairs.{key}"), weight))
        named |= {a, b}
    anchor = "video" if "video" in recipe.modalities else next(iter(recipe.modalities))
    lonely = {f"{anchor}-{m}": {"name": "mil_nce"} for m in recipe.modalities if m not in named and m != anchor}
    fill({"method": recipe.method, "pairs": lonely}, recipe.source)
    built += [Pair(*key.split("-"), LOSSES.build(node, f"pairs.{key}")) for key, node in lonely.items()]
    if sum(p.weight for p in built) <= 0:
        raise ConfigError("pairs: all weights are 0, so there is nothing to learn; give one a weight above 0")
    return built


def at_random(recipe: Recipe) -> Recipe:
    """The recipe with random weights from its next seed, also in encoders that would begin with those of a file."""
    drawn = {"weights": None, "pretrained": False}
    encoders = {key: {s: drawn[s] if s in drawn and (v is True or isinstance(v, str)) else v for s, v in node.items()}
                for key, node in recipe.encoders.items()}
    return dataclasses.replace(recipe, seed=recipe.seed + 1, encoders=encoders)


def datamodule(recipe: Recipe, parts: dict[str, Any], run: RunDir | None = None) -> DataModule:
    """The recipe's shards as Lightning's data module.

    Args:
        recipe: complete.
        parts: its modalities, built.
        run: where bad samples are listed; None: nowhere.
    """
    data, root = recipe.data, data_root(recipe)

    def choose(split: Split) -> Split:
        return labelled.learned(split, recipe, parts)

    return DataModule(root=root, modalities=parts, train=data.train, val=data.val, test=data.test,
                      batch_size=data.batch_per_device * world(recipe), workers=data.workers, seed=recipe.seed,
                      cache_bytes=data.cache_mib << 20, bad_samples=data.bad_samples,
                      quarantine_file=run.bad_samples_file if run else None, groups=dealt(recipe),
                      choose={name: choose for name in (data.train, data.val)} if recipe.finetune else None)


def watchers(recipe: Recipe, parts: dict[str, Any], data: DataModule, run: RunDir | None = None
             ) -> list[lightning.Callback]:
    """What looks at a run's embeddings while it trains, beside the metrics that every run has: the pictures of each,
    and online probes where the recipe names labels.

    Args:
        recipe: complete.
        parts: its modalities, built.
        data: the run's own; its splits and decoded samples serve the probes where these have no data of their own.
        run: where bad samples are listed; None: nowhere.

    Raises:
        ConfigError, DataError: no such data set, split or label.
    """
    how, found = recipe.online, [Pictures(data.open(recipe.data.val).labels, recipe.trainer.pictures_every)]
    if not how.labels:
        return found
    if how.root is not None:
        data = datamodule(moved(recipe, how.root), parts, run)
    names = how.train or recipe.data.train, how.val or recipe.data.val
    labels = data.open(names[0]).labels
    if missing := [name for name in how.labels if name not in labels]:
        raise ConfigError([f"online.labels: {data.root} has no label '{name}'{nearest(name, labels)}"
                           for name in missing])
    each = min(how.batch or recipe.data.batch_per_device, len(data.open(names[0])) // world(recipe))
    size = max(1, each) * world(recipe)
    loaders = [data.loader(names[0], train=True, batch_size=size),
               *(data.loader(name, batch_size=size, rows=how.rows) for name in names)]
    return [*found, OnlineProbes(*loaders, {name: len(labels[name]) for name in how.labels}, how.features, how.every,
                                 how.lr, how.k)]


def _encoders(recipe: Recipe, parts: dict[str, Any]) -> dict[str, nn.Module]:
    trunks = {name: TRUNKS.build(node, f"trunks.{name}") for name, node in recipe.trunks.items()}
    encoders = {}
    for key, node in absolute_files(recipe, "encoders").items():
        node = dict(node)
        trunk = trunks[node.pop("trunk")] if "trunk" in node else None
        where = f"encoders.{key}"
        needs = signature_of(ENCODERS.find(node["name"], where))
        if trunk is None and "trunk" in needs and needs["trunk"].default is needs["trunk"].empty:
            raise ConfigError(f"{where}.trunk: missing; the encoder '{node['name']}' needs one of "
                              f"{', '.join(trunks) or 'the section `trunks`, which is empty'}")
        given = {"modality": parts[key]} | ({"trunk": trunk} if trunk is not None else {})
        encoders[key] = ENCODERS.build(node, where, **given)
    return encoders


def _head_facts(recipe: Recipe, given: dict[str, Any]) -> dict[str, Any]:
    """What a head may ask for: widths and pairs of a common space, or width and number of classes of a classifier."""
    dims, how = {name: encoder.dim for name, encoder in given["encoders"].items()}, recipe.finetune
    if how is None:
        return {"dims": dims, "pairs": [(p.a, p.b) for p in given.get("pairs", [])]}
    width = given["aggregator"].dim if how.features == "global" else dims.get(how.features, sum(dims.values()))
    return {"dims": dims, "width": width, "classes": len(how.class_names)}


def _common_width(encoders: dict[str, nn.Module]) -> int:
    widths = {name: encoder.dim for name, encoder in encoders.items()}
    if len(set(widths.values())) != 1:
        raise ConfigError(f"encoders: an aggregator needs one width for all of them, got {widths}")
    return next(iter(widths.values()))
