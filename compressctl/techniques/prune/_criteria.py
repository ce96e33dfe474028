"""How much each channel matters: one number per unit of a group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from compressctl.layers.channels.dependency_groups import GIVES_CHANNELS, Group, Member
from compressctl.layers.channels.weights import as_array, channel_norms, member_weights, per_channel, to_units
from compressctl.techniques.prune.params import Criterion
from compressctl.training.data import TensorBatch

Scores = Mapping[str, np.ndarray]
"""By the group's name, (units,) float64; larger matters more."""

ESTIMATES_LOSS: frozenset[Criterion] = frozenset({"taylor", "hessian"})
"""Criteria in units of the loss, which compare between layers as they are."""

Batches = Callable[[int], Iterable[TensorBatch]]
"""Batches of the given size over the samples to look at, the same ones at each call."""

LossOf = Callable[[nn.Module, TensorBatch], Tensor]


def scores(
    network: nn.Module,
    groups: Sequence[Group],
    criterion: Criterion,
    *,
    batches: Batches | None = None,
    loss: LossOf | None = None,
    seed: int = 0,
) -> Scores:
    """Scores of all groups. batches: for criteria that read data; loss: for those that estimate it.

    Several members' numbers are averaged (Fang et al. 2023, section 3.3). Without a BatchNorm in it, a group has no
    bn_scale: its scores are NaN.
    """
    if criterion == "random":
        generator = np.random.default_rng(seed)
        return {group.name: generator.random(group.units) for group in groups}
    if criterion == "bn_scale":
        return {group.name: _bn_scale(network, group) for group in groups}
    if criterion == "fpgm":
        return {group.name: _distance_to_others(network, group) for group in groups}
    if criterion in ("l1", "l2"):
        return {group.name: channel_norms(network, group, 1 if criterion == "l1" else 2) for group in groups}
    assert batches is not None
    if criterion == "activation":
        return _activation(network, groups, batches(64))
    assert loss is not None
    return _from_gradients(network, groups, criterion, batches(1 if criterion == "hessian" else 16), loss)


def normalized(found: Scores, criterion: Criterion) -> Scores:
    """Scores that compare between layers: each divided by its group's mean, unless they estimate the loss."""
    if criterion in ESTIMATES_LOSS:
        return found
    return {name: values / max(float(values.mean()), 1e-12) for name, values in found.items()}


def _bn_scale(network: nn.Module, group: Group) -> np.ndarray:
    """Source: Network Slimming, Liu et al. 2017, section 3."""
    parts = []
    for member in group.members:
        module = network.get_submodule(member.name) if member.axis != "values" else None
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            parts.append(to_units(group, member, as_array(module.weight.detach().abs())))
    return np.mean(parts, axis=0) if parts else np.full(group.units, np.nan)


def _distance_to_others(network: nn.Module, group: Group) -> np.ndarray:
    """Sum of distances to the layer's other filters: a filter near their geometric median can be made of the others."""
    parts = []
    for member in group.members:
        module = network.get_submodule(member.name) if member.axis != "values" else None
        if member.axis == "out" and isinstance(module, GIVES_CHANNELS):
            weight = module.weight.detach()
            if isinstance(module, nn.modules.conv._ConvNd) and module.transposed:
                weight = weight.transpose(0, 1)
            filters = weight.flatten(1).double()
            parts.append(to_units(group, member, as_array(torch.cdist(filters, filters).sum(1))))
        elif member.axis == "values" and member.dim == 0 and ".weight_" in member.name:
            filters = network.get_parameter(member.name).detach().double()  # rows of a recurrent layer's gates
            parts.append(to_units(group, member, as_array(torch.cdist(filters, filters).sum(1))))
    return np.asarray(np.mean(parts, axis=0))


def _activation(network: nn.Module, groups: Sequence[Group], batches: Iterable[TensorBatch]) -> Scores:
    """Mean absolute value of what the layers that read the channels are given; outputs where nothing reads them."""
    sums: dict[tuple[str, str], Tensor] = {}

    def note(key: tuple[str, str], module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        value = given[0] if key[1] == "in" else output
        axis = 1 if isinstance(module, (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)) else -1
        mean = value.detach().abs().double().movedim(axis, 0).flatten(1).mean(1)
        sums[key] = sums.get(key, torch.zeros_like(mean)) + mean

    def note_states(name: str, module: nn.Module, given: tuple[Tensor, ...], output: tuple[Tensor, Any]) -> None:
        states = output[0].data if isinstance(output[0], PackedSequence) else output[0]
        mean = states.detach().abs().double().reshape(-1, int(module.hidden_size)).mean(0)  # type: ignore[arg-type]
        sums[name, "states"] = sums.get((name, "states"), torch.zeros_like(mean)) + mean

    watched = {(m.name, m.axis) for group in groups for m in group.members if m.axis != "values"}
    recurrent = {
        name for group in groups for name in group.layers if isinstance(network.get_submodule(name), nn.RNNBase)
    }
    with ExitStack() as hooks, torch.no_grad():
        for key in watched:
            hooks.enter_context(network.get_submodule(key[0]).register_forward_hook(partial(note, key)))
        for name in recurrent:
            hooks.enter_context(network.get_submodule(name).register_forward_hook(partial(note_states, name)))
        for batch in batches:
            network(*batch.inputs)
    found = {}
    for group in groups:
        readers = [m for m in group.members if m.axis == "in"] or [m for m in group.members if m.axis == "out"]
        parts = [to_units(group, m, as_array(sums[m.name, m.axis])) for m in readers]
        columns = [m for m in group.members if m.axis == "values" and m.dim == 1 and m.name.endswith(".weight_hh_l0")]
        parts += [to_units(group, m, as_array(sums[m.name.rpartition(".")[0], "states"])) for m in columns]
        found[group.name] = np.mean(parts, axis=0)
    return found


def _from_gradients(
    network: nn.Module, groups: Sequence[Group], criterion: Criterion, batches: Iterable[TensorBatch], loss: LossOf
) -> Scores:
    """taylor: the squared first-order change of the loss, (sum of weight times gradient)^2, averaged over batches, as a root.

    hessian: half the sum of squared weight times squared gradient, one sample at a time: the diagonal of Fisher's matrix.
    """
    parts: dict[tuple[str, int], np.ndarray] = {}
    count = 0
    required = {parameter: parameter.requires_grad for parameter in network.parameters()}
    network.eval().requires_grad_(True)
    for batch in batches:
        network.zero_grad(set_to_none=True)
        with torch.enable_grad():
            torch.autograd.backward(loss(network, batch))
        count += 1
        for group in groups:
            for position, member in enumerate(group.members):
                key = (group.name, position)
                parts[key] = parts.get(key, np.zeros(group.units)) + _loss_change(network, group, member, criterion)
    network.zero_grad(set_to_none=True)
    for parameter, was_required in required.items():
        parameter.requires_grad_(was_required)
    found = {}
    for group in groups:
        mean = np.mean([parts[group.name, position] / max(1, count) for position in range(len(group.members))], axis=0)
        found[group.name] = np.sqrt(mean) if criterion == "taylor" else mean
    return found


def _loss_change(network: nn.Module, group: Group, member: Member, criterion: Criterion) -> np.ndarray:
    module, parameters = member_weights(network, member)
    change = np.zeros(group.units)
    for _, value in parameters:
        if value.grad is None:
            continue
        product = value.detach() * value.grad
        element = product if criterion == "taylor" else 0.5 * product.square()
        change += to_units(group, member, as_array(per_channel(element, module, member)))
    return np.square(change) if criterion == "taylor" else change
