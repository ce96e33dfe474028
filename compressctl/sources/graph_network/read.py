"""From a graph to the network that computes the same."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from keyword import iskeyword
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import nn

from compressctl.core.errors import UsageError
from compressctl.graph.activations import spelled_out, unread_inside
from compressctl.graph.opset import STANDARD, opset_of
from compressctl.graph.shapes import shapes
from compressctl.graph.tensors import to_array
from compressctl.sources.graph_network.layers import SPELLED, Layer, Stored, layer_of
from compressctl.sources.graph_network.network import AS_THEMSELVES, LAYER, GraphNetwork
from compressctl.sources.graph_network.numbers import COUNTED
from compressctl.sources.graph_network.operators import OPERATORS
from compressctl.sources.graph_network.words import CANNOT, HINT

_MOST_SIZES = 64
"""Entries of a constant of whole numbers that is read as numbers."""

AS_LAYERS = ("ConvTranspose", "LSTM", "GRU")
"""Operators that have a counterpart where their weights are stored."""

_MASKS_FROM = 1e4
"""What a stored number that no training should move is as large as: the score of what attention must not see."""

_SETTINGS = {"Resize": (1, 2, 3), "Upsample": (1,), "Pad": (2,)}

_VIEWS = ("Reshape", "Unsqueeze", "Squeeze", "Flatten", "Identity")

_CONSTANTS = "constants_of_graph"

_BIASES = ("Add", "Sub", "Mul", "Div", "Pow")


def network_of(model: onnx.ModelProto) -> GraphNetwork:
    """In eval mode. model: canonical, in floats. Raises UsageError that names every operator that has no counterpart here."""
    graph = model.graph
    if missing := dict.fromkeys(_unknown(graph)):
        raise UsageError(f"{CANNOT}: there is no counterpart in torch for {', '.join(missing)}", hint=HINT)
    return _Reader(model).network()


def _unknown(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        name = node.op_type if node.domain in STANDARD else f"{node.domain}:{node.op_type}"
        if name not in OPERATORS and node.op_type not in AS_LAYERS:
            yield name


class _Reader:
    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self._graph, self._opset = graph, opset_of(model)
        self._constants = {tensor.name: to_array(tensor) for tensor in graph.initializer}
        self._ranks = {name: len(sizes) for name, sizes in shapes(model).items() if sizes is not None}
        inputs = tuple(value.name for value in graph.input if value.name not in self._constants)
        self._made = GraphNetwork(inputs, tuple(value.name for value in graph.output), [])
        self._paths: set[str] = set()
        self._weights: dict[str, nn.Parameter] = {}
        self._readers = _readers(graph)
        self._merged: set[str] = set()
        self._makers = {name: node for node in graph.node for name in node.output}
        self._fold_views()
        spelled = list(spelled_out(graph, self._ranks))
        self._activations = {one.nodes[0].name: one for one in spelled}
        self._merged |= unread_inside(graph, spelled)
        self._inside = {node.name for one in spelled for node in one.nodes}
        self._reserved = frozenset((*dir(self._made), _CONSTANTS))
        self._unplaced: list[tuple[dict[str, Any], nn.Module, str]] = []

    def _fold_views(self) -> None:
        """Constants in another shape are constants: exporters of Paddle reshape every bias."""
        for node in self._graph.node:
            values = [self._constants.get(name) for name in _without_last_blanks(node.input)]
            if node.op_type not in _VIEWS or node.domain not in STANDARD or not values:
                continue
            known = [torch.from_numpy(np.array(value)) for value in values if value is not None]
            if len(known) == len(values):
                made = OPERATORS[node.op_type](known, self._attributes(node))
                self._constants[node.output[0]] = made.numpy()
                self._merged.add(node.name)

    def _attributes(self, node: onnx.NodeProto) -> dict[str, Any]:
        own = {entry.name: _plain(entry) for entry in node.attribute}
        return own | {"opset": self._opset, "outputs": len(node.output)}

    def network(self) -> GraphNetwork:
        for node in self._graph.node:
            if node.name not in self._merged:
                self._read(node)
        network = self._made
        for step, module, name in self._unplaced:
            step["path"] = self._placed(module, name)
        self._place_constants()
        network.last = {name: place for place, step in enumerate(network.steps) for name in step["reads"]}
        return network.eval()

    def _read(self, node: onnx.NodeProto) -> None:
        attributes = self._attributes(node)
        stored = Stored(self._constants, self._ranks)
        reads = _without_last_blanks(node.input)
        layer = layer_of(node.op_type, reads, attributes, stored)
        if layer is not None:
            self._add_layer(node, layer, attributes)
        elif (spelled := self._activations.get(node.name)) is not None:
            op, own, module = SPELLED[spelled.kind]
            meant = {**own, "opset": self._opset, "outputs": 1}
            self._add_layer(node, Layer(module(), (spelled.reads,)), meant, op)
        elif node.op_type not in OPERATORS:
            raise UsageError(
                f"{CANNOT}: there is no counterpart in torch for node {node.name} ({node.op_type}) with these attributes, or with a weight that is computed",
                hint=HINT,
            )
        else:
            if node.op_type == "Range":
                reads = self._whole_numbers(reads, attributes)
            self._made.steps.append(_step(node.op_type, reads, node.output, attributes))

    def _is_whole(self, name: str) -> bool:
        """Whether these are whole numbers, as far as the nodes that make them tell."""
        if name in self._constants:
            return bool(np.issubdtype(self._constants[name].dtype, np.integer))
        maker = self._makers.get(name)
        if maker is None or maker.op_type in ("Shape", "Size"):
            return maker is not None
        if maker.op_type == "Cast":
            return self._attributes(maker)["to"] in (TensorProto.INT32, TensorProto.INT64)
        return maker.op_type in COUNTED and self._is_whole(maker.input[0])

    def _whole_numbers(self, reads: list[str], attributes: dict[str, Any]) -> list[str]:
        """What a Range of floats reads, before sizes were cast to floats: as whole numbers they stay open while the network is traced. The Range is
        then cast itself, as the attribute `to` says."""
        found = []
        for name in reads:
            maker, constant = self._makers.get(name), self._constants.get(name)
            if maker is not None and maker.op_type == "Cast" and self._is_whole(maker.input[0]):
                found.append(maker.input[0])
                attributes["to"] = {entry.name: _plain(entry) for entry in maker.attribute}["to"]
            elif constant is not None and constant.size == 1 and float(constant.reshape(-1)[0]).is_integer():
                whole = f"{name}.whole"
                self._constants[whole] = np.array(int(constant.reshape(-1)[0]), np.int64)
                found.append(whole)
            else:
                attributes.pop("to", None)
                return reads
        return found if "to" in attributes else reads

    def _add_layer(
        self, node: onnx.NodeProto, layer: Layer, attributes: Mapping[str, Any], op: str | None = None
    ) -> None:
        """op: what the node means, where that is not its own operator."""
        module, outputs = layer.module, list(node.output)
        if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)) and module.bias is None:
            outputs = self._with_bias(node, module) or outputs
        if layer.weight is not None:
            shared = self._weights.setdefault(layer.weight, module.weight)  # type: ignore[arg-type]
            module.weight = shared
        has_weights = any(True for _ in module.parameters())
        path = self._placed(module, node.name) if has_weights else ""
        if has_weights:
            self._made.paths_of_nodes[node.name] = path
        reads = list(layer.reads)
        if layer.before is not None:
            op, padding = layer.before
            padded = f"{outputs[0]}.read"
            self._made.steps.append(_step(op, reads, [padded], {**padding, "opset": self._opset}))
            reads = [padded]
        step = _layer_step(path, module, reads, outputs, op or node.op_type, attributes)
        self._made.steps.append(step)
        if not has_weights:  # names belong to layers that hold something first
            self._unplaced.append((step, module, node.name))

    def _with_bias(self, node: onnx.NodeProto, module: nn.Linear | nn.modules.conv._ConvNd) -> list[str] | None:
        """What the sum with a stored vector behind a product makes, which becomes the layer's bias; None without one."""
        readers = self._readers.get(node.output[0], [])
        if (
            len(readers) != 1
            or readers[0].op_type != "Add"
            or readers[0].name in self._inside
            or any(out.name == node.output[0] for out in self._graph.output)
        ):
            return None
        add = readers[0]
        other = next((name for name in add.input if name != node.output[0]), "")
        bias = self._constants.get(other)
        if bias is None or bias.dtype != np.float32 or not _is_bias(bias, module):
            return None
        module.bias = nn.Parameter(torch.from_numpy(np.array(bias.reshape(-1))))
        self._merged.add(add.name)
        return list(add.output)

    def _place_constants(self) -> None:
        """What is left of the constants: numbers, parameters of sums and products, buffers."""
        read = {name: step for step in self._made.steps for name in step["reads"]}
        settings = _settings(self._made.steps) | _counted_with(self._made.steps, self._constants)
        holder = nn.Module()
        self._made.add_module(_CONSTANTS, holder)
        wanted = [*read, *self._made.outputs]
        for name in dict.fromkeys(wanted):
            values = self._constants.get(name)
            if values is None:
                continue
            if values.dtype in (np.int64, np.int32) and values.ndim <= 1 and values.size <= _MOST_SIZES:
                self._made.sizes[name] = values.tolist()
                continue
            if name in settings:
                self._made.sizes[name] = values.tolist()
                continue
            own = _name_of(name, {*holder._parameters, *holder._buffers})
            tensor = torch.from_numpy(np.array(values))
            if _is_learned(values, read.get(name)):
                holder.register_parameter(own, nn.Parameter(tensor))
            else:
                holder.register_buffer(own, tensor)
            self._made.constants[name] = f"{_CONSTANTS}.{own}"

    def _placed(self, module: nn.Module, name: str) -> str:
        """Where the layer stands: after its node's name, in modules that hold others and compute nothing. What would lie within a layer stands beside it."""
        parts = [part for part in (_word(part) for part in re.split(r"[/.]", name)) if part] or ["layer"]
        if len(parts) > 1 and re.fullmatch(
            r"(Conv|ConvTranspose|MatMul|Gemm|BatchNormalization|InstanceNormalization|LayerNormalization|Gather|PRelu|LSTM|GRU)(_\d+)?",
            parts[-1],
        ):
            parts.pop()
        base = ".".join(f"{part}_" if part in self._reserved or iskeyword(part) else part for part in parts)
        while (above := next((taken for taken in self._paths if base.startswith(f"{taken}.")), None)) is not None:
            base = f"{above}_{base[len(above) + 1 :].replace('.', '_')}"
        path, number = base, 1
        while any(path == taken or taken.startswith(f"{path}.") for taken in self._paths):
            number += 1
            path = f"{base}_{number}"
        self._paths.add(path)
        holder: nn.Module = self._made
        *containers, last = path.split(".")
        for container in containers:
            if container not in holder._modules:
                holder.add_module(container, nn.Module())
            found = holder._modules[container]
            assert found is not None
            holder = found
        holder.add_module(last, module)
        return path


def _is_bias(values: np.ndarray, module: nn.Linear | nn.modules.conv._ConvNd) -> bool:
    """Whether each of a layer's outputs has one of these numbers added, all along its other axes."""
    if isinstance(module, nn.Linear):
        return 0 < values.ndim <= 2 and values.size == module.out_features == values.shape[-1]
    behind = module.weight.ndim - 2
    return (
        behind < values.ndim <= behind + 2
        and values.size == module.out_channels == values.shape[-behind - 1]
        and values.shape[-behind:] == (1,) * behind
    )


def _settings(steps: Iterable[Mapping[str, Any]]) -> set[str]:
    """What nothing reads but Resize, behind the values, and Pad, to fill with: numbers that say how."""
    reads = [
        (name, place in _SETTINGS.get(step["op"], ())) for step in steps for place, name in enumerate(step["reads"])
    ]
    return {name for name, is_setting in reads if is_setting} - {name for name, is_setting in reads if not is_setting}


def _counted_with(steps: Iterable[Mapping[str, Any]], constants: Mapping[str, np.ndarray]) -> set[str]:
    """Floats that nothing but arithmetic on sizes reads, as where a size is divided by a stride and rounded up."""
    small = {name for name, values in constants.items() if values.ndim <= 1 and values.size <= _MOST_SIZES}
    floats = {name for name in small if constants[name].dtype == np.float32}
    sizes: set[str] = set()
    others: set[str] = set()
    for step in steps:
        reads = {name for name in step["reads"] if name}
        is_counted = step["op"] in COUNTED and bool(reads & sizes) and reads <= sizes | small
        if step["op"] in ("Shape", "Size") or is_counted:
            sizes.update(step["writes"])
        if not is_counted:
            others |= reads
    return floats - others


def _readers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found


def _without_last_blanks(names: Any) -> list[str]:
    found = list(names)
    while found and not found[-1]:
        found.pop()
    return found


def _layer_step(
    path: str, module: nn.Module, reads: list[str], outputs: list[str], op: str, attributes: Mapping[str, Any]
) -> dict[str, Any]:
    """node, kind: what operator a module without weights was, and its class: while it is that still, it is exported as that node."""
    is_itself = op in AS_THEMSELVES and not list(module.parameters())
    told = {"node": op, "kind": type(module).__name__} if is_itself else {}
    return {**_step(LAYER, reads, outputs, attributes if is_itself else {}), "path": path, **told}


def _step(op: str, reads: Any, writes: Any, attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {"op": op, "reads": list(reads), "writes": list(writes), "attributes": dict(attributes)}


def _plain(entry: onnx.AttributeProto) -> Any:
    """Numbers, texts and lists of them; of a tensor's single entry the value and its type."""
    value = helper.get_attribute_value(entry)
    if isinstance(value, onnx.TensorProto):
        return [to_array(value).reshape(-1)[0].item(), value.data_type]
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list | tuple):
        return [one.decode() if isinstance(one, bytes) else one for one in value]
    return value


def _is_learned(values: np.ndarray, step: Mapping[str, Any] | None) -> bool:
    """Whether training may move it: a vector of floats in a sum or a product, as of a bias, a scale or positions; no mask, no single number."""
    if values.dtype != np.float32 or values.size < 2 or step is None or step["op"] not in _BIASES:
        return False
    return bool(np.isfinite(values).all() and np.abs(values).max() < _MASKS_FROM and np.ptp(values) > 0)


def _word(text: str) -> str:
    return re.sub(r"\W", "_", text).strip("_") if not text.isdigit() else text


def _name_of(text: str, taken: set[str]) -> str:
    base = re.sub(r"\W", "_", text) or "constant"
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base}_{number}"
    return name
