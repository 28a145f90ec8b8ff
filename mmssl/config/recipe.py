"""The sections of a recipe. Closed sections are dataclasses; open nodes are `{name: part, setting: value}`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mmssl.errors import ConfigError, check_ranges
from mmssl.methods import Finetune
from mmssl.optim import Optim

Node = dict[str, Any]


@dataclass
class Data:
    """Which samples, in which portions.

    Args:
        root: folder of a data set, or `demo:clips`, `demo:signals`.
        train, val, test: names of the splits in its manifest.
        split: which groups (subjects) are in them, as lists, `{test: [S2, S3], val: [S4]}`, or as folds,
            `{folds: 5, fold: 2, val: 1}`; see `mmssl.data.folds.SplitRule`. Where the data set was packed with folds,
            `{fold: 3}` is enough. null: as the data set's manifest says.
        batch_per_device: samples that one device takes at once.
        batch: samples per optimiser step over all devices; null: batch_per_device times the number of devices. A larger
            multiple is reached by accumulating gradients; negatives and batch statistics then come from each portion.
        workers: decoding threads; 0 decodes in the training thread. The numbers of a run do not depend on it.
        cache_mib: memory for decoded samples, in MiB; what does not fit is decoded anew in each epoch.
        bad_samples: share of the split that may be unreadable before a run stops.
        obtain: what to tell whoever does not have `root`: where the data come from, and the command that packs them.
    """

    root: str = "demo:clips"
    train: str = "train"
    val: str = "val"
    test: str = "test"
    split: dict[str, Any] | None = None
    batch_per_device: int = 32
    batch: int | None = None
    workers: int = 1
    cache_mib: int = 512
    bad_samples: float = 0.01
    obtain: str = ""

    def __post_init__(self) -> None:
        check_ranges("data", (
            ("batch_per_device", self.batch_per_device >= 1, "at least 1", self.batch_per_device),
            ("batch", self.batch is None or self.batch >= 1, "at least 1, or null", self.batch),
            ("workers", self.workers >= 0, "0 or more threads", self.workers),
            ("cache_mib", self.cache_mib >= 0, "0 or more MiB", self.cache_mib),
            ("bad_samples", 0 <= self.bad_samples <= 1, "a share from 0 to 1", self.bad_samples)))


@dataclass
class Training:
    """How long, on what, and how often something is written. All counts are optimiser steps.

    Args:
        max_steps: length of the run.
        accelerator, devices, nodes, precision: as Lightning's Trainer takes them.
        log_every, val_every, checkpoint_every: steps between lines of metrics, validations, and saves.
        pictures_every: validations between two looks at the embeddings in TensorBoard; 0: none.
        monitor: validation metric whose best value marks `best.ckpt`; null: none is kept.
        mode: whether a larger or a smaller value of `monitor` is better.
        patience: validations in a row that may pass without a better `monitor` before the run ends; null: it never
            ends early.
        compile: compile each block of the trunks (needs a C++ compiler on the CPU; without one it runs eagerly).
    """

    max_steps: int = 1000
    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    log_every: int = 20
    val_every: int = 200
    checkpoint_every: int = 200
    pictures_every: int = 5
    monitor: str | None = None
    mode: Literal["max", "min"] = "max"
    patience: int | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        counts = ("max_steps", "devices", "nodes", "log_every", "val_every", "checkpoint_every")
        check_ranges("trainer", (
            *((key, getattr(self, key) >= 1, "a positive number", getattr(self, key)) for key in counts),
            ("pictures_every", self.pictures_every >= 0, "0 or more validations", self.pictures_every)))
        if self.patience is not None and (self.patience < 1 or self.monitor is None):
            raise ConfigError("trainer.patience: expected at least 1 and, in trainer.monitor, the validation metric to "
                              f"be patient with; got {self.patience} and {self.monitor}")


@dataclass
class Probe:
    """The linear probe that `mmssl probe` fits on frozen features, and `fit` at its end.

    Args:
        labels: names of labels in the manifest; empty: no probe.
        features: modalities whose features are probed; "all" is their concatenation, "global" CroSSL's aggregate.
        train: splits on which the classifier is fitted.
        fractions: shares of the labels it may see.
        seeds: draws of each share.
        devices: modalities by device, which go missing together (`mmssl probe --missing all`); {}: each is a device.
    """

    labels: list[str] = field(default_factory=list)
    features: list[str] = field(default_factory=lambda: ["all"])
    train: list[str] = field(default_factory=lambda: ["train"])
    fractions: list[float] = field(default_factory=lambda: [1.0])
    seeds: int = 3
    devices: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_ranges("probe", (
            ("fractions", bool(self.fractions) and all(0 < f <= 1 for f in self.fractions),
             "shares above 0, up to 1", self.fractions),
            ("seeds", self.seeds >= 1, "at least 1", self.seeds)))


@dataclass
class Online:
    """Probes on labelled samples that watch a run while it trains, and change nothing of it; see `OnlineProbes`.

    Args:
        labels: names of labels of the labelled data set; empty: nothing is watched.
        features: as of `probe`: modalities, "all", "global".
        root: data set of the labelled samples, with the run's modalities; null: the run's own, split as the run's is.
        train, val: its splits to learn from and to test on; null: those that the run trains and validates on.
        batch: labelled samples that one device takes at once; null: data.batch_per_device.
        every: optimiser steps between two labelled batches.
        lr: learning rate of the linear probe's own optimiser.
        k: neighbours that vote.
        rows: samples among which they are sought, and samples that are tested, at most; evenly taken from the splits.
    """

    labels: list[str] = field(default_factory=list)
    features: list[str] = field(default_factory=lambda: ["all"])
    root: str | None = None
    train: str | None = None
    val: str | None = None
    batch: int | None = None
    every: int = 5
    lr: float = 0.01
    k: int = 20
    rows: int = 1024

    def __post_init__(self) -> None:
        check_ranges("online", (
            ("batch", self.batch is None or self.batch >= 2, "at least 2, or null", self.batch),
            ("every", self.every >= 1, "a positive number of steps", self.every),
            ("lr", self.lr > 0, "a positive number", self.lr),
            ("k", self.k >= 1, "at least 1", self.k),
            ("rows", self.rows >= 2, "at least 2", self.rows)))


@dataclass
class Recipe:
    """A whole run. Change one with `dataclasses.replace(recipe, seed=1)`.

    Args:
        name: what the run is called.
        method: node in the registry of methods.
        modalities: nodes by the name that shards use; a node without `name` is the part called like its key.
        encoders: nodes by modality; a bare word is the name of a trunk: `imu: shared`.
        trunks: nodes by name; encoders that name the same trunk share its weights.
        head, aggregator, mask, loss: nodes, for the methods that ask for one.
        pairs: by `a-b`, the loss between two modalities: a node of a loss plus `weight`. A modality in no pair is
            contrasted with `video`, or with the first modality.
        source: whose values fill in what the recipe does not say of its method's choices, when it is loaded: paper,
            code or suggested of VATT (docs/vatt.md), reference or recommended of CroSSL (docs/crossl.md); null: the
            defaults of the parts.
        plugins: files (relative to the recipe or to the working directory) or modules that add parts. They run code.
        data, optim, trainer, probe, online: closed sections.
        finetune: closed section too, for the method `classifier` alone.
        seed: of everything that is drawn.
        folder: where the recipe file lies; relative paths in it start there. Not written.
        interpolations: raw text of values like `${oc.env:DATA}` by dotted place, so that they are written back raw.
    """

    name: str
    method: Node
    modalities: dict[str, Node]
    encoders: dict[str, Node]
    trunks: dict[str, Node] = field(default_factory=dict)
    head: Node | None = None
    aggregator: Node | None = None
    mask: Node | None = None
    loss: Node | None = None
    pairs: dict[str, Node] = field(default_factory=dict)
    source: str | None = None
    plugins: list[str] = field(default_factory=list)
    data: Data = field(default_factory=Data)
    optim: Optim = field(default_factory=Optim)
    trainer: Training = field(default_factory=Training)
    probe: Probe = field(default_factory=Probe)
    online: Online = field(default_factory=Online)
    finetune: Finetune | None = None
    seed: int = 0
    folder: str = "."
    interpolations: dict[str, tuple[str, Any]] = field(default_factory=dict)


def world(recipe: Recipe) -> int:
    """Number of processes that train together."""
    return recipe.trainer.devices * recipe.trainer.nodes


#: Closed sections, and the class of each.
SECTIONS: Mapping[str, type] = {"data": Data, "optim": Optim, "trainer": Training, "probe": Probe, "online": Online,
                                "finetune": Finetune}
#: Of these, the ones that a recipe has only where it says so.
OPTIONAL = ("finetune",)
#: Fields of a recipe that no file may set.
INTERNAL = ("folder", "interpolations")


def node_of(section: str, key: str, value: Any) -> Any:
    """An entry of `modalities` or `encoders` with its short forms written out; anything else as it is.

    `{rate: 50}` under `modalities.imu` is the modality "imu"; `shared` under `encoders.imu` is the encoder "tokens" on
    the trunk "shared", and an encoder node that names a trunk but no part is "tokens" too.
    """
    if section == "encoders":
        if isinstance(value, str):
            return {"name": "tokens", "trunk": value}
        if isinstance(value, Mapping) and "name" not in value and "trunk" in value:
            return {"name": "tokens", **value}
    if section == "modalities" and (value is None or (isinstance(value, Mapping) and "name" not in value)):
        return {"name": key, **(value or {})}
    if isinstance(value, str):
        return {"name": value}
    return value
