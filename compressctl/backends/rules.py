"""Why a node of a quantized graph runs in float: the rules of ONNX Runtime's integer fusions, as data.

Source: ONNX Runtime, qdq_selectors.cc and qdq_transformer.cc, release 1.22 and later.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx

from compressctl.graph.index import GraphIndex, index

_INTEGER_KERNELS = {
    "Conv", "Gemm", "MatMul", "Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "Sigmoid", "LeakyRelu", "Softmax",
}  # fmt: skip

WEIGHT_ONLY = "its weight alone is quantized, as the plan says"

Rule = tuple[Callable[[onnx.NodeProto, GraphIndex], bool], str]


def broken_rule(artifact: onnx.ModelProto, name: str) -> str | None:
    """The first rule that the artifact's node of that name breaks, None when it breaks none that is known."""
    looked_up = index(artifact.graph)
    node = next((node for node in artifact.graph.node if node.name == name), None)
    if node is None:
        return None
    return next((sentence for breaks, sentence in RULES if breaks(node, looked_up)), None)


def _has_no_kernel(node: onnx.NodeProto, looked_up: GraphIndex) -> bool:
    return node.op_type not in _INTEGER_KERNELS


def _weight_is_float(node: onnx.NodeProto, looked_up: GraphIndex) -> bool:
    return node.op_type in ("Conv", "Gemm", "MatMul") and any(
        name in looked_up.initializers for name in node.input[1:2]
    )


def _input_is_float(node: onnx.NodeProto, looked_up: GraphIndex) -> bool:
    data = [name for name in node.input if name and name not in looked_up.initializers]
    return any(
        (producer := looked_up.producers.get(name)) is None or producer.op_type != "DequantizeLinear" for name in data
    )


def _output_is_graph_output(node: onnx.NodeProto, looked_up: GraphIndex) -> bool:
    return any(output in looked_up.outputs for output in node.output)


def _output_is_float(node: onnx.NodeProto, looked_up: GraphIndex) -> bool:
    readers = [reader for output in node.output for reader in looked_up.consumers.get(output, [])]
    return not readers or any(reader.op_type != "QuantizeLinear" for reader in readers)


def _output_has_two_readers(node: onnx.NodeProto, looked_up: GraphIndex) -> bool:
    return sum(len(looked_up.consumers.get(output, [])) for output in node.output) > 1


def _is_weight_only(node: onnx.NodeProto, looked_up: GraphIndex) -> bool:
    if node.op_type == "MatMulNBits":
        return True
    if node.op_type not in ("Gemm", "MatMul") or not _input_is_float(node, looked_up):
        return False
    made_by = looked_up.producers.get(node.input[1])
    return made_by is not None and made_by.op_type == "DequantizeLinear" and made_by.input[0] in looked_up.initializers


def _has_sixteen_bits(node: onnx.NodeProto, looked_up: GraphIndex) -> bool:
    """Told from the zero point of what dequantizes an input: codes of a QuantizeLinear have no type of their own."""
    for name in node.input:
        made_by = looked_up.producers.get(name)
        if made_by is not None and made_by.op_type == "DequantizeLinear" and len(made_by.input) > 2:
            point = looked_up.array(made_by.input[2])
            if point is not None and point.dtype.name in ("int16", "uint16"):
                return True
    return False


RULES: tuple[Rule, ...] = (
    (_has_sixteen_bits, "its activations have 16 bits, which no integer kernel multiplies"),
    (_is_weight_only, WEIGHT_ONLY),
    (_has_no_kernel, "the operator has no integer kernel"),
    (_weight_is_float, "its weight was left in float"),
    (_input_is_float, "one of its inputs is not quantized, and the integer kernel needs all of them"),
    (
        _output_is_graph_output,
        "its output is an output of the graph; the integer kernel needs a QuantizeLinear behind it",
    ),
    (
        _output_has_two_readers,
        "its output has two readers; the integer kernel needs one QuantizeLinear as the only reader",
    ),
    (_output_is_float, "its output is read in float; the integer kernel needs a QuantizeLinear right behind it"),
)
