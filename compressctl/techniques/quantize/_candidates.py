"""Models in which some layers have 8 bits, some 4 and some are float, made from one calibration."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from compressctl.core.model import OnnxModel
from compressctl.core.quant import QuantPlan
from compressctl.core.target import Target
from compressctl.graph.codes import weight_values
from compressctl.graph.index import index
from compressctl.graph.requantize import readers
from compressctl.graph.sites import Site, find_sites
from compressctl.techniques.quantize._bias import corrected_biases, with_biases
from compressctl.techniques.quantize.params import StaticParams, Width
from compressctl.techniques.quantize.static import BITS, Seen, make_plan, rounding_nodes

_FLOAT = "mixed: float"


@dataclass(frozen=True)
class Layer:
    """A weight and the nodes that read it: they get one width. bytes: by width that it may get, scales included.

    float_bytes: what it takes in float, whether it may be that or not.
    """

    weight: str
    nodes: tuple[str, ...]
    bytes: Mapping[Width, int] = field(hash=False, compare=False)
    float_bytes: int = 0


def find_layers(seen: Seen, widths: Collection[Width], *, per_channel: bool) -> list[Layer]:
    """Every weight of an integer kernel, with its possible widths: the stage's, or the one that an override decided."""
    sizes = {tensor.name: tuple(tensor.dims) for tensor in seen.body.graph.initializer}
    layers = []
    for weight, sites in readers(find_sites(seen.body.graph)).items():
        decided = {width for site in sites if (width := _decided(site, seen)) is not None}
        shape = sizes[weight]
        scales = shape[sites[0].weight_axis] if per_channel else 1
        possible = sorted(decided)[-1:] if decided else widths
        bytes_ = {width: _bytes(int(np.prod(shape)), scales, width) for width in possible}
        layers.append(Layer(weight, tuple(site.node for site in sites), bytes_, 4 * int(np.prod(shape))))
    return layers


def _decided(site: Site, seen: Seen) -> Width | None:
    if site.node in seen.treated.floats:
        return "float"
    if site.node not in seen.treated.decided:
        return None
    return "int4" if seen.treated.bits[site.node] == 4 else "int8"


def _bytes(weights: int, scales: int, width: Width) -> int:
    return 4 * weights if width == "float" else -(-weights * BITS[width] // 8) + 4 * scales


class Candidates:
    """Models of one float network by the width of each layer. Rounding to nearest, which is what differs least."""

    def __init__(self, model: OnnxModel, seen: Seen, params: StaticParams, target: Target) -> None:
        self._model, self._seen = model, seen
        sites = seen.treated.sites
        self._plans = {
            width: make_plan(
                seen.body,
                replace(seen.treated, bits={site.node: bits for site in sites}),
                seen.calibration,
                params,
                target,
            )
            for width, bits in BITS.items()
        }

    def model(self, widths: Mapping[Layer, Width], floats: Collection[str] = ()) -> OnnxModel:
        """With these widths; floats: other nodes that stay float."""
        weights = {
            layer.weight: self._plans[width].weights[layer.weight]
            for layer, width in widths.items()
            if width != "float"
        }
        left = [node for layer, width in widths.items() if width == "float" for node in layer.nodes]
        kept = {**self._seen.treated.floats, **dict.fromkeys([*left, *floats], _FLOAT)}
        plan = QuantPlan(self._plans["int8"].activations, weights, kept)
        sites = [site for site in self._seen.treated.sites if site.node not in kept]
        biases = corrected_biases(self._seen.body, sites, plan, self._seen.calibration.means)
        return replace(self._model, body=with_biases(self._seen.body, biases), quant=plan)

    def alone(self, layer: Layer, width: Width) -> OnnxModel:
        """With one layer quantized and everything else in float."""
        others = [node for node in rounding_nodes(self._seen.treated.sites) if node not in layer.nodes]
        return self.model({layer: width}, others)

    def rounding_error(self, layer: Layer, width: Width) -> np.ndarray:
        """What a width changes in each weight, the weight's shape; zeros for float."""
        values = self.values(layer)
        return (
            values * 0 if width == "float" else weight_values(values, self._plans[width].weights[layer.weight]) - values
        )

    def values(self, layer: Layer) -> np.ndarray:
        """The weight in float."""
        values = index(self._seen.body.graph).array(layer.weight)
        assert values is not None
        return values
