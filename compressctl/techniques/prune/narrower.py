"""What a network's channels and residual blocks may be, for whoever chooses among widths and other techniques at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor, nn

from compressctl.core.data import Split
from compressctl.core.model import TorchModel
from compressctl.core.technique import RunContext
from compressctl.layers.channels.dependency_groups import Group, example_inputs, permitted_widths
from compressctl.layers.channels.reorder import reordered
from compressctl.techniques.prune import _costs as costs
from compressctl.techniques.prune._allocate import Choice
from compressctl.techniques.prune._measured_widths import narrow
from compressctl.techniques.prune.channels import Plan, find_plan
from compressctl.techniques.prune.heads import Attention, find_attention, head_sizes, set_counts
from compressctl.techniques.prune.layers import residual_blocks, without
from compressctl.techniques.prune.params import ChannelsParams
from compressctl.training.batchnorm_recalibration import recalibrate_bn


@dataclass(frozen=True)
class Channels:
    """Channels, or heads of an attention, that go together. name: the first layer that gives them. layers: all that do. whole: how many there are. widths: that may stay,
    ascending, without the whole. kind: equal for groups of one structure. block: the residual block that all they run through lies in; None
    where there is none. attention: the module whose heads these are, None of channels."""

    name: str
    layers: tuple[str, ...]
    whole: int
    widths: tuple[int, ...]
    kind: str
    block: str | None
    attention: str | None = None


class Narrower:
    """A network whose channels were ranked once, by the sizes of their weights, and whose blocks that may go are known.

    params: how widths are rounded, how few channels stay, and what channels are ranked by. is_sorted: the network's channels are in the order of
    their rank already, the last ones go first. heads: whether heads of attentions may go too, whose projections are apart (`split_attention`).
    """

    def __init__(
        self,
        model: TorchModel,
        run: RunContext,
        params: ChannelsParams | None = None,
        *,
        is_sorted: bool = False,
        heads: bool = False,
    ) -> None:
        self._model, self._inputs = model, example_inputs(model.signature)
        cut = params or ChannelsParams()
        self._plan = find_plan(model, cut, run)
        self._attentions: dict[str, Attention] = {}
        if heads:
            self._plan, self._attentions = _with_heads(self._plan, model.body, self._inputs, cut.min_keep)
        if is_sorted:
            last_first = {group.name: np.arange(group.units)[::-1] for group in self._plan.groups}
            self._plan = replace(self._plan, weakest=last_first)
        found, _ = residual_blocks(model.body, self._inputs)
        self.blocks: Mapping[str, str] = {name: self._kind(name) for name in found}
        self._groups = {choice.group.name: choice for choice in self._plan.choices if choice.pinned is None}
        self._touching = {layer: self._parts(layer) for layer in self._plan.measured}

    @property
    def fixed(self) -> Mapping[str, str]:
        """Layers whose channels stay, and why."""
        return self._plan.fixed

    def sorted(self) -> TorchModel:
        """The same function with every group's channels in the order of their rank, the strongest first. Groups that have no other order are left."""
        orders = {name: self._plan.weakest[name][::-1] for name in self._groups}
        network: nn.Module = self._model.body
        for choice in self._groups.values():
            with suppress(ValueError):
                network = reordered(network, [choice.group], orders)
        return replace(self._model, body=network)

    def _parts(self, layer: str) -> dict[str, Group]:
        """The groups that a layer is part of, each with what it has of this layer alone."""
        found: dict[str, Group] = {}
        for name, choice in self._groups.items():
            own = [one for one in choice.group.members if one.name == layer or one.name.startswith(f"{layer}.")]
            if own:
                found[name] = replace(choice.group, members=tuple(own), splits=())
        return found

    def _kind(self, block: str) -> str:
        """Of a residual block: equal for blocks of one structure."""
        module = self._model.body.get_submodule(block)
        inside = [f"{type(part).__name__}{tuple(part.shape)}" for part in module.parameters()]
        positions = [
            str(layer.positions) for name, layer in self._plan.measured.items() if name.startswith(f"{block}.")
        ]
        return " ".join([type(module).__name__, *inside, *positions])

    @property
    def groups(self) -> Iterator[Channels]:
        for name, choice in self._groups.items():
            per_unit = choice.group.width // choice.group.units
            widths = tuple(units * per_unit for units in choice.widths[:-1])
            block = self._block(self._touched(choice.group))
            owner = self._attentions[name].owner if name in self._attentions else None
            yield Channels(name, choice.group.layers, choice.group.width, widths, choice.group.kind, block, owner)

    def _touched(self, group: Group) -> list[str]:
        return sorted({member.name for member in group.members})

    def _block(self, names: Sequence[str]) -> str | None:
        """The block that all of these lie in."""
        return next((block for block in self.blocks if all(name.startswith(f"{block}.") for name in names)), None)

    @property
    def layers(self) -> Iterator[tuple[str, tuple[str, ...], str | None]]:
        """Every layer with weights: its name, the groups whose width decides its size, and the block that it lies in."""
        for name, touching in self._touching.items():
            yield name, tuple(touching), self._block([name])

    def size(self, layer: str, kept: Mapping[str, int]) -> tuple[int, int, int]:
        """Weights, output channels and multiply-accumulates for a sample of a layer when so many channels of these groups stay."""
        groups = [group for name, group in self._touching[layer].items() if name in kept]
        units = {
            group.name: self._plan.weakest[group.name][
                : group.units - _units(self._groups[group.name], kept[group.name])
            ]
            for group in groups
        }
        own = {layer: self._plan.measured[layer]}
        parameters, channels, macs = (costs.cost(of, own, groups, units) for of in ("parameters", "channels", "macs"))
        return int(parameters), int(channels), int(macs)

    def cut(self, kept: Mapping[str, int], blocks: Sequence[str] = (), network: nn.Module | None = None) -> TorchModel:
        """A copy with so many channels (or heads) of these groups, all of the others, and without these blocks. network: another of this structure."""
        choices = [choice for name, choice in self._groups.items() if name in kept]
        units = {name: _units(choice, kept[name]) for name, choice in self._groups.items() if name in kept}
        model = self._model if network is None else replace(self._model, body=network)
        smaller = narrow(model, choices, units, self._plan.weakest)
        set_counts([one for name, one in self._attentions.items() if name in kept], smaller.body, units)
        return replace(smaller, body=without(smaller.body, blocks)) if blocks else smaller

    def settled(self, kept: Mapping[str, int], blocks: Sequence[str], split: Split, samples: int) -> TorchModel:
        """The same with its norms measured anew on so many samples: those of the whole network belong to no other."""
        smaller = self.cut(kept, blocks)
        recalibrate_bn(smaller.body, split, smaller.signature, samples=samples)
        return smaller


def _with_heads(
    plan: Plan, network: nn.Module, inputs: Sequence[Tensor], min_keep: float
) -> tuple[Plan, dict[str, Attention]]:
    """The plan with heads among its choices, by the size of what they can write, wherever it does not cut the same channels already."""
    found, _ = find_attention(network, inputs)
    taken = {(member.name, member.axis) for group in plan.groups for member in group.members}
    choices, weakest, fixed, attentions = list(plan.choices), dict(plan.weakest), dict(plan.fixed), {}
    for one in found:
        group = one.group
        widths = permitted_widths(group, 1, min_keep)
        if len(widths) < 2 or any((member.name, member.axis) in taken for member in group.members):
            continue
        sizes = head_sizes(network, one)
        choices.append(Choice(group, widths, np.sort(sizes)))
        weakest[group.name], attentions[group.name] = np.argsort(sizes, kind="stable"), one
        for member in group.members[:-1]:
            fixed.pop(member.name, None)
    return replace(plan, choices=tuple(choices), weakest=weakest, fixed=fixed), attentions


def _units(choice: Choice, width: int) -> int:
    return width * choice.group.units // choice.group.width
