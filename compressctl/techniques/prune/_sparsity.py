"""How many zeros each layer gets, and how they lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compressctl.core.patterns import last_overrides
from compressctl.layers.layer import Layer
from compressctl.techniques.prune.params import SparsityOverride, UnstructuredParams, implied, n_of_m

_SMALL_END = 0.05
"""Share of all weights below which a first or last layer is kept dense by `first_and_last: auto`."""


@dataclass(frozen=True)
class Sparsity:
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
class Sparsities:
    """pruned: by weight name, in the order of the layers. dense: the other layers, with the reason."""

    pruned: Mapping[str, Sparsity]
    dense: Mapping[str, str]


def sparsities(layers: Sequence[Layer], params: UnstructuredParams) -> Sparsities:
    """Decide for every layer. Raises UsageError for an override that matches nothing."""
    overrides = last_overrides(params.overrides, {layer.name: layer.names for layer in layers})
    ends = _ends(layers, params)
    pruned: dict[str, Sparsity] = {}
    dense: dict[str, str] = {}
    for layer in layers:
        override = overrides.get(layer.name)
        sparsity = _sparsity(override, params)
        reason = _reason(layer, sparsity, override, ends)
        if reason is None:
            pruned[layer.name] = sparsity
        else:
            dense[layer.name] = reason
    return Sparsities(pruned, dense)


def _sparsity(override: SparsityOverride | None, params: UnstructuredParams) -> Sparsity:
    if override is None:
        return Sparsity(params.share, params.pattern, own=False)
    pattern = override.pattern or params.pattern
    fixed = implied(pattern) if n_of_m(pattern) else params.share
    return Sparsity(fixed if override.sparsity is None else override.sparsity, pattern, own=True)


def _reason(layer: Layer, sparsity: Sparsity, override: SparsityOverride | None, ends: Mapping[str, str]) -> str | None:
    """Why a layer stays dense, None when it is pruned."""
    if override is not None and sparsity.share == 0:
        return f"override {override.match!r}"
    if override is None and layer.name in ends:
        return ends[layer.name]
    ratio, channels = sparsity.n_of_m, layer.weight.shape[1]
    if ratio and channels < ratio[1]:
        return f"{sparsity.pattern} needs {ratio[1]} input channels, it has {channels}"
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
