"""Physical units as recordings write them: which are the same, and what takes one into the other. No paper: ours."""

from __future__ import annotations

from mmssl.errors import DataError

#: Prefixes of the units that are scaled; all others must be equal.
PREFIXES = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3}
SCALED = ("V", "S", "A", "g", "Pa", "s", "m")


def factor(found: str, wanted: str, where: str) -> float:
    """What values in `found` are multiplied by to be in `wanted`: "mV" to "uV" is 1000.

    Raises:
        DataError: the one is no multiple of the other; with `where`.
    """
    a, b = plain(found), plain(wanted)
    if a == b:
        return 1.0
    (size_a, base_a), (size_b, base_b) = _split(a), _split(b)
    if base_a != base_b or base_a not in SCALED:
        raise DataError(f"{where}: is in '{found}', but '{wanted}' is expected; correct the units")
    return size_a / size_b


def plain(unit: str) -> str:
    """A unit without spaces and with "u" for both Greek letters mu."""
    return unit.strip().replace("µ", "u").replace("μ", "u").replace(" ", "")


def _split(unit: str) -> tuple[float, str]:
    if unit in SCALED:
        return 1.0, unit
    size = PREFIXES.get(unit[:1])
    return (size, unit[1:]) if size is not None and unit[1:] in SCALED else (1.0, unit)
