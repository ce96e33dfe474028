"""A moving average of a network's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """Exponential moving average of parameters and floating buffers; the first steps weigh more, so that the start fades.

    Source: Tarvainen and Valpola 2017 (mean teacher), section 3; the warm-up is TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._decay = decay
        self.tensors: dict[str, Tensor] = {name: value.detach().clone() for name, value in _floating(network).items()}

    def update(self, network: nn.Module, step: int) -> None:
        """step: from 0."""
        decay = min(self._decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, value in _floating(network).items():
                self.tensors[name].lerp_(value, 1 - decay)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        for name, value in tensors.items():
            self.tensors[name].copy_(value)

    def fill(self, network: nn.Module) -> None:
        """Make the average the network's weights."""
        _fill(network, self.tensors)

    @contextmanager
    def applied(self, network: nn.Module) -> Iterator[None]:
        """The network with the average as its weights; its own come back."""
        own = {name: value.detach().clone() for name, value in _floating(network).items()}
        self.fill(network)
        try:
            yield
        finally:
            _fill(network, own)


def _floating(network: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in network.state_dict().items() if value.is_floating_point()}


def _fill(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in _floating(network).items():
            value.copy_(tensors[name])
