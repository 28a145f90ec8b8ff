"""The folder of one run: what lies in it, under which name."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmssl.config import Recipe, dump, load
from mmssl.environment import describe
from mmssl.errors import ConfigError, DataError
from mmssl.modalities.vocabulary import packed_vectors
from mmssl.plugins import identity
from mmssl.registry import MODALITIES
from mmssl.storage import refused, write_whole

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class RunDir:
    """Paths of a run. `recipe.yaml` is the resolved recipe, and all that is needed to build the run's model again.

    Args:
        root: the folder.
    """

    root: Path

    @property
    def recipe_file(self) -> Path:
        """The resolved recipe: every default written out."""
        return self.root / "recipe.yaml"

    @property
    def typed_file(self) -> Path:
        """The recipe as it was typed: its text, and the overrides after it."""
        return self.root / "recipe.typed.yaml"

    @property
    def metrics_file(self) -> Path:
        """Metrics, one JSON object per line."""
        return self.root / "metrics.jsonl"

    @property
    def bad_samples_file(self) -> Path:
        """Samples that could not be read, one JSON object per line."""
        return self.root / "bad_samples.jsonl"

    @property
    def log_file(self) -> Path:
        """What the run said."""
        return self.root / "log.txt"

    @property
    def initial(self) -> Path:
        """The weights that the run started from, where it was given any: a copy."""
        return self.root / "checkpoints" / "init.ckpt"

    def checkpoint(self, which: str) -> Path:
        """The file of checkpoint "last", "best", or of a path.

        Raises:
            DataError: there is no such file.
        """
        path = self.root / "checkpoints" / f"{which}.ckpt" if which in ("last", "best") else Path(which)
        if not path.is_file():
            raise DataError(f"{path}: no such checkpoint; expected last, best or a file. A run has its first after "
                            "trainer.checkpoint_every steps; `best` needs trainer.monitor")
        return path

    def load_recipe(self, overrides: list[str] | None = None) -> Recipe:
        """The run's resolved recipe.

        Raises:
            DataError: the folder is no run.
            ConfigError: an override is wrong; or this mmssl does not know what the recipe says.
        """
        if not self.recipe_file.is_file():
            raise DataError(f"{self.root}: not a run directory (no recipe.yaml in it); expected one that `mmssl fit` "
                            "made. If `fit` was stopped while it made this one, delete it and start again")
        try:
            return load(self.recipe_file, overrides)
        except ConfigError as error:
            if overrides and self._loads():
                raise
            raise ConfigError([f"{self.root}: this mmssl cannot read the run's recipe.yaml, for what follows; use the "
                               "version that made the run (environment.json names it), or mend recipe.yaml",
                               *error.problems]) from None

    def _loads(self) -> bool:
        """Whether the recipe can be read as it stands, without overrides."""
        try:
            load(self.recipe_file)
        except ConfigError:
            return False
        return True

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process, so that no second one continues it meanwhile.

        Raises:
            ConfigError: another process holds it.
        """
        with open(self.root / ".lock", "w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(f"{self.root}: another process is training in this folder; wait for it or stop it"
                                  ) from None
            yield


def default_root(name: str) -> Path:
    """`runs/NAME-YYYYMMDD-HHMMSS` in the working directory, with a number added where that is taken."""
    stem = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    return next(p for p in (stem, *(Path(f"{stem}-{i}") for i in range(2, 1000))) if not p.exists())


def check_free(root: Path) -> None:
    """See that a new run can be made at `root`. Raises ConfigError where that holds something."""
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        run = (root / "recipe.yaml").is_file()
        raise ConfigError(f"{root}: not empty, and a run is never written over; choose another --run-dir"
                          + (f", or continue it with `mmssl fit --resume {root}`" if run else ""))


def create(root: Path, recipe: Recipe, typed: list[str] | None = None, weights: str | Path | None = None
           ) -> RunDir:
    """Make the folder of a new run and write what is known before the first step; `recipe.yaml`, which makes it a run,
    comes last.

    Args:
        root: must not exist, or be empty.
        recipe: complete; its plug-in files, vocabulary, weights of encoders and what its words need of word vectors are
            copied in, and its `recipe.yaml` names the copies.
        typed: the words of the command after `mmssl`, as they were typed.
        weights: checkpoint that the run starts from, copied: it may be gone or another one when the run is continued.

    Raises:
        ConfigError: the folder holds something.
        StorageError: it cannot be made or written.
    """
    check_free(root)
    try:
        (root / "checkpoints").mkdir(parents=True, exist_ok=True)
        recipe = dataclasses.replace(recipe, plugins=[_copy_plugin(s, root) for s in recipe.plugins],
                                     modalities=_copy_words(recipe, root), encoders=_copy_weights(recipe, root))
        if weights is not None:
            shutil.copyfile(weights, RunDir(root).initial)
    except OSError as error:
        raise refused(Path(error.filename2 or root), error) from None
    run = RunDir(root)
    write_whole(run.typed_file, _typed_text(typed).encode())
    write_json(root / "environment.json", describe())
    write_whole(run.recipe_file, f"# run directory format {FORMAT}\n{dump(recipe)}".encode())
    return run


def write_json(path: Path, tree: Any) -> None:
    """Write JSON whole or not at all."""
    write_whole(path, (json.dumps(tree, indent=1, default=str) + "\n").encode())


def _copy_plugin(source: str, root: Path) -> str:
    """A plug-in file travels with the run, under its own name and hash; modules stay what they are."""
    if not source.endswith(".py"):
        return source
    kept = root / "plugins" / f"{Path(source).stem}-{identity(source)[:12]}.py"
    kept.parent.mkdir(exist_ok=True)
    shutil.copyfile(source, kept)
    return str(kept.relative_to(root))


def _copy_words(recipe: Recipe, root: Path) -> dict[str, Any]:
    """Vocabularies, and the vectors of their words: the files they come from may be gone when the run is used."""
    modalities = {}
    for key, node in recipe.modalities.items():
        node = dict(node)
        if node.get("vocabulary"):
            kept, original = f"{key}.vocab.txt", node["vocabulary"]
            shutil.copyfile(original, root / kept)
            node["vocabulary"] = kept
            if node.get("vectors"):
                part = MODALITIES.build(recipe.modalities[key], f"modalities.{key}")
                write_whole(root / f"{key}.vectors.npz", packed_vectors(part.known, part.numbers))
                node["vectors"] = f"{key}.vectors.npz"
        modalities[key] = node
    return modalities


def _copy_weights(recipe: Recipe, root: Path) -> dict[str, Any]:
    """Files of weights that encoders begin with, for the same reason."""
    encoders = {}
    for key, node in recipe.encoders.items():
        if isinstance(node.get("weights"), str):
            kept = f"{key}.weights{Path(node['weights']).suffix}"
            shutil.copyfile(node["weights"], root / kept)
            node = {**node, "weights": kept}
        encoders[key] = node
    return encoders


def _typed_text(typed: list[str] | None) -> str:
    """The command, the text of the YAML file it named, if any, and its overrides."""
    if not typed:
        return "# started from Python\n"
    files = [Path(word) for word in typed if word.endswith((".yaml", ".yml")) and Path(word).is_file()]
    overrides = [word for word in typed if "=" in word and not word.startswith("-")]
    return (f"# mmssl {' '.join(typed)}\n" + "".join(path.read_text(encoding="utf-8") for path in files)
            + "".join(f"# override: {o}\n" for o in overrides))
