"""Resolved recipes as flat tables, for tests of what a source fills in."""

from functools import lru_cache

from mmssl.config import full_dict, load


def flat(tree, place=""):
    """The leaves of a tree of mappings by dotted place."""
    if isinstance(tree, dict):
        return {k: v for key, part in tree.items() for k, v in flat(part, f"{place}.{key}" if place else key).items()}
    return {place: tree}


@lru_cache
def resolved(name, *overrides):
    """What a recipe resolves to, every default written out, by dotted place."""
    return flat(full_dict(load(name, list(overrides))))
