"""Which channels of which layers can only be removed together, and which cannot be removed at all."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from compressctl.core.errors import MissingDependencyError, in_short
from compressctl.core.model import Signature
from compressctl.core.quiet import quiet
from compressctl.graph.torch_outputs import named_outputs, traced_shapes
from compressctl.layers.channels import recurrent
from compressctl.layers.channels.recurrent import Part
from compressctl.layers.channels.search_bound import Steps, TooFarError, bound_search
from compressctl.layers.channels.split_sizes import Split, mark_splits, traced_splits

try:
    import torch_pruning
    from torch_pruning.ops import OPTYPE, module2type
except ImportError as error:
    raise MissingDependencyError("removing channels", "torch-pruning", "pip install 'compressctl[torch]'") from error

Axis = Literal["out", "in", "values", "sizes"]

GIVES_CHANNELS = (nn.Linear, nn.modules.conv._ConvNd)
"""Layers that choose how many channels they give; norms and activations follow."""


@dataclass(frozen=True)
class Member:
    """One layer's part in a group. name: of the module, or of the parameter where axis is "values".

    axis: "out" for what the layer gives (also norms, depthwise convolutions), "in" for what it reads. channels: (n,) positions
    along that axis. units: (n,) the group's unit that each of them goes with. dim: of a parameter, the dimension that is cut.
    "sizes": an attribute that holds the size of a part of what the network splits; dim: the place in it.
    """

    name: str
    axis: Axis
    channels: np.ndarray
    units: np.ndarray
    dim: int = 0

    def removed(self, units: Sequence[int] | np.ndarray) -> np.ndarray:
        """Positions along the axis that go when these units go."""
        return self.channels[np.isin(self.units, np.asarray(units))]


@dataclass(frozen=True)
class Group:
    """Channels that go together, in `units`: unit u is in every member. name: the first layer that gives these channels.

    width: that layer's channels. layers: those whose outputs shrink, without norms. kind: equal for groups of the same
    structure (layer types, kernels and widths). splits: sizes in the network's attributes that shrink with them.
    """

    name: str
    units: int
    width: int
    members: tuple[Member, ...]
    layers: tuple[str, ...]
    kind: str
    splits: tuple[Member, ...] = ()


@dataclass(frozen=True)
class Coupling:
    """groups: what can be removed. fixed: layer to the reason why its output channels stay. otherwise: groups of another trace, of
    which each stands for those that it shares layers with where they prove wrong.
    """

    groups: tuple[Group, ...]
    fixed: Mapping[str, str] = field(default_factory=dict)
    otherwise: tuple[Group, ...] = ()


def permitted_widths(group: Group, round_to: int, at_least: float) -> tuple[int, ...]:
    """Units that leave a multiple of round_to channels, and all of them. A single one means that it cannot shrink."""
    per_unit = group.width // group.units
    fewest = max(1, int(np.ceil(at_least * group.units)))
    fitting = [n for n in range(fewest, group.units) if (n * per_unit) % round_to == 0]
    return (*fitting, group.units)


def nearest_width(widths: Sequence[int], wanted: float) -> int:
    """The width nearest to the wanted one, the larger one of two that are equally near."""
    return min(widths, key=lambda width: (abs(width - wanted), -width))


def find_coupling(network: nn.Module, inputs: Sequence[Tensor]) -> Coupling:
    """Trace the network (unchanged) on inputs, samples along axis 0, and group the channels of its layers.

    Prove the groups on the network itself (`verify_group.py: proven`) before they are cut. Source: DepGraph, Fang et al. 2023, section 3.2 (grouping), by the torch-pruning library.
    """
    traced = copy.deepcopy(network).eval()
    parts = recurrent.stand_in(traced)
    splits = mark_splits(traced, inputs)
    found = _traced_coupling(network, traced, parts, inputs, splits)
    if not splits:
        return found
    # The library follows slices into concatenations less far than torch's own splits.
    plain = copy.deepcopy(network).eval()
    others = _traced_coupling(network, plain, recurrent.stand_in(plain), inputs, ())
    return replace(found, otherwise=others.groups)


def _traced_coupling(
    network: nn.Module, traced: nn.Module, parts: Mapping[str, Part], inputs: Sequence[Tensor], marked: Sequence[Split]
) -> Coupling:
    """traced: a copy that may be changed, with stand-ins (parts) for recurrent layers and markers for splits."""
    splits = {split.marker: split for split in marked}
    traced.requires_grad_(True)
    try:
        with traced_splits(traced, marked):
            graph = _graph(traced, inputs)
    except Exception as error:
        return Coupling((), _untraceable(network, error))
    steps = bound_search(graph)
    names = {module: name for name, module in traced.named_modules()}
    groups: list[Group] = []
    fixed: dict[str, str] = {}
    seen: set[str] = set()
    roots = [module for module in graph.module2node if isinstance(module, GIVES_CHANNELS)]
    # The narrowest first: where shortcuts pad with zeros, only the channels that all widths share can go.
    for module in sorted(roots, key=graph.get_out_channels):
        name = names[module]
        if name in seen:
            continue
        steps.taken = 0
        found = _group(graph, module, names, traced, steps, splits)
        seen.update([name] if isinstance(found, str) else found.layers)
        if isinstance(found, str):
            fixed[name] = found
        else:
            groups.append(found)
    for name, module in traced.named_modules():
        if isinstance(module, GIVES_CHANNELS) and name not in seen:
            fixed[name] = "it takes no part in the output, or only inside a layer that is one piece (attention)"
    groups, fixed = _of_recurrent_layers(groups, fixed, parts, network)
    members = {
        member.name.rpartition(".")[0] for group in groups for member in group.members if member.axis == "values"
    }
    foreign = {name: reason for name, reason in _not_torchs(network).items() if name not in members}
    return Coupling(tuple(groups), fixed | _in_one_piece(network) | foreign)


def _of_recurrent_layers(
    groups: Sequence[Group], fixed: Mapping[str, str], parts: Mapping[str, Part], network: nn.Module
) -> tuple[list[Group], dict[str, str]]:
    """The same with the weights of recurrent layers in the place of their stand-ins' linear layers: one group for all layers and
    directions of a module, or a reason for the whole module where one of them has to stay."""
    reasons = {parts[name].module if name in parts else name: reason for name, reason in fixed.items()}
    stays = {parts[name].module for name in fixed if name in parts}
    found: list[Group] = []
    for group in groups:
        modules = {parts[layer].module for layer in group.layers if layer in parts}
        if modules & stays:
            reason = next(reasons[module] for module in sorted(modules & stays))
            stays |= modules
            reasons.update({parts[layer].module if layer in parts else layer: reason for layer in group.layers})
            continue
        tied = [other for other in found if modules & set(other.layers)]
        found = [other for other in found if other not in tied]
        found.append(_joined([*tied, _translated(group, parts, network)], network))
    kept = [group for group in found if not stays & set(group.layers)]
    for group in found:
        if group not in kept:
            reason = next(reasons[module] for module in sorted(stays & set(group.layers)))
            reasons.update(dict.fromkeys(group.layers, reason))
    return kept, reasons


def _translated(group: Group, parts: Mapping[str, Part], network: nn.Module) -> Group:
    members: list[Member] = []
    for member in group.members:
        part = parts.get(member.name)
        if part is None:
            members.append(member)
            continue
        weight = f"{part.module}.weight_{part.of}{part.suffix}"
        if member.axis == "in":
            members.append(Member(weight, "values", member.channels, member.units, 1))
            continue
        module = network.get_submodule(part.module)
        made = recurrent.rows(module, part, member.channels)
        units = np.broadcast_to(member.units, made.shape).reshape(-1)
        names = [weight, f"{part.module}.bias_{part.of}{part.suffix}"][: 2 if module.bias else 1]
        members += [Member(name, "values", made.reshape(-1), units, 0) for name in names]

    def called(name: str) -> str:
        return parts[name].module if name in parts else name

    layers = tuple(dict.fromkeys(map(called, group.layers)))
    return replace(group, name=called(group.name), members=tuple(members), layers=layers)


def _joined(groups: Sequence[Group], network: nn.Module) -> Group:
    """One group of several with a recurrent module in common: its hidden units in the same place are one."""
    if len(groups) == 1:
        return groups[0]
    offsets = np.cumsum([0, *(group.units for group in groups)])
    members = [
        replace(member, units=member.units + offset)
        for group, offset in zip(groups, offsets, strict=False)
        for member in group.members
    ]
    leader = np.arange(offsets[-1])
    for member in members:
        owner, _, weight = member.name.rpartition(".")
        if member.axis != "values" or member.dim != 1 or not weight.startswith("weight_hh"):
            continue
        first = next(m for m in members if m.name.startswith(f"{owner}.weight_hh") and m.dim == 1)
        unit_at = dict(zip(first.channels.tolist(), first.units.tolist(), strict=True))
        for channel, unit in zip(member.channels.tolist(), member.units.tolist(), strict=True):
            one, other = leader[unit], leader[unit_at[channel]]
            leader[leader == max(one, other)] = min(one, other)
    leaders, unit_of = np.unique(leader, return_inverse=True)
    renamed = tuple(replace(member, units=unit_of[member.units]) for member in members)
    layers = tuple(dict.fromkeys(layer for group in groups for layer in group.layers))
    kind = " ".join(sorted(group.kind for group in groups))
    shrunk = tuple(
        replace(size, units=unit_of[size.units + offset])
        for group, offset in zip(groups, offsets, strict=False)
        for size in group.splits
    )
    return Group(groups[0].name, len(leaders), groups[0].width, renamed, layers, kind, shrunk)


def _not_torchs(network: nn.Module) -> dict[str, str]:
    """Layers of classes that are not torch's own, with a matrix of their own."""
    return {
        name: f"{type(module).__name__} is none of torch's own layers, so that which of its axes are channels is not known"
        for name, module in network.named_modules()
        if not type(module).__module__.startswith("torch.") and getattr(getattr(module, "weight", None), "ndim", 0) > 1
    }


def _in_one_piece(network: nn.Module) -> dict[str, str]:
    return {
        name: recurrent.PROJECTED
        if getattr(module, "proj_size", 0)
        else f"{type(module).__name__} is a recurrent layer of another class than torch's own"
        for name, module in network.named_modules()
        if isinstance(module, nn.RNNBase) and not recurrent.is_cuttable(module)
    }


def _untraceable(network: nn.Module, error: Exception) -> dict[str, str]:
    """Why every layer stays, where the library fails on the network as a whole."""
    pieces = [name for name, module in network.named_modules() if isinstance(module, nn.RNNBase)]
    because = f", which has recurrent layers ({', '.join(pieces)})" if pieces else ""
    reason = f"channels cannot be followed through this network{because} ({in_short(error)[:200]})"
    layers = [name for name, module in network.named_modules() if isinstance(module, GIVES_CHANNELS)]
    return dict.fromkeys([*layers, *pieces], reason) | _in_one_piece(network)


def example_inputs(signature: Any, samples: int = 2, seed: int = 0) -> tuple[Tensor, ...]:
    """Random inputs of a signature: normal floats, zeros and ones as integers, which every vocabulary has."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for spec, shape in zip(signature.inputs, traced_shapes(signature.inputs, samples), strict=True):
        dtype = getattr(torch, spec.dtype)
        if dtype.is_floating_point:
            made.append(torch.randn(shape, generator=generator).to(dtype))
        else:
            made.append(torch.randint(0, 2, shape, generator=generator).to(dtype))
    return tuple(made)


def samples_in(signature: Signature, inputs: Sequence[Tensor]) -> int:
    """Of a call; 1 where no axis counts samples."""
    axes = ((value, spec.batch_axis) for spec, value in zip(signature.inputs, inputs, strict=True))
    return next((value.shape[axis] for value, axis in axes if axis is not None), 1)


def _graph(network: nn.Module, inputs: Sequence[Tensor]) -> Any:
    with torch.enable_grad(), quiet():
        graph = torch_pruning.DependencyGraph().build_dependency(
            network,
            example_inputs=tuple(inputs),
            output_transform=lambda out: [value for value in named_outputs(out).values() if value.grad_fn is not None],
            verbose=False,
        )
    _follow_padding(graph)
    _keep_pooled(graph)
    return graph


def _keep_pooled(graph: Any) -> None:
    """Flattening one pixel moves nothing. The library guesses how many pixels there are, wrongly behind padded channels."""
    for node in graph.module2node.values():
        sizes = getattr(node.grad_fn, "_saved_self_sym_sizes", ())
        if node.type == OPTYPE.RESHAPE and len(sizes) == 4 and sizes[2:] == (1, 1):
            node.type = OPTYPE.ELEMENTWISE
            between = [*node.dependencies, *(d for n in (*node.inputs, *node.outputs) for d in n.dependencies)]
            for dependency in between:
                if node in (dependency.source, dependency.target):
                    dependency.index_mapping[0] = None


def _follow_padding(graph: Any) -> None:
    """Shift positions where zeros are put before the channels, as parameter-free shortcuts do; the library takes them as aligned."""
    for node in graph.module2node.values():
        grad_fn = node.grad_fn
        if grad_fn is None or "ConstantPadNd" not in type(grad_fn).__name__:
            continue
        pads = tuple(grad_fn._saved_pad)
        before = pads[4] if len(pads) > 4 else 0  # of images: two numbers for each axis, the last axis first
        for source in node.inputs:
            for dependency in node.dependencies:
                if dependency.target is source:
                    dependency.index_mapping[0] = _Shift(-before)
            for dependency in source.dependencies:
                if dependency.target is node:
                    dependency.index_mapping[0] = _Shift(before)


class _Shift:
    def __init__(self, by: int) -> None:
        self._by = by

    def __call__(self, indices: Sequence[Any]) -> list[Any]:
        return [index._replace(idx=index.idx + self._by) for index in indices if index.idx + self._by >= 0]


def _group(
    graph: Any,
    module: nn.Module,
    names: Mapping[nn.Module, str],
    network: nn.Module,
    steps: Steps,
    splits: Mapping[str, Split],
) -> Group | str:
    """The group that begins at a layer's outputs, or why there is none."""
    width = graph.get_out_channels(module)
    if width < 2:
        return "it has a single output channel"
    try:
        raw = graph.get_pruning_group(module, graph.get_pruner_of_module(module).prune_out_channels, list(range(width)))
    except TooFarError as error:
        return str(error)
    except Exception as error:
        return f"its channels cannot be followed through the network ({in_short(error)[:200]})"
    members = []
    for item in raw:
        target = item.dep.target
        if target.type == OPTYPE.OUTPUT:
            return OUTPUT
        name = graph._param_to_name.get(target.module) if target.type == OPTYPE.PARAMETER else names.get(target.module)
        if name is None:
            continue
        if any(root is None for root in item.root_idxs):
            return f"its channels cannot be followed through {name}"
        is_out = graph.is_out_channel_pruning_fn(item.dep.handler)
        axis: Axis = "values" if target.type == OPTYPE.PARAMETER else "out" if is_out else "in"
        dim = target.pruning_dim if axis == "values" else 0
        members.append(Member(name, axis, np.asarray(item.idxs), np.asarray(item.root_idxs), dim))
    sizes = []
    for member in members:
        if member.name in splits:
            shrunk = _sizes(splits[member.name], member)
            if isinstance(shrunk, str):
                return shrunk
            sizes += shrunk
    members = [member for member in members if member.name not in splits]
    return _in_units(names[module], width, members, network, sizes)


def _sizes(split: Split, member: Member) -> list[Member] | str:
    """The attributes whose numbers shrink with a member's channels, by part; or where the numbers are instead."""
    found, start = [], 0
    for size, place in zip(split.sizes, split.attributes, strict=True):
        inside = (member.channels >= start) & (member.channels < start + size)
        if inside.any():
            if place is None:
                return (
                    f"the sizes {list(split.sizes)} by which its channels are split are written into the code of "
                    f"{split.module or 'the network'}: keep them in an attribute, as in self.sizes, or use chunk"
                )
            found.append(Member(place[0], "sizes", member.channels[inside] - start, member.units[inside], place[1]))
        start += size
    return found


OUTPUT = "its channels are the network's outputs"


def _in_units(
    name: str, width: int, members: Sequence[Member], network: nn.Module, splits: Sequence[Member]
) -> Group | str:
    """Join the channels that grouped layers need removed together: the same place in each of the layer's groups."""
    modules = dict(network.named_modules())
    leader = np.arange(width)
    for member in members:
        size, parts = _axis_groups(modules.get(member.name), member.axis)
        if parts > 1:
            place = member.channels % (size // parts)
            for value in np.unique(place):
                joined = np.unique(leader[member.units[place == value]])
                leader[np.isin(leader, joined)] = joined.min()
    leaders, unit_of = np.unique(leader, return_inverse=True)
    if len(leaders) < 2:
        return "a grouped layer ties all of its channels together"
    renamed = tuple(Member(m.name, m.axis, m.channels, unit_of[m.units], m.dim) for m in members)
    layers = dict.fromkeys(m.name for m in renamed if m.axis == "out" and isinstance(modules[m.name], GIVES_CHANNELS))
    shrunk = tuple(replace(size, units=unit_of[size.units]) for size in splits)
    return Group(name, len(leaders), width, renamed, tuple(layers), _kind(renamed, modules), shrunk)


def _axis_groups(module: nn.Module | None, axis: Axis) -> tuple[int, int]:
    """Channels along the axis and the number of groups that they form; depthwise convolutions form none."""
    if (
        isinstance(module, nn.modules.conv._ConvNd)
        and module.groups > 1
        and module2type(module) != OPTYPE.DEPTHWISE_CONV
    ):
        return (module.out_channels if axis == "out" else module.in_channels), module.groups
    if isinstance(module, nn.GroupNorm):
        return module.num_channels, module.num_groups
    return 1, 1


def _kind(members: Sequence[Member], modules: Mapping[str, nn.Module]) -> str:
    parts = []
    for member in members:
        module = modules.get(member.name)
        weight = getattr(module, "weight", None)
        shape = tuple(weight.shape) if isinstance(weight, Tensor) else ()
        parts.append(f"{type(module).__name__}{shape}{getattr(module, 'stride', '')}.{member.axis}")
    return " ".join(sorted(parts))
