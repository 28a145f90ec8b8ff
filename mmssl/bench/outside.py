"""Encoders from elsewhere as subjects of a suite: timm, torchaudio, anybody's module, and statistics made by hand."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from mmssl.bench.subject import Subject
from mmssl.bench.suite import Suite
from mmssl.data.demo.cache import cache_folder
from mmssl.errors import ConfigError
from mmssl.modalities import Series
from mmssl.registry import ENCODERS, MODALITIES
from mmssl.rng import Rng

#: Libraries whose models `--encoder` names, as they are called there.
LIBRARIES = ("timm", "torchaudio")


def outside_subject(name: str, suite: Suite) -> Subject:
    """An encoder of another library, or anybody's.

    Args:
        name: `timm:MODEL`, `torchaudio:MODEL`; or `module:function`, `file.py:function`, a function without arguments
            that gives, by modality, a pair (mmssl modality, module that maps its samples to (B, D)). It runs code.
        suite: its `inputs` are what a library's encoder is fed with, its `encoder` are settings of it.

    Raises:
        ConfigError: no such encoder, or none of the suite's inputs suits it.
    """
    library, _, model = name.partition(":")
    home, device = cache_folder() / "features", torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not model:
        raise ConfigError(f"--encoder {name}: expected LIBRARY:MODEL, e.g. timm:resnet18 or torchaudio:wav2vec2_base, "
                          "or module:function")
    if library not in LIBRARIES:
        return _own_subject(name, home, device)
    node = {"name": library, "model": model, **suite.encoder}
    encoders, modalities, reasons = {}, {}, []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(Rng(("bench", name)).key)
        for key, inputs in suite.inputs.items():
            try:
                modality = MODALITIES.build(inputs, f"inputs.{key}")
                encoders[key] = ENCODERS.build(node, "encoder", modality=modality).eval()
                modalities[key] = modality
            except ConfigError as error:
                reasons += error.problems
    if not encoders:
        raise ConfigError([f"--encoder {name}: {reason}" for reason in dict.fromkeys(reasons)]
                          or f"--encoder {name}: the suite '{suite.name}' has no `inputs` to feed it with")
    weights = str(suite.encoder.get("weights") or ("its library's" if suite.encoder.get("pretrained") else
                                                   "random weights"))
    return Subject(name, name, weights, encoders, {k: suite.inputs[k] for k in encoders}, home, modalities=modalities,
                   facts={"encoder": node}, device=device)


def _own_subject(name: str, home: Path, device: torch.device) -> Subject:
    """What somebody's function makes. Its code decides the features as much as its weights do, so that counts too."""
    built, code = call_factory(name)
    modules = {m: _Plain(module) for m, (_, module) in built.items()}
    weights = "its own" if any(module.state_dict() for module in modules.values()) else "none"
    return Subject(name.rpartition(":")[2], name, weights, modules, {}, home,
                   modalities={m: modality for m, (modality, _) in built.items()},
                   facts={"modalities": {m: described(modality) for m, (modality, _) in built.items()},
                          "function": name.rpartition(":")[2], "code": code}, device=device)


def hand_made(subject: Subject) -> Subject | None:
    """Simple statistics of each series the subject reads; None where it reads none."""
    nodes = {name: node for name, node in subject.nodes.items() if MODALITIES.find(node["name"]) is Series}
    if not nodes:
        return None
    encoders = {name: HandMade(node["channels"]) for name, node in nodes.items()}
    return Subject("hand-made features", "mean, deviation, least, greatest, mean change, correlations", "hand-made",
                   encoders, nodes, cache_folder() / "features", recipe=subject.recipe,
                   modalities={name: subject.modalities[name] for name in nodes}, facts={"hand-made": 1}, baseline=True,
                   batch=subject.batch, workers=subject.workers)


class HandMade(nn.Module):
    """Of each channel mean, standard deviation, least, greatest and mean absolute change; and their correlations.

    No paper: ours.

    Args:
        channels: C.
    """

    any_length = True  # of a series

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dim = 5 * channels + channels * (channels - 1) // 2

    def forward(self, x: Tensor, rng: Rng | None = None) -> Tensor:
        """(B, C, T) to (B, 5 C + C (C - 1) / 2)."""
        change = x.diff(dim=2).abs().mean(dim=2)
        away = x - x.mean(dim=2, keepdim=True)
        unit = away / away.norm(dim=2, keepdim=True).clamp(min=1e-12)
        row, column = torch.triu_indices(x.shape[1], x.shape[1], 1)
        return torch.cat([x.mean(2), x.std(2), x.amin(2), x.amax(2), change, (unit @ unit.mT)[:, row, column]], dim=1)


class _Plain(nn.Module):
    """Somebody's module, called as encoders are."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module.eval()

    def forward(self, x: Tensor, rng: Rng | None = None) -> Tensor:
        return self.module(x)


def call_factory(name: str) -> tuple[dict[str, tuple[Any, nn.Module]], str]:
    """What `module:function` or `file.py:function` gives, and the SHA-256 of the file that the function stands in.

    Raises:
        ConfigError: there is no such function, or it gives something else than a subject needs.
    """
    source, _, function = name.rpartition(":")
    try:
        module = _loaded(source)
        code = hashlib.sha256(Path(module.__file__).read_bytes()).hexdigest()
        with torch.random.fork_rng(devices=[]):  # the same random weights each time
            torch.manual_seed(Rng(("bench", function)).key)
            built = getattr(module, function)()
    except Exception as error:  # whatever somebody's code does wrong is theirs to see, in one line
        raise ConfigError(f"--encoder {name}: {type(error).__name__}: {error}; expected timm:MODEL, torchaudio:MODEL, "
                          "or the module or file and the function that makes the encoder") from error
    good = isinstance(built, Mapping) and built and all(
        isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[1], nn.Module) for pair in built.values())
    if not good:
        raise ConfigError(f"--encoder {name}: expected {{modality: (mmssl modality, torch module)}}, got "
                          f"{type(built).__name__}")
    return dict(built), code


def _loaded(source: str) -> ModuleType:
    """A module by its name, or a file's; like any module it can be found by name while its code runs."""
    if not source.endswith(".py"):
        module = importlib.import_module(source)
        if module.__file__ is None:
            raise ImportError(f"'{source}' is a folder, not a module")
        return module
    spec = importlib.util.spec_from_file_location(f"mmssl_bench_{Path(source).stem}", source)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def described(modality: Any) -> str:
    """A built modality's settings as text, for telling two apart."""
    plain = {k: v for k, v in sorted(vars(modality).items()) if isinstance(v, bool | int | float | str | list | tuple)}
    return f"{type(modality).__qualname__} {json.dumps(plain, default=str)}"
