"""Root mean square normalisation as one node of ONNX Runtime's, with the residual sum before it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from compressctl.graph.edit import GraphEditor, Replacement
from compressctl.graph.index import GraphIndex, attribute, index

DOMAIN = "com.microsoft"


@dataclass(frozen=True)
class _Norm:
    """Of what input, by which scale, to which output; nodes: names of all that it is written as. root, reciprocal, normed: the nodes
    from the square root to the product of input and reciprocal."""

    given: str
    scale: str
    epsilon: float
    output: str
    nodes: frozenset[str]
    root: str
    reciprocal: str
    normed: onnx.NodeProto


def write_rms_norms(proto: onnx.ModelProto) -> None:
    """Replace x * (1 / sqrt(mean(x^2) + epsilon)) * scale wherever x is a sum of two computed tensors, by SkipSimplifiedLayerNormalization.

    Of other tensors it becomes a quotient, which ONNX Runtime fuses on its own when it loads the file. Source: RMSNorm, Zhang and Sennrich 2019, equation 4; ONNX Runtime's ContribOperators.md.
    """
    found = index(proto.graph)
    norms = {norm.given: norm for node in proto.graph.node if (norm := _norm(found, node)) is not None}
    sums = {name: found.producers[name] for name in norms if _is_residual(found, name)}
    gone = {name for given in sums for name in norms[given].nodes}
    others = {norm.normed.name: norm for given, norm in norms.items() if given not in sums}
    gone |= {norm.reciprocal for norm in others.values()}
    editor = GraphEditor(proto.graph)

    def replacement(node: onnx.NodeProto) -> Replacement:
        if node.name in gone:
            return []
        if node.name in others:
            norm = others[node.name]
            return [helper.make_node("Div", [norm.given, norm.root], node.output, node.name)]
        total = node.output[0] if node.output else ""
        if total not in sums:
            return None
        norm = norms[total]
        name = f"{node.name}/SkipSimplifiedLayerNormalization"
        inputs, outputs = [*node.input, norm.scale], [norm.output, "", "", total]
        made = helper.make_node(
            "SkipSimplifiedLayerNormalization", inputs, outputs, name, domain=DOMAIN, epsilon=norm.epsilon
        )
        return [made]

    editor.replace_nodes(replacement)


def _is_residual(found: GraphIndex, tensor: str) -> bool:
    """Whether it is a sum of two computed tensors."""
    node = found.producers.get(tensor)
    return (
        node is not None
        and node.op_type == "Add"
        and all(name in found.producers for name in node.input)
        and tensor not in found.outputs
    )


def _norm(found: GraphIndex, square: onnx.NodeProto) -> _Norm | None:
    """The normalisation that begins with this Pow, if one does."""
    if square.op_type != "Pow" or not _is_number(found, square.input[1], 2):
        return None
    nodes = [square]
    for kind in ("ReduceMean", "Add", "Sqrt", "Reciprocal"):
        node = found.only_consumer(nodes[-1].output[0])
        if node is None or node.op_type != kind:
            return None
        nodes.append(node)
    mean, shifted = nodes[1], nodes[2]
    axes = found.array(mean.input[1]) if len(mean.input) > 1 else None
    epsilon = next((found.array(name) for name in shifted.input if name in found.initializers), None)
    if axes is None or axes.reshape(-1).tolist() != [-1] or attribute(mean, "keepdims", 1) != 1:
        return None
    if epsilon is None or epsilon.size != 1:
        return None
    given = square.input[0]
    normed = found.only_consumer(nodes[-1].output[0])
    if normed is None or normed.op_type != "Mul" or given not in normed.input:
        return None
    scaled = found.only_consumer(normed.output[0])
    if scaled is None or scaled.op_type != "Mul":
        return None
    scale = next((name for name in scaled.input if name != normed.output[0]), "")
    if scale not in found.initializers or len(found.initializers[scale].dims) != 1:
        return None
    names = frozenset(node.name for node in (*nodes, normed, scaled))
    root, reciprocal = nodes[-2].output[0], nodes[-1].name
    return _Norm(given, scale, float(epsilon.item()), scaled.output[0], names, root, reciprocal, normed)


def _is_number(found: GraphIndex, tensor: str, number: float) -> bool:
    value = found.array(tensor)
    return value is not None and value.size == 1 and float(np.asarray(value).item()) == number
