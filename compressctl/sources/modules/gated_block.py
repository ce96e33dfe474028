"""A residual block that is skipped where a small gate, which looks at its input, says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from compressctl.sources.modules.select import Select

_NOISE = 1e-6


class GatedBlock(nn.Module):
    """A block whose output has its input's shape, and the input itself where the gate is shut.

    features, axis: of the input's channels, 1 of maps (n, channels, ...), -1 of tokens (n, ..., channels). The gate reads their mean and gives a score, (n,): the block runs where it is
    above `threshold`. In training mode scores get logistic noise, and the gate is open or shut as in use, with the gradient of a sigmoid (Veit & Belongie 2018,
    Convolutional Networks with Adaptive Inference Graphs, section 3.2). `score`: of the last call, for what the loss says of costs.
    """

    def __init__(self, features: int, axis: int = 1, hidden: int = 16) -> None:
        super().__init__()
        self.axis = axis
        self.block: nn.Module = nn.Identity()
        self.gate = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, 1))
        self.select_by_input = Select()
        self.register_buffer("threshold", torch.zeros(()))
        self.threshold: Tensor

    @classmethod
    def around(cls, block: nn.Module, opens: float = 2.0, **arguments: Any) -> Self:
        """opens: the score of an untrained gate."""
        made = cls(**arguments)
        made.block = block
        last = made.gate[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight.mul_(0.1)
            last.bias.fill_(opens)
        made.train(block.training)
        return made

    def constructor_arguments(self) -> Mapping[str, Any]:
        first = self.gate[0]
        assert isinstance(first, nn.Linear)
        return {"features": first.in_features, "axis": self.axis, "hidden": first.out_features}

    def forward(self, x: Tensor, *others: Any, **named: Any) -> Tensor:
        score = self.score(x)
        made: Tensor = self.block(x, *others, **named)
        if not self.training:
            is_skipped = (score <= self.threshold).reshape(-1, *(1 for _ in x.shape[1:]))
            found: Tensor = self.select_by_input(is_skipped, x, made)
            return found
        opened = opened_by(score - self.threshold, noisy=True).reshape(-1, *(1 for _ in x.shape[1:]))
        return opened * made + (1 - opened) * x

    def score(self, x: Tensor) -> Tensor:
        """(n,)."""
        axis = self.axis % x.ndim
        positions = [place for place in range(1, x.ndim) if place != axis]
        found: Tensor = self.gate(x.mean(positions) if positions else x).squeeze(-1)
        return found


def opened_by(score: Tensor, *, noisy: bool = False) -> Tensor:
    """1 where a score is above 0 and 0 elsewhere, with the gradient of its sigmoid. noisy: with logistic noise on it."""
    if noisy:
        drawn = torch.rand_like(score).clamp(_NOISE, 1 - _NOISE)
        score = score + torch.log(drawn) - torch.log1p(-drawn)
    soft = score.sigmoid()
    return (score > 0).to(soft.dtype) + soft - soft.detach()
