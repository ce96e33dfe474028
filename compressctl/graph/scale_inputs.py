"""Move scale between an activation's channels and the weights that meet them, without changing what the graph computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from compressctl.graph.edit import GraphEditor
from compressctl.graph.index import GraphIndex, attribute, index
from compressctl.graph.tensors import copy_of
from compressctl.graph.weight_nodes import WeightNode


def scale_inputs(
    model: onnx.ModelProto, scales: Mapping[str, np.ndarray], nodes: Sequence[WeightNode]
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """A copy in which every matrix product that reads one of these tensors reads it divided, its weight's inputs multiplied.

    scales: by tensor, (channels,) > 0. The division goes into the normalization, product or constant that makes the
    tensor where nothing else reads it, and into a Mul in front of the products otherwise. Returns too where each went:
    the name of the node that took it. Weights that other nodes share are left alone, and so are all products of that tensor.
    """
    changed = copy_of(model)
    editor = GraphEditor(changed.graph)
    places: dict[str, str] = {}
    for tensor, scale in scales.items():
        found = index(changed.graph)
        readers = [node for node in nodes if node.input == tensor and node.op in ("MatMul", "Gemm")]
        if not readers or any(len(found.consumers[reader.weight]) > 1 for reader in readers):
            continue
        for reader in readers:
            weight = found.array(reader.weight)
            assert weight is not None
            editor.store(reader.weight, reader.stored(reader.matrix(weight) * scale, weight.shape).astype(np.float32))
        names = {reader.node for reader in readers}
        alone = {node.name for node in found.consumers[tensor]} <= names and tensor not in found.outputs
        maker = _divide(editor, found, tensor, scale) if alone else None
        places[tensor] = maker or _divided_in_front(editor, tensor, scale, names)
    editor.close()
    return changed, places


def _divide(editor: GraphEditor, found: GraphIndex, tensor: str, scale: np.ndarray) -> str | None:
    """Divide what makes the tensor; the name of the node that took it, None (and nothing changed) when none can."""
    maker = found.producers.get(tensor)
    if maker is None or len(found.consumers.get(tensor, [])) == 0:
        return None
    if maker.op_type == "LayerNormalization" and attribute(maker, "axis", -1) == -1:
        return _divide_constants(editor, found, maker, [1, 2], scale)
    if maker.op_type in ("MatMul", "Gemm"):
        weight = found.array(maker.input[1])
        turned = maker.op_type == "Gemm" and attribute(maker, "transB", 0)
        if weight is None or weight.ndim != 2 or len(found.consumers[maker.input[1]]) > 1:
            return None
        has_bias = len(maker.input) > 2 and bool(maker.input[2])
        if has_bias and _divide_constants(editor, found, maker, [2], scale) is None:
            return None
        divided = weight / (scale[:, None] if turned else scale)
        editor.store(maker.input[1], divided.astype(np.float32))
        return maker.name
    if maker.op_type == "Relu":
        return _divide_only(editor, found, maker.input[0], scale)
    constants = [position for position, name in enumerate(maker.input) if name in found.initializers]
    if maker.op_type == "Mul" and len(constants) == 1:
        return _divide_constants(editor, found, maker, constants, scale)
    if maker.op_type == "Add" and len(constants) == 1:
        if not _is_channels(found, maker.input[constants[0]], scale):
            return None
        inner = _divide_only(editor, found, maker.input[1 - constants[0]], scale)
        return inner and _divide_constants(editor, found, maker, constants, scale) and inner
    return None


def _divide_only(editor: GraphEditor, found: GraphIndex, tensor: str, scale: np.ndarray) -> str | None:
    return _divide(editor, found, tensor, scale) if found.only_consumer(tensor) is not None else None


def _divide_constants(
    editor: GraphEditor, found: GraphIndex, node: onnx.NodeProto, positions: Sequence[int], scale: np.ndarray
) -> str | None:
    """Give a node copies of its constants, divided along their last axis: others may read the old ones."""
    named = [position for position in positions if len(node.input) > position and node.input[position]]
    if not named or not all(_is_channels(found, node.input[position], scale) for position in named):
        return None
    for position in named:
        values = found.array(node.input[position])
        assert values is not None
        divided = (values / scale).astype(values.dtype)
        node.input[position] = editor.constant(divided, node.name, str(position), "divided")
    return node.name


def _is_channels(found: GraphIndex, name: str, scale: np.ndarray) -> bool:
    values = found.array(name)
    return values is not None and values.ndim > 0 and values.shape[-1] == len(scale) and values.size == len(scale)


def _divided_in_front(editor: GraphEditor, tensor: str, scale: np.ndarray, readers: set[str]) -> str:
    name = editor.name(tensor, "divided")
    by = editor.constant((1 / scale).astype(np.float32), tensor, "divided_by")
    nodes = list(editor.graph.node)
    first = next(position for position, node in enumerate(nodes) if node.name in readers)
    for node in nodes:
        if node.name in readers:
            node.input[0] = name
    nodes.insert(first, helper.make_node("Mul", [tensor, by], [name], name))
    del editor.graph.node[:]
    editor.graph.node.extend(nodes)
    return name
