"""Parts from outside the package: files and modules that a recipe names, and the entry-point group `mmssl.plugins`.

Loading runs the plug-in's code. It happens when a name is looked for that nothing registered so far has, so a broken
plug-in that nobody needs stays silent.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path

from mmssl.errors import ConfigError
from mmssl.registry import ALL, Registry

GROUP = "mmssl.plugins"


@dataclass
class Plugin:
    """A plug-in that was announced.

    Args:
        source: a file's path, or a module's dotted name.
        origin: who announced it, e.g. "recipe" or the distribution that has the entry point.
        state: "waiting", "loaded" or "failed".
        reason: why it failed, one line.
        parts: what it registered, as "kind name".
    """

    source: str
    origin: str
    state: str = "waiting"
    reason: str = ""
    parts: list[str] = field(default_factory=list)


_announced: dict[str, Plugin] = {}


def identity(source: str) -> str:
    """What makes two announcements the same plug-in: the bytes of a file, the name of a module. No paper: ours."""
    path = Path(source)
    if path.suffix == ".py":
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else str(path)
    return source


def announce(source: str, origin: str) -> Plugin:
    """Note a plug-in for later loading; the same one twice is noted once."""
    return _announced.setdefault(identity(source), Plugin(source, origin))


def announce_installed() -> None:
    """Note every installed package that has an entry point in the group `mmssl.plugins`."""
    for point in entry_points(group=GROUP):
        announce(point.value.partition(":")[0], point.dist.name if point.dist else "installed")


def load(plugin: Plugin) -> Plugin:
    """Run a waiting plug-in's code once; afterwards its state is "loaded" or "failed"."""
    if plugin.state != "waiting":
        return plugin
    before = _part_names()
    try:
        if plugin.source.endswith(".py"):
            _run_file(Path(plugin.source))
        else:
            importlib.import_module(plugin.source)
        plugin.state = "loaded"
    except Exception as error:  # a plug-in may raise anything
        plugin.state = "failed"
        plugin.reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    plugin.parts = sorted(_part_names() - before)
    return plugin


def load_waiting() -> list[str]:
    """Load all announced plug-ins, recipes' before installed ones.

    Returns:
        one line for each plug-in that could not be loaded, now or earlier.
    """
    announce_installed()
    for plugin in list(_announced.values()):
        load(plugin)
    return [f"plug-in {p.source} ({p.origin}) could not be loaded: {p.reason}"
            for p in _announced.values() if p.state == "failed"]


def announced() -> list[Plugin]:
    """All plug-ins noted so far, in the order in which they were."""
    return list(_announced.values())


def find_file(source: str, folders: list[Path]) -> str:
    """Where a recipe's `plugins:` entry lies: modules as they are, files sought in `folders`, first one first.

    Raises:
        ConfigError: no such file.
    """
    if not source.endswith(".py"):
        return source
    for folder in folders:
        path = folder / source
        if path.is_file():
            return str(path.resolve())
    looked = ", ".join(str(f) for f in dict.fromkeys(f.resolve() for f in folders))
    raise ConfigError(f"plugins: no file '{source}' in {looked}; give a path relative to the recipe or the working "
                      "directory")


def _run_file(path: Path) -> None:
    """Import a file under a name made of its bytes, so that equal files are one module and unequal ones two."""
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    name = f"mmssl_plugin_{path.stem}_{identity(str(path))[:12]}"
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _part_names() -> set[str]:
    return {f"{registry.kind} {name}" for registry in ALL for name in registry.names()}


Registry.load_waiting = staticmethod(load_waiting)
