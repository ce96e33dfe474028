"""A feed-forward layer in parts, of which each input gets those that its router chooses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "silu": functional.silu,
    "relu6": functional.relu6,
    "hardswish": functional.hardswish,
}


class Experts(nn.Module):
    """(..., features) to (..., outputs): up, activation, down, for `chosen` of the `experts` groups of hidden units with the highest scores.

    What an expert that is not chosen gives in the mean is part of the sum (`usual`, (experts, outputs)). Computed for all experts and masked, which gives gradients; exported with the weights of
    the chosen experts looked up, which computes nothing else.
    """

    def __init__(
        self, features: int, outputs: int, experts: int, chosen: int, size: int, activation: str = "relu"
    ) -> None:
        """size: hidden units of one expert."""
        super().__init__()
        self.experts, self.chosen, self.size, self.activation = experts, chosen, size, activation
        self.router = nn.Linear(features, experts)
        self.up = nn.Parameter(torch.zeros(experts, size, features))
        self.up_bias = nn.Parameter(torch.zeros(experts, size))
        self.down = nn.Parameter(torch.zeros(experts, outputs, size))
        self.down_bias = nn.Parameter(torch.zeros(outputs))
        self.usual = nn.Parameter(torch.zeros(experts, outputs))

    def constructor_arguments(self) -> Mapping[str, Any]:
        return {
            "features": self.up.shape[2],
            "outputs": self.down.shape[1],
            "experts": self.experts,
            "chosen": self.chosen,
            "size": self.size,
            "activation": self.activation,
        }

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        scores = self.router(rows)
        best = scores.topk(self.chosen, dim=-1).indices
        made = self._looked_up(rows, best) if torch.compiler.is_exporting() else self._masked(rows, best, scores)
        return made.reshape(*x.shape[:-1], made.shape[-1])

    def _looked_up(self, rows: Tensor, best: Tensor) -> Tensor:
        """rows: (r, features). best: (r, chosen). Every row's experts side by side are one layer."""
        act = ACTIVATIONS[self.activation]
        shape = self.up.shape
        which = best.reshape(-1)
        up = self.up.index_select(0, which).reshape(-1, self.chosen * self.size, shape[2])
        bias = self.up_bias.index_select(0, which).reshape(-1, self.chosen * self.size, 1)
        hidden = act(up @ rows.unsqueeze(-1) + bias).reshape(-1, self.size, 1)
        parts = (self.down.index_select(0, which) @ hidden).squeeze(-1) - self.usual.index_select(0, which)
        made: Tensor = parts.reshape(-1, self.chosen, parts.shape[-1]).sum(1) + (self.down_bias + self.usual.sum(0))
        return made

    def _masked(self, rows: Tensor, best: Tensor, scores: Tensor | None = None) -> Tensor:
        """scores: the router's, for gradients."""
        experts, size, features = self.up.shape
        hidden = functional.linear(rows, self.up.reshape(-1, features), self.up_bias.reshape(-1))
        hidden = ACTIVATIONS[self.activation](hidden).reshape(-1, experts, size)
        mask = torch.zeros(len(rows), experts, dtype=hidden.dtype, device=rows.device).scatter(1, best, 1.0)
        mask = mask if scores is None else mask + _slope(scores)
        kept = (hidden * mask.unsqueeze(-1)).reshape(len(rows), -1)
        whole = functional.linear(kept, self.down.permute(1, 0, 2).reshape(self.down.shape[1], -1), self.down_bias)
        return whole + (1 - mask) @ self.usual


def _slope(scores: Tensor) -> Tensor:
    """Zeros with the gradient of how likely each expert is, so that a router learns which experts make the loss smaller: a choice has none.

    Source: Bengio et al. 2013, Estimating or Propagating Gradients Through Stochastic Neurons, section 3.1, the straight-through estimator.
    """
    spread = scores.detach().std(-1, keepdim=True).clamp(min=1e-6)
    likely = torch.sigmoid((scores - scores.detach().mean(-1, keepdim=True)) / spread)
    return likely - likely.detach()
