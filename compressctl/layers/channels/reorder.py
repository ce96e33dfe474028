"""Channels in another order: the same function, so that a narrower network is the first channels of a wider one."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from compressctl.layers.channels.dependency_groups import Axis, Group
from compressctl.layers.channels.surgery import channels, is_depthwise

Place = tuple[str, Axis, int]
"""Name, axis and dimension, as in `Member`."""


def reordered(network: nn.Module, groups: Sequence[Group], orders: Mapping[str, np.ndarray]) -> nn.Module:
    """A copy in which unit i of a group is what unit orders[name][i] was. Groups that orders does not name stay.

    Raises ValueError for a group whose units are not of one size: they have no other order.
    """
    moved = copy.deepcopy(network)
    with torch.no_grad():
        for group in groups:
            for place, positions in _positions(group).items() if group.name in orders else ():
                _reorder(moved, place, positions, positions[orders[group.name]])
    return moved


def _positions(group: Group) -> dict[Place, np.ndarray]:
    """(units, channels of a unit) along the axis of each of the group's members, ascending in a unit."""
    gathered: dict[Place, set[tuple[int, int]]] = {}
    for member in group.members:
        place = member.name, member.axis, member.dim
        gathered.setdefault(place, set()).update(zip(member.units.tolist(), member.channels.tolist(), strict=True))
    found = {}
    for place, pairs in gathered.items():
        units = np.bincount([unit for unit, _ in pairs], minlength=group.units)
        if units.min() != units.max():
            raise ValueError(f"the units of {group.name} are not of one size in {place[0]}")
        found[place] = np.array([channel for _, channel in sorted(pairs)]).reshape(group.units, -1)
    return found


def _reorder(network: nn.Module, place: Place, to: np.ndarray, source: np.ndarray) -> None:
    """What was at `source` comes to stand at `to`, along an axis."""
    name, axis, dim = place
    if axis == "values":
        owner, _, attribute = name.rpartition(".")
        values = getattr(network.get_submodule(owner), attribute)
        _move(values, dim, _index(values.shape[dim], to, source))
        return
    module = network.get_submodule(name)
    if isinstance(module, nn.PReLU) and module.num_parameters == 1:
        return
    index = _index(channels(module, axis), to, source)
    if isinstance(module, nn.modules.conv._ConvNd):
        _reorder_convolution(module, axis, index)
    elif isinstance(module, nn.Linear):
        _move(module.weight, 0 if axis == "out" else 1, index)
        _move(module.bias if axis == "out" else None, 0, index)
    elif isinstance(module, nn.Embedding):
        _move(module.weight, 1, index)
    else:
        for attribute in ("weight", "bias", "running_mean", "running_var"):
            _move(getattr(module, attribute, None), -1, index)


def _reorder_convolution(module: nn.modules.conv._ConvNd, axis: Axis, index: np.ndarray) -> None:
    if axis == "out" or is_depthwise(module):
        _move(module.weight, 1 if module.transposed and not is_depthwise(module) else 0, index)
        _move(module.bias, 0, index)
        return
    # Each group reads its own share, and units hold the same places of every share.
    _move(module.weight, 0 if module.transposed else 1, index[: module.in_channels // module.groups])


def _index(size: int, to: np.ndarray, source: np.ndarray) -> np.ndarray:
    index = np.arange(size)
    index[to.reshape(-1)] = source.reshape(-1)
    return index


def _move(values: Tensor | None, dim: int, index: np.ndarray) -> None:
    if values is not None:
        values.copy_(values.index_select(dim, torch.as_tensor(index, device=values.device)))
