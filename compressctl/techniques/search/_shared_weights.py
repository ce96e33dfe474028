"""Subnetworks that compute with the whole network's weights, so that what one learns all have."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from compressctl.techniques.search._space import Subnetwork
from compressctl.training.processes import norms_as_in

_KEPT = 64
"""Subnetworks whose places are remembered."""


class SharedWeights:
    """cut: makes a network of the subnetwork's structure out of one of the whole's, without looking at a weight. prefix: stands before the names of
    its weights then.

    Which of the whole network's weights a subnetwork has is read off a cut of a network that holds the places of its weights as numbers, so that
    whatever can be cut can be shared.
    """

    def __init__(
        self,
        network: nn.Module,
        cut: Callable[[nn.Module, Subnetwork], nn.Module],
        prefix: Callable[[Subnetwork], str],
    ) -> None:
        self._cut, self._places, self._prefix = cut, _placed(network), prefix
        self._known: OrderedDict[Subnetwork, tuple[nn.Module, dict[str, Tensor]]] = OrderedDict()

    def __call__(self, network: nn.Module, subnetwork: Subnetwork, inputs: tuple[Tensor, ...]) -> object:
        """The subnetwork's outputs, whose gradients flow to the network's weights. network: whole, of the structure that this was made with. In
        training mode norms use the batch's statistics, and leave the whole network's as they are."""
        skeleton, places = self._skeleton(subnetwork, inputs[0].device)
        skeleton.train(network.training)
        whole, prefix = _tensors(network), self._prefix(subnetwork)
        given = {
            name: whole[name.removeprefix(prefix)].reshape(-1)[place].reshape(place.shape)
            for name, place in places.items()
        }
        with norms_as_in(network, skeleton):
            return torch.func.functional_call(skeleton, given, inputs)

    def _skeleton(self, subnetwork: Subnetwork, device: torch.device) -> tuple[nn.Module, dict[str, Tensor]]:
        if subnetwork not in self._known:
            skeleton = self._cut(self._places, subnetwork)
            places = {name: values.detach().to(device, torch.int64) for name, values in _tensors(skeleton).items()}
            self._known[subnetwork] = skeleton.to(device), places
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        self._known.move_to_end(subnetwork)
        return self._known[subnetwork]


def _placed(network: nn.Module) -> nn.Module:
    """A copy whose floats are the places of its own weights. float64 holds each exactly."""
    placed = copy.deepcopy(network).double()
    with torch.no_grad():
        for values in _tensors(placed).values():
            values.copy_(torch.arange(values.numel(), dtype=torch.float64).reshape(values.shape))
    return placed


def _tensors(network: nn.Module) -> Mapping[str, Tensor]:
    """Every parameter and every buffer of floats, tied ones under each of their names."""
    everything = {
        **dict(network.named_parameters(remove_duplicate=False)),
        **dict(network.named_buffers(remove_duplicate=False)),
    }
    return {name: values for name, values in everything.items() if values.is_floating_point()}
