"""A pre-trained run and a task make the recipe of a fine-tuning run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import mmssl.config.check  # noqa: F401  importing it registers every built-in part
from mmssl.config.load import announce_plugins, read_raw, recipe_of, settle
from mmssl.config.recipe import Recipe, node_of
from mmssl.errors import ConfigError
from mmssl.plugins import find_file
from mmssl.recipe_files import task_path
from mmssl.registry import MODALITIES, signature_of

#: What of the pre-trained run's data stays: which samples, and who of them tests; not in which portions.
KEPT_DATA = ("root", "split", "train", "val", "test", "workers", "cache_mib", "bad_samples")
#: What pre-training does to its input and fine-tuning does not, unless the task says so: tokens are dropped, waves get
#: noise, or are mixed without their labels. Source: arXiv 2104.11178, section A.2.5, and its released code.
CLEAN_ENCODER: Mapping[str, float] = {"keep_rate": 1.0}
CLEAN_MODALITY: Mapping[str, float] = {"noise": 0.0, "mixup": 0.0}
#: Features that need every modality of the run.
WHOLE = ("all", "global")


def compose(run: Path, task: str, overrides: list[str] | None = None, start: Path | None = None) -> Recipe:
    """The recipe of a fine-tuning run.

    From the run come the encoders that the task reads, with their modalities and trunks, and its data, split by group
    included; from the task all else, and what it says of those. A split that the task or an override names takes the
    whole place of the run's; from scratch, mean and std are then those of who trains by it. No token is dropped and no
    noise added, unless the task says so.

    Args:
        run: the pre-trained run's recipe.yaml.
        task: its name, or a YAML file.
        overrides: each `a.b=c`; they win.
        start: checkpoint whose weights the encoders begin with; None: supervised from scratch.

    Raises:
        ConfigError: with one line per problem: the run lacks what the task reads, unknown settings.
    """
    path, overrides = task_path(task), list(overrides or [])
    ours = [o for o in overrides if o.startswith("finetune.")]
    base, own = read_raw(run), settle(read_raw(path), ours, path)[1]
    plugins = announce_plugins(run, base.get("plugins") or [])
    folders = [path.resolve().parent, Path.cwd()]
    plugins += announce_plugins(path, [find_file(source, folders) for source in own.get("plugins") or []])
    how = own.get("finetune")
    if not isinstance(how, Mapping):
        raise ConfigError(f"{path}: no section `finetune`; a task has one, e.g. `finetune: {{features: video}}`")
    dropped = ("split",) if names(own, overrides, "split") else ()
    if start is None and (dropped or names(own, overrides, "root")):  # no weights know the run's mean and std
        base["modalities"] = {name: {k: v for k, v in node.items() if k not in ("mean", "std")}
                              for name, node in base["modalities"].items()}
    parts = _parts(base, own, how, f"{run.parent}", path.stem)
    data = {key: value for key, value in (base.get("data") or {}).items() if key in KEPT_DATA and key not in dropped}
    data |= _rooted(own.get("data") or {}, folders)
    tree = {"name": f"{base['name']}_{path.stem}", "method": "classifier", "seed": base.get("seed", 0), **own, **parts,
            "data": data, "plugins": plugins, "finetune": {**how, "start": str(start) if start else None}}
    clip = (own.get("optim") or {}).get("clip")
    if how.get("frozen") and isinstance(clip, Mapping):  # what is not trained has no gradient to limit
        kept = {part: limit for part, limit in clip.items() if part.split(".")[0] not in ("encoders", "aggregator")}
        tree["optim"] = {**own["optim"], "clip": kept or None}
    return recipe_of(*settle(tree, [o for o in overrides if o not in ours], path), run)


def names(task: Mapping[str, Any], overrides: Iterable[str], setting: str) -> bool:
    """Whether a task, as its file has it, or an override says a setting of `data`, or a part of it."""
    typed = [o.partition("=")[0] for o in overrides]
    return setting in (task.get("data") or {}) or any(f"{o}.".startswith(f"data.{setting}.") for o in typed)


def _parts(base: dict, own: dict, how: Mapping[str, Any], run: str, task: str) -> dict[str, Any]:
    """The sections modalities, encoders, trunks and aggregator: what is read of the run, as the task has it."""
    features, borrowed = how.get("features", "all"), how.get("encoders") or {}
    wanted = [*base["modalities"]] if features in WHOLE else [features]
    problems = [f"finetune.features: the run {run} has no modality '{borrowed.get(name, name)}' (it has "
                f"{', '.join(base['modalities'])}); take another task, or name one of them with finetune.features=…"
                for name in wanted if borrowed.get(name, name) not in base["modalities"]]
    problems += [f"modalities.{name}: the task '{task}' is about {name}, but finetune.features is {features}; take "
                 f"another task, or features that hold it"
                 for name in {*(own.get("modalities") or {}), *(own.get("encoders") or {})} if name not in wanted]
    if features == "global" and base.get("aggregator") is None:
        problems.append(f"finetune.features: the run {run} has no aggregator, so no global embedding; take all, or "
                        f"one of {', '.join(base['modalities'])}")
    if problems:
        raise ConfigError(problems)
    modalities, encoders = {}, {}
    for name in wanted:
        source = borrowed.get(name, name)
        modalities[name] = _modality(base["modalities"][source], (own.get("modalities") or {}).get(name) or {})
        node = _clean(node_of("encoders", source, base["encoders"][source]), CLEAN_ENCODER)
        encoders[name] = {**node, **(node_of("encoders", name, (own.get("encoders") or {}).get(name)) or {})}
    trunks = {**(base.get("trunks") or {}), **(own.get("trunks") or {})}
    used = {node.get("trunk") for node in encoders.values()}
    parts: dict[str, Any] = {"modalities": modalities, "encoders": encoders,
                             "trunks": {name: node for name, node in trunks.items() if name in used}}
    return parts | ({"aggregator": base["aggregator"]} if features == "global" else {})


def _modality(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A modality's node with the task's settings; where the task names another part, what that takes of the run's."""
    base = _clean(base, CLEAN_MODALITY)
    if own.get("name", base["name"]) == base["name"]:
        return {**base, **own}
    takes = signature_of(MODALITIES.find(own["name"]))
    return {**{k: v for k, v in base.items() if k in takes}, **own}


def _clean(node: Mapping[str, Any], values: Mapping[str, float]) -> dict[str, Any]:
    """A node with these values for the settings that it has."""
    return {**node, **{key: value for key, value in values.items() if key in node}}


def _rooted(data: Mapping[str, Any], folders: list[Path]) -> dict[str, Any]:
    """The task's own data section; a root that lies beside the task's file as an absolute path."""
    root = data.get("root")
    beside = [folder / root for folder in folders if isinstance(root, str) and (folder / root).is_dir()]
    return {**data, **({"root": str(beside[0].resolve())} if beside else {})}
