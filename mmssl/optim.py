"""What steps the weights: parameter groups, limits on the gradient, learning-rate shapes, optimizers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from mmssl.errors import ConfigError, check_ranges
from mmssl.registry import nearest

Shape = Literal["half_cosine", "quarter_cosine", "constant"]

#: A parameter that has one of these in its own name or its module's is a position, a bias of attention or a token.
UNDECAYED = ("position", "pos_embed", "agg_token", "cls_token", "relative")
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)


@dataclass
class Optim:
    """How the weights are stepped.

    Args:
        name: "adam" and "adamw" differ in weight decay: adam adds it to the gradient, adamw shrinks the weights.
        lr: highest learning rate.
        final_lr: learning rate at the last step; without effect for the shape "constant".
        warmup: steps of linear rise from 0 to `lr`.
        shape: of the way from `lr` to `final_lr`: "half_cosine" is flat at both ends, "quarter_cosine" at the start
            only, "constant" stays at `lr`.
        weight_decay: not for biases, norms, positions and aggregation tokens.
        betas, eps: of adam and adamw.
        momentum: of sgd.
        clip: largest norm of the whole gradient; or one for each part of the model, by the beginning of its parameters'
            names, `{encoders: 0.75}`: each is limited alone, what none names is not. null: no limit. Of several
            devices it is the gradient of the whole batch that is limited.
        zero_nan: entries of the gradient that are not a number count as 0, as in VATT's released code; else they spoil
            all they meet, and the run shows it.

    Source: arXiv:2104.11178, §A.2.4 (adam, 1e-4 to 5e-5, quarter of a cosine); its released code has half a cosine.
    """

    name: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = 1e-4
    final_lr: float = 5e-5
    warmup: int = 0
    shape: Shape = "half_cosine"
    weight_decay: float = 0.0
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-7
    momentum: float = 0.9
    clip: float | dict[str, float] | None = None
    zero_nan: bool = False

    def __post_init__(self) -> None:
        check_ranges("optim", (
            ("lr", self.lr > 0, "a positive number", self.lr),
            ("final_lr", self.final_lr >= 0, "0 or more", self.final_lr),
            ("warmup", self.warmup >= 0, "0 or more steps", self.warmup),
            ("weight_decay", self.weight_decay >= 0, "0 or more", self.weight_decay),
            ("betas", len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas), "two numbers from 0 to below 1",
             self.betas),
            ("clip", all(limit > 0 for limit in self.limits().values()), "positive numbers or null", self.clip)))

    def limits(self) -> dict[str, float]:
        """The largest norm of each part of the gradient, by the beginning of its parameters' names; "" is all of it."""
        if self.clip is None:
            return {}
        return dict(self.clip) if isinstance(self.clip, Mapping) else {"": self.clip}


def learning_rate(step: int, total: int, lr: float, final_lr: float, warmup: int, shape: Shape) -> float:
    """The learning rate of a step.

    Args:
        step: from 0.
        total: steps of the whole run; from there on the rate stays at its last value.
        lr, final_lr, warmup, shape: see `Optim`.

    With p the share of the way from the end of the warm-up to `total`, what is left of lr - final_lr is
    (1 + cos(pi p)) / 2 for "half_cosine" and cos(pi p / 2) for "quarter_cosine".

    Source: the released code of arXiv:2104.11178 (half), and its §A.2.4 (quarter), which for lr 1e-4 and final_lr 5e-5
    is 1e-4 (1 + cos(pi p / 2)) / 2.
    """
    if step < warmup:
        return lr * step / warmup
    if shape == "constant":
        return lr
    share = min(1.0, (step - warmup) / max(1, total - warmup))
    left = (1 + math.cos(math.pi * share)) / 2 if shape == "half_cosine" else math.cos(math.pi * share / 2)
    return final_lr + (lr - final_lr) * left


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The trained parameters of a module, in one group with weight decay and one without; an empty group is left out.

    Without: all of at most one axis (gains, slopes, single tokens) or called `bias`, all of normalisation layers and of
    classes called something with "Position", and those whose name says position, relative or token. A module
    that lists further names of its parameters in `no_weight_decay` (a method, as in timm, or a set) is heeded. A
    parameter shared by several modules is taken once, and is without decay if it is so in any. No paper: ours.
    """
    exempt = {id(p) for path, part in module.named_modules() for name, p in part.named_parameters()
              if _undecayed(path, part, name, p)}
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [{"params": [p for p in trained if id(p) not in exempt], "weight_decay": weight_decay},
              {"params": [p for p in trained if id(p) in exempt], "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _undecayed(path: str, part: nn.Module, name: str, parameter: nn.Parameter) -> bool:
    """Whether `part`, which lies at `path` and holds a parameter it calls `name`, says that it must not decay."""
    listed = getattr(part, "no_weight_decay", ())
    if name in (listed() if callable(listed) else listed) or "Position" in type(part).__name__:
        return True
    own = f"{path}.{name}".split(".")[-2:] if "." not in name else ()  # its module's name and its own
    if parameter.ndim <= 1 or isinstance(part, NORMS) or name == "bias":
        return True
    return any(word in piece for piece in own for word in UNDECAYED)


def clip_parts(module: nn.Module, limits: Mapping[str, float]) -> list[tuple[list[nn.Parameter], float]]:
    """The trained parameters under each name of `limits`, and its limit; the longest name that fits takes a parameter.

    A name fits what is called so or lies below it ("encoders" fits "encoders.video.summary"); "" fits everything. A
    parameter that several modules share goes by its first name.

    Raises:
        ConfigError: a name that fits nothing.
    """
    if not limits:
        return []
    parts: dict[str, list[nn.Parameter]] = {name: [] for name in limits}
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    for name, parameter in trained.items():
        fitting = [part for part in parts if part == "" or f"{name}.".startswith(f"{part}.")]
        if fitting:
            parts[max(fitting, key=len)].append(parameter)
    if not all(parts.values()):
        known = {".".join(name.split(".")[:depth]) for name in trained for depth in (1, 2)}
        raise ConfigError([f"optim.clip.{part}: no trained parameter is called so{nearest(part, known)}"
                           for part, found in parts.items() if not found])
    return [(parts[part], limit) for part, limit in limits.items()]


def limit_gradients(module: nn.Module, optim: Optim) -> None:
    """What `optim` asks of the gradients of one step, in place: NaN to 0, then each part's norm below its limit.

    Source: the released code of arXiv:2104.11178 (NaN to 0; 0.75 for the backbone when fine-tuning).
    """
    if optim.zero_nan:
        for parameter in module.parameters():
            if parameter.grad is not None:
                torch.nan_to_num_(parameter.grad, nan=0.0, posinf=math.inf, neginf=-math.inf)
    for parameters, limit in clip_parts(module, optim.limits()):
        nn.utils.clip_grad_norm_(parameters, limit)


def build_optimizer(module: nn.Module, optim: Optim) -> torch.optim.Optimizer:
    """The optimizer that `optim` names, for the trained parameters of a module.

    Raises:
        ConfigError: the module has nothing to train, or `optim.clip` names a part that is not there.
    """
    clip_parts(module, optim.limits())
    groups = parameter_groups(module, optim.weight_decay)
    if not groups:
        raise ConfigError("optim: nothing to train; every parameter is frozen")
    if optim.name == "sgd":
        return torch.optim.SGD(groups, lr=optim.lr, momentum=optim.momentum)
    kind = torch.optim.AdamW if optim.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=optim.lr, betas=tuple(optim.betas), eps=optim.eps)


def build_scheduler(optimizer: torch.optim.Optimizer, optim: Optim, total: int) -> LambdaLR:
    """A scheduler, stepped once per optimizer step, that follows `learning_rate` over `total` steps."""
    def factor(step: int) -> float:
        return learning_rate(step, total, optim.lr, optim.final_lr, optim.warmup, optim.shape) / optim.lr
    return LambdaLR(optimizer, factor)
