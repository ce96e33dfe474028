"""What converting numbers between integers and floats takes, between the layers of a file: nothing where both neighbours are alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from compressctl.search.tables import LayerOption, LayerTable, Tables

INTEGERS = ("int8", "int4")
"""Widths of layers that compute in integers."""


@dataclass(frozen=True)
class Conversions:
    """per_number: milliseconds for each number that one of two neighbours makes in integers and the other reads in float, or the other way around; 0
    where nobody looked who reads what. edges: maker, reader, numbers, of layers that may be in integers: what never is stands outside, as the model's inputs do.
    """

    per_number: float
    edges: tuple[tuple[str, str, int], ...]

    @classmethod
    def of(cls, tables: Tables) -> Conversions:
        """A layer in float among integers adds its own kernel's milliseconds and conversions on all sides, less those at the ends of the network, where floats
        are read and given; all layers in float together add kernels alone and save the conversions at the ends. Summed over layers the first exceeds the second by
        twice the conversions of all inner edges."""
        layers = [layer for layer in tables.layers if layer.reads is not None]
        if tables.float_ms is None or tables.integer_ms is None or len(layers) < len(tables.layers):
            return cls(0.0, ())
        known = {layer.name for layer in layers if any(option.width in INTEGERS for option in layer.options)}
        edges = tuple(
            (maker, layer.name, count)
            for layer in layers
            for maker, count in (layer.reads or {}).items()
            if {maker, layer.name} <= known
        )
        inner = sum(count for _, _, count in edges)
        alone = [one for layer in layers if (one := _in_float(layer)) is not None]
        if not inner or not alone:
            return cls(0.0, ())
        more = sum(alone) + tables.integer_ms - tables.float_ms
        return cls(max(more, 0.0) / (2 * inner), edges)

    @cached_property
    def _beside(self) -> Mapping[str, Sequence[tuple[str, int]]]:
        found: dict[str, list[tuple[str, int]]] = {}
        for maker, reader, count in self.edges:
            found.setdefault(maker, []).append((reader, count))
            found.setdefault(reader, []).append((maker, count))
        return found

    def saved(self, choice: Mapping[str, LayerOption]) -> float:
        """Milliseconds that single layers add each by itself, and not together: two neighbours in float count what is converted between them twice, and
        nothing is."""
        floats = {name for name, one in choice.items() if one.width not in INTEGERS}
        both = sum(count for maker, reader, count in self.edges if maker in floats and reader in floats)
        return 2 * self.per_number * both

    def changes(self, beside: Mapping[str, LayerOption] | None, layers: Sequence[str]) -> list[tuple[float, float]]:
        """By layer, what an option in integers and one in float take more than among integers alone, with neighbours as they are in beside."""
        if beside is None or not self.per_number:
            return [(0.0, 0.0)] * len(layers)
        found = []
        for name in layers:
            near = sum(count for other, count in self._beside.get(name, ()) if beside[other].width not in INTEGERS)
            # A float neighbour's own conversions are counted with it: they are there beside integers, and are not beside floats.
            found.append((0.0, -2 * self.per_number * near))
        return found


def _in_float(layer: LayerTable) -> float | None:
    """What it adds among integers; None for one that has no other form, whose conversions are in both files' times already."""
    widths = [option.width in INTEGERS for option in layer.options if option.rank is None]
    if all(widths) or not any(widths):
        return None
    return next(option.adds_ms for option in layer.options if option.rank is None and option.width not in INTEGERS)
