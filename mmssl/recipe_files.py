"""Where recipes lie and what they are called. Imports no torch, so that listing them is instant."""

from __future__ import annotations

from pathlib import Path

from mmssl.errors import ConfigError
from mmssl.registry import nearest


def recipe_folder() -> Path:
    """Where the package's own recipes lie: beside the code in a wheel, at the top of a checkout."""
    inside = Path(__file__).parent / "_recipes"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "recipes"


def recipe_names() -> list[str]:
    """Names that `--recipe` takes."""
    return sorted(path.stem for path in recipe_folder().glob("*.yaml"))


def task_names() -> list[str]:
    """Names that `--task` takes."""
    return sorted(path.stem for path in (recipe_folder() / "tasks").glob("*.yaml"))


def recipe_path(name: str) -> Path:
    """The file of a recipe, by name or by path.

    Raises:
        ConfigError: there is none; the message names the nearest one.
    """
    return _path(name, recipe_folder(), recipe_names(), "recipe", "`mmssl recipes list` has all")


def task_path(name: str) -> Path:
    """The file of a task of fine-tuning, by name or by path. Raises ConfigError like `recipe_path`."""
    return _path(name, recipe_folder() / "tasks", task_names(), "task", f"there are {', '.join(task_names())}")


def _path(name: str, folder: Path, names: list[str], kind: str, where: str) -> Path:
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise ConfigError(f"{kind}: no file '{name}'; expected a YAML file, or one of {', '.join(names)}")
        return Path(name)
    if name not in names:
        raise ConfigError(f"{kind}: no {kind} is called '{name}'{nearest(name, names)} "
                          f"({where}; or give a file that ends in .yaml)")
    return folder / f"{name}.yaml"


def recipe_lines() -> list[str]:
    """One line per recipe: its name, and the first line of the comment it opens with."""
    lines = []
    for name in recipe_names():
        first = recipe_path(name).read_text(encoding="utf-8").splitlines()[0]
        lines.append(f"{name:<18} {first.lstrip('# ')}")
    return lines
