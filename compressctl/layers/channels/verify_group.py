"""Proof that a coupling is right: cutting half of the channels must compute what zeroing them computes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from compressctl.core.errors import first_line
from compressctl.graph.torch_outputs import named_outputs
from compressctl.layers.channels.dependency_groups import OUTPUT, Coupling, Group, Member
from compressctl.layers.channels.surgery import channels, cut, mask, removal

_ROUNDING = 1e-5
"""Float32 sums in another order differ by some 1e-6 of the largest output."""

_SHARE = 1e-2
"""Of what removing the channels changes: a wrong coupling errs by about all of it."""


def proven(coupling: Coupling, network: nn.Module, inputs: Sequence[Tensor]) -> Coupling:
    """The groups that can be cut without any other effect; the others become fixed, with what went wrong as the reason.

    All groups are tried at once; only when that fails, one by one, and one that fails again with its halves tied: what is cut into
    two and multiplied, as gates are, loses channels from both halves.
    """
    shaken = _shaken(network)
    if not coupling.otherwise and (not coupling.groups or _fault(shaken, coupling.groups, inputs) is None):
        return coupling
    good: list[Group] = []
    fixed = dict(coupling.fixed)

    def tried(group: Group) -> str | None:
        return _fault(shaken, [group], inputs) or (_fault(shaken, [*good, group], inputs) if good else None)

    for group in coupling.groups:
        halves = _in_halves(group, network)
        fault = tried(group)
        if fault is not None and halves is not None and tried(halves) is None:
            group, fault = halves, None
        if fault is None:
            good.append(group)
        else:
            fixed.update(dict.fromkeys(group.layers, fault))
    layers = {layer for group in good for layer in group.layers}
    for group in coupling.otherwise:
        if not layers & set(group.layers) and tried(group) is None:
            good.append(group)
            layers.update(group.layers)
    kept = {layer: reason for layer, reason in fixed.items() if layer not in layers}
    return replace(coupling, groups=tuple(good), fixed=kept, otherwise=())


def _in_halves(group: Group, network: nn.Module) -> Group | None:
    """The group with each unit of its first half tied to that of the second; None where it has no halves.

    A trace may take one half for what reads both, so that positions which a reader does not have are left out.
    """
    half = group.units // 2
    if half < 2 or group.units % 2 or group.units != group.width:
        return None
    members = []
    for member in group.members:
        size = _size(network, member)
        if size is None:
            return None
        is_there = member.channels < size
        members.append(replace(member, channels=member.channels[is_there], units=member.units[is_there] % half))
    splits = tuple(replace(size, units=size.units % half) for size in group.splits)
    return replace(group, units=half, members=tuple(members), splits=splits)


def _size(network: nn.Module, member: Member) -> int | None:
    """How many channels the member's axis has; None of a layer that is one piece, as attention."""
    if member.axis == "values":
        return int(network.get_parameter(member.name).shape[member.dim])
    try:
        return channels(network.get_submodule(member.name), member.axis)
    except ValueError:
        return None


Finish = Callable[[nn.Module, Mapping[str, int]], None]
"""Changes a cut network in place to fit, given the units that each group keeps: the number of heads, say."""


def fault_of(
    network: nn.Module, coupling: Coupling, inputs: Sequence[Tensor], finish: Finish | None = None
) -> str | None:
    """What is wrong with cutting these groups, None when nothing is."""
    return _fault(_shaken(network), coupling.groups, inputs, finish)


def _fault(
    network: nn.Module, groups: Sequence[Group], inputs: Sequence[Tensor], finish: Finish | None = None
) -> str | None:
    """The same for weights that are shaken already.

    A random half of each group is cut, and then a single unit of each: a width that is written into the network's code may fit the one by chance.
    """
    for parts in (2, None):
        fault = _fault_of_cut(network, groups, inputs, finish, parts)
        if fault is not None:
            return fault
    return None


def _fault_of_cut(
    network: nn.Module, groups: Sequence[Group], inputs: Sequence[Tensor], finish: Finish | None, parts: int | None
) -> str | None:
    generator = np.random.default_rng(0)
    going = {group.name: group.units // parts if parts else 1 for group in groups}
    units = {group.name: generator.permutation(group.units)[: going[group.name]] for group in groups}
    gone = removal(groups, units)
    whole = _outputs(network, inputs)
    try:
        smaller = cut(network, gone)
        if finish is not None:
            finish(smaller, {group.name: group.units - going[group.name] for group in groups})
        found = _outputs(smaller, inputs)
        reference = _outputs(mask(network, gone), inputs)
    except Exception as error:
        return f"its width is written into the network's code or tied to something unknown ({first_line(error)[:160]})"
    if [value.shape for value in found] != [value.shape for value in whole]:
        return OUTPUT
    for ours, theirs, before in zip(found, reference, whole, strict=True):
        allowed = _ROUNDING * float(theirs.abs().max()) + _SHARE * float((theirs - before).abs().max())
        if not float((ours - theirs).abs().max()) <= allowed:
            return "removing its channels would change others too: something between the layers mixes or moves channels"
    return None


def _outputs(network: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    with torch.no_grad():
        return [value.float() for value in named_outputs(network(*inputs)).values()]


def _shaken(network: nn.Module) -> nn.Module:
    """A copy with random weights of a size that keeps signals alive, so that every wrong coupling shows in the outputs.

    Trained weights may not show it: a scale that is zero, or a layer that adds little to what runs past it.
    """
    shaken = copy.deepcopy(network).eval()
    generator = torch.Generator().manual_seed(0)

    def fill(values: Tensor, mean: float, spread: float) -> None:
        if values.is_floating_point():
            values.copy_(mean + spread * torch.randn(values.shape, generator=generator))

    with torch.no_grad():
        for parameter in shaken.parameters():
            fill(parameter, 0.0, (2.0 / parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.3)
        for module in shaken.modules():
            if isinstance(module, nn.Embedding):
                fill(module.weight, 0.0, 1.0)
            if isinstance(module, (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)):
                _shake_norm(module, fill)
    return shaken


def _shake_norm(module: nn.Module, fill: Callable[[Tensor, float, float], None]) -> None:
    for name, mean in (("weight", 1.0), ("running_mean", 0.0), ("running_var", 1.0)):
        values = getattr(module, name, None)
        if isinstance(values, Tensor):
            fill(values, mean, 0.1)
            if name == "running_var":
                values.abs_().add_(0.1)
