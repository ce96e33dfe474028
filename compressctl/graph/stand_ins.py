"""Standard operators that stand in for ONNX Runtime's own where shapes are inferred.

ONNX's inference stops at operators that ONNX does not define, and everything behind them stays unknown: one DynamicQuantizeMatMul
in the first layer hides the rest of a network. What stands in gives outputs of the same shape and element type; what it
computes does not matter. Source of the operators' shapes: onnxruntime/docs/ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx
from onnx import TensorProto, helper

from compressctl.graph.index import attribute, copied
from compressctl.graph.inlined import inlined
from compressctl.graph.opset import is_defined

DOMAIN = "com.microsoft"


def with_stand_ins(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with calls of its functions written out, and with stand-ins in the main graph. Weights need not have data."""
    model = inlined(model)
    if not any(node.op_type in _STAND_INS for node in model.graph.node):
        return model
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        make = _STAND_INS.get(node.op_type) if _is_theirs(node) else None
        made = make(node, tensors, model.graph) if make else None
        nodes.extend([node] if made is None else made)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


_Make = Callable[[onnx.NodeProto, dict[str, onnx.TensorProto], onnx.GraphProto], "Sequence[onnx.NodeProto] | None"]
"""From the node, the graph's constants by name, and the graph, to which constants may be added. None: no stand-in is known."""


def _is_theirs(node: onnx.NodeProto) -> bool:
    """Some of ONNX Runtime's operators carry the standard domain in files (SimplifiedLayerNormalization)."""
    return node.domain == DOMAIN or (node.domain in ("", "ai.onnx") and not is_defined(node.op_type))


def _same(position: int, *outputs: int) -> _Make:
    """Outputs (by default the first) have the shape of one input."""

    def make(node: onnx.NodeProto, _: object, __: object) -> list[onnx.NodeProto] | None:
        given = _input(node, position)
        if not given:
            return None
        wanted = [node.output[number] for number in outputs or (0,) if number < len(node.output)]
        return [helper.make_node("Identity", [given], [name]) for name in wanted if name]

    return make


def _standard(op: str, *positions: int, keep: Sequence[str] = (), dtype: int | None = None) -> _Make:
    """A standard operator on some of the inputs, which keeps some attributes. dtype: of the output, where it is another."""

    def make(node: onnx.NodeProto, _: object, __: object) -> list[onnx.NodeProto]:
        inputs = [_input(node, position) for position in positions]
        while inputs and not inputs[-1]:
            inputs.pop()
        made = node.output[0] if dtype is None else f"{node.output[0]}/uncast"
        standing = helper.make_node(op, inputs, [made])
        standing.attribute.extend(entry for entry in node.attribute if entry.name in keep)
        return [standing] if dtype is None else [standing, _cast(made, node.output[0], dtype)]

    return make


def _product(right: int, dtype: int | None = None) -> _Make:
    """A matrix product, of which either side may be transposed."""

    def make(node: onnx.NodeProto, tensors: dict[str, onnx.TensorProto], _: object) -> list[onnx.NodeProto] | None:
        if attribute(node, "transBatchA", 0) or attribute(node, "transBatchB", 0):
            return None
        made = node.output[0] if dtype is None else f"{node.output[0]}/uncast"
        sides, nodes, terms = [node.input[0], node.input[right]], [], ["...ik", "...kj"]
        for position, name in enumerate(("transA", "transB")):
            if not attribute(node, name, 0):
                continue
            if sides[position] not in tensors:
                # Of unknown rank, so that it cannot be transposed; in an Einsum both sides need the same rank.
                terms[position] = ("...ki", "...jk")[position]
                continue
            last = len(tensors[sides[position]].dims) - 1
            turned = f"{made}/{name}"
            order = [*range(last - 1), last, last - 1] if last else [0]
            nodes.append(helper.make_node("Transpose", [sides[position]], [turned], perm=order))
            sides[position] = turned
        if terms == ["...ik", "...kj"]:
            nodes.append(helper.make_node("MatMul", sides, [made]))
        else:
            nodes.append(helper.make_node("Einsum", sides, [made], equation=f"{','.join(terms)}->...ij"))
        return nodes if dtype is None else [*nodes, _cast(made, node.output[0], dtype)]

    return make


def _product_with(columns: Callable[[onnx.NodeProto, dict[str, onnx.TensorProto]], tuple[int, int] | None]) -> _Make:
    """A product with a packed or joint weight, (rows, columns) as a matrix."""

    def make(
        node: onnx.NodeProto, tensors: dict[str, onnx.TensorProto], graph: onnx.GraphProto
    ) -> list[onnx.NodeProto] | None:
        shape = columns(node, tensors)
        if shape is None:
            return None
        weight = f"{node.output[0]}/matrix"
        graph.initializer.add(name=weight, data_type=TensorProto.FLOAT, dims=shape)
        return [helper.make_node("MatMul", [node.input[0], weight], [node.output[0]])]

    return make


def _packed_matrix(node: onnx.NodeProto, _: object) -> tuple[int, int] | None:
    rows, columns = attribute(node, "K"), attribute(node, "N")
    return (rows, columns) if isinstance(rows, int) and isinstance(columns, int) else None


def _values_of_attention(node: onnx.NodeProto, tensors: dict[str, onnx.TensorProto]) -> tuple[int, int] | None:
    """Attention and QAttention: one weight gives queries, keys and values, of which the last decide the output's size."""
    weight = tensors.get(_input(node, 1))
    if weight is None or len(weight.dims) != 2:
        return None
    hidden = attribute(node, "qkv_hidden_sizes")
    return weight.dims[0], int(hidden[2]) if isinstance(hidden, list) else weight.dims[1] // 3


def _lookup(
    node: onnx.NodeProto, tensors: dict[str, onnx.TensorProto], graph: onnx.GraphProto
) -> list[onnx.NodeProto] | None:
    """GatherBlockQuantized: a table whose last axis packs several numbers of less than 8 bits into a byte."""
    table, scales = tensors.get(node.input[0]), tensors.get(_input(node, 2))
    if table is None:
        return None
    dims = list(table.dims)
    if table.data_type == TensorProto.UINT8:
        dims[-1] *= 8 // int(str(attribute(node, "bits", 4)))
    name = f"{node.output[0]}/table"
    graph.initializer.add(name=name, data_type=scales.data_type if scales is not None else TensorProto.FLOAT, dims=dims)
    return [helper.make_node("Gather", [name, node.input[1]], [node.output[0]], axis=attribute(node, "gather_axis", 0))]


def _recurrent(node: onnx.NodeProto, _: object, __: object) -> list[onnx.NodeProto]:
    kept = ("hidden_size", "direction", "layout")
    standing = helper.make_node("LSTM", list(node.input[:3]), list(node.output))
    standing.attribute.extend(entry for entry in node.attribute if entry.name in kept)
    return [standing]


def _concat(node: onnx.NodeProto, _: object, __: object) -> list[onnx.NodeProto]:
    """QLinearConcat: scale and zero point of the output, then tensor, scale and zero point of each input."""
    return [helper.make_node("Concat", list(node.input[2::3]), [node.output[0]], axis=attribute(node, "axis"))]


def _pooled(node: onnx.NodeProto, _: object, __: object) -> list[onnx.NodeProto] | None:
    if attribute(node, "channels_last", 0):
        return None
    return [helper.make_node("GlobalAveragePool", [node.input[0]], [node.output[0]])]


def _queries(node: onnx.NodeProto, tensors: object, graph: object) -> Sequence[onnx.NodeProto] | None:
    """The output has the queries' shape, where queries, keys and values are not packed into one tensor."""
    return _same(0)(node, tensors, graph) if _input(node, 1) else None  # type: ignore[arg-type]


def _embedded(node: onnx.NodeProto, _: object, __: object) -> list[onnx.NodeProto]:
    """EmbedLayerNormalization: token numbers and the table of words."""
    return [helper.make_node("Gather", [node.input[2], node.input[0]], [node.output[0]])]


def _plain(node: onnx.NodeProto, _: object, __: object) -> list[onnx.NodeProto]:
    """The operator of the same name that ONNX defines."""
    standing = copied(node)
    standing.domain = ""
    return [standing]


def _cast(name: str, to: str, dtype: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [name], [to], to=dtype)


def _input(node: onnx.NodeProto, position: int) -> str:
    return str(node.input[position]) if len(node.input) > position else ""


_CONVOLUTION = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")

_STAND_INS: dict[str, _Make] = {
    **dict.fromkeys(
        [
            "BiasAdd",
            "BiasDropout",
            "BiasGelu",
            "BiasSoftmax",
            "FastGelu",
            "Gelu",
            "GroupNorm",
            "QLinearLeakyRelu",
            "QLinearSigmoid",
            "QLinearSoftmax",
            "QuickGelu",
            "RotaryEmbedding",
            "SimplifiedLayerNormalization",
        ],
        _same(0),
    ),
    **dict.fromkeys(("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"), _same(0, 0, 3)),
    **dict.fromkeys(("MultiHeadAttention", "GroupQueryAttention"), _queries),
    **dict.fromkeys(("QLinearAdd", "QLinearMul"), _standard("Add", 0, 3)),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), _plain),
    "Attention": _product_with(_values_of_attention),
    "DynamicQuantizeLSTM": _recurrent,
    "DynamicQuantizeMatMul": _product(1),
    "EmbedLayerNormalization": _embedded,
    "FusedConv": _standard("Conv", 0, 1, 2, keep=_CONVOLUTION),
    "FusedGemm": _standard("Gemm", 0, 1, 2, keep=("transA", "transB")),
    "FusedMatMul": _product(1),
    "FusedMatMulActivation": _product(1),
    "GatherBlockQuantized": _lookup,
    "MatMulIntegerToFloat": _product(1, TensorProto.FLOAT),
    "MatMulNBits": _product_with(_packed_matrix),
    "QAttention": _product_with(_values_of_attention),
    "QGemm": _standard("Gemm", 0, 3, keep=("transA", "transB"), dtype=TensorProto.UINT8),
    "QLinearConcat": _concat,
    "QLinearGlobalAveragePool": _pooled,
}
