"""What each layer's weights may be in few bits beside float activations, for whoever chooses among these and other techniques at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx

from compressctl.core.model import OnnxModel
from compressctl.core.technique import RunContext
from compressctl.graph.carry import carry
from compressctl.graph.replace_weights import with_weights
from compressctl.graph.simplify import simplify
from compressctl.graph.weight_nodes import WeightNode, find_weighted, weight_readers
from compressctl.techniques.quantize._round_weight import Rounded
from compressctl.techniques.quantize.params import WeightMethod, WeightsParams
from compressctl.techniques.quantize.weights import round_all, takes_signed_scales, treat

_EIGHT: Mapping[str, Any] = {"bits": 8, "granularity": "channel"}
_FLOPS = 5e9
"""A second's float64 operations of GPTQ on one slow core."""


@dataclass(frozen=True)
class WeightLayer:
    """Nodes that share weights, which get one width. bytes: by option; float_bytes: what the weights take in float."""

    nodes: tuple[str, ...]
    op: str
    weights: tuple[str, ...]
    float_bytes: int
    bytes: dict[str, int] = field(default_factory=dict, hash=False, compare=False)


class LayerWeights:
    """A float graph whose weights were all rounded once for each option: "weights8" to nearest, "weights4" by GPTQ, by HQQ where that would take
    longer than `seconds` (None for no limit). rounding: by option, what quantize.weights is told."""

    def __init__(self, model: OnnxModel, run: RunContext, seconds: float | None) -> None:
        """Raises StageError for calibration data that GPTQ cannot look at."""
        self._model = model
        carried = carry(model, simplify(model.body), run.events)
        nodes = [node for node in find_weighted(carried.model.graph) if node.weight not in carried.weights]
        four = {"bits": 4, "method": _method(carried.model, nodes, seconds)}
        self.rounding: Mapping[str, Mapping[str, Any]] = {"weights8": _EIGHT, "weights4": four}
        self._layers = {layer.nodes[0]: layer for layer in _layers(carried.model, nodes)}
        self._rounded: dict[str, tuple[onnx.ModelProto, dict[str, Rounded]]] = {}
        for name, given in self.rounding.items():
            params = WeightsParams(**given)
            treated, copied = treat(carried.model, params, carried.weights, signed=takes_signed_scales(params, run))
            done = round_all(copied.model, model, treated, params, run)
            self._rounded[name] = (copied.model, done)
            of_nodes: dict[str, int] = {}
            for weight, readers in weight_readers(treated.nodes).items():
                of_nodes[readers[0].node] = of_nodes.get(readers[0].node, 0) + -(-done[weight].bits // 8)
            for layer in self._layers.values():
                if all(node in {one.node for one in treated.nodes} for node in layer.nodes):
                    layer.bytes[name] = sum(of_nodes.get(node, 0) for node in layer.nodes)

    @property
    def layers(self) -> Mapping[str, WeightLayer]:
        """By the name of the first node."""
        return self._layers

    def alone(self, layer: str, option: str) -> OnnxModel:
        """One layer's weights rounded, as float numbers; everything else as it was."""
        body, done = self._rounded[option]
        nodes = set(self._layers[layer].nodes)
        readers = weight_readers([node for node in find_weighted(body.graph) if node.weight in done])
        own = {weight for weight, found in readers.items() if nodes & {node.node for node in found}}
        return replace(self._model, body=with_weights(body, {weight: done[weight].values for weight in own}))


def _layers(body: onnx.ModelProto, nodes: list[WeightNode]) -> list[WeightLayer]:
    """Nodes joined by the weights that they share, in graph order."""
    sizes = {tensor.name: 4 * int(np.prod(tensor.dims)) for tensor in body.graph.initializer}
    groups: list[tuple[set[str], dict[str, str]]] = []  # weights, and operators by node
    for node in nodes:
        joined = [group for group in groups if node.weight in group[0] or node.node in group[1]]
        weights, ops = {node.weight}, {node.node: node.op}
        for group in joined:
            weights |= group[0]
            ops = {**group[1], **ops}
            groups.remove(group)
        groups.append((weights, ops))
    order = {node.node: place for place, node in reversed(list(enumerate(nodes)))}
    found = [
        WeightLayer(
            tuple(sorted(ops, key=order.__getitem__)),
            next(iter(ops.values())),
            tuple(sorted(weights)),
            sum(sizes.get(weight, 0) for weight in weights),
        )
        for weights, ops in groups
    ]
    return sorted(found, key=lambda layer: order[layer.nodes[0]])


def _method(body: onnx.ModelProto, nodes: list[WeightNode], seconds: float | None) -> WeightMethod:
    """GPTQ inverts a matrix of a layer's inputs and goes through its columns; HQQ looks at the weights alone."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in body.graph.initializer}
    work = 0.0
    for node in nodes:
        shape = shapes.get(node.weight, (1, 1))
        rows = max(int(shape[node.row_axis]), 1) if len(shape) > node.row_axis else 1
        columns = float(np.prod(shape)) / rows
        work += 4 * columns**3 + 2 * rows * columns**2 if node.is_watched else 0.0
    return "gptq" if seconds is None or work / _FLOPS < seconds else "hqq"
