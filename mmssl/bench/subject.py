"""What a suite measures: encoders with their modalities, whatever they come from; a trained run and its random twin."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmssl import build
from mmssl.bench.suite import Node
from mmssl.config import Recipe, full_dict
from mmssl.errors import ConfigError
from mmssl.evaluate import device_of, open_model
from mmssl.methods import Method
from mmssl.modalities import input_shape_of
from mmssl.nn.positions import stretch
from mmssl.optim import Optim
from mmssl.registry import MODALITIES, signature_of
from mmssl.rundir import RunDir


@dataclass
class Subject:
    """An encoder, or several, as a suite sees them.

    Args:
        name: what tables call it.
        origin: where it comes from: run directory and checkpoint, or what was typed.
        weights: "trained", "random weights", "hand-made", or the file they come from.
        encoders: by modality; called `encoder(x, rng)`.
        nodes: by modality, the node it is built from, where there is one.
        modalities: by modality, as the encoders were built for.
        recipe: of a run; its modalities' files are found from there.
        method: where there is one, gives `aggregate` and `project_latents`.
        facts: whatever else decides the features, as plain data.
        home: folder where its features are kept.
        baseline: whether it only stands beside others.
        batch, workers, device: how features are computed.
    """

    name: str
    origin: str
    weights: str
    encoders: dict[str, nn.Module]
    nodes: dict[str, Node]
    home: Path
    modalities: dict[str, Any] = field(default_factory=dict)
    recipe: Recipe | None = None
    method: Method | None = None
    facts: Node = field(default_factory=dict)
    baseline: bool = False
    batch: int = 32
    workers: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        self.digest = weights_digest(self.method or nn.ModuleDict(self.encoders))

    def parts(self, there: list[str], changes: Mapping[str, Node], through: Mapping[str, str]) -> dict[str, Any]:
        """Built modalities for the modalities of a data set that some encoder takes.

        Args:
            there: names in the data set.
            changes: settings by modality that differ from the subject's own.
            through: by modality of the data set, the one whose encoder takes it.

        Raises:
            ConfigError: a setting that the modality does not have.
        """
        built, nodes = {}, {}
        for name in there:
            encoder, change = through.get(name, name), dict(changes.get(name, {}))
            if encoder in self.nodes:
                node = {**self.nodes[encoder], **change}
                if "name" in change:  # another kind of modality: what it has no setting for does not carry over
                    takes = signature_of(MODALITIES.find(change["name"]))
                    node = {k: v for k, v in node.items() if k in takes or k in change}
                nodes[name] = node
            elif encoder in self.encoders and change:
                raise ConfigError(f"modalities.{name}: {self.name} brings its own '{encoder}', whose settings cannot "
                                  "be changed here")
            elif encoder in self.encoders:
                built[name] = self.modalities[encoder]
        if self.recipe is not None:
            return {**built, **build.modalities(dataclasses.replace(self.recipe, modalities=nodes))}
        return {**built, **{name: MODALITIES.build(node, f"modalities.{name}") for name, node in nodes.items()}}

    def embedder(self, parts: Mapping[str, Any], changes: Mapping[str, Node], through: Mapping[str, str]) -> Method:
        """A module whose `embed` gives the latents of what `parts` built; it shares the subject's weights."""
        encoders = {name: self._changed(through.get(name, name), part) if changes.get(name) else
                    self.encoders[through.get(name, name)] for name, part in parts.items()}
        return Method(parts, encoders, Optim()).to(self.device).eval()

    def _changed(self, name: str, part: Any) -> nn.Module:
        """The encoder of a modality whose settings have changed: the same weights, where samples are of another shape
        with its table of positions stretched. Raises ConfigError where any other weight does not fit."""
        if self.method is None:
            own = self.encoders[name]
            if input_shape_of(part) != input_shape_of(self.modalities[name]) and not getattr(own, "any_length", False):
                raise ConfigError(f"modalities.{name}: samples of {list(input_shape_of(part))}, but {self.name} was "
                                  f"built for {list(input_shape_of(self.modalities[name]))}; change inputs.{name}")
            return own
        model = build.method(self.recipe, {**self.modalities, name: part})
        trained, taken = self.method.state_dict(), {}
        for key, value in model.state_dict().items():
            fits = trained[key].shape == value.shape
            if not fits and not (".positions.tables." in key and trained[key].shape[1:] == value.shape[1:]):
                raise ConfigError(f"modalities.{name}: its encoder was trained on samples of "
                                  f"{list(input_shape_of(self.modalities[name]))} and cannot take "
                                  f"{list(input_shape_of(part))} ({key} does not fit)")
            taken[key] = trained[key] if fits else stretch(trained[key], len(value))
        model.load_state_dict(taken)
        return model.encoders[name]

    @property
    def aggregates(self) -> bool:
        """Whether it has an embedding of all modalities together."""
        return callable(getattr(self.method, "aggregate", None))

    def aggregate(self, latents: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """The method's own embedding (n, D) of all modalities; those that are not given are absent."""
        return self.method.aggregate(*self._complete(latents, present))

    def project(self, latents: Mapping[str, Tensor], present: Mapping[str, Tensor], pair: tuple[str, str]
                ) -> tuple[Tensor, Tensor, Tensor]:
        """Two modalities where the method compares them: (n, D), (n, D), (n,) bool; see Method.project_latents."""
        return self.method.project_latents(*self._complete(latents, present), pair)

    def pair(self, a: str, b: str) -> tuple[str, str] | None:
        """The name of the space in which the method compares two modalities, in either order; None: it has none."""
        known = self.method.pairs if self.method is not None else []
        return next((pair for pair in ((a, b), (b, a)) if pair in known), None)

    def _complete(self, latents: Mapping[str, Tensor], present: Mapping[str, Tensor]
                  ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        rows, device = len(next(iter(latents.values()))), next(iter(latents.values())).device
        empty = {name: torch.zeros(rows, self.encoders[name].dim, device=device) for name in self.encoders
                 if name not in latents}
        absent = {name: torch.zeros(rows, dtype=torch.bool, device=device) for name in empty}
        return {**latents, **empty}, {**present, **absent}


def run_subject(run_dir: str | Path, checkpoint: str = "last") -> Subject:
    """A trained run. Raises DataError where it cannot be loaded."""
    run = RunDir(Path(run_dir))
    recipe = run.load_recipe()
    model, parts = open_model(run, recipe, checkpoint)
    return _of_recipe(recipe, run, model, parts, "trained", f"{run.root}, {checkpoint}")


def random_twin(subject: Subject, run_dir: str | Path) -> Subject:
    """The same encoders with weights drawn anew (seed + 1), also where the run's began with those of a file."""
    run = RunDir(Path(run_dir))
    recipe = build.at_random(run.load_recipe())
    parts = build.modalities(recipe)
    model = build.method(recipe, parts).eval()
    twin = _of_recipe(recipe, run, model, parts, "random weights", f"{run.root}, random weights")
    twin.name, twin.baseline = f"{subject.name}, random weights", True
    return twin


def _of_recipe(recipe: Recipe, run: RunDir, model: Method, parts: dict[str, Any], weights: str, origin: str) -> Subject:
    tree = full_dict(recipe)
    facts = {key: tree.get(key) for key in ("encoders", "trunks", "plugins")}
    return Subject(recipe.name, origin, weights, dict(model.encoders), dict(recipe.modalities), run.root / "features",
                   modalities=parts, recipe=recipe, method=model, facts=facts, batch=recipe.data.batch_per_device,
                   workers=recipe.data.workers, device=device_of(recipe))


def weights_digest(module: nn.Module) -> str:
    """SHA-256 over names, types and values of all weights and buffers that a checkpoint would hold."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
                      if value.numel() else b"")
    return digest.hexdigest()
