"""Shards as Lightning's data module."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningDataModule

from mmssl.data.quarantine import Quarantine
from mmssl.data.samples import ClipCache, Reader
from mmssl.data.split import Split
from mmssl.data.stream import StreamLoader
from mmssl.distributed import world_size
from mmssl.errors import ConfigError
from mmssl.types import View


class DataModule(LightningDataModule):
    """Loaders of a data set's splits for a Trainer or a plain loop. No paper: ours.

    Args:
        root: folder of the data set.
        modalities: by name, those to read.
        train, val, test: names of the splits; None: there is none.
        batch_size: B, samples of one training batch over all ranks; a multiple of their number.
        eval_batch_size: the same for evaluation; None: as in training.
        workers: threads that decode; 0: the caller's.
        seed: of order, windows and augmentation.
        cache_bytes: memory for decoded samples, over all splits together.
        bad_samples: share of a split, 0 to 1, that may be unreadable before a run stops.
        quarantine_file: where bad samples are listed, one JSON line each; None: nowhere.
        groups: the groups (subjects) that each split is made of; None: as the data set itself says.
        choose: by name of a split, called with it, gives the part of it (`Split.narrow`) that training and validation
            see; any other split, and what `loader` gives, is whole.

    Raises:
        ConfigError: a batch that cannot be dealt to the ranks.
        DataError: (when a loader is asked for) a split that is missing or has nothing to read.
    """

    def __init__(self, root: str | Path, modalities: Mapping[str, Any], train: str | None = "train",
                 val: str | None = "val", test: str | None = "test", batch_size: int = 32,
                 eval_batch_size: int | None = None, workers: int = 0, seed: int = 0, cache_bytes: int = 0,
                 bad_samples: float = 0.01, quarantine_file: str | Path | None = None,
                 groups: Mapping[str, Sequence[str]] | None = None,
                 choose: Mapping[str, Callable[[Split], Split]] | None = None) -> None:
        super().__init__()
        self.root, self.modalities = Path(root), dict(modalities)
        self.train, self.val, self.test = train, val, test
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size or batch_size
        self.workers, self.seed = workers, seed
        self.bad_samples, self.quarantine_file = bad_samples, quarantine_file
        self.cache, self.groups, self.choose = ClipCache(cache_bytes), dict(groups or {}), dict(choose or {})
        self._splits: dict[str, Split] = {}
        self._parts: dict[str, Split] = {}

    @property
    def world_size(self) -> int:
        """Number of ranks that share a batch."""
        return world_size()

    def setup(self, stage: str | None = None) -> None:
        """Open the splits that a stage needs, so that a missing one stops the run before it starts."""
        asked = {"fit": (self.train, self.val), "validate": (self.val,), "test": (self.test,)}.get(stage or "", ())
        for name in asked:
            if name is not None:
                self.open(name)

    def open(self, split: str) -> Split:
        """A split of the data set, opened once. Raises DataError where it is missing."""
        if split not in self._splits:
            self._splits[split] = Split(self.root, split, self.groups.get(split))
        return self._splits[split]

    def loader(self, split: str, train: bool = False, views: Sequence[View] = (), batch_size: int | None = None,
               rows: int | None = None) -> StreamLoader:
        """A new loader of one split: shuffled and random for training, in stored order otherwise.

        Args:
            split: its name.
            train: whether it is for training.
            views: of each sample in evaluation, e.g. `View.grid(4, 3)`; see StreamLoader.
            batch_size: B over all ranks; None: as the class says.
            rows: records at most, evenly taken; None: all.

        Raises:
            ConfigError, DataError: see the class.
        """
        part = self.open(split)
        if rows is not None and rows < len(part):
            part = part.narrow(np.linspace(0, len(part) - 1, rows).round().astype(int))
        return self._loader(part, train, views, batch_size)

    def _loader(self, split: Split, train: bool, views: Sequence[View] = (), batch_size: int | None = None
                ) -> StreamLoader:
        size, world = batch_size or (self.batch_size if train else self.eval_batch_size), self.world_size
        if size % world:
            raise ConfigError(f"a global batch of {size} cannot be dealt to {world} ranks; set data.batch_per_device "
                              f"so that the batch is a multiple of {world}")
        quarantine = Quarantine(self.root, split.name, len(split), self.bad_samples, self.quarantine_file)
        return StreamLoader(Reader(split, self.modalities, self.cache), size, train, self.seed, self.workers,
                            quarantine=quarantine, views=views)

    def _chosen(self, split: str) -> Split:
        """What training and validation see of a split."""
        if split not in self._parts:
            whole = self.open(split)
            self._parts[split] = self.choose[split](whole) if split in self.choose else whole
        return self._parts[split]

    def train_dataloader(self) -> StreamLoader:
        """The training split, shuffled anew in each epoch."""
        return self._loader(self._chosen(self.train), train=True)

    def val_dataloader(self) -> StreamLoader | list:
        """The validation split in stored order; nothing where there is none."""
        return self._loader(self._chosen(self.val), train=False) if self.val is not None else []

    def test_dataloader(self) -> StreamLoader | list:
        """The test split in stored order; nothing where there is none."""
        return self.loader(self.test) if self.test is not None else []
