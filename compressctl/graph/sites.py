"""Where in a float graph quantization can happen: the nodes with integer kernels, and the tensors that they read and make."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import onnx

from compressctl.core.quant import TensorQuant
from compressctl.graph.index import GraphIndex, attribute, index


class Kind(StrEnum):
    """multiply: has weights or multiplies two activations. combine: elementwise, concat, pooling. move: values unchanged."""

    MULTIPLY = "multiply"
    COMBINE = "combine"
    MOVE = "move"


@dataclass(frozen=True)
class Site:
    """One node that can run on integers.

    inputs: activations that it reads. weight, bias: names of constants, weight_axis the output channels' axis in weight.
    output: the activation that it makes, after `folded`, the Relu or Clip that its output range can stand for.
    clip: the bounds that the folded node enforces. needs_output: whether the integer kernel exists only with an integer
    output.
    """

    node: str
    op: str
    kind: Kind
    inputs: tuple[str, ...]
    output: str
    weight: str | None = None
    weight_axis: int = 0
    bias: str | None = None
    folded: str | None = None
    clip: tuple[float, float] = (-np.inf, np.inf)
    needs_output: bool = True


_COMBINE = {"Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "Sigmoid", "LeakyRelu"}
_MOVE = {"MaxPool", "Reshape", "Flatten", "Transpose", "Slice", "Squeeze", "Unsqueeze", "Pad"}


def find_sites(graph: onnx.GraphProto, floats: Collection[str] = ()) -> list[Site]:
    """Every site worth quantizing, in graph order. floats: names of nodes that stay float whatever they could.

    Multiplications always are; what combines or moves values is when it stands between integer tensors, so that a float
    island costs a conversion on neither side.
    """
    looked_up = index(graph)
    candidates = [
        site for node in graph.node if node.name not in floats and (site := _candidate(node, looked_up)) is not None
    ]
    wanted = _wanted_outputs(candidates, looked_up)
    integer: set[str] = set()
    sites = []
    for site in candidates:
        if site.kind is Kind.MULTIPLY or (site.output in wanted and integer & set(site.inputs)):
            sites.append(site)
            integer.update(site.inputs)
            if site.needs_output or site.output in wanted:
                integer.add(site.output)
    return [_with_output_need(site, wanted) for site in sites]


def activations(sites: Iterable[Site]) -> list[str]:
    """Every tensor that the sites read or make in integers, each once, in graph order."""
    names: dict[str, None] = {}
    for site in sites:
        names.update(dict.fromkeys(site.inputs))
        if site.needs_output:
            names[site.output] = None
    return list(names)


def readers_past_moves(tensor: str, sites: Iterable[Site]) -> list[str]:
    """Sites that read a tensor, directly or past others that move its values."""
    names, found = {tensor}, []
    for site in sites:
        if names.intersection(site.inputs):
            found.append(site.node)
            if site.kind is Kind.MOVE:
                names.add(site.output)
    return found


def fits_kernel(axis: int, quant: TensorQuant) -> bool:
    """Whether integer kernels multiply with a weight that is quantized so: in 8 bits, one scale, or one for each output.

    axis: of the outputs in the stored weight, as the node reads it.
    """
    return quant.dtype in ("int8", "uint8") and quant.block is None and quant.axis in (None, axis)


def is_between_codes(node: onnx.NodeProto, looked_up: GraphIndex) -> bool:
    """Whether a DequantizeLinear makes what the node reads, or a QuantizeLinear reads what it makes: it is quantized already."""
    makers = [looked_up.producers.get(name) for name in node.input if name]
    readers = [reader for name in node.output for reader in looked_up.consumers.get(name, [])]
    return any(maker is not None and maker.op_type == "DequantizeLinear" for maker in makers) or any(
        reader.op_type == "QuantizeLinear" for reader in readers
    )


def _candidate(node: onnx.NodeProto, looked_up: GraphIndex) -> Site | None:
    if node.domain not in ("", "ai.onnx") or is_between_codes(node, looked_up):
        return None
    if node.op_type in _MULTIPLY:
        return _MULTIPLY[node.op_type](node, looked_up)
    if node.op_type in _COMBINE:
        return _combine(node, looked_up)
    if node.op_type in _MOVE:
        return _move(node, looked_up)
    return None


def _conv(node: onnx.NodeProto, looked_up: GraphIndex) -> Site | None:
    if not _constants(node.input[1:], looked_up):
        return None
    return _multiply(node, looked_up, weight_axis=0)


def _gemm(node: onnx.NodeProto, looked_up: GraphIndex) -> Site | None:
    plain = attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0 and not attribute(node, "transA", 0)
    if not plain or not _constants(node.input[1:], looked_up):
        return None
    return _multiply(node, looked_up, weight_axis=0 if attribute(node, "transB", 0) else 1)


def _matmul(node: onnx.NodeProto, looked_up: GraphIndex) -> Site | None:
    left, right = node.input
    if left in looked_up.initializers:
        return None
    weight = looked_up.array(right)
    if weight is None:
        output, folded, clip = _fold_forward(node, looked_up)
        return Site(node.name, node.op_type, Kind.MULTIPLY, (left, right), output, None, 0, None, folded, clip, False)
    return _multiply(node, looked_up, weight_axis=1) if weight.ndim == 2 else None


def _multiply(node: onnx.NodeProto, looked_up: GraphIndex, weight_axis: int) -> Site:
    output, folded, clip = _fold_forward(node, looked_up)
    bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
    return Site(
        node=node.name,
        op=node.op_type,
        kind=Kind.MULTIPLY,
        inputs=(node.input[0],),
        output=output,
        weight=node.input[1],
        weight_axis=weight_axis,
        bias=bias,
        folded=folded,
        clip=clip,
        # ONNX Runtime has a float-output form of QGemm and QLinearMatMul, none of QLinearConv.
        needs_output=node.op_type == "Conv",
    )


_MULTIPLY = {"Conv": _conv, "Gemm": _gemm, "MatMul": _matmul}


def _combine(node: onnx.NodeProto, looked_up: GraphIndex) -> Site | None:
    if any(name in looked_up.initializers for name in node.input) or len(set(node.input)) != len(node.input):
        return None
    output, folded, clip = _fold_forward(node, looked_up)
    return Site(node.name, node.op_type, Kind.COMBINE, tuple(node.input), output, folded=folded, clip=clip)


def _move(node: onnx.NodeProto, looked_up: GraphIndex) -> Site | None:
    if node.input[0] in looked_up.initializers or any(node.output[1:]):
        return None
    if node.op_type == "Pad" and not _pads_with_zero(node, looked_up):
        return None
    return Site(node.name, node.op_type, Kind.MOVE, (node.input[0],), node.output[0])


def _pads_with_zero(node: onnx.NodeProto, looked_up: GraphIndex) -> bool:
    if attribute(node, "mode", b"constant") != b"constant":
        return False
    if len(node.input) < 3 or not node.input[2]:
        return True
    value = looked_up.array(node.input[2])
    return value is not None and not np.any(value)


def _constants(names: Sequence[str], looked_up: GraphIndex) -> bool:
    return all(not name or name in looked_up.initializers for name in names)


def _fold_forward(node: onnx.NodeProto, looked_up: GraphIndex) -> tuple[str, str | None, tuple[float, float]]:
    """The tensor that the site really makes: past a Relu or Clip that alone reads the node, or its own output.

    Saturation of an unsigned code does what the Relu does (Jacob et al. 2018, section 2.4), and ONNX Runtime fuses a
    convolution with its Q only when nothing stands between them.
    """
    output = node.output[0]
    reader = looked_up.only_consumer(output)
    unbounded = (-np.inf, np.inf)
    if reader is None or reader.input[0] != output:
        return output, None, unbounded
    bounds = _bounds(reader, looked_up)
    if bounds is None or not bounds[0] <= 0.0 <= bounds[1]:
        return output, None, unbounded
    return reader.output[0], reader.name, bounds


def _bounds(node: onnx.NodeProto, looked_up: GraphIndex) -> tuple[float, float] | None:
    """What a Relu or a Clip with constant bounds lets through; None for other nodes."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    if node.op_type != "Clip":
        return None
    bounds = []
    for name, position, default in (("min", 1, -np.inf), ("max", 2, np.inf)):
        if len(node.input) > position and node.input[position]:
            value = looked_up.array(node.input[position])
            if value is None:
                return None
            bounds.append(float(value))
        else:
            bounds.append(float(attribute(node, name, default)))  # type: ignore[arg-type]
    return bounds[0], bounds[1]


def _wanted_outputs(candidates: Sequence[Site], looked_up: GraphIndex) -> set[str]:
    """Tensors that reach a multiplication through sites alone: worth having as integers."""
    by_node = {site.node: site for site in candidates}
    wanted: set[str] = set()
    for site in reversed(candidates):
        for reader in looked_up.consumers.get(site.output, []):
            reading = by_node.get(reader.name)
            if reading and (reading.kind is Kind.MULTIPLY or reading.output in wanted):
                wanted.add(site.output)
    return wanted


def _with_output_need(site: Site, wanted: set[str]) -> Site:
    if site.needs_output or site.output not in wanted:
        return site
    return replace(site, needs_output=True)


def is_depthwise(site: Site, weight_shape: Sequence[int], graph: onnx.GraphProto) -> bool:
    """One input channel per output channel: kernels multiply those in 32 bits, which nothing overflows."""
    if site.op != "Conv" or weight_shape[1] != 1:
        return False
    node = next(node for node in graph.node if node.name == site.node)
    return bool(attribute(node, "group", 1) == weight_shape[0])
