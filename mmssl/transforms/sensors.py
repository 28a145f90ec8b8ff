"""Windows of sensors, varied for training: a whole batch at once on the device it is on, each row by its own draw."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from mmssl.rng import Rng


def turned(x: Float[Tensor, "B 3 T"], degrees: float, rng: Rng) -> Float[Tensor, "B 3 T"]:
    """The three axes turned, as if the sensor were worn askew.

    Each row about an axis drawn evenly from the sphere, by `degrees` times a standard normal number. No paper: ours.
    """
    draws = rng.normal(4, len(x)).to(x)
    return rotations(draws[:, :3], draws[:, 3] * math.radians(degrees)) @ x


def rotations(axes: Float[Tensor, "B 3"], angles: Float[Tensor, "B"]) -> Float[Tensor, "B 3 3"]:
    """Matrices of turns about axes of any length but zero, in radians. Source: Rodrigues' formula."""
    x, y, z = torch.nn.functional.normalize(axes, dim=1).T
    none = torch.zeros_like(x)
    cross = torch.stack([none, -z, y, z, none, -x, -y, x, none], dim=1).reshape(-1, 3, 3)
    sine, rest = angles.sin()[:, None, None], (1 - angles.cos())[:, None, None]
    return torch.eye(3, dtype=x.dtype, device=x.device) + sine * cross + rest * (cross @ cross)


def scaled(x: Float[Tensor, "B C T"], spread: float, rng: Rng) -> Float[Tensor, "B C T"]:
    """Each channel times 1 + `spread` x a standard normal number, one for the window. No paper: ours."""
    return x * (1 + spread * rng.normal(x.shape[1], len(x)).to(x))[..., None]


def noisy(x: Float[Tensor, "B C T"], spread: float, rng: Rng) -> Float[Tensor, "B C T"]:
    """Gaussian noise of this standard deviation added. No paper: ours."""
    return x + spread * rng.normal(x[0].numel(), len(x)).reshape(x.shape).to(x)
