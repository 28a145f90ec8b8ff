"""The house: imports only go down, rooms stay small, libraries enter by their doors, what is public is explained."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mmssl"
FILES = sorted(PACKAGE.rglob("*.py"))
OTHERS = [*sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "benchmarks").rglob("*.py"))]

FLOORS = [
    {"errors", "rng", "types", "registry", "plugins", "recipe_files", "suite_files", "storage",
     "threads"},
    {"distributed", "optim", "transforms", "nn", "losses", "environment", "plots", "page"},
    {"modalities"},
    {"data", "methods", "eval"},
    {"callbacks", "config", "cost"},
    {"rundir", "labelled", "weights"},
    {"completing", "training"},
    {"build"},
    {"dry_run", "forecast", "evaluate", "datasets", "convert"},
    {"run", "exporting", "reporting", "searching", "bench"},
    {"cli", "__init__", "__main__", "testing"},
]
#: Floors whose rooms may import one another: the ground, and the doors of the house.
SHARED_FLOORS = (0, 10)
DOORS = {
    "omegaconf": {"registry", "config"},
    "webdataset": {"data/shards"},
    "lightning": {"methods", "data/module", "callbacks", "training", "build", "run"},
    "torchaudio": {"nn", "modalities", "transforms"},
    "timm": {"nn"},
    "av": {"data/codecs", "data/demo", "data/sources", "data/media"},
    "torchmetrics": {"eval", "methods"},
    "onnx": {"exporting"}, "onnxruntime": {"exporting"},
    "matplotlib": {"plots"},
    "sklearn": {"eval", "reporting", "data/demo"},
    "scipy": {"data/sources", "eval"},
    "edfio": {"data/sources/series/edf"},
    "wfdb": {"data/sources/series/wfdb_files"},
    "tensorflow": {"convert/tensorflow_export"},
}


def room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def floor_of(name: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if name in rooms)


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{a.name}" for a in node.names if node.module == "mmssl"}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_only_go_down(path):
    here = room(path)
    for name in imports(path):
        if not name.startswith("mmssl.") or name in ("mmssl.__version__",):
            continue
        there = name.split(".")[1]
        if there == here:
            continue
        down = floor_of(there) < floor_of(here)
        beside = floor_of(there) == floor_of(here) and floor_of(here) in SHARED_FLOORS
        assert down or beside, (f"{path.relative_to(ROOT)} (floor {floor_of(here)}) imports {name} "
                                f"(floor {floor_of(there)})")


def test_the_picture_shows_every_room():
    drawn = set().union(*FLOORS)
    assert {room(path) for path in FILES} <= drawn


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_library_enters_by_its_door(path):
    place = str(path.relative_to(PACKAGE).with_suffix(""))
    for name in imports(path):
        doors = DOORS.get(name.split(".")[0])
        assert doors is None or any(place == d or place.startswith((d + "/", d + "_")) for d in doors), (
            f"{path.relative_to(ROOT)} imports {name}; only {sorted(doors)} may")


@pytest.mark.parametrize("path", [*FILES, *OTHERS], ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_are_small(path):
    text = path.read_text()
    assert text.count("\n") <= 300, f"{path.relative_to(ROOT)} has {text.count(chr(10))} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            size = node.end_lineno - node.lineno + 1 - len((ast.get_docstring(node, clean=False) or "").splitlines())
            assert size <= 40, f"{path.relative_to(ROOT)}:{node.lineno} {node.name} has {size} lines"


def public_definitions(path: Path):
    """Top-level classes and functions, and the methods of those classes, that do not start with an underscore."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                yield from ((f"{node.name}.{n.name}", n) for n in node.body
                            if isinstance(n, ast.FunctionDef) and not n.name.startswith("_"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_what_is_public_is_explained(path):
    assert ast.get_docstring(ast.parse(path.read_text())) or path.name == "__init__.py", f"{path} says not what it is"
    inherited = {"forward", "setup", "state_dict", "load_state_dict"}
    for name, node in public_definitions(path):
        if name.split(".")[-1] in inherited or (name.split(".")[-1].startswith("on_") and "callbacks" in str(path)):
            continue
        assert ast.get_docstring(node), f"{path.relative_to(ROOT)}:{node.lineno} {name} has no docstring"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_boolean_is_called_just_mask(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            assert node.id != "mask" or path.name == "recipe.py", (
                f"{path.relative_to(ROOT)}:{node.lineno}: name it for what True means")


def test_nothing_unpickles():
    for path in FILES:
        text = path.read_text()
        assert not re.search(r"weights_only\s*=\s*False|allow_pickle\s*=\s*True|pickle\.loads?\(", text), path
