"""Choices that a recipe need not make: each method family's table of them, and how a recipe is filled from it.

A method's published variants differ, from one another and from what we would take. A recipe that names a `source` has
every setting of its method's table filled in that it does not say itself.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from mmssl.config.choices import Setting, Table
from mmssl.config.choices_crossl import CROSSL
from mmssl.config.choices_vatt import VATT
from mmssl.registry import (
    AGGREGATORS,
    ENCODERS,
    HEADS,
    LOSSES,
    MASKS,
    METHODS,
    MODALITIES,
    TRUNKS,
    brief_record,
    record_of,
    signature_of,
)

TABLES = (VATT, CROSSL)
#: Sections that hold nodes by name, those that are one node, and closed ones.
MANY: Mapping[str, Any] = {"modalities": MODALITIES, "encoders": ENCODERS, "trunks": TRUNKS, "pairs": LOSSES}
SINGLE: Mapping[str, Any] = {"method": METHODS, "head": HEADS, "aggregator": AGGREGATORS, "mask": MASKS, "loss": LOSSES}


def table_of(method: str | None) -> Table | None:
    """The table of a method's family; None where it has no choices."""
    return next((t for t in TABLES if any(t.serves(choice, method) for choice in t.choices)), None)


def source_problems(sections: Mapping[str, Any]) -> list[str]:
    """One line where a recipe names a source that its method does not have."""
    name, source = _name(sections.get("method")), sections.get("source")
    if source is None or name not in METHODS.names():
        return []
    table = table_of(name)
    if table is None:
        known = ", ".join(sorted({method for t in TABLES for method in t.methods}))
        return [f"source: the method '{name}' has no published variants ({known} have); leave it out"]
    if source not in table.sources:
        return [f"source: expected one of {', '.join(table.sources)} or null, got {source!r}"]
    return []


def fill(sections: dict[str, Any], source: str | None) -> None:
    """Give every setting of the method's table that `sections` does not say the value of `source`, in place.

    Args:
        sections: of a recipe, nodes with their names written out; those that are missing are passed over.
        source: None: nothing is filled in.
    """
    if source is None:
        return
    table = table_of(_name(sections.get("method")))
    for setting, _, node in list(_places(sections)):
        node.setdefault(setting.key, copy.deepcopy(setting.values[table.sources.index(source)]))


def lines(tree: Mapping[str, Any]) -> list[str]:
    """The choices of a method's table with what runs, a line for each setting; nothing where there is no table.

    Args:
        tree: a recipe as plain data, defaults written out.
    """
    source, found, table = tree.get("source"), list(_places(tree)), table_of(_name(tree.get("method")))
    if not found:
        return []
    said = f"source: {source}" if source else "no source, so the defaults of the parts"
    text = [f"{table.title} ({said}):"]
    for choice in table.choices:
        rows: list[tuple[str, str]] = []
        for setting in choice.settings:
            places = [(where, _value(node, setting)) for own, where, node in found if own is setting]
            rows += [(f"{where}: {setting.said(value)}", table.whose(setting, value, source))
                     for where, value in _together(setting, places)]
        rows = rows or [(choice.elsewhere or "no such part in this recipe", "")]
        for i, (what, whose) in enumerate(rows):
            lead = f"{choice.number:>2} {choice.topic}" if i == 0 else ""
            text.append(f"{lead:<41}{what:<58}{whose}".rstrip())
    return text


def _places(tree: Mapping[str, Any]) -> Iterator[tuple[Setting, str, dict[str, Any]]]:
    """Every setting of its method's table that a recipe has: itself, its place, and the node that holds it."""
    method = _name(tree.get("method"))
    table = table_of(method)
    for choice in table.choices if table else ():
        for setting in choice.settings if table.serves(choice, method) else ():
            section = setting.section
            inside = tree.get(section)
            if not isinstance(inside, dict):
                continue
            for name, node in inside.items() if section in MANY else [("", inside)]:
                if not setting.parts or _takes(MANY.get(section) or SINGLE[section], node, setting):
                    where = ".".join(word for word in (section, name, setting.key) if word)
                    yield setting, where, node


def _takes(registry: Any, node: Any, setting: Setting) -> bool:
    name = _name(node)
    return name in setting.parts and isinstance(node, dict) and setting.key in signature_of(registry.find(name))


def _value(node: Mapping[str, Any], setting: Setting) -> Any:
    """What a full node says of a setting; of one that is a dataclass, in its shortest form."""
    value = node[setting.key]
    if setting.section not in MANY or not isinstance(value, Mapping):
        return value
    annotation = signature_of(MANY[setting.section].find(node["name"]))[setting.key].annotation
    return brief_record(record_of(annotation), value)


def _name(node: Any) -> str | None:
    return node.get("name") if isinstance(node, Mapping) else node


def _together(setting: Setting, places: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Entries of a section that agree are one line, `encoders.*.…`; those that do not have a line each."""
    same = len(places) > 1 and all(value == places[0][1] for _, value in places)
    return [(setting.place, places[0][1])] if same else places
