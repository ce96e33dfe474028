"""Which parameters of a model a stage did not change, found in the model itself instead of in what the stage looked at."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx

from compressctl.core import untouched
from compressctl.core.events import Events
from compressctl.core.model import Model, OnnxModel, TorchModel
from compressctl.graph.constants import Constants, constant_tensors, parameter_tensors
from compressctl.graph.index import all_nodes, bodies

if TYPE_CHECKING:
    from torch import nn

_ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Where", "Concat", "PRelu", "Expand"})
"""Operators whose constants count as weights only where they vary along two axes: one axis is a bias or a scale."""


@dataclass(frozen=True)
class LayerParameters:
    """name: of the module or node. kind: its class or operator. sizes: elements by parameter, biases among them.

    is_weighted: whether it holds more than biases and scales of channels.
    """

    name: str
    kind: str
    sizes: Mapping[str, int]
    is_weighted: bool

    @property
    def elements(self) -> int:
        return sum(self.sizes.values())


@dataclass(frozen=True)
class Untouched:
    """What a stage did to the weights. treated: names of the parameters, or layers, that it changed or gave codes.

    use: the technique. reads: the kinds of layers that it can treat, in words. reasons: by layer or parameter, why it was
    left where the technique knows; others are of a kind that it does not read.
    """

    use: str
    reads: str
    treated: Collection[str]
    reasons: Mapping[str, str]

    def facts(self, model: Model, events: Events) -> dict[str, Any]:
        """For the stage's facts. model: the one that `treated` names parameters of. Warns where most was left."""
        layers = torch_layers(model.body) if isinstance(model, TorchModel) else graph_layers(model.body)
        total = sum(layer.elements for layer in layers)
        left = [layer for layer in layers if layer.is_weighted and not self._is_treated(layer)]
        groups: dict[tuple[str, str], list[LayerParameters]] = {}
        for layer in left:
            groups.setdefault((layer.kind, self._reason(layer)), []).append(layer)
        count = sum(layer.elements for layer in left)
        found = {
            untouched.KEY: {
                "share": round(count / max(total, 1), 6),
                "parameters": count,
                "of": total,
                "layers": [
                    {
                        "kind": kind,
                        "layers": [layer.name for layer in members],
                        "parameters": (elements := sum(layer.elements for layer in members)),
                        "share": round(elements / max(total, 1), 6),
                        "reason": reason,
                    }
                    for (kind, reason), members in groups.items()
                ],
            }
        }
        if count > untouched.MOST * total:
            events.warn(f"{self.use} works on the smaller part of this model: {untouched.words(found)}")
        return found

    def _is_treated(self, layer: LayerParameters) -> bool:
        return any(name in self.treated for name in (layer.name, *layer.sizes))

    def _reason(self, layer: LayerParameters) -> str:
        known = (self.reasons.get(name) for name in (layer.name, *layer.sizes))
        return next((reason for reason in known if reason), f"{self.use} treats {self.reads}")


def planned(model: OnnxModel) -> set[str]:
    """Names of the weights that a quantized graph's plan gives codes to, at one reader at least."""
    plan = model.quant
    if plan is None:
        return set()
    nodes = [node for node in all_nodes(model.body.graph) if not plan.is_float(node.name)]
    return {name for node in nodes for name in node.input if name in plan.weights}


def torch_layers(network: nn.Module) -> list[LayerParameters]:
    """Modules with parameters of their own. A parameter that two share counts for the first."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    layers, seen = [], set()
    for path, module in network.named_modules():
        own = [one for one in module.parameters(recurse=False) if id(one) not in seen]
        seen |= {id(one) for one in own}
        if own:
            sizes = {names[id(one)]: one.numel() for one in own}
            weighted = any(one.ndim > 1 for one in own)
            layers.append(LayerParameters(path or "the network itself", type(module).__name__, sizes, weighted))
    return layers


def graph_layers(model: onnx.ModelProto) -> list[LayerParameters]:
    """Nodes of a canonical graph that compute with stored numbers, those in branches and loops among them.

    Numbers that several nodes read count for the first, those in bodies before the node that they belong to.
    """
    constants = constant_tensors(model.graph)
    dims = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    layers: list[LayerParameters] = []
    seen: set[str] = set()

    def look(graph: onnx.GraphProto, place: str, known: Constants) -> None:
        for node in graph.node:
            for body in bodies(node):
                look(body, f" inside {node.op_type} {node.name}", {**known, **constant_tensors(body, outer=known)})
            if not any(node.input) or all(name in known for name in node.output if name):
                continue
            mine = {
                tensor.name: tensor.elements
                for tensor in parameter_tensors(node, known)
                if tensor.is_float and not tensor.describes and tensor.elements > 1 and tensor.name not in seen
            }
            seen.update(mine)
            if mine:
                weighted = any(_is_weight(dims.get(name), node.op_type) for name in mine)
                layers.append(LayerParameters(node.name, f"{node.op_type}{place}", mine, weighted))

    look(model.graph, "", constants)
    return layers


def _is_weight(dims: tuple[int, ...] | None, op: str) -> bool:
    if dims is None:
        return True  # packed: nobody packs biases
    long = sum(size > 1 for size in dims)
    return long > 1 if op in _ELEMENTWISE else len(dims) > 1
