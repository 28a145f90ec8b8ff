"""A linear classifier that follows features while they change."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

#: Share of the newest batch in the running mean and variance, once there have been more than its inverse.
NEWEST = 0.1


class OnlineLinear(nn.Module):
    """Logistic regression on standardised features, one step of Adam for each labelled batch. No paper: ours.

    A softmax over the classes; of several classes per sample, a sigmoid each. It begins with zeros, so that nothing is
    drawn. Features are standardised by their batch while it learns and by running moments when it is asked, which at
    first are the plain mean over all batches. Its optimiser is part of its `state_dict`. It computes in float32.

    Args:
        width: D.
        classes: C.
        several: whether a sample may have any number of classes.
        lr: learning rate.
        device: where to.
    """

    def __init__(self, width: int, classes: int, several: bool = False, lr: float = 0.01,
                 device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.several, self.batches = several, 0
        self.norm = nn.BatchNorm1d(width, affine=False, device=device, dtype=torch.float32)
        self.weight = nn.Parameter(torch.zeros(classes, width, device=device, dtype=torch.float32))
        self.bias = nn.Parameter(torch.zeros(classes, device=device, dtype=torch.float32))
        self.optimizer = torch.optim.Adam([self.weight, self.bias], lr=lr)

    def forward(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N C"]:
        """Scores of every class; larger is more likely."""
        return F.linear(self.norm(x.float()), self.weight, self.bias)

    def learn(self, x: Float[Tensor, "N D"], y: Int[Tensor, "N *C"]) -> None:
        """One step on N labelled samples. Fewer than two, which cannot be standardised, are left out.

        Args:
            x: features; no gradient flows into them.
            y: class numbers; with `several`, (N, C) of 0 and 1.
        """
        if len(x) < 2:
            return
        self.batches += 1
        self.norm.momentum = max(NEWEST, 1 / self.batches)
        self.train()
        with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
            said = self(x.detach())
            loss = F.binary_cross_entropy_with_logits(said, y.float()) if self.several else F.cross_entropy(said, y)
            self.optimizer.zero_grad()
            loss.backward()
        self.optimizer.step()

    @torch.no_grad()
    def outputs(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N C"]:
        """Probabilities of every class; they sum to 1 where a sample has one."""
        said = self.eval()(x)
        return said.sigmoid() if self.several else said.softmax(dim=1)

    def get_extra_state(self) -> dict[str, Any]:
        """Torch's hook: what `state_dict` holds beside weights and moments."""
        return {"batches": self.batches, "optimizer": self.optimizer.state_dict()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Torch's hook: the inverse of `get_extra_state`."""
        self.batches = state["batches"]
        self.optimizer.load_state_dict(state["optimizer"])
