"""What techniques do to a network while it is trained."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Moment:
    """step: from 0, of `steps` optimizer steps in all. epoch: from 0."""

    step: int
    steps: int
    epoch: int


class Hook:
    """Does nothing; override what is needed. The network is the plain module, without any wrapper."""

    def before_step(self, network: nn.Module, moment: Moment) -> None:
        """After the backward pass, before the optimizer's step: gradients may be changed."""

    def after_step(self, network: nn.Module, moment: Moment) -> None:
        """Weights may be changed."""

    def after_epoch(self, network: nn.Module, moment: Moment) -> None:
        """Before the epoch is scored."""


class KeepZeros(Hook):
    """Holds the zeros that a parameter has when training starts."""

    def __init__(self, network: nn.Module, names: tuple[str, ...]) -> None:
        parameters = dict(network.named_parameters())
        self._masks: dict[str, Tensor] = {name: parameters[name].detach() != 0 for name in names if name in parameters}

    def after_step(self, network: nn.Module, moment: Moment) -> None:
        parameters = dict(network.named_parameters())
        with torch.no_grad():
            for name, mask in self._masks.items():
                parameters[name].mul_(mask)
