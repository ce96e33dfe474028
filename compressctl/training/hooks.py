"""What techniques do to a network while it is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@dataclass(frozen=True)
class StepInfo:
    """step: from 0, of `steps` optimizer steps in all. epoch: from 0."""

    step: int
    steps: int
    epoch: int


class Hook:
    """Does nothing; override what is needed. The network is the plain module, without any wrapper.

    Whatever a hook remembers from one step to the next goes into `state`, or a resumed training differs.
    """

    def before_epoch(self, network: nn.Module, moment: StepInfo) -> None:
        """The network was just put into training mode, at the start of an epoch or where a resumed one goes on."""

    def before_step(self, network: nn.Module, moment: StepInfo) -> None:
        """After the backward pass, before the optimizer's step: gradients may be changed."""

    def after_step(self, network: nn.Module, moment: StepInfo) -> None:
        """Weights may be changed."""

    def after_epoch(self, network: nn.Module, moment: StepInfo) -> None:
        """Before the epoch is scored."""

    def hold(self, network: nn.Module) -> None:
        """Impose on other weights what this hook imposes: on a moving average, before it is scored and kept."""

    def is_done(self, moment: StepInfo) -> bool:
        """Whether the network is what the stage shall give: False keeps an epoch from being chosen as the best one.

        A schedule that still removes weights says False until it has removed all. moment.step is -1 before training.
        """
        return True

    def state(self) -> Mapping[str, Tensor]:
        """What a checkpoint must hold."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave; called once, before the first step of a resumed training."""


class FreezeNorms(Hook):
    """BatchNorm's running means and variances as they are from an epoch on, and used as they are: what an exported file does.

    Source: Krishnamoorthi 2018, Quantizing deep convolutional networks for efficient inference, section 3.2.1.
    """

    def __init__(self, from_epoch: float) -> None:
        self._from_epoch = from_epoch

    def before_epoch(self, network: nn.Module, moment: StepInfo) -> None:
        if moment.epoch >= self._from_epoch:
            for module in network.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()


class SparsityMask(Hook):
    """Holds the zeros that a parameter has when training starts."""

    def __init__(self, network: nn.Module, names: tuple[str, ...]) -> None:
        parameters = dict(network.named_parameters())
        self._masks: dict[str, Tensor] = {name: parameters[name].detach() != 0 for name in names if name in parameters}

    def after_step(self, network: nn.Module, moment: StepInfo) -> None:
        self.hold(network)

    def hold(self, network: nn.Module) -> None:
        parameters = dict(network.named_parameters())
        with torch.no_grad():
            for name, mask in self._masks.items():
                # A negative weight leaves -0.0, which is other bits than 0.0: adding 0 makes one zero of both.
                parameters[name].mul_(mask).add_(0.0)
