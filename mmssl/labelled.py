"""Which samples a classifier learns from, and which classes there are."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmssl.config import Probe, Recipe, world
from mmssl.data import Manifest, Split
from mmssl.data.labels import UNKNOWN, misfit, parse_labels
from mmssl.data.split import find_field
from mmssl.errors import ConfigError, DataError, few
from mmssl.eval import label_draw, label_fraction, rarest_class
from mmssl.methods import Finetune
from mmssl.modalities import codecs_of
from mmssl.registry import LOSSES, nearest


def probe_problems(how: Probe, known: Sequence[str], split: Split) -> list[str]:
    """One line for each feature and label that a recipe's section `probe` asks for and that is not there.

    Args:
        how: the section.
        known: names of features.
        split: one of its data set.
    """
    problems = [f"probe.features: no feature is called '{name}'{nearest(name, known)}" for name in how.features
                if name not in known]
    problems += [f"probe.labels: {split.root} has no label '{label}'{nearest(label, split.labels)}"
                 for label in how.labels if split.labels and label not in split.labels]
    return problems + [f"probe.labels: of '{label}' a sample may have several classes, and this probe learns one; take "
                       "a task of `mmssl bench`, or online.labels" for label in how.labels if label in split.several]


def leaks(where: str, train: Sequence[Split], test: Sequence[Split]) -> list[str]:
    """One line for each split that a probe would learn from and that has records it is tested on.

    Args:
        where: whose splits these are, for the lines.
        train, test: of the same data set.
    """
    found = []
    for mine in train:
        for held in test:
            if count := mine.shared(held):
                found.append(f"{where}: {count} of the {len(held)} samples of '{held.name}', which is tested on, are "
                             f"learned from, in '{mine.name}'; take other splits or groups, so that none is in both")
    return found


def with_classes(recipe: Recipe, manifest: Manifest, root: Path) -> Recipe:
    """The recipe with the names of the classes of its labels.

    Args:
        recipe: of a classifier.
        manifest: of its data set.
        root: where that lies, for messages.

    Raises:
        ConfigError: no label, one that the data set lacks, or one that its loss cannot learn.
        DataError: the recipe knows other classes than the data set has.
    """
    how, kind = recipe.finetune, getattr(LOSSES.find(recipe.loss["name"], "loss"), "kind", None)
    known = manifest.labels
    problems = [] if how.label else [f"finetune.label: missing; {root} has {', '.join(known) or 'no labels'}"]
    problems += [f"finetune.label: {root} has no label '{name}'{nearest(name, known)}" for name in how.label
                 if name not in known]
    if kind == "single_label":
        several = [name for name in how.label if name in manifest.several]
        if len(how.label) > 1 or several:
            what = "of '" + "', '".join(several) + "' a sample may have several classes" if several else (
                f"{len(how.label)} labels are learned side by side")
            problems.append(f"loss: {what}, but '{recipe.loss['name']}' learns one class per sample; take "
                            "loss=multi_label, or one label of one class")
    if problems:
        raise ConfigError(problems)
    for name, classes in how.classes.items():
        if name in how.label and classes != known[name]:
            raise DataError(f"{root}: label '{name}' has {len(known[name])} classes ({few(known[name])}), but the "
                            f"classifier knows {len(classes)} ({few(classes)}); take a data set with the same classes "
                            "in the same order")
    classes = {name: list(known[name]) for name in how.label}
    return dataclasses.replace(recipe, finetune=dataclasses.replace(how, classes=classes))


def complete(recipe: Recipe, manifest: Manifest, root: Path, parts: Mapping[str, Any]) -> Recipe:
    """The recipe with its classes, and with a batch of no more than the labelled samples there are.

    Args:
        recipe: of a classifier.
        manifest, root: of its data set.
        parts: its modalities, built.

    Raises:
        ConfigError, DataError: see `with_classes`; fewer labelled samples than devices.
    """
    recipe = with_classes(recipe, manifest, root)
    train = Split(root, recipe.data.train, (recipe.data.split or {}).get(recipe.data.train))
    samples, devices = len(learned(train, recipe, parts)), world(recipe)
    if samples >= recipe.data.batch_per_device * devices:
        return recipe
    if samples < devices:
        raise ConfigError(f"finetune.fraction: {samples} labelled samples for {devices} devices; take fewer devices or "
                          "a larger share")
    data = dataclasses.replace(recipe.data, batch_per_device=samples // devices, batch=None)
    return dataclasses.replace(recipe, data=data)


def learned(split: Split, recipe: Recipe, parts: Mapping[str, Any]) -> Split:
    """The part of a split that a classifier may learn from, or be chosen by: its records that have the labels and
    something to read, of each class the share `finetune.fraction`.

    A record of several classes counts for the rarest of them. In the training split, at the same seed and draw, these
    are the records that a probe of one label sees (where none is unreadable). No paper: ours.

    Args:
        split: the whole of it.
        recipe: complete.
        parts: its modalities, built.

    Raises:
        DataError: no record has the labels.
    """
    how = recipe.finetune
    rows, classes = labels_of(split, how, parts)
    if how.fraction < 1:
        place = label_draw(recipe.seed, "+".join(how.label), how.draw)
        place = place if split.name == recipe.data.train else place.at(split.name)
        rows = rows[label_fraction(rarest_class(classes, len(how.class_names)), how.fraction, place)]
    return split.narrow(rows)


def labels_of(split: Split, how: Finetune, parts: Mapping[str, Any]) -> tuple[np.ndarray, list[list[int]]]:
    """The records of a split that have all labels and one of the modalities: their numbers as stored (n,), and the
    class numbers of each, counted through all labels.

    Raises:
        DataError: there is none; the message says why not.
    """
    rows, classes, reason = [], [], f"none has {' and '.join(how.label)} and one of {', '.join(parts)}"
    number = -1
    for shard, count in enumerate(split.counts):
        for record in range(count):
            number += 1
            fields = split.fields(shard, record)
            if "labels.json" not in fields or not any(find_field(fields, m, codecs_of(p)) for m, p in parts.items()):
                continue
            try:
                labels, _ = parse_labels(split.read(shard, record, ["labels.json"])["labels.json"])
            except DataError as error:
                reason = str(error)
                continue
            reason = misfit(labels, how.classes, split.several) or reason
            found = class_numbers(labels, how)
            if found is not None:
                rows.append(number)
                classes.append(found)
    if not rows:
        raise DataError(f"{split.root}: split '{split.name}' has no sample to learn from: {reason}")
    return np.array(rows), classes


def class_numbers(labels: Mapping[str, Any], how: Finetune) -> list[int] | None:
    """The classes of a record, counted through all labels; None where one label is unknown or out of range."""
    found, start = [], 0
    for name in how.label:
        value = labels.get(name, UNKNOWN)
        numbers = value if isinstance(value, list) else [value]
        if not all(0 <= number < len(how.classes[name]) for number in numbers):
            return None
        found += [start + number for number in numbers]
        start += len(how.classes[name])
    return found


def summary(split: Split, recipe: Recipe, parts: Mapping[str, Any]) -> list[str]:
    """What is learned, for the user: classes, samples, and a warning where a class has none.

    Args:
        split: the whole training split.
        recipe: complete.
        parts: its modalities, built.
    """
    how, names, part = recipe.finetune, recipe.finetune.class_names, learned(split, recipe, parts)
    seen = np.bincount([c for row in labels_of(part, how, parts)[1] for c in row], minlength=len(names))
    share = f" ({100 * how.fraction:g} % of the labels, draw {how.draw})" if how.fraction < 1 else ""
    lines = [f"learns {', '.join(how.label)}, {len(names)} classes, from {len(part):,} of {len(split):,} samples of "
             f"'{split.name}'{share}, {seen.min():,} to {seen.max():,} of a class; "
             f"{recipe.data.batch_per_device * world(recipe)} at once"]
    unseen = [names[c] for c in np.flatnonzero(seen == 0)]
    if unseen:
        lines.append(f"NEVER SEEN: {len(unseen)} of {len(names)} classes have no sample to learn from: {few(unseen)}")
    return lines
