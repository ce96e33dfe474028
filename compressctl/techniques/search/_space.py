"""The subnetworks of a network, what they take, and how one becomes another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from torch import nn

from compressctl.core.errors import NothingToCompressError, UsageError
from compressctl.core.model import TorchModel
from compressctl.core.technique import RunContext
from compressctl.techniques.prune.narrower import Channels, Narrower
from compressctl.techniques.prune.params import ChannelsParams
from compressctl.techniques.search.params import Architecture, SpaceParams


@dataclass(frozen=True)
class Subnetwork:
    """channels: that stay, by group, of all groups. gone: residual blocks, in the network's order."""

    channels: tuple[tuple[str, int], ...]
    gone: tuple[str, ...] = ()

    @property
    def kept(self) -> dict[str, int]:
        return dict(self.channels)

    def with_channels(self, group: str, width: int) -> Subnetwork:
        return replace(self, channels=tuple((name, width if name == group else held) for name, held in self.channels))


class Space:
    """is_sorted: a supernet was trained, whose channels stand in the order in which they stay."""

    def __init__(self, model: TorchModel, params: SpaceParams, run: RunContext, *, is_sorted: bool) -> None:
        cut = ChannelsParams(min_keep=params.min_keep, round_to=params.round_to, scope="local")
        self.model = model
        self._known: dict[tuple[str, tuple[tuple[str, int], ...]], tuple[int, int]] = {}
        self.narrower = Narrower(model, run, cut, is_sorted=is_sorted)
        self.groups: dict[str, Channels] = {group.name: group for group in self.narrower.groups}
        self.blocks = tuple(self.narrower.blocks)
        self.most_gone = len(self.blocks) // 2 if params.blocks == "auto" else min(params.blocks, len(self.blocks))
        if not self.groups and not self.most_gone:
            raise NothingToCompressError(
                "the network has no subnetworks: none of its layers can be narrower, and no residual block can go",
                hint="; ".join(f"{name}: {why}" for name, why in list(self.narrower.fixed.items())[:4]),
            )

    @cached_property
    def whole(self) -> Subnetwork:
        return Subnetwork(tuple((name, group.whole) for name, group in self.groups.items()))

    def widths(self, group: str) -> tuple[int, ...]:
        """Ascending, the whole one last."""
        return (*self.groups[group].widths, self.groups[group].whole)

    def smallest(self, generator: np.random.Generator) -> Subnetwork:
        """The narrowest, without as many blocks as may be gone: which ones is chance."""
        narrowest = tuple((name, self.widths(name)[0]) for name in self.groups)
        return Subnetwork(narrowest, self._some_blocks(self.most_gone, generator))

    def random(self, generator: np.random.Generator) -> Subnetwork:
        channels = tuple((name, int(generator.choice(self.widths(name)))) for name in self.groups)
        return Subnetwork(channels, self._some_blocks(int(generator.integers(self.most_gone + 1)), generator))

    def uniform(self, share: float, gone: Sequence[str] = ()) -> Subnetwork:
        """About this share of every group's channels."""
        channels = [
            (name, min(self.widths(name), key=lambda width: abs(width - share * group.whole)))
            for name, group in self.groups.items()
        ]
        return Subnetwork(tuple(channels), self.in_order(gone))

    def _some_blocks(self, count: int, generator: np.random.Generator) -> tuple[str, ...]:
        return self.in_order([self.blocks[place] for place in generator.permutation(len(self.blocks))[:count]])

    def in_order(self, blocks: Sequence[str]) -> tuple[str, ...]:
        """As the network has them."""
        return tuple(name for name in self.blocks if name in set(blocks))

    def cut(self, subnetwork: Subnetwork) -> TorchModel:
        """A plain module of its own."""
        return replace(self.model, body=self.cut_of(self.model.body, subnetwork))

    def cut_of(self, network: nn.Module, subnetwork: Subnetwork) -> nn.Module:
        """The same of another network of this structure."""
        kept = {name: width for name, width in subnetwork.channels if width < self.groups[name].whole}
        return self.narrower.cut(kept, subnetwork.gone, network).body

    def macs(self, subnetwork: Subnetwork) -> float:
        """Multiply-accumulates of layers for a sample."""
        return float(sum(size[1] for size in self._sizes(subnetwork)))

    def parameters(self, subnetwork: Subnetwork) -> float:
        """Weights of layers, without biases and norms."""
        return float(sum(size[0] for size in self._sizes(subnetwork)))

    def _sizes(self, subnetwork: Subnetwork) -> list[tuple[int, int]]:
        kept, gone = subnetwork.kept, set(subnetwork.gone)
        return [
            self._size(name, tuple((group, kept[group]) for group in touching))
            for name, touching, block in self._layers
            if block not in gone
        ]

    @cached_property
    def _layers(self) -> list[tuple[str, tuple[str, ...], str | None]]:
        return list(self.narrower.layers)

    def _size(self, layer: str, kept: tuple[tuple[str, int], ...]) -> tuple[int, int]:
        """Weights and multiply-accumulates of a layer whose groups have so many channels."""
        if (layer, kept) not in self._known:
            parameters, _, macs = self.narrower.size(layer, dict(kept))
            self._known[layer, kept] = parameters, macs
        return self._known[layer, kept]

    def named(self, architecture: Architecture) -> Subnetwork:
        """The subnetwork that a recipe spells out. Raises UsageError where the network has none such."""
        for name, width in architecture.channels.items():
            if name not in self.groups:
                known = ", ".join(self.groups) or "none"
                raise UsageError(
                    f"architecture.channels names {name}, whose channels cannot be fewer",
                    hint=f"those that can: {known}",
                )
            if width not in self.widths(name):
                raise UsageError(
                    f"{name} cannot have {width} channels",
                    hint=f"possible: {', '.join(map(str, self.widths(name)))} (see min_keep, round_to)",
                )
        if unknown := [name for name in architecture.without if name not in self.blocks]:
            raise UsageError(
                f"architecture.without names {unknown[0]}, which is no residual block that can go",
                hint=f"those that can: {', '.join(self.blocks) or 'none'}",
            )
        channels = tuple((name, architecture.channels.get(name, group.whole)) for name, group in self.groups.items())
        return Subnetwork(channels, self.in_order(architecture.without))


def spelled(subnetwork: Subnetwork, whole: Mapping[str, int]) -> dict[str, object]:
    """As a recipe's `architecture` has it."""
    channels = {name: width for name, width in subnetwork.channels if width < whole[name]}
    return {"channels": channels, "without": list(subnetwork.gone)}
