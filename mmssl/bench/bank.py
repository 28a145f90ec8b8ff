"""Feature sets by name out of the latents of a data set: one modality, several side by side, the method's own."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import combinations

import numpy as np
import torch

from mmssl.bench.kept import Latents
from mmssl.bench.subject import Subject
from mmssl.errors import ConfigError
from mmssl.eval import Rows, Stacked, WithinGroups
from mmssl.eval.features import pool_items

#: Rows that are aggregated or projected at once.
STEP = 8192


class Bank:
    """The features of N samples in V views each, by name: `video`, `video+audio`, `all`, `global`. No paper: ours.

    Args:
        subject: whose they are.
        lots: latents of one or several splits, one after the other, all with the same V.
        within: whether features are standardised within each group.

    Raises:
        ConfigError: within groups, but some samples have none.
    """

    def __init__(self, subject: Subject, lots: Sequence[Latents], within: bool = False) -> None:
        self.subject, self.lots, self.views, self.within = subject, list(lots), lots[0].views, within
        self.keys = np.concatenate([lot.keys for lot in lots])
        self.groups = np.concatenate([lot.groups for lot in lots])
        self.modalities = [name for name in lots[0].latents if all(name in lot.latents for lot in lots)]
        self.labels = {name: np.concatenate([lot.labels[name] for lot in lots]) for name in lots[0].labels
                       if all(name in lot.labels for lot in lots)}
        self._parts: dict[str, np.ndarray | Stacked] = {}
        self._present = {name: np.concatenate([_any_item(lot.present[name]) for lot in lots])
                         for name in self.modalities}
        self._global: dict[frozenset, np.ndarray] = {}
        self._standardised: dict[str | frozenset, WithinGroups] = {}
        if within and (self.groups == "").any():
            raise ConfigError("standardise: group: some samples have no group (subject, recording); leave it at train")

    def __len__(self) -> int:
        return len(self.keys)

    def expand(self, wanted: Sequence[str]) -> tuple[list[str], list[str]]:
        """Names of feature sets written out, once each, and one line for each that is not to be had."""
        names, lines, several = [], [], len(self.modalities) > 1
        for word in wanted:
            if word == "each":
                names += self.modalities
            elif word == "pairs":
                names += ["+".join(pair) for pair in combinations(self.modalities, 2)]
            elif word == "all":
                names += ["all"] if several else []
            elif word == "global":
                names += ["global"] if self.subject.aggregates else []
            elif lacking := [part for part in word.split("+") if part not in self.modalities]:
                lines.append(f"{word}: no {' and no '.join(lacking)} among what {self.subject.name} reads here "
                             f"({', '.join(self.modalities)})")
            else:
                names.append(word)
        if "all" in names and (whole := "+".join(self.modalities)) in names:
            names.remove(whole)  # of two modalities the pair is all there is
        return list(dict.fromkeys(names)), lines

    def members(self, name: str) -> list[str]:
        """The modalities that a feature set is made of."""
        return self.modalities if name in ("all", "global") else name.split("+")

    def present(self, name: str, missing: Collection[str] = ()) -> np.ndarray:
        """(N,) bool: which samples have any modality of a feature set that is not `missing`, in any view."""
        return self._rows_with(name, missing).reshape(-1, self.views).any(axis=1)

    def _rows_with(self, name: str, missing: Collection[str]) -> np.ndarray:
        there = [self._present[m] for m in self.members(name) if m not in missing]
        return np.any(there, axis=0) if there else np.zeros(len(self) * self.views, dtype=bool)

    def _levelled(self, key: str | frozenset, rows: np.ndarray | Stacked, present: np.ndarray
                  ) -> np.ndarray | Stacked | WithinGroups:
        """Rows as they are, or standardised within groups; moments are taken once for each key."""
        if self.within and key not in self._standardised:
            self._standardised[key] = WithinGroups(rows, np.repeat(self.groups, self.views), present)
        return self._standardised[key] if self.within else rows

    def rows(self, name: str, missing: Collection[str] = ()) -> Rows:
        """A feature set, (N * V, D); a modality that is missing, or named so, counts as absent.

        Args:
            name: as `expand` gives it.
            missing: modalities.
        """
        if name == "global":
            gone = frozenset(missing)
            return Rows([self._levelled(gone, self._aggregated(gone), self._rows_with(name, missing))])
        parts = []
        for m in self.members(name):
            part = self._part(m)
            parts.append(np.broadcast_to(np.float32(0), part.shape) if m in missing else
                         self._levelled(m, part, self._present[m]))
        return Rows(parts)

    def _part(self, name: str) -> np.ndarray | Stacked:
        """The features of one modality; of several items in a sample, the mean of those present."""
        if name not in self._parts:
            lots = []
            for lot in self.lots:
                z = lot.latents[name]
                if z.ndim == 3:
                    z = pool_items(torch.from_numpy(np.array(z)), torch.from_numpy(lot.present[name]))[0].numpy()
                lots.append(z)
            self._parts[name] = lots[0] if len(lots) == 1 else Stacked(lots)
        return self._parts[name]

    def _aggregated(self, missing: frozenset[str]) -> np.ndarray:
        """The method's own embedding of all modalities but those missing."""
        if missing not in self._global:
            found = []
            with torch.no_grad():
                for lot in self.lots:
                    for start in range(0, len(lot) * self.views, STEP):
                        latents, present = block(lot, self.modalities, slice(start, start + STEP), self.subject.device)
                        for m in missing & set(self.modalities):
                            latents[m], present[m] = torch.zeros_like(latents[m]), torch.zeros_like(present[m])
                        z = self.subject.aggregate(latents, present)
                        there = torch.stack([p if p.ndim == 1 else p.any(dim=1) for p in present.values()]).any(dim=0)
                        found.append(pool_items(z, there)[0].cpu().numpy())
            self._global[missing] = np.concatenate(found)
        return self._global[missing]


def block(lot: Latents, names: Sequence[str], rows: slice, device: torch.device
          ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Some rows of latents and present as tensors on a device."""
    return ({m: torch.from_numpy(np.array(lot.latents[m][rows])).to(device) for m in names},
            {m: torch.from_numpy(np.array(lot.present[m][rows])).to(device) for m in names})


def _any_item(present: np.ndarray) -> np.ndarray:
    return present if present.ndim == 1 else present.any(axis=1)
