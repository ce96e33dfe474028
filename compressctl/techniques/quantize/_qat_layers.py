"""Which layers of a network learn to be rounded: where the exported graph's sites are in the network, and their quantizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor, nn

from compressctl.core.patterns import matches
from compressctl.core.quant import QuantPlan, TensorQuant
from compressctl.core.target import Target
from compressctl.graph.sites import Site
from compressctl.techniques.quantize._fake_quant import InputQuantizer, WeightQuantizer, fitted_scale
from compressctl.techniques.quantize._simulate import Layer, Rounding, layers_of
from compressctl.techniques.quantize.params import QatParams, WeightType
from compressctl.techniques.quantize.static import names_of

LIMITS: Mapping[WeightType, int] = {"int8": 127, "int4": 7, "int2": 1}
"""The largest code: around zero, so that BatchNorm's negative factors turn codes into codes."""

_GUARDED = 64
"""Two neighbours of 64 sum to 128: 128 x 255 fits the 16 bits of VPMADDUBSW. Training makes up for the bit."""


@dataclass(frozen=True)
class QatLayer:
    """sites: the graph's nodes that compute with this layer's weight."""

    sites: tuple[Site, ...]
    weights: WeightType
    rounder: WeightQuantizer


@dataclass(frozen=True)
class QatLayers:
    """by_path: what learns, by the layer's path in the network. inputs: quantizers by path, and by_tensor those of the graph's
    tensors: all that share one set of codes share one. outside: weighted nodes that no layer stands for, with the reason."""

    by_path: Mapping[str, QatLayer]
    inputs: Mapping[str, InputQuantizer]
    by_tensor: Mapping[str, InputQuantizer]
    outside: Mapping[str, str] = field(default_factory=dict)

    @property
    def roundings(self) -> dict[str, Rounding]:
        return {path: Rounding(layer.rounder, self.inputs.get(path)) for path, layer in self.by_path.items()}

    def codes(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole numbers by path, shaped like the layers' weights."""
        return {path: layer.rounder.codes(weights[path]) for path, layer in self.by_path.items()}

    def values(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the rounded layers compute with, by path."""
        return {path: layer.rounder.values(weights[path]) for path, layer in self.by_path.items()}


def find_layers(
    network: nn.Module, sites: Sequence[Site], plan: QuantPlan, params: QatParams, target: Target
) -> QatLayers:
    """sites, plan: of the network's exported graph, whose nodes are called after the modules that they come from."""
    weighted = [site for site in sites if site.weight is not None]
    plain = layers_of(network)
    by_path: dict[str, QatLayer] = {}
    inputs: dict[str, InputQuantizer] = {}
    quantizers: dict[int, InputQuantizer] = {}
    for path, module in plain.items():
        found = tuple(site for site in weighted if path in _paths(site))
        if not found:
            continue
        weights = _width(found[0], weighted, params)
        by_path[path] = QatLayer(found, weights, _rounder(module, weights, params, target))
        read = {id(plan.activations[site.inputs[0]]): plan.activations[site.inputs[0]] for site in found}
        if len(read) == 1:  # a layer that is called for several tensors keeps their calibrated ranges
            ((key, quant),) = read.items()
            if key not in quantizers:
                bound = _bound(quant, sites, plan)
                quantizers[key] = InputQuantizer(quant, is_learned=params.learn_scales, bound=bound)
            inputs[path] = quantizers[key]
    by_tensor = {name: quantizers[id(quant)] for name, quant in plan.activations.items() if id(quant) in quantizers}
    inside = {site.node for layer in by_path.values() for site in layer.sites}
    reason = "its weight is not that of one convolution or linear layer of torch's own"
    outside = {site.node: reason for site in weighted if site.node not in inside}
    return QatLayers(by_path, inputs, by_tensor, outside)


def _bound(quant: TensorQuant, sites: Sequence[Site], plan: QuantPlan) -> float:
    """The least upper bound of a Clip that was folded into one of the tensors that have these codes."""
    return min((site.clip[1] for site in sites if plan.activations.get(site.output) is quant), default=np.inf)


def _paths(site: Site) -> tuple[str, str]:
    """What a layer may be called that a site comes from: a layer that is called twice makes nodes with numbers behind."""
    assert site.weight is not None
    return site.node, site.weight.removesuffix(".weight")


def _width(site: Site, weighted: Sequence[Site], params: QatParams) -> WeightType:
    is_edge = site in (weighted[0], weighted[-1])
    width: WeightType = "int8" if is_edge and params.first_and_last == "int8" else params.weights
    for override in params.overrides:
        if override.weights is not None and override.weights != "float" and matches(override.match, names_of(site)):
            width = override.weights
    return width


def _rounder(layer: Layer, weights: WeightType, params: QatParams, target: Target) -> WeightQuantizer:
    weight = layer.weight
    is_depthwise = not isinstance(layer, nn.Linear) and weight.shape[1] == 1 and layer.groups == len(weight)
    is_guarded = target.saturates and weights == "int8" and not is_depthwise
    limit = _GUARDED if is_guarded else LIMITS[weights]
    # In 8 bits a channel's largest weight tells its scale, and a learned one swings: each clipped value pulls with 127 steps.
    is_learned = params.learn_scales and weights != "int8"
    return WeightQuantizer(limit, fitted_scale(weight, limit) if is_learned else None)
