"""What of a graph is quantized already, and how: said wherever a graph is looked at or changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from compressctl.graph.cast_weights import INTEGERS, cast_weights
from compressctl.graph.constants import CODES, PACKED
from compressctl.graph.index import all_nodes, attribute, bodies
from compressctl.graph.qoperator_to_qdq import is_qlinear

_SHOWN = 4
_DYNAMIC = ("DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM")
_TELLING = frozenset((*CODES, *PACKED, *_DYNAMIC, "QuantizeLinear"))


@dataclass(frozen=True)
class Quantized:
    """what: "weight" or "activation". how: the operators that say it. names: of tensors, in graph order."""

    what: str
    dtype: str
    how: str
    names: tuple[str, ...]

    def __str__(self) -> str:
        count = len(self.names)
        shown = ", ".join(self.names[:_SHOWN]) + (", ..." if count > _SHOWN else "")
        things = {"weight": "weights", "activation": "activations"}[self.what] if count != 1 else self.what
        return f"{count} {things} in {self.dtype} {self.how} ({shown})"


def already_quantized(model: onnx.ModelProto) -> tuple[Quantized, ...]:
    """Weights and activations that a file holds as integers of 16 bits or fewer, by kind; empty for a float graph.

    Known: QuantizeLinear and DequantizeLinear, ONNX Runtime's QLinear operators, MatMulInteger and ConvInteger, dynamic
    quantization, MatMulNBits, GatherBlockQuantized and QMoE, integers behind Cast and Mul; in branches too.
    """
    found: dict[tuple[str, str, str], dict[str, None]] = {}
    for what, dtype, how, name in _parts(model.graph, {}):
        found.setdefault((what, dtype, how), {}).setdefault(name)
    for weight in cast_weights(model.graph) if any(node.op_type == "Cast" for node in all_nodes(model.graph)) else ():
        how = f"behind {', '.join(weight.steps[:-1])} and {weight.steps[-1]}"
        found.setdefault(("weight", weight.dtype, how), {}).setdefault(weight.codes)
    return tuple(Quantized(*key, tuple(names)) for key, names in found.items())


Part = tuple[str, str, str, str]


def _parts(graph: onnx.GraphProto, outer: Mapping[str, onnx.TensorProto]) -> Iterator[Part]:
    stored = {**outer, **{tensor.name: tensor for tensor in graph.initializer}}
    for node in graph.node:
        if node.op_type in _TELLING or is_qlinear(node):
            yield from _of_node(node, stored)
        for body in bodies(node) if node.attribute else ():
            yield from _parts(body, stored)


def _of_node(node: onnx.NodeProto, stored: Mapping[str, onnx.TensorProto]) -> Iterator[Part]:
    op = node.op_type
    if op in PACKED:
        bits = attribute(node, PACKED[op], 4)
        yield from (("weight", f"{bits} bits", f"of {op}", node.input[place]) for place in CODES[op])
        return
    for position in CODES.get(op, ()):
        tensor = stored.get(node.input[position]) if position < len(node.input) else None
        if tensor is not None and (dtype := _integer(tensor)) is not None:
            yield "weight", dtype, f"behind {op}" if op == "DequantizeLinear" else f"of {op}", tensor.name
    if op == "QuantizeLinear":
        point = stored.get(node.input[2]) if len(node.input) > 2 else None
        dtype = (_integer(point) if point is not None else None) or "uint8"
        what = "weight" if node.input[0] in stored else "activation"
        yield what, dtype, "by QuantizeLinear", node.input[0]
    elif op in _DYNAMIC:
        yield "activation", "uint8", "by the range that each inference shows", node.input[0]
    elif is_qlinear(node) and node.output:
        yield "activation", "8 bits", f"of {op}", node.output[0]


def _integer(tensor: onnx.TensorProto) -> str | None:
    """numpy's name of a type that weights and activations have; None for int32, which biases and sums have, and floats."""
    wide: Mapping[int, str] = {TensorProto.INT16: "int16", TensorProto.UINT16: "uint16"}
    return INTEGERS.get(tensor.data_type) or wide.get(tensor.data_type)
