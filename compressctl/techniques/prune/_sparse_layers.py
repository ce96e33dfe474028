"""Layers whose weights can become zero, alike for networks and graphs, and which of them a recipe means."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from compressctl.core.data import Split
from compressctl.core.model import Model, OnnxModel
from compressctl.core.patterns import matching
from compressctl.core.quant import QuantPlan
from compressctl.techniques.prune.params import SparsityOverride, UnstructuredParams, implied, n_of_m

_SMALL_END = 0.05
"""Share of all weights below which a first or last layer is kept dense by `ends: auto`."""

See = Callable[[str, np.ndarray], None]
"""Gets a layer's name and rows of its inputs, (rows, positions, channels of all groups)."""


@dataclass(frozen=True)
class Layer:
    """name: of its weight. aliases: other names that a pattern may match: its module or node, its kind.

    weight: float32, (out, positions, in): output channels, kernel positions, input channels of one group.
    """

    name: str
    aliases: tuple[str, ...]
    weight: np.ndarray
    groups: int = 1


class Weights(Protocol):
    """The weights of one network or graph, which is the holder's own and is changed in place."""

    @property
    def skipped(self) -> Mapping[str, str]:
        """Weights that cannot be pruned here, with the reason."""
        ...

    def layers(self) -> list[Layer]:
        """What can be pruned, with the weights of now, in the order in which the layers work."""
        ...

    def write(self, name: str, weight: np.ndarray) -> None:
        """Set a weight, in the shape that `layers` gives."""
        ...

    def shift(self, name: str, change: np.ndarray) -> None:
        """Add to the layer's bias, (out,), where it has one of its own."""
        ...

    def watch(self, names: Sequence[str], split: Split, see: See, rows: int) -> None:
        """Run the split once and show what enters each layer: at most `rows` rows of each per batch, drawn evenly.

        Layers whose inputs cannot be seen are never shown.
        """
        ...

    def body(self) -> Any: ...


def with_weights(model: Model, weights: Weights, plan: QuantPlan | None) -> Model:
    """The model with the body that holds these weights. plan: what of a graph is quantized."""
    if isinstance(model, OnnxModel):
        return replace(model, body=weights.body(), quant=plan)
    return replace(model, body=weights.body())


def drawn(count: int, limit: int, rng: np.random.Generator) -> np.ndarray:
    """At most `limit` of `count` rows, in order."""
    return np.arange(count) if count <= limit else np.sort(rng.choice(count, limit, replace=False))


@dataclass(frozen=True)
class Treatment:
    """What happens to a layer. share: of zeros in the end. own: whether it stands outside of a common share of all layers."""

    share: float
    pattern: str | tuple[int, int]
    own: bool

    @property
    def n_of_m(self) -> tuple[int, int] | None:
        return n_of_m(self.pattern)

    @property
    def block(self) -> tuple[int, int]:
        return self.pattern if isinstance(self.pattern, tuple) else (1, 1)


@dataclass(frozen=True)
class Treated:
    """pruned: by weight name, in the order of the layers. dense: the other layers, with the reason."""

    pruned: Mapping[str, Treatment]
    dense: Mapping[str, str]


def treat(layers: Sequence[Layer], params: UnstructuredParams) -> Treated:
    """Decide for every layer. Raises UsageError for an override that matches nothing."""
    overrides = _overrides(layers, params.overrides)
    ends = _ends(layers, params)
    pruned: dict[str, Treatment] = {}
    dense: dict[str, str] = {}
    for layer in layers:
        found = overrides.get(layer.name)
        treatment = _treatment(found, params)
        reason = _reason(layer, treatment, found, ends)
        if reason is None:
            pruned[layer.name] = treatment
        else:
            dense[layer.name] = reason
    return Treated(pruned, dense)


def _overrides(layers: Sequence[Layer], given: Sequence[SparsityOverride]) -> dict[str, SparsityOverride]:
    chosen: dict[str, SparsityOverride] = {}
    for override in given:
        matched = matching(override.match, layers, lambda layer: (layer.name, *layer.aliases))
        chosen.update({layer.name: override for layer in matched})
    return chosen


def _treatment(override: SparsityOverride | None, params: UnstructuredParams) -> Treatment:
    if override is None:
        return Treatment(params.share, params.pattern, own=False)
    pattern = override.pattern or params.pattern
    fixed = implied(pattern) if n_of_m(pattern) else params.share
    return Treatment(fixed if override.sparsity is None else override.sparsity, pattern, own=True)


def _reason(
    layer: Layer, treatment: Treatment, override: SparsityOverride | None, ends: Mapping[str, str]
) -> str | None:
    """Why a layer stays dense, None when it is pruned."""
    if override is not None and treatment.share == 0:
        return f"override {override.match!r}"
    if override is None and layer.name in ends:
        return ends[layer.name]
    ratio, channels = treatment.n_of_m, layer.weight.shape[2]
    if ratio and channels < ratio[1]:
        return f"{treatment.pattern} needs {ratio[1]} input channels, it has {channels}"
    return None


def _ends(layers: Sequence[Layer], params: UnstructuredParams) -> dict[str, str]:
    if params.first_and_last == "prune" or len(layers) < 3:
        return {}
    total = sum(layer.weight.size for layer in layers)
    return {
        layer.name: f"the {place} layer, {layer.weight.size / total:.1%} of the weights"
        for place, layer in (("first", layers[0]), ("last", layers[-1]))
        if params.first_and_last == "keep" or layer.weight.size < _SMALL_END * total
    }
