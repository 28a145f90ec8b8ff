"""The folder of a data set in the making: what is whole in it survives a kill, and the next attempt knows it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import Any

from mmssl.data.shards import index_path, list_splits
from mmssl.errors import ConfigError, StorageError
from mmssl.storage import write_whole

STATE = "pack.json"
STAGE = ".packing"


class PackFolder:
    """A folder that one process at a time packs into; a context manager that holds it. No paper: ours.

    Shards are written in a stage and moved out when they are whole; `state` is what an attempt has to know of those
    before it, and lies beside them in `pack.json`.

    Args:
        root: the folder; made where it is missing.
        recipe: what the result depends on (settings, sources), as JSON values. An attempt of which there are shards
            goes on only with the same one.
        state: to begin with, as JSON values.

    Raises:
        ConfigError: the folder holds another data set, or another process packs into it.
        StorageError: it cannot be made or written.
    """

    def __init__(self, root: str | Path, recipe: dict[str, Any], state: dict[str, Any]) -> None:
        self.root, self.stage = Path(root), Path(root) / STAGE
        self._recipe = json.loads(json.dumps(recipe))  # as it will read back
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(self.root, os.O_RDONLY)
        except OSError as error:
            raise StorageError(f"{self.root}: cannot be made ({error.strerror}); choose another folder") from None
        try:
            self._lock()
            shutil.rmtree(self.stage, ignore_errors=True)
            for left in self.root.glob(".*.part"):  # of a write that was killed: whoever holds the lock is alone
                left.unlink(missing_ok=True)
            self.state = self._go_on(state)
            self.save()
        except BaseException:
            os.close(self._handle)
            raise

    def __enter__(self) -> PackFolder:
        return self

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self.stage, ignore_errors=True)
        os.close(self._handle)

    def save(self) -> None:
        """Write the state. Raises StorageError."""
        text = json.dumps({"recipe": self._recipe, **self.state}, indent=1)
        write_whole(self.root / STATE, (text + "\n").encode())

    def publish(self, shard: Path, name: str) -> None:
        """Move a whole shard out of the stage as `name`, its index first, so that it is never without its own."""
        target = self.root / name
        os.replace(index_path(shard), index_path(target))
        os.replace(shard, target)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{self.root}: another process is packing into this folder; wait for it, or stop it"
                              ) from None
        except OSError:
            pass  # a file system without locks

    def _go_on(self, fresh: dict[str, Any]) -> dict[str, Any]:
        """The state of an earlier attempt; a fresh one where none got as far as a shard, whatever it was to pack."""
        if not list_splits(self.root):
            return fresh
        try:
            old = json.loads((self.root / STATE).read_text(encoding="utf-8"))
            recipe = old.pop("recipe")
        except FileNotFoundError:
            raise ConfigError(f"{self.root}: holds shards that were not packed from here; choose an empty folder"
                              ) from None
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise ConfigError(f"{self.root / STATE}: cannot be read ({error}); delete the folder, pack again") from None
        other = sorted(k for k in {**self._recipe, **recipe} if self._recipe.get(k) != recipe.get(k))
        if other:
            raise ConfigError(f"{self.root}: holds a data set that was packed with other {', '.join(other)}; choose an "
                              f"empty folder, or delete this one")
        return {**fresh, **old}
