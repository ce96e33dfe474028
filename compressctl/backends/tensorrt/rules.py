"""What TensorRT refuses, or runs slowly, in a Q/DQ graph: each rule with its source. The linter runs all of them.

Sources: NvInfer.h (IQuantizeLayer, IDequantizeLayer) of TensorRT 10 and 11; NVIDIA TensorRT documentation, "Working with
quantized types"; onnx-tensorrt, docs/operators.md; NVIDIA ModelOpt, onnx/quantization (placement).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from compressctl.backends.dialects.tensorrt import FOUR_BIT_BLOCKS
from compressctl.graph.index import GraphIndex, all_graphs, attribute, places
from compressctl.graph.opset import opset_of

API, GUIDE, PARSER = "NvInfer.h, IQuantizeLayer", "TensorRT guide, Q/DQ placement", "onnx-tensorrt, operators.md"
SCHEMES = "TensorRT guide, Quantization schemes"
CONDITIONALS = "TensorRT guide, Working with conditionals; TensorRT issues 1731 and 4032"
_Q, _DQ = "QuantizeLinear", "DequantizeLinear"
_WEIGHTED = {"Conv": 0, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}
"""The axis of the output channels in the weight; Gemm's is 0 when transB is set."""

_FOUR_BIT = {TensorProto.INT4, TensorProto.FLOAT4E2M1}
_BLOCKED = _FOUR_BIT | {TensorProto.FLOAT8E4M3FN}
_CODES = {TensorProto.INT8, TensorProto.FLOAT8E4M3FN} | _FOUR_BIT
_NOT_IMPORTED = {
    "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear",
    "Bernoulli", "Col2Im", "Compress", "Det", "ImageDecoder", "MaxRoiPool", "MaxUnpool", "MelWeightMatrix", "Multinomial",
    "NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss", "Unique", "TfIdfVectorizer",
    "ConcatFromSequence", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert",
    "SequenceLength", "SequenceMap", "SplitToSequence", "Optional", "OptionalGetElement", "OptionalHasElement",
    "RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit",
}  # fmt: skip
"""Source: the table in operators.md of onnx-tensorrt 10.1, without what a later parser may have learnt since."""


_FLOAT_FUNCTIONS = (
    "Sigmoid", "Softmax", "LogSoftmax", "Tanh", "Gelu", "Erf", "HardSigmoid", "HardSwish", "LayerNormalization",
    "InstanceNormalization", "GroupNormalization", "BatchNormalization",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """rule: its name in RULES. node: where. message: what is wrong there."""

    rule: str
    node: str
    message: str


@dataclass(frozen=True)
class Rule:
    """check: yields (node, message) for each violation."""

    name: str
    sentence: str
    source: str
    check: Callable[[Graph], Iterator[tuple[str, str]]]


@dataclass(frozen=True)
class Graph:
    """The main graph, or a body in it, which is of what is in `place`. found: what the body can read. types, ranks: of elements, and the number of axes, by
    tensor, as far as shape inference knows."""

    model: onnx.ModelProto
    place: onnx.GraphProto
    found: GraphIndex
    types: dict[str, int]
    shapes: dict[str, tuple[int | str | None, ...]]
    sparse: bool

    @classmethod
    def of(cls, model: onnx.ModelProto, *, sparse: bool) -> Graph:
        return next(cls.all(model, sparse=sparse))

    @classmethod
    def all(cls, model: onnx.ModelProto, *, sparse: bool) -> Iterator[Graph]:
        """The main graph first, then what its nodes run."""
        types: dict[str, int] = {}
        shapes: dict[str, tuple[int | str | None, ...]] = {}
        for graph in all_graphs(onnx.shape_inference.infer_shapes(model).graph):
            for value in (*graph.input, *graph.output, *graph.value_info):
                tensor = value.type.tensor_type
                types[value.name] = tensor.elem_type
                if tensor.HasField("shape"):
                    shapes[value.name] = tuple(_size(dim) for dim in tensor.shape.dim)
            types.update({constant.name: constant.data_type for constant in graph.initializer})
            shapes.update({constant.name: tuple(constant.dims) for constant in graph.initializer})
        for place, found in places(model.graph):
            yield cls(model, place, found, types, shapes, sparse)

    def nodes(self, *ops: str) -> Iterator[onnx.NodeProto]:
        return (node for node in self.place.node if node.op_type in ops)

    def has_offset(self, node: onnx.NodeProto) -> bool:
        """Whether the zero point of a Q or DQ is a constant other than zero."""
        values = self.found.array(node.input[2]) if len(node.input) > 2 else None
        return values is not None and bool(np.any(values.astype(np.float32) != 0))

    def dequantizes_constant(self, node: onnx.NodeProto) -> bool:
        """A DQ of stored codes, or of what a Q makes of a stored weight."""
        source = self.found.producers.get(node.input[0])
        if source is not None and source.op_type == _Q:
            return source.input[0] in self.found.initializers
        return node.input[0] in self.found.initializers

    def maker(self, tensor: str) -> onnx.NodeProto | None:
        return self.found.producers.get(tensor)

    def dequantizer(self, tensor: str) -> onnx.NodeProto | None:
        maker = self.maker(tensor)
        return maker if maker is not None and maker.op_type == _DQ else None

    def quantized(self, tensor: str) -> onnx.NodeProto | None:
        """The node whose output a Q and a DQ pass on here."""
        dequantize = self.dequantizer(tensor)
        quantize = None if dequantize is None else self.maker(dequantize.input[0])
        return self.maker(quantize.input[0]) if quantize is not None and quantize.op_type == _Q else None

    def readers(self, tensor: str) -> list[onnx.NodeProto]:
        return list(self.found.consumers.get(tensor, []))


def _size(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    return dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None


def _zero_point_is_zero(graph: Graph) -> Iterator[tuple[str, str]]:
    for node in graph.nodes(_Q, _DQ):
        if graph.has_offset(node) and not _is_blocked(node):
            yield node.name, "its zero point is not zero"


def _zero_point_is_constant(graph: Graph) -> Iterator[tuple[str, str]]:
    for node in graph.nodes(_Q, _DQ):
        if len(node.input) > 2 and node.input[2] and node.input[2] not in graph.found.initializers:
            yield node.name, "its zero point is computed in the graph"


def _scale_is_constant(graph: Graph) -> Iterator[tuple[str, str]]:
    for node in graph.nodes(_Q, _DQ):
        if node.input[1] not in graph.found.initializers:
            yield node.name, "its scale is computed in the graph"


def _scale_is_positive(graph: Graph) -> Iterator[tuple[str, str]]:
    for node in graph.nodes(_Q, _DQ):
        values = graph.found.array(node.input[1])
        if values is not None and not (np.isfinite(values).all() and (values > 0).all()):
            yield node.name, "its scale is zero, negative or not finite"


def _codes_are_signed(graph: Graph) -> Iterator[tuple[str, str]]:
    for node in graph.nodes(_Q, _DQ):
        tensor = node.output[0] if node.op_type == _Q else node.input[0]
        dtype = graph.types.get(tensor)
        if dtype is None and len(node.input) > 2:
            dtype = graph.types.get(node.input[2])
        if dtype is not None and dtype not in (*_CODES, TensorProto.INT32):
            yield node.name, f"its codes are {TensorProto.DataType.Name(dtype).lower()}; signed 8 or 4 bits are taken"


def _bias_is_float(graph: Graph) -> Iterator[tuple[str, str]]:
    for node in graph.nodes("Conv", "ConvTranspose", "Gemm"):
        if len(node.input) > 2 and graph.dequantizer(node.input[2]) is not None:
            yield node.name, "its bias is quantized"


def _no_int32_dequantized(graph: Graph) -> Iterator[tuple[str, str]]:
    for node in graph.nodes(_DQ):
        if graph.types.get(node.input[0]) == TensorProto.INT32:
            yield node.name, "it dequantizes int32"


def _activation_per_tensor(graph: Graph) -> Iterator[tuple[str, str]]:
    for node in graph.nodes(_Q, _DQ):
        values = graph.found.array(node.input[1])
        constant = node.input[0] in graph.found.initializers or (
            node.op_type == _DQ and graph.dequantizes_constant(node)
        )
        if values is not None and values.size > 1 and not constant:
            yield node.name, f"it quantizes an activation with {values.size} scales"


def _weight_axis(graph: Graph) -> Iterator[tuple[str, str]]:
    for node in graph.nodes(*_WEIGHTED):
        maker = graph.dequantizer(node.input[1])
        if maker is None or _is_blocked(maker):
            continue
        scale = graph.found.array(maker.input[1])
        if scale is None or scale.size <= 1:
            continue
        wanted = 0 if node.op_type == "Gemm" and attribute(node, "transB", 0) else _WEIGHTED[node.op_type]
        axis = attribute(maker, "axis", 1)
        if axis != wanted:
            yield node.name, f"its weight's scales lie along axis {axis}, output channels along {wanted}"


def _no_quantize_before_relu(graph: Graph) -> Iterator[tuple[str, str]]:
    for node in graph.nodes("Relu", "Clip", "LeakyRelu"):
        source = graph.quantized(node.input[0])
        if source is not None and source.op_type in _WEIGHTED:
            yield node.name, f"Q/DQ stands between {source.name} and it, so that the two are not fused"


def _no_output_quantize(graph: Graph) -> Iterator[tuple[str, str]]:
    for node in graph.nodes(_Q):
        maker = graph.maker(node.input[0])
        if maker is None or maker.op_type not in _WEIGHTED:
            continue
        readers = [reader for dq in graph.readers(node.output[0]) for reader in graph.readers(dq.output[0])]
        # Q before Relu has a rule of its own; the shortcut of a residual addition may end in a convolution too.
        if not any(reader.op_type in (*_WEIGHTED, "Relu", "Clip", "LeakyRelu", "Add") for reader in readers):
            yield node.name, f"it quantizes the output of {maker.name} although nothing behind it multiplies"


def _float_functions(graph: Graph) -> Iterator[tuple[str, str]]:
    for node in graph.nodes(*_FLOAT_FUNCTIONS):
        maker = graph.dequantizer(node.input[0])
        if maker is not None and not graph.dequantizes_constant(maker):
            yield node.name, f"the input of {node.op_type} is quantized, which it computes in float anyway"


def _concat_scales_agree(graph: Graph) -> Iterator[tuple[str, str]]:
    for node in graph.nodes("Concat"):
        makers = [maker for name in node.input if (maker := graph.dequantizer(name)) is not None]
        scales = [graph.found.array(maker.input[1]) for maker in makers]
        known = [float(scale.reshape(-1)[0]) for scale in scales if scale is not None and scale.size == 1]
        if len(known) > 1 and not np.allclose(known, known[0], rtol=1e-3, atol=0):
            yield node.name, f"its inputs have scales from {min(known):.3g} to {max(known):.3g}"


def _blocked_without_zero_point(graph: Graph) -> Iterator[tuple[str, str]]:
    for node in graph.nodes(_Q, _DQ):
        if _is_blocked(node) and graph.has_offset(node):
            yield node.name, "its blocks have a zero point that is not zero"


def _blocked_types(graph: Graph) -> Iterator[tuple[str, str]]:
    for node in graph.nodes(_DQ):
        dtype = graph.types.get(node.input[0])
        if _is_blocked(node) and dtype is not None and dtype not in _BLOCKED:
            yield node.name, f"blocks of {TensorProto.DataType.Name(dtype).lower()}; they need INT4, FP4 or FP8"


def _blocked_axis(graph: Graph) -> Iterator[tuple[str, str]]:
    for node in graph.nodes(_DQ):
        codes = graph.found.initializers.get(node.input[0])
        if not _is_blocked(node) or codes is None:
            continue
        rank, axis = len(codes.dims), int(attribute(node, "axis", 1))  # type: ignore[call-overload]
        if (axis + rank) % rank not in (rank - 1, rank - 2):
            yield node.name, f"its blocks lie along axis {axis} of {rank}; only the last two are taken"


def _four_bit_blocks(graph: Graph) -> Iterator[tuple[str, str]]:
    for node in graph.nodes(_DQ):
        if graph.types.get(node.input[0]) != TensorProto.INT4:
            continue
        block = int(attribute(node, "block_size", 0))  # type: ignore[call-overload]
        if block not in FOUR_BIT_BLOCKS:
            yield (
                node.name,
                f"its INT4 codes have {f'blocks of {block}' if block else 'no blocks'}; blocks of 64 or 128 are taken",
            )


def _four_bits_are_weights(graph: Graph) -> Iterator[tuple[str, str]]:
    for node in graph.nodes(_DQ):
        if graph.types.get(node.input[0]) in _FOUR_BIT and not graph.dequantizes_constant(node):
            yield node.name, "it dequantizes a 4-bit activation"
    for node in graph.nodes("Conv", "ConvTranspose"):
        maker = graph.dequantizer(node.input[1])
        if maker is not None and graph.types.get(maker.input[0]) in _FOUR_BIT:
            yield node.name, "its weight has 4 bits; convolutions take INT8 and FP8"


def _sparse_pattern(graph: Graph) -> Iterator[tuple[str, str]]:
    if not graph.sparse or any(map(two_of_four, Graph.all(graph.model, sparse=False))):
        return
    for node in graph.nodes(*_WEIGHTED):
        if weight_of(graph, node) is not None:
            yield node.name, "2:4 sparsity is on, but its weight has more than two of four values that are not zero"


def _imported_operators(graph: Graph) -> Iterator[tuple[str, str]]:
    for node in graph.place.node:
        if node.op_type in _NOT_IMPORTED or node.domain not in ("", "ai.onnx"):
            yield node.name, f"the parser does not import {node.op_type}"


def _both_or_none(graph: Graph) -> Iterator[tuple[str, str]]:
    for node in graph.nodes(*_WEIGHTED):
        makers = [graph.dequantizer(name) for name in node.input[:2]]
        quantized, weight = [maker is not None for maker in makers], makers[1]
        is_weight_only = weight is not None and graph.types.get(weight.input[0]) in _BLOCKED
        if any(quantized) and not all(quantized) and not is_weight_only:
            yield node.name, f"only its {'weight' if quantized[1] else 'input'} is quantized, so that it runs in float"


def _codes_go_to_dequantize(graph: Graph) -> Iterator[tuple[str, str]]:
    for node in graph.nodes(_Q):
        others = sorted({reader.op_type for reader in graph.readers(node.output[0]) if reader.op_type != _DQ})
        if others:
            yield node.name, f"its codes are read by {', '.join(others)} without a DequantizeLinear"


def _opset(graph: Graph) -> Iterator[tuple[str, str]]:
    version = opset_of(graph.model)
    for node in graph.nodes(_Q, _DQ):
        values = graph.found.array(node.input[1])
        needed = 21 if _is_blocked(node) or graph.types.get(node.input[0]) in _BLOCKED else 10
        needed = max(needed, 13 if values is not None and values.size > 1 else 10)
        if version < needed:
            yield node.name, f"opset {version} does not know this form, opset {needed} does"


def _residual_branch(graph: Graph) -> Iterator[tuple[str, str]]:
    for node in graph.nodes("Add"):
        sources = [graph.quantized(name) for name in node.input]
        ends = [source is not None and source.op_type in ("Conv", "Gemm", "MatMul") for source in sources]
        if all(source is not None for source in sources) and any(ends):
            yield node.name, "both branches of the addition are quantized, so that it is not fused into the convolution"


def _types_agree(graph: Graph) -> Iterator[tuple[str, str]]:
    for node in graph.nodes("Conv", "Gemm", "MatMul", "Add", "Mul", "Concat"):
        types = {graph.types[name] for name in node.input if name and graph.types.get(name)}
        if len(types) > 1:
            names = ", ".join(sorted(TensorProto.DataType.Name(dtype).lower() for dtype in types))
            yield node.name, f"its inputs are {names}; a strongly typed network casts nothing on its own"


def _is_blocked(node: onnx.NodeProto) -> bool:
    return bool(attribute(node, "block_size", 0))


def weight_of(graph: Graph, node: onnx.NodeProto) -> np.ndarray | None:
    """A weighted node's constant weight, or its codes."""
    maker = graph.dequantizer(node.input[1])
    return graph.found.array(node.input[1] if maker is None else maker.input[0])


def two_of_four(graph: Graph) -> list[str]:
    """Nodes whose weights hold the 2:4 pattern: TensorRT examines each layer by itself, so that others may stay dense."""
    found = []
    for node in graph.nodes("Conv", "Gemm", "MatMul"):
        values = weight_of(graph, node)
        if values is not None and values.ndim > 1:
            out_first = node.op_type == "Conv" or bool(attribute(node, "transB", 0))
            if holds_two_of_four(values if out_first else np.swapaxes(values, 0, 1)):
                found.append(node.name)
    return found


def holds_two_of_four(values: np.ndarray) -> bool:
    """At most two of four neighbouring input channels are not zero. values: (out, in, *kernel), four input channels or more.

    Source: Mishra et al. 2021, section 3.
    """
    rows = values.reshape(values.shape[0], values.shape[1], -1)
    channels = rows.shape[1] - rows.shape[1] % 4
    if channels == 0:
        return False
    groups = rows[:, :channels].reshape(rows.shape[0], -1, 4, rows.shape[2])
    return bool((np.count_nonzero(groups, axis=2) <= 2).all())


def _branches(node: onnx.NodeProto) -> tuple[onnx.GraphProto, onnx.GraphProto] | None:
    found = {entry.name: entry.g for entry in node.attribute if entry.type == onnx.AttributeProto.GRAPH}
    return (found["then_branch"], found["else_branch"]) if {"then_branch", "else_branch"} <= found.keys() else None


def _branches_agree(graph: Graph) -> Iterator[tuple[str, str]]:
    for node in graph.nodes("If"):
        branches = _branches(node)
        for one, other in zip(branches[0].output, branches[1].output, strict=False) if branches else ():
            types = [graph.types.get(name) for name in (one.name, other.name)]
            shapes = [graph.shapes.get(name) for name in (one.name, other.name)]
            if None not in types and types[0] != types[1]:
                yield node.name, f"its branches give {one.name} and {other.name}, whose elements have different types"
            elif shapes[0] is None or shapes[1] is None:
                yield (
                    node.name,
                    f"how many axes {(one if shapes[0] is None else other).name} has is not known, and both branches must give as many",
                )
            elif len(shapes[0]) != len(shapes[1]) or any(
                isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(*shapes, strict=True)
            ):
                yield (
                    node.name,
                    f"its branches give {one.name} {_shape_words(shapes[0])} and {other.name} {_shape_words(shapes[1])}",
                )
            elif one.name == other.name:
                yield node.name, f"both of its branches call their output {one.name}"


def _shape_words(shape: tuple[int | str | None, ...]) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"


def _condition_is_scalar(graph: Graph) -> Iterator[tuple[str, str]]:
    for node in graph.nodes("If"):
        shape = graph.shapes.get(node.input[0])
        if shape is not None and any(size != 1 for size in shape):
            yield (
                node.name,
                f"its condition {node.input[0]} has the shape {_shape_words(shape)}: one truth value is taken",
            )


def _no_empty_branches(graph: Graph) -> Iterator[tuple[str, str]]:
    for node in graph.nodes("If"):
        for branch in _branches(node) or ():
            if not branch.node and not branch.initializer:
                yield node.name, "one of its branches gives a tensor of the graph around it without a node of its own"


RULES: tuple[Rule, ...] = (
    Rule("zero-point-zero", "quantization is symmetric: zero points are zero", API, _zero_point_is_zero),
    Rule("zero-point-constant", "zero points are build-time constants", API, _zero_point_is_constant),
    Rule("scale-constant", "scales are build-time constants", API, _scale_is_constant),
    Rule("scale-positive", "scales are positive and finite", API, _scale_is_positive),
    Rule("signed-codes", "codes are INT8, INT4, FP8 or FP4", API, _codes_are_signed),
    Rule("bias-float", "biases are float: quantized ones are rejected (TensorRT issue 4542)", PARSER, _bias_is_float),
    Rule("no-int32", "INT32 cannot be dequantized", API, _no_int32_dequantized),
    Rule(
        "activation-per-tensor",
        "activations have one scale; scales per channel are for weights",
        API,
        _activation_per_tensor,
    ),
    Rule("weight-axis", "a weight's scales lie along its output channels", GUIDE, _weight_axis),
    Rule("no-q-before-relu", "no Q/DQ between a convolution and its Relu", GUIDE, _no_quantize_before_relu),
    Rule("no-output-q", "outputs of products are not quantized by default", GUIDE, _no_output_quantize),
    Rule(
        "float-functions", "Sigmoid, Softmax, normalizations and their like are not quantized", GUIDE, _float_functions
    ),
    Rule("concat-scales", "all quantized inputs of Concat have one scale", GUIDE, _concat_scales_agree),
    Rule("block-zero-point", "blocked quantization has no zero point", API, _blocked_without_zero_point),
    Rule("block-type", "blocks are for INT4, FP4 and FP8", API, _blocked_types),
    Rule("four-bit-blocks", "INT4 has scales per block of 64 or 128", SCHEMES, _four_bit_blocks),
    Rule("block-axis", "blocks lie along one of the last two axes", API, _blocked_axis),
    Rule("four-bit-weights", "4 bits are for the weights of matrix products", API, _four_bits_are_weights),
    Rule(
        "sparse-pattern",
        "the 2:4 flag is set only where a weight holds the pattern",
        "NvInfer.h, BuilderFlag::kSPARSE_WEIGHTS",
        _sparse_pattern,
    ),
    Rule("imported-operators", "operators are those that the parser imports", PARSER, _imported_operators),
    Rule("both-or-none", "a product has all of its inputs quantized, or none", GUIDE, _both_or_none),
    Rule("codes-to-dq", "codes are read by DequantizeLinear alone", API, _codes_go_to_dequantize),
    Rule("opset", "the opset knows each form of quantization", PARSER, _opset),
    Rule("residual-branch", "of a residual addition only the other branch is quantized", GUIDE, _residual_branch),
    Rule(
        "branches-agree",
        "both branches of If give outputs of one type and compatible shapes, under names of their own",
        CONDITIONALS,
        _branches_agree,
    ),
    Rule("condition-scalar", "the condition of If is one truth value", CONDITIONALS, _condition_is_scalar),
    Rule("branch-nodes", "each branch of If makes its outputs itself", PARSER, _no_empty_branches),
    Rule("types-agree", "operands have one type: networks are strongly typed", GUIDE, _types_agree),
)


def lint(model: onnx.ModelProto, *, sparse: bool = False) -> list[Finding]:
    """Every violation, in the order of the rules. sparse: the engine will be built with SPARSE_WEIGHTS."""
    graphs = list(Graph.all(model, sparse=sparse))
    return [
        Finding(rule.name, node, message) for rule in RULES for graph in graphs for node, message in rule.check(graph)
    ]
