"""Removing channels from layers: smaller weights in a copy of the network, nothing masked, nothing wrapped."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compressctl.layers.channels.dependency_groups import Axis, Group, Member
from compressctl.layers.channels.recurrent import set_widths
from compressctl.layers.channels.weights import member_weights, over_channels, per_channel

Removal = Mapping[tuple[str, Axis, int], np.ndarray]
"""Sorted positions that go, by (name, axis, dim) as in `Member`."""


def removal(groups: Sequence[Group], units: Mapping[str, np.ndarray]) -> Removal:
    """What goes when these units go. units: by the group's name."""
    gathered: dict[tuple[str, Axis, int], list[np.ndarray]] = {}
    for group in groups:
        for member in (*group.members, *group.splits) if len(units.get(group.name, ())) else ():
            gathered.setdefault((member.name, member.axis, member.dim), []).append(member.removed(units[group.name]))
    found = {key: np.unique(np.concatenate(parts)) for key, parts in gathered.items()}
    return {key: positions for key, positions in found.items() if len(positions)}


def cut(network: nn.Module, gone: Removal) -> nn.Module:
    """A copy without those channels, a plain module of the same class. Raises ValueError where a layer cannot be cut so."""
    smaller = copy.deepcopy(network)
    for (name, axis, dim), positions in gone.items():
        if axis == "sizes":
            continue
        if axis == "values":
            owner, _, attribute = name.rpartition(".")
            _narrow(smaller.get_submodule(owner), attribute, dim, positions)
        else:
            _cut_layer(smaller.get_submodule(name), axis, positions)
    set_widths(smaller.modules())
    _shrink_sizes(smaller, gone)
    return smaller


def _shrink_sizes(network: nn.Module, gone: Removal) -> None:
    """Sizes of parts in the network's attributes. Raises ValueError where one number is the size of parts that differ now."""
    for (name, axis, dim), positions in gone.items():
        if axis != "sizes":
            continue
        owner, _, attribute = name.rpartition(".")
        module = network.get_submodule(owner)
        held = getattr(module, attribute)
        if isinstance(held, int):
            setattr(module, attribute, held - len(positions))
        else:
            sizes = [size - len(positions) if place == dim else size for place, size in enumerate(held)]
            setattr(module, attribute, type(held)(sizes))


def mask(network: nn.Module, gone: Removal) -> nn.Module:
    """A copy that computes what `cut` computes, by zeros instead: the reference that a cut is compared with."""
    masked = copy.deepcopy(network)
    with torch.no_grad():
        for (name, axis, dim), positions in gone.items():
            if axis == "sizes":
                continue
            member = Member(name, axis, positions, positions, dim)
            module, parameters = member_weights(masked, member)
            if isinstance(module, (nn.LayerNorm, nn.GroupNorm)):
                _mask_statistics(module, torch.as_tensor(positions))
                continue
            for _, value in parameters:
                going = torch.zeros(len(per_channel(value, module, member)), dtype=value.dtype, device=value.device)
                going[positions] = 1.0
                value.masked_fill_(over_channels(going, value, module, member) > 0, 0.0)
    return masked


def is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.conv._ConvNd) and module.groups == module.out_channels > 1


def channels(module: nn.Module, axis: Axis) -> int:
    """Width of a layer along an axis."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return module.out_channels if axis == "out" else module.in_channels
    if isinstance(module, nn.Linear):
        return module.out_features if axis == "out" else module.in_features
    if isinstance(module, nn.LayerNorm):
        return int(module.normalized_shape[-1])
    if isinstance(module, nn.Embedding):
        return module.embedding_dim
    for attribute in ("num_features", "num_channels", "num_parameters"):
        if isinstance(getattr(module, attribute, None), int):
            return int(getattr(module, attribute))
    raise ValueError(f"{type(module).__name__} has no channels that can be removed")


def size_after(module: nn.Module, gone_out: int, gone_in: int) -> int:
    """Elements of a convolution's or linear layer's weight after so many of its outputs and inputs are gone."""
    out = channels(module, "out") - gone_out
    if is_depthwise(module):
        assert isinstance(module.weight, Tensor)
        return out * module.weight[0].numel()
    if isinstance(module, nn.modules.conv._ConvNd):
        return out * ((module.in_channels - gone_in) // module.groups) * math.prod(module.kernel_size)
    return out * (channels(module, "in") - gone_in)


def _cut_layer(module: nn.Module, axis: Axis, positions: np.ndarray) -> None:
    left = channels(module, axis) - len(positions)
    if left < 1:
        raise ValueError("no channel would be left")
    if isinstance(module, nn.modules.conv._ConvNd):
        _cut_convolution(module, axis, positions, left)
    elif isinstance(module, nn.Linear):
        _narrow(module, "weight", 0 if axis == "out" else 1, positions)
        if axis == "out":
            _narrow(module, "bias", 0, positions)
            module.out_features = left
        else:
            module.in_features = left
    elif isinstance(module, nn.Embedding):
        _narrow(module, "weight", 1, positions)
        module.embedding_dim = left
    elif isinstance(module, nn.PReLU):
        if module.num_parameters > 1:
            _narrow(module, "weight", 0, positions)
            module.num_parameters = left
    elif isinstance(module, (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)):
        for attribute in ("weight", "bias", "running_mean", "running_var"):
            _narrow(module, attribute, -1, positions)
        _set_norm_width(module, left)
    else:
        raise ValueError(f"{type(module).__name__} cannot be cut")


def _set_norm_width(module: nn.Module, left: int) -> None:
    if isinstance(module, nn.LayerNorm):
        module.normalized_shape = (*module.normalized_shape[:-1], left)
    elif isinstance(module, nn.GroupNorm):
        if left % module.num_groups:
            raise ValueError(f"{left} channels do not form {module.num_groups} groups")
        module.num_channels = left
    else:
        module.num_features = left  # type: ignore[assignment]


def _cut_convolution(module: nn.modules.conv._ConvNd, axis: Axis, positions: np.ndarray, left: int) -> None:
    if is_depthwise(module):
        if module.in_channels != module.groups:
            raise ValueError("a depthwise convolution that reads several channels cannot be cut")
        _narrow(module, "weight", 0, positions)
        _narrow(module, "bias", 0, positions)
        module.in_channels = module.out_channels = module.groups = left
        return
    if module.transposed and module.groups > 1:
        raise ValueError("a grouped transposed convolution cannot be cut")
    if left % module.groups:
        raise ValueError(f"{left} channels do not form {module.groups} groups")
    if axis == "out":
        _narrow(module, "weight", 1 if module.transposed else 0, positions)
        _narrow(module, "bias", 0, positions)
        module.out_channels = left
    else:
        # Each group reads its own share; the units see to it that every share loses the same places.
        places = np.unique(positions % (module.in_channels // module.groups))
        _narrow(module, "weight", 0 if module.transposed else 1, places)
        module.in_channels = left


def _narrow(module: nn.Module, attribute: str, dim: int, positions: np.ndarray) -> None:
    value = getattr(module, attribute, None)
    if not isinstance(value, Tensor):
        return
    keep = torch.ones(value.shape[dim], dtype=torch.bool)
    keep[torch.as_tensor(positions)] = False
    kept = value.detach().index_select(dim, keep.nonzero().flatten().to(value.device)).clone()
    is_parameter = isinstance(value, nn.Parameter)
    setattr(module, attribute, nn.Parameter(kept, requires_grad=value.requires_grad) if is_parameter else kept)


def _mask_statistics(module: Any, where: Tensor) -> None:
    """Make a norm over channels count only those that stay: its mean changes with every channel that goes."""
    dim = -1 if isinstance(module, nn.LayerNorm) else 1
    small = copy.deepcopy(module)
    _cut_layer(small, "out", where.numpy())

    def forward(x: Tensor) -> Tensor:
        keep = torch.ones(x.shape[dim], dtype=torch.bool)
        keep[where] = False
        index = keep.nonzero().flatten()
        return torch.zeros_like(x).index_copy(dim, index, small(x.index_select(dim, index)))

    module.forward = forward
