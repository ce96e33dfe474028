"""Differentiable k-means: while it trains, each weight is a mean of entries by nearness.

Source: Cho et al. 2022, "DKM: Differentiable k-Means Clustering Layer for Neural Network Compression", section 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from compressctl.techniques.share._codebook_hooks import Layout, MovingMembership, codebook_of, reassigned
from compressctl.training.data import TensorBatch
from compressctl.training.hooks import StepInfo
from compressctl.training.objective import Objective

_ROUNDS = 3
"""Times that entries follow the weights in one step: they begin where the step before left them."""


class SoftMembership(MovingMembership):
    """Weights are settled at their nearest entries only when an epoch ends, so that what is scored is what is kept."""

    def after_step(self, network: nn.Module, moment: StepInfo) -> None:
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if name in self.layouts:
                    parameter.masked_fill_(self.layouts[name].held[self.layouts[name].index], 0)
        self._whole = {}

    def after_epoch(self, network: nn.Module, moment: StepInfo) -> None:
        MovingMembership.after_step(self, network, moment)


class Softened:
    """An objective of the network with soft weights; in eval mode of the network as it is. It can be called as one."""

    def __init__(self, objective: Objective, hook: SoftMembership, softness: float) -> None:
        self._objective = objective
        self._hook = hook
        self._softness = softness

    def __call__(self, network: nn.Module, batch: TensorBatch) -> Tensor:
        if not network.training:
            return self._objective(network, batch)
        parameters = dict(network.named_parameters())
        soft = {name: soften(layout, parameters[name], self._softness) for name, layout in self._hook.layouts.items()}
        return self._objective(_With(network, soft), batch)


class _With(nn.Module):
    """The network with other tensors in place of some parameters."""

    def __init__(self, network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        # In a tuple they stay what they are, instead of becoming parts of this module.
        self._held = (network, dict(tensors))

    def forward(self, *inputs: Any) -> Any:
        network, tensors = self._held
        return functional_call(network, tensors, inputs)


def soften(layout: Layout, weight: Tensor, softness: float) -> Tensor:
    """The weight with each value a mean of its book's entries, of which gradients flow to all weights.

    softness: the distance that makes an entry 1/e as heavy, as a share of the weights' deviation. Held weights stay.
    """
    target = weight if layout.scale is None else weight / layout.scale
    size = layout.book_size
    books = codebook_of(reassigned(layout, weight), weight).reshape(-1, size)
    own = torch.div(layout.index, size, rounding_mode="floor").reshape(-1)
    free = ~layout.held.reshape(-1, size)
    moving = ~layout.held[layout.index].reshape(-1)
    flat, owner = target.reshape(-1)[moving], own[moving]
    reach = softness * flat.detach().std().clamp(min=1e-12)
    for _ in range(_ROUNDS):
        near = (-(flat[:, None] - books[owner]).abs() / reach).masked_fill(~free[owner], -torch.inf)
        attention = near.softmax(dim=1)
        weightier = torch.zeros_like(books).index_add(0, owner, attention)
        moment = torch.zeros_like(books).index_add(0, owner, attention * flat[:, None])
        books = torch.where(weightier > 1e-6, moment / weightier.clamp(min=1e-6), books)
    mixed = torch.zeros_like(target.reshape(-1)).masked_scatter(moving, (attention * books[owner]).sum(dim=1))
    values = mixed.reshape(weight.shape)
    return values if layout.scale is None else values * layout.scale
