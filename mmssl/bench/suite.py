"""A suite: tasks on which encoders are compared, each with its protocol written out. YAML to checked dataclasses."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mmssl import eval as evaluation  # importing it registers the probes
from mmssl.config import read
from mmssl.errors import ConfigError
from mmssl.registry import MODALITIES, PROBES, check_settings, nearest, signature_of
from mmssl.suite_files import suite_path

Node = dict[str, Any]
RETRIEVAL = ("R@1", "R@5", "R@10", "MedR", "mAP")
METRICS = {**evaluation.METRICS, "retrieval": RETRIEVAL}


class NotServed(Exception):
    """The subject lacks what a task needs; the message says what."""


@dataclass
class Views:
    """Looks at a sample: of training samples, and of test samples, whose scores are averaged.

    Args:
        train: windows in time of a training sample, each a row of its own.
        test: windows in time of a test sample.
        crops: crops in space of each window of a test sample.
    """

    train: int = 1
    test: int = 1
    crops: int = 1


@dataclass
class Folds:
    """Who tests when. Without it, the data set's own splits say so, once.

    Args:
        by: "group" (subject, recording), or the name of a label whose classes are the folds.
        count: folds, of neighbouring groups in order of their names; null: each group is one.
        test: instead, for each fold the names of the groups that test; patterns as "10[1-8]" are understood.
        only: the groups that take part at all; null: all.
        columns: instead of all that: labels, one for each fold, whose classes are called `train` and `test`; samples of
            any other class take no part in that fold.
        average: the score is the mean of those of the folds; else one score of all test samples together.
    """

    by: str = "group"
    count: int | None = None
    test: list[list[str]] | None = None
    only: list[str] | None = None
    columns: list[str] | None = None
    average: bool = False


@dataclass
class Task:
    """One thing to be read out of an encoder, and exactly how.

    Args:
        name: within the suite.
        root: data set: a folder under `data.root`, or `demo:clips`, `demo:signals`.
        kind: "single_label", "multi_label", or "retrieval".
        label: which is to be read; of retrieval, whose classes belong together ("": each sample to itself alone).
        metric: that tables show; "": the first of its kind.
        features: what is read from: names of modalities, `a+b` side by side, "each", "pairs" (any two), "all" (side by
            side), "global" (the method's own embedding of all). Those that an encoder lacks are passed over.
        pairs: of retrieval, as "text>video": query before gallery.
        match: of retrieval with several windows: "embedding" compares their mean, "similarity" averages their cosines.
        probe: node of a probe: its name and settings.
        train, test: splits of the data set to learn from, and to test on; with folds, all of them are put together.
        groups: by split, the groups (subjects) that it is made of; one that is not named is as the data set says.
        folds: see Folds; null: none.
        views: see Views.
        fractions: shares of the training labels.
        standardise: over what features have mean 0 and deviation 1: "train", the training samples of the classifier;
            "group", before that, each group's samples for itself, those that test among them, without their labels.
        missing: "all" also tests with every set of devices missing but not all; the classifier has seen all of them.
        drop_train: whether each training sample then lacks one such set, drawn evenly (the empty one among them).
        devices: modalities by device; {}: each modality is a device.
        modalities: settings of an encoder's modalities that differ for this data set, e.g. {video: {rate: 12.5}}.
        encoders: by modality of the data set, the modality whose encoder takes it, e.g. {image: video}.
        get, pack: what to download, and the command that makes its shards, for whoever lacks them.
        finetune: the command of its paper's own protocol, where that is fine-tuning and not a probe.
    """

    name: str
    root: str
    kind: Literal["single_label", "multi_label", "retrieval"] = "single_label"
    label: str = ""
    metric: str = ""
    features: list[str] = field(default_factory=lambda: ["each", "all", "global"])
    pairs: list[str] = field(default_factory=list)
    match: Literal["embedding", "similarity"] = "embedding"
    probe: Node = field(default_factory=lambda: {"name": "linear"})
    train: list[str] = field(default_factory=lambda: ["train"])
    test: list[str] = field(default_factory=lambda: ["test"])
    groups: dict[str, list[str]] = field(default_factory=dict)
    folds: Folds | None = None
    views: Views = field(default_factory=Views)
    fractions: list[float] = field(default_factory=lambda: [1.0])
    standardise: Literal["train", "group"] = "train"
    missing: Literal["none", "all"] = "none"
    drop_train: bool = False
    devices: dict[str, list[str]] = field(default_factory=dict)
    modalities: dict[str, Node] = field(default_factory=dict)
    encoders: dict[str, str] = field(default_factory=dict)
    get: str = ""
    pack: str = ""
    finetune: str = ""

    @property
    def shown(self) -> str:
        """The metric that tables show."""
        return self.metric or METRICS[self.kind][0]

    def protocol(self) -> Node:
        """All that decides its numbers, as plain data."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in ("get", "pack", "finetune")}


@dataclass
class Suite:
    """Tasks by name.

    Args:
        name: of the suite.
        tasks: in order.
        root: folder under which the tasks' data sets lie.
        inputs: modality nodes by name, for encoders that bring none of their own (timm, torchaudio).
        encoder: settings of such encoders, e.g. a file of weights.
    """

    name: str
    tasks: list[Task]
    root: Path
    inputs: dict[str, Node] = field(default_factory=dict)
    encoder: Node = field(default_factory=dict)


NESTED = {"folds": Folds, "views": Views}
OPEN = ("probe", "devices", "modalities", "encoders")


def load_suite(name: str, overrides: list[str] | None = None, only: Sequence[str] = ()) -> Suite:
    """A suite by name or file, checked.

    Args:
        name: of a suite of the package, or a path that ends in .yaml.
        overrides: each `a.b=c`: `data.root=DIR`, `tasks.NAME.fractions=[1.0]`, `inputs.video.size=96`,
            `encoder.weights=FILE`.
        only: names of the tasks wanted; empty: all.

    Raises:
        ConfigError: with one line per problem, all of them at once.
    """
    path = suite_path(name)
    try:
        tree = read(path, list(overrides or []))[0]
    except ConfigError as error:
        raise ConfigError([problem.replace("as a recipe", "as a suite") for problem in error.problems]) from None
    known = ("name", "data", "inputs", "encoder", "tasks")
    problems = [f"suite {path.stem}: {key}: no such section{nearest(str(key), known)}" for key in tree
                if key not in known]
    maps = {key: tree.get(key) or {} for key in known[1:]}
    problems += [f"suite {path.stem}: {key}: expected a mapping, got {value!r}" for key, value in maps.items()
                 if not isinstance(value, Mapping)]
    if problems:
        raise ConfigError(problems)
    problems = [f"data.{key}: no such setting; did you mean 'root'?" for key in maps["data"] if key != "root"]
    for key, node in maps["inputs"].items():
        problems += MODALITIES.check({"name": key, **node}, f"inputs.{key}")[1]
    tasks = []
    for key, node in maps["tasks"].items():
        task, wrong = read_task(str(key), node, f"tasks.{key}")
        tasks.append(task)
        problems += wrong
    if not tasks and not problems:
        problems.append("tasks: none; a suite has one or more")
    problems += [f"no task is called '{word}'{nearest(word, maps['tasks'])}" for word in only
                 if word not in maps["tasks"]]
    if problems:
        raise ConfigError([f"suite {path.stem}: {p}" for p in problems])
    tasks = [task for task in tasks if not only or task.name in only]
    root = Path(str(maps["data"].get("root", "data"))).expanduser()
    inputs = {key: {"name": key, **node} for key, node in maps["inputs"].items()}
    return Suite(str(tree.get("name", path.stem)), tasks, root, inputs, dict(maps["encoder"]))


def read_task(name: str, node: Any, where: str) -> tuple[Task | None, list[str]]:
    """A task and one line per problem with it; None where there are any."""
    if not isinstance(node, Mapping):
        return None, [f"{where}: expected a mapping, got {node!r}"]
    signature = {k: p for k, p in signature_of(Task).items() if k != "name"}
    plain = {k: v for k, v in node.items() if k not in NESTED and k not in OPEN}
    good, problems = check_settings({k: p for k, p in signature.items() if k not in NESTED and k not in OPEN},
                                    {k: v for k, v in plain.items() if k in signature}, where)
    problems += [f"{where}.{k}: no such setting{nearest(str(k), signature)}" for k in plain if k not in signature]
    for key, kind in NESTED.items():
        if node.get(key) is not None:
            if not isinstance(node[key], Mapping):
                problems.append(f"{where}.{key}: expected a mapping, got {node[key]!r}")
                continue
            settings, wrong = check_settings(signature_of(kind), node[key], f"{where}.{key}")
            good[key], problems = kind(**settings), problems + wrong
    for key in OPEN:
        if key in node:
            good[key] = {"name": node[key]} if isinstance(node[key], str) and key == "probe" else node[key] or {}
            if not isinstance(good[key], Mapping):
                problems.append(f"{where}.{key}: expected a mapping, got {node[key]!r}")
    if problems:
        return None, problems
    task = Task(name=name, **good)
    problems = _task_problems(task, where)
    return (None if problems else task), problems


def _task_problems(task: Task, where: str) -> list[str]:
    try:
        problems = list(PROBES.check(task.probe, f"{where}.probe")[1])
    except ConfigError as error:
        problems = list(error.problems)
    if task.shown not in METRICS[task.kind]:
        problems.append(f"{where}.metric: no metric of {task.kind} is called '{task.shown}'"
                        f"{nearest(task.shown, METRICS[task.kind])}")
    if task.kind == "retrieval":
        if not task.pairs or any(len(set(pair.split(">"))) != 2 for pair in task.pairs):
            problems.append(f"{where}.pairs: expected query and gallery as in [text>video], got {task.pairs}")
        if task.standardise == "group":
            problems.append(f"{where}.standardise: retrieval compares features as they are; expected train")
    elif not task.label:
        problems.append(f"{where}.label: missing; name the label to be read")
    if any(not 0 < fraction <= 1 for fraction in task.fractions) or not task.fractions:
        problems.append(f"{where}.fractions: expected shares above 0 and up to 1, got {task.fractions}")
    if min(dataclasses.astuple(task.views)) < 1:
        problems.append(f"{where}.views: expected at least 1 of each, got {dataclasses.asdict(task.views)}")
    if task.folds and sum(bool(x) for x in (task.folds.count, task.folds.test, task.folds.columns)) > 1:
        problems.append(f"{where}.folds: count, test and columns are three ways to make folds; choose one of them")
    return problems
