"""The weights of coupled channels: which parameters belong to a unit, and how large they are."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from compressctl.layers.channels.dependency_groups import Group, Member


def channel_norms(network: nn.Module, group: Group, power: int) -> np.ndarray:
    """(units,): the norm (power 1 or 2) of each unit's weights, averaged over the group's members; biases do not count."""
    parts = []
    for member in group.members:
        module, parameters = member_weights(network, member)
        for name, value in parameters:
            if name.rpartition(".")[2].startswith("bias"):
                continue
            parts.append(
                to_units(group, member, as_array(per_channel(value.detach().abs().pow(power), module, member)))
            )
    mean = np.mean(parts, axis=0)
    return np.asarray(mean if power == 1 else np.sqrt(mean))


def member_weights(network: nn.Module, member: Member) -> tuple[nn.Module | None, list[tuple[str, nn.Parameter]]]:
    """The member's module (None for a lone parameter) and its parameters along the axis, with their names."""
    if member.axis == "values":
        return None, [(member.name, network.get_parameter(member.name))]
    module = network.get_submodule(member.name)
    if isinstance(module, nn.PReLU):
        return module, []  # one slope may serve all channels, and none says how much a channel matters
    wanted = ("weight", "bias") if member.axis == "out" else ("weight",)
    found = [(name, getattr(module, name, None)) for name in wanted]
    return module, [(f"{member.name}.{name}", value) for name, value in found if isinstance(value, nn.Parameter)]


def per_channel(values: Tensor, module: nn.Module | None, member: Member) -> Tensor:
    """Sum a tensor that is shaped like the member's weight (or bias, scale) over everything but its channels.

    Returns (channels along the member's axis,).
    """
    if member.axis == "values":
        return values.movedim(member.dim, 0).flatten(1).sum(1) if values.ndim > 1 else values
    if values.ndim == 1:
        return values
    if isinstance(module, nn.Embedding):
        return values.sum(0)
    groups = module.groups if isinstance(module, nn.modules.conv._ConvNd) else 1
    if isinstance(module, nn.modules.conv._ConvNd) and module.transposed:
        values = values.transpose(0, 1)
    if member.axis == "out":
        return values.flatten(1).sum(1)
    # (groups, outputs of a group, inputs of a group, kernel): every group reads its own inputs.
    split = values.reshape(groups, values.shape[0] // groups, values.shape[1], -1)
    return split.sum((1, 3)).flatten()


def over_channels(values: Tensor, shaped: Tensor, module: nn.Module | None, member: Member) -> Tensor:
    """(channels,) along the member's axis, spread over the shape of one of its parameters: the transpose of `per_channel`."""
    spread = torch.func.vjp(lambda weights: per_channel(weights, module, member), shaped.detach())[1]
    found: Tensor = spread(values)[0]
    return found


def to_units(group: Group, member: Member, values: np.ndarray) -> np.ndarray:
    """(units,): what the member's channels (axis-long values) add up to in each unit."""
    return np.bincount(member.units, weights=values[member.channels], minlength=group.units)


def as_array(values: Tensor) -> np.ndarray:
    return values.detach().double().cpu().numpy()
