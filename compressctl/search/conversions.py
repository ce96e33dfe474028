"""What converting numbers between integers and floats takes, between the layers of a file: nothing where both neighbours are alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
        floats = _floats(choice)
        both = sum(count for maker, reader, count in self.edges if maker in floats and reader in floats)
        return 2 * self.per_number * both

    def spent(self, choice: Mapping[str, LayerOption]) -> float:
        """Milliseconds of conversions between layers."""
        floats = _floats(choice)
        return self.per_number * sum(
            count for maker, reader, count in self.edges if (maker in floats) != (reader in floats)
        )

    def added(self, choice: Mapping[str, LayerOption], scale: float) -> float:
        """Milliseconds to those of a file all in integers. scale: of conversions; of all that options add where nobody looked who reads what."""
        alone = sum(one.adds_ms or 0.0 for one in choice.values())
        if not self.per_number:
            return scale * alone
        return alone - self.saved(choice) + (scale - 1) * self.spent(choice)

    def around(
        self, beside: Mapping[str, LayerOption] | None, scale: float
    ) -> tuple[Callable[[str, LayerOption], float], float]:
        """What an option of a layer adds with neighbours as they are in beside (all in integers where None), and what a choice like that takes more than the
        sum of these, since two neighbours in float each count what they save."""
        if not self.per_number:
            return lambda name, one: scale * (one.adds_ms or 0.0), 0.0
        floats = frozenset() if beside is None else _floats(beside)

        def adds(name: str, one: LayerOption) -> float:
            if one.width in INTEGERS:
                return one.adds_ms or 0.0
            near = self._beside.get(name, ())
            inner, in_float = sum(count for _, count in near), sum(count for other, count in near if other in floats)
            return (one.adds_ms or 0.0) + self.per_number * ((scale - 1) * inner - 2 * scale * in_float)

        return adds, 0.0 if beside is None else scale * self.saved(beside)


def _floats(choice: Mapping[str, LayerOption]) -> frozenset[str]:
    return frozenset(name for name, one in choice.items() if one.width not in INTEGERS)


def _in_float(layer: LayerTable) -> float | None:
    """What it adds among integers; None for one that has no other form, whose conversions are in both files' times already."""
    widths = [option.width in INTEGERS for option in layer.options if option.rank is None]
    if all(widths) or not any(widths):
        return None
    return next(option.adds_ms for option in layer.options if option.rank is None and option.width not in INTEGERS)
