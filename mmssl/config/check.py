"""Every problem of a recipe at once, one line each, found without building anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mmssl.data.sources
import mmssl.losses
import mmssl.methods
import mmssl.modalities
import mmssl.nn  # noqa: F401  importing a room registers its parts
from mmssl.config.recipe import INTERNAL, OPTIONAL, SECTIONS, Recipe
from mmssl.data.folds import rule_problems
from mmssl.errors import ConfigError
from mmssl.registry import (
    AGGREGATORS,
    ENCODERS,
    HEADS,
    LOSSES,
    MASKS,
    METHODS,
    MODALITIES,
    TRUNKS,
    check_settings,
    nearest,
    signature_of,
)

#: What the program fills in, by kind of part, so that no recipe has to say it (nor may).
GIVEN: Mapping[str, tuple[str, ...]] = {
    "encoder": ("modality", "trunk"),
    "aggregator": ("modalities", "width"),
    "mask": ("names",),
    "head": ("dims", "pairs", "width", "classes"),
    "method": ("modalities", "encoders", "head", "pairs", "aggregator", "mask", "loss", "optim", "finetune", "seed"),
}
#: Sections that only some methods take: the method's signature says which.
ASKED_FOR = {"head": HEADS, "aggregator": AGGREGATORS, "mask": MASKS, "loss": LOSSES}


def section_problems(tree: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The closed sections with types converted, open nodes as they are; and one line per problem."""
    signature = {k: p for k, p in signature_of(Recipe).items() if k not in INTERNAL}
    open_keys = {"method", "modalities", "encoders", "trunks", "pairs", *ASKED_FOR}
    closed = {k: v for k, v in tree.items() if k not in SECTIONS and k not in open_keys}
    missing = [k for k in ("method", "modalities", "encoders") if tree.get(k) is None]
    good, problems = check_settings({k: p for k, p in signature.items() if k not in open_keys and k not in SECTIONS},
                                    {k: v for k, v in closed.items() if k in signature}, "")
    problems += [f"{k}: no such section{nearest(k, signature)}" for k in closed if k not in signature]
    problems += [f"{k}: missing; every recipe has one" for k in missing]
    for key, kind in SECTIONS.items():
        if key in OPTIONAL and tree.get(key) is None:
            continue
        value = tree.get(key) or {}
        if not isinstance(value, Mapping):
            problems.append(f"{key}: expected a mapping, got {value!r}")
            continue
        good[key], more = check_settings(signature_of(kind), value, key)
        problems += more or _range_problems(kind, good[key])
    if good.get("data", {}).get("split") is not None:
        problems += rule_problems(good["data"]["split"], "data.split")
    for key in open_keys & tree.keys():
        good[key] = tree[key]
    for key in ("modalities", "encoders", "trunks", "pairs"):
        if key in good and not isinstance(good[key], Mapping):
            problems.append(f"{key}: expected a mapping, got {good.pop(key)!r}")
    return good, problems


def _range_problems(kind: type, settings: Mapping[str, Any]) -> list[str]:
    """What a closed section says of its values, once their types are right."""
    try:
        kind(**settings)
    except ConfigError as error:
        return error.problems
    return []


def problems_of(sections: Mapping[str, Any]) -> list[str]:
    """What is wrong with the open nodes: names, settings, and what they say of each other. One line each."""
    problems: list[str] = []
    for section, registry in (("modalities", MODALITIES), ("trunks", TRUNKS), ("encoders", ENCODERS)):
        for key, node in (sections.get(section) or {}).items():
            settings = {k: v for k, v in node.items() if k != "trunk"} if section == "encoders" and isinstance(
                node, Mapping) else node
            problems += _node(registry, settings, f"{section}.{key}")
    problems += _encoder_problems(sections)
    problems += _pair_problems(sections)
    problems += _method_problems(sections)
    return problems


def _node(registry: Any, node: Any, where: str) -> list[str]:
    try:
        return registry.check(node, where, GIVEN.get(registry.kind, ()))[1]
    except ConfigError as error:
        return error.problems


def _encoder_problems(sections: Mapping[str, Any]) -> list[str]:
    modalities, trunks = sections.get("modalities") or {}, sections.get("trunks") or {}
    encoders = sections.get("encoders") or {}
    problems = [f"encoders.{key}: no such modality{nearest(key, modalities)}" for key in encoders
                if key not in modalities]
    problems += [f"encoders.{key}: missing; the modality '{key}' needs an encoder" for key in modalities
                 if key not in encoders]
    used = {node.get("trunk") for node in encoders.values() if isinstance(node, Mapping)}
    problems += [f"trunks.{name}: no encoder names this trunk; leave it out" for name in trunks if name not in used]
    for key, node in encoders.items():
        trunk = node.get("trunk") if isinstance(node, Mapping) else None
        if trunk is not None and trunk not in trunks:
            problems.append(f"encoders.{key}.trunk: no trunk is called '{trunk}'{nearest(str(trunk), trunks)}")
    return problems


def _pair_problems(sections: Mapping[str, Any]) -> list[str]:
    modalities, problems = sections.get("modalities") or {}, []
    for key, node in (sections.get("pairs") or {}).items():
        sides = key.split("-")
        if len(sides) != 2 or sides[0] == sides[1]:
            problems.append(f"pairs.{key}: expected two modalities as 'a-b', e.g. video-audio")
            continue
        problems += [f"pairs.{key}: no such modality '{s}'{nearest(s, modalities)}" for s in sides
                     if s not in modalities]
        if isinstance(node, Mapping):
            weight = node.get("weight", 1.0)
            if isinstance(weight, bool) or not isinstance(weight, int | float) or weight < 0:
                problems.append(f"pairs.{key}.weight: expected a number of 0 or more, got {weight!r}")
            node = {k: v for k, v in node.items() if k != "weight"}
        problems += _node(LOSSES, node, f"pairs.{key}")
    return problems


def _method_problems(sections: Mapping[str, Any]) -> list[str]:
    node = sections.get("method")
    if node is None:
        return []
    problems = _node(METHODS, node, "method")
    name = node if isinstance(node, str) else node.get("name") if isinstance(node, Mapping) else None
    takes = signature_of(METHODS.find(name)) if name in METHODS.names() else None
    for key, registry in ASKED_FOR.items():
        there = sections.get(key)
        if there is not None:
            problems += _node(registry, there, key)
            if takes is not None and key not in takes:
                problems.append(f"{key}: the method '{name}' takes no {key}; leave the section out")
        elif takes is not None and key in takes and takes[key].default is takes[key].empty:
            problems.append(f"{key}: missing; the method '{name}' needs one of {', '.join(registry.names())}")
    for key in OPTIONAL if takes is not None else ():
        if (key in takes) != (sections.get(key) is not None):
            problems.append(f"{key}: the method '{name}' " + ("needs this section" if key in takes else
                                                              "takes no such section; leave it out"))
    return problems
