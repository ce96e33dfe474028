"""Multiply-accumulates of one node, from the shapes of what it reads and makes.

Counted are sums of products: convolutions, matrix products, recurrent layers, attention. Element-wise arithmetic, biases,
activations, pooling and interpolation count nothing, as is usual.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import onnx

from compressctl.graph.index import attribute
from compressctl.graph.opset import is_defined
from compressctl.graph.shapes import Shape

_Known = Mapping[str, Shape]
_Count = Callable[[onnx.NodeProto, _Known], "int | None"]


def node_macs(node: onnx.NodeProto, known: Mapping[str, Shape]) -> int | None:
    """Of one node: 0 where it has none, None where it multiplies and a shape or a formula is unknown.

    Operators that neither ONNX nor ONNX Runtime defines may multiply, so that they are unknown too. known: as from `shapes`.
    """
    if node.op_type in _COUNTERS and node.domain in _DOMAINS:
        return _COUNTERS[node.op_type](node, known)
    if node.op_type in UNCOUNTED or not _is_known(node):
        return None
    return 0


def multiplies(node: onnx.NodeProto) -> bool:
    """Whether the operator is one that multiplies and accumulates, or may be."""
    return (node.op_type in _COUNTERS and node.domain in _DOMAINS) or node.op_type in UNCOUNTED or not _is_known(node)


def product(sizes: Iterable[int | None] | None) -> int | None:
    """The product, None when anything in it is unknown."""
    if sizes is None:
        return None
    values = list(sizes)
    return None if None in values else math.prod(size for size in values if size is not None)


def _is_known(node: onnx.NodeProto) -> bool:
    if node.domain in ("", "ai.onnx", "ai.onnx.ml"):
        domain = "ai.onnx.ml" if node.domain == "ai.onnx.ml" else ""
        return is_defined(node.op_type, domain) or node.op_type in _WITHOUT
    return node.domain in _DOMAINS and node.op_type in _WITHOUT


def _convolution(weight_input: int) -> _Count:
    """Each output element sums over its group's input channels and the kernel: all axes of the weight but the first."""

    def count(node: onnx.NodeProto, known: _Known) -> int | None:
        weight = _input_shape(node, weight_input, known)
        return _times(product(known.get(node.output[0])), product(weight[1:]) if weight else None)

    return count


def _transposed_convolution(node: onnx.NodeProto, known: _Known) -> int | None:
    """Each input element is spread over its group's output channels and the kernel. weight: (in, out / groups, ...)."""
    weight = _input_shape(node, 1, known)
    return _times(product(_input_shape(node, 0, known)), product(weight[1:]) if weight else None)


def _matrix_product(right_input: int) -> _Count:
    """Each output element sums over the axis that the two sides share."""

    def count(node: onnx.NodeProto, known: _Known) -> int | None:
        if attribute(node, "transBatchA", 0) or attribute(node, "transBatchB", 0):
            return None
        left, right = _input_shape(node, 0, known), _input_shape(node, right_input, known)
        shared = _shared_axis(left, bool(attribute(node, "transA", 0)), last=True)
        if shared is None:
            shared = _shared_axis(right, bool(attribute(node, "transB", 0)), last=False)
        return _times(product(known.get(node.output[0])), shared)

    return count


def _shared_axis(shape: Shape | None, transposed: bool, *, last: bool) -> int | None:
    """The summed axis of one side: the left side's last or the right side's second last, the other one when transposed."""
    if not shape:
        return None
    return shape[-1] if len(shape) == 1 or last is not transposed else shape[-2]


def _packed_matrix_product(node: onnx.NodeProto, known: _Known) -> int | None:
    """MatMulNBits: each row of the input, whose last axis is K, meets N columns of the packed weight."""
    columns = attribute(node, "N")
    return _times(product(_input_shape(node, 0, known)), columns if isinstance(columns, int) else None)


def _experts(node: onnx.NodeProto, known: _Known) -> int | None:
    """MoE: each row of the input meets k of the experts, both of their weights (experts, outputs, inputs). QMoE packs several numbers into a byte."""
    rows, chosen, bits = _input_shape(node, 0, known), attribute(node, "k", 1), attribute(node, "expert_weight_bits", 8)
    packed = 8 // bits if isinstance(bits, int) and bits else 1
    weights = [_input_shape(node, place, known) for place in ((2, 5) if node.op_type == "QMoE" else (2, 4))]
    sizes = [None if shape is None else product(shape[1:]) for shape in weights]
    if rows is None or not isinstance(chosen, int):
        return None
    return _times(_times(product(rows[:-1]), chosen * packed), _plus(*sizes))


def _recurrent(node: onnx.NodeProto, known: _Known) -> int | None:
    """steps x batch x (elements of W + elements of R): each step multiplies input and state with every weight once.

    X is (steps, batch, in), or (batch, steps, in) with layout 1. W is (directions, gates x hidden, in), R (directions, gates x
    hidden, hidden); so both directions are in. Peepholes are element-wise. sequence_lens can only make it fewer.
    """
    sequence = _input_shape(node, 0, known)
    weights = [product(_input_shape(node, position, known)) for position in (1, 2)]
    if sequence is None or None in weights:
        return None
    return _times(product(sequence[:2]), sum(size for size in weights if size is not None))


def _einsum(node: onnx.NodeProto, known: _Known) -> int | None:
    """Two operands: the product over all labels. One: nothing is multiplied. More: it depends on the order, so unknown."""
    equation = attribute(node, "equation", b"")
    terms = (equation.decode() if isinstance(equation, bytes) else "").replace(" ", "").split("->")[0].split(",")
    if len(terms) == 1:
        return 0
    found = [_input_shape(node, position, known) for position in range(len(terms))]
    if len(terms) != 2 or None in found:
        return None
    sizes: dict[str, int | None] = {}
    for term, shape in zip(terms, found, strict=True):
        labels = _labels(term, len(shape or ()))
        if labels is None or shape is None:
            return None
        for label, size in zip(labels, shape, strict=True):
            sizes[label] = size if label not in sizes else _joint(sizes[label], size)
    return product(sizes.values())


def _joint(one: int | None, other: int | None) -> int | None:
    """An axis of 1 is repeated along the other operand's; an unknown one has the other's size, or is 1 itself."""
    sizes = {one, other} - {1}
    known = sizes - {None}
    return next(iter(known)) if known else None if sizes else 1


def _labels(term: str, rank: int) -> list[str] | None:
    """A name for each axis; those behind an ellipsis are counted from the right, as they meet the other operand's."""
    before, dots, after = term.partition("...")
    hidden = rank - len(before) - len(after)
    if hidden < 0 or (hidden and not dots):
        return None
    return [*before, *(f"...{hidden - place}" for place in range(hidden)), *after]


def _attention(node: onnx.NodeProto, known: _Known) -> int | None:
    """ONNX's Attention: for each query head, its products with keys and the weighted sum of values.

    batch x heads x queries x keys x (size of a key + size of a value). Q, K, V: (batch, heads, steps, size), or
    (batch, steps, heads x size). Keys and values of the past lengthen them. A mask saves nothing.
    """
    query, key, value = (_input_shape(node, position, known) for position in range(3))
    heads = attribute(node, "q_num_heads"), attribute(node, "kv_num_heads")
    if query is None or key is None or value is None or {len(query), len(key), len(value)} not in ({3}, {4}):
        return None
    if len(query) == 3:
        if not isinstance(heads[0], int) or not isinstance(heads[1], int) or not heads[0] or not heads[1]:
            return None
        repeated = heads[0] // heads[1]
        sums = _plus(query[2], _times(value[2], repeated))
        per_key = _times(product(query[:2]), sums)
    else:
        per_key = _times(product(query[:3]), _plus(query[3], value[3]))
    return _times(per_key, _plus(key[-2], _past(node, 4, known)))


def _multi_head_attention(node: onnx.NodeProto, known: _Known) -> int | None:
    """ONNX Runtime's MultiHeadAttention on (batch, steps, heads x size): batch x queries x keys x (sizes of Q and V)."""
    query, key, value = (_input_shape(node, position, known) for position in range(3))
    if query is None or key is None or value is None or {len(query), len(key), len(value)} != {3}:
        return None
    keys = _plus(key[1], _past(node, 6, known))
    return _times(_times(product(query[:2]), keys), _plus(query[2], value[2]))


def _joint_attention(node: onnx.NodeProto, known: _Known) -> int | None:
    """ONNX Runtime's Attention: the projection to queries, keys and values, then attention among them.

    batch x steps x (elements of the weight + steps x (size of all queries + of all values)). Input: (batch, steps, in).
    """
    sequence, weight = _input_shape(node, 0, known), _input_shape(node, 1, known)
    if (
        sequence is None
        or weight is None
        or len(sequence) != 3
        or len(weight) != 2
        or _given(node, _PAST[node.op_type])
    ):
        return None
    hidden = attribute(node, "qkv_hidden_sizes")
    third = None if weight[1] is None else weight[1] // 3
    sizes = _plus(int(hidden[0]), int(hidden[2])) if isinstance(hidden, list) else _plus(third, third)
    return _times(product(sequence[:2]), _plus(product(weight), _times(sequence[1], sizes)))


_PAST = {"Attention": 4, "QAttention": 8}


def _past(node: onnx.NodeProto, position: int, known: _Known) -> int | None:
    """Steps of keys from before, 0 where there are none: (batch, heads, steps, size)."""
    if not _given(node, position):
        return 0
    shape = _input_shape(node, position, known)
    return shape[2] if shape is not None and len(shape) == 4 else None


def _attention_of_either(node: onnx.NodeProto, known: _Known) -> int | None:
    return _joint_attention(node, known) if node.domain == "com.microsoft" else _attention(node, known)


def _linear_model(node: onnx.NodeProto, known: _Known) -> int | None:
    """ai.onnx.ml: each row meets each coefficient that belongs to a class or target."""
    rows = _input_shape(node, 0, known)
    coefficients = attribute(node, "coefficients", [])
    if rows is None or not isinstance(coefficients, list):
        return None
    return _times(product(rows[:-1]), len(coefficients))


_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})

_COUNTERS: Mapping[str, _Count] = {
    "Conv": _convolution(1),
    "FusedConv": _convolution(1),
    "NhwcFusedConv": _convolution(1),
    "ConvInteger": _convolution(1),
    "CausalConvWithState": _convolution(1),
    "DeformConv": _convolution(1),
    "QLinearConv": _convolution(3),
    "ConvTranspose": _transposed_convolution,
    "Gemm": _matrix_product(1),
    "FusedGemm": _matrix_product(1),
    "QGemm": _matrix_product(3),
    "MatMul": _matrix_product(1),
    "FusedMatMul": _matrix_product(1),
    "FusedMatMulActivation": _matrix_product(1),
    "MatMulInteger": _matrix_product(1),
    "MatMulIntegerToFloat": _matrix_product(1),
    "DynamicQuantizeMatMul": _matrix_product(1),
    "QLinearMatMul": _matrix_product(3),
    "MatMulNBits": _packed_matrix_product,
    "MoE": _experts,
    "QMoE": _experts,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    "DynamicQuantizeLSTM": _recurrent,
    "Einsum": _einsum,
    "Attention": _attention_of_either,
    "QAttention": _joint_attention,
    "MultiHeadAttention": _multi_head_attention,
    "LinearClassifier": _linear_model,
    "LinearRegressor": _linear_model,
}

UNCOUNTED = frozenset({"DFT", "STFT", "Det", "LinearAttention", "SVMClassifier", "SVMRegressor"})
"""They multiply, and how often depends on more than shapes: on the algorithm, or on what has gone before."""

_WITHOUT = frozenset(
    [
        "BiasAdd",
        "BiasDropout",
        "BiasGelu",
        "BiasSoftmax",
        "BiasSplitGelu",
        "CropAndResize",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "EmbedLayerNormalization",
        "FastGelu",
        "GatherBlockQuantized",
        "GatherND",
        "Gelu",
        "GroupNorm",
        "NhwcMaxPool",
        "Pad",
        "QLinearAdd",
        "QLinearAveragePool",
        "QLinearConcat",
        "QLinearGlobalAveragePool",
        "QLinearLeakyRelu",
        "QLinearMul",
        "QLinearReduceMean",
        "QLinearSigmoid",
        "QLinearSoftmax",
        "QLinearWhere",
        "QuantizeLinear",
        "QuickGelu",
        "RotaryEmbedding",
        "Sampling",
        "SimplifiedLayerNormalization",
        "SkipGroupNorm",
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
        "Trilu",
        "Unique",
    ]
)
"""ONNX Runtime's own operators that have none. Any other is taken to have some: it may be a fused layer."""


def _given(node: onnx.NodeProto, position: int) -> bool:
    return len(node.input) > position and bool(node.input[position])


def _input_shape(node: onnx.NodeProto, position: int, known: _Known) -> Shape | None:
    return known.get(node.input[position]) if len(node.input) > position else None


def _times(left: int | None, right: int | None) -> int | None:
    return None if left is None or right is None else left * right


def _plus(left: int | None, right: int | None) -> int | None:
    return None if left is None or right is None else left + right
