"""One exact program over what a network that is trained afterwards may be: channels, blocks and widths of weights at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from compressctl.numerics.knapsack import Limit, Link, choose
from compressctl.search.width_tables import GroupTable, SizedLayer, WidthTables

_GONE = 0
"""Channels of a group whose block is gone."""

_STAYS, _LEAVES = 0, 1
"""Options of a block."""

_PER_OUTPUT = 4
"""Bytes of a layer's scale."""


@dataclass(frozen=True)
class Trimmed:
    """kept: channels by group, of those that are fewer. gone: blocks. four: layers with 4-bit weights. share: of multiply-accumulates that stay.
    saves_ms: of a call of the whole network in 8 bits. bytes: of weights and scales. pruned, rounded: distances of what is cut, and of 4 bits."""

    kept: Mapping[str, int]
    gone: tuple[str, ...]
    four: tuple[str, ...]
    share: float
    saves_ms: float
    bytes: float
    pruned: float
    rounded: float


@dataclass(frozen=True)
class _Option:
    """Of an item: bytes and milliseconds that it takes (less than 0 where it saves), distances, and the options of others that it needs."""

    bytes: float = 0.0
    ms: float = 0.0
    pruned: float = 0.0
    rounded: float = 0.0
    macs: int = 0
    needs: tuple[int, ...] = ()
    is_four: bool = False
    channels: int = 0


@dataclass(frozen=True)
class _Item:
    """others: items that its options name options of."""

    name: str
    others: tuple[str, ...]
    options: tuple[_Option, ...]


@dataclass(frozen=True)
class WidthProgram:
    """has_four: whether layers may have 4-bit weights, or all have 8."""

    tables: WidthTables
    has_four: bool

    @cached_property
    def _items(self) -> tuple[_Item, ...]:
        groups = {group.name: group for group in self.tables.groups}
        return (
            *(_of_block(block.name, block.saves_ms, block.distance) for block in self.tables.blocks),
            *(self._of_group(group) for group in groups.values()),
            *(self._of_layer(layer, groups) for layer in self.tables.layers),
        )

    @property
    def _blocks(self) -> set[str]:
        return {block.name for block in self.tables.blocks}

    def _of_group(self, group: GroupTable) -> _Item:
        inside = (group.block,) if group.block in self._blocks else ()
        options = [
            _Option(
                ms=-(one.saves_ms or 0.0), pruned=one.distance, needs=(_STAYS,) * len(inside), channels=one.channels
            )
            for one in group.options
        ]
        if inside:
            options.append(_Option(needs=(_LEAVES,), channels=_GONE))
        return _Item(group.name, tuple(f"block {name}" for name in inside), tuple(options))

    def _of_layer(self, layer: SizedLayer, groups: Mapping[str, GroupTable]) -> _Item:
        """An option for each combination of its groups' widths, and of its weights'. Nothing is left of it where its block is gone."""
        widths = [_channels(groups[name], self._blocks) for name in layer.groups]
        inside = layer.block if layer.block in self._blocks else None
        if any(groups[name].block == inside for name in layer.groups):
            inside = None  # the group says so already
        by_block = [(_STAYS, _LEAVES)] if inside is not None else []
        sizes = {one.channels: one for one in layer.sizes}
        options = []
        for places in itertools.product(*map(range, map(len, widths)), *by_block):
            channels = tuple(width[place] for width, place in zip(widths, places, strict=False))
            is_gone = inside is not None and places[-1] == _LEAVES
            if is_gone or _GONE in channels:
                options.append(_Option(needs=places))
                continue
            size = sizes[channels]
            plain = 1.0 if layer.has_integers else 4.0
            scales = _PER_OUTPUT * size.outputs if layer.has_integers else 0
            options.append(_Option(plain * size.parameters + scales, macs=size.macs, needs=places))
            if self.has_four and layer.has_integers and layer.distance_int4 is not None:
                half = 0.5 * size.parameters + scales
                options.append(_Option(half, macs=size.macs, rounded=layer.distance_int4, needs=places, is_four=True))
        others = (*(f"group {name}" for name in layer.groups), *([f"block {inside}"] if inside is not None else []))
        return _Item(layer.name, others, tuple(options))

    @cached_property
    def whole_bytes(self) -> float:
        """Of weights and scales, nothing cut and in 8 bits."""
        return sum(max((one.bytes for one in item.options if not one.is_four), default=0.0) for item in self._items)

    @cached_property
    def _places(self) -> Mapping[str, int]:
        """Of blocks and groups among all items."""
        names = [
            *(f"block {one.name}" for one in self.tables.blocks),
            *(f"group {one.name}" for one in self.tables.groups),
        ]
        return {name: place for place, name in enumerate(names)}

    def solve(
        self,
        *,
        most_bytes: float | None = None,
        least_saved_ms: float | None = None,
        pruned: float = 1.0,
        rounded: float = 1.0,
    ) -> Trimmed | None:
        """The least loss within the limits; None where there is nothing.

        most_bytes: of weights and scales. least_saved_ms: by the tables. pruned, rounded: what a distance of each kind costs. Of networks that lose
        as little the one with more multiply-accumulates is taken.
        """
        items, limits = self._items, []
        everything = sum(max(one.macs for one in item.options) for item in items)
        if most_bytes is not None:
            limits.append(Limit([[one.bytes for one in item.options] for item in items], most_bytes))
        if least_saved_ms is not None:
            limits.append(Limit([[one.ms for one in item.options] for item in items], -least_saved_ms))
        costs = [
            [pruned * one.pruned + rounded * one.rounded - 1e-6 * one.macs / max(everything, 1) for one in item.options]
            for item in items
        ]
        found = choose(costs, limits, tuple(self._links()))
        return None if found is None else self._trimmed(found)

    def _links(self) -> Iterator[Link]:
        for place, item in enumerate(self._items):
            for number, other in enumerate(item.others):
                yield Link(place, self._places[other], [one.needs[number] for one in item.options])

    def _trimmed(self, found: list[int]) -> Trimmed:
        """found: the place of each item's option."""
        blocks, groups = self.tables.blocks, self.tables.groups
        chosen = [item.options[place] for item, place in zip(self._items, found, strict=True)]
        of_groups = chosen[len(blocks) : len(blocks) + len(groups)]
        whole = sum(max(one.macs for one in item.options) for item in self._items)
        return Trimmed(
            kept={
                group.name: one.channels
                for group, one in zip(groups, of_groups, strict=True)
                if one.channels not in (_GONE, group.options[0].channels)
            },
            gone=tuple(block.name for block, place in zip(blocks, found, strict=False) if place == _LEAVES),
            four=tuple(item.name for item, one in zip(self._items, chosen, strict=True) if one.is_four),
            share=sum(one.macs for one in chosen) / max(whole, 1),
            saves_ms=-sum(one.ms for one in chosen),
            bytes=sum(one.bytes for one in chosen),
            pruned=sum(one.pruned for one in chosen),
            rounded=sum(one.rounded for one in chosen),
        )


def _of_block(name: str, saves_ms: float | None, distance: float) -> _Item:
    return _Item(name, (), (_Option(), _Option(ms=-(saves_ms or 0.0), pruned=distance)))


def _channels(group: GroupTable, blocks: set[str]) -> tuple[int, ...]:
    """In the order of the group's options."""
    return (*(one.channels for one in group.options), *((_GONE,) if group.block in blocks else ()))
