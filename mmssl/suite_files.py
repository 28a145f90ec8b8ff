"""Where suites lie and what they are called. Imports no torch, so that listing them is instant."""

from __future__ import annotations

from pathlib import Path

from mmssl.errors import ConfigError
from mmssl.registry import nearest


def suite_folder() -> Path:
    """Where the package's own suites lie: beside the code in a wheel, under `benchmarks` in a checkout."""
    inside = Path(__file__).parent / "_suites"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "benchmarks" / "suites"


def suite_names() -> list[str]:
    """Names that `--suite` takes."""
    return sorted(path.stem for path in suite_folder().glob("*.yaml"))


def suite_path(name: str) -> Path:
    """The file of a suite, by name or by path.

    Raises:
        ConfigError: there is none; the message names the nearest one.
    """
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise ConfigError(f"suite: no file '{name}'; expected a YAML file, or one of {', '.join(suite_names())}")
        return Path(name)
    if name not in suite_names():
        raise ConfigError(f"suite: no suite is called '{name}'{nearest(name, suite_names())} (`mmssl bench "
                          "--list` has all; or give a file that ends in .yaml)")
    return suite_folder() / f"{name}.yaml"


def suite_lines() -> list[str]:
    """One line per suite: its name, and the first line of the comment it opens with."""
    first = {name: suite_path(name).read_text(encoding="utf-8").splitlines()[0] for name in suite_names()}
    return [f"{name:<12} {line.lstrip('# ')}" for name, line in first.items()]
