"""A product as it stands in a file, alone: what is timed in place of the file."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto, helper

from compressctl.backends.releases import newest_opset
from compressctl.core.model import OnnxModel, Signature, TensorSpec
from compressctl.core.quant import QuantPlan, TensorQuant
from compressctl.core.target import Target
from compressctl.graph.codes import weight_values
from compressctl.graph.index import GraphIndex, attribute, copied
from compressctl.graph.opset import STANDARD
from compressctl.graph.tensors import from_array, to_array

TIMED_NUMBERS = 1 << 24
"""Of a larger weight, as a language model's head, as many outputs are timed as hold so many numbers, far more than any cache: the forms stand in
memory side by side while they are timed."""

_FOLLOWERS = (
    "Add",
    "Mul",
    "Relu",
    "LeakyRelu",
    "Sigmoid",
    "Tanh",
    "Elu",
    "Selu",
    "HardSigmoid",
    "Softplus",
    "Softsign",
)
"""What ONNX Runtime may fuse with a product in front of it, so that it no longer knows a DequantizeLinear's product: it is timed with it.
Their definitions are the same in every opset that is written."""


@dataclass(frozen=True)
class Standing:
    """A product as it stands in the file: with the bias and the activation that follow it, each reading the node before.

    constants: what the nodes read beside that. weight: the one that quant is for.
    """

    nodes: tuple[onnx.NodeProto, ...]
    constants: Mapping[str, onnx.TensorProto]
    weight: str
    quant: TensorQuant

    @property
    def shape(self) -> tuple[int, int]:
        """(inputs, outputs)"""
        rows, columns = self.constants[self.weight].dims
        return (columns, rows) if attribute(self.nodes[0], "transB", 0) else (rows, columns)

    @property
    def kind(self) -> Hashable:
        """Equal for products that take the same time."""
        quant, sizes = self.quant, tuple(tuple(tensor.dims) for tensor in self.constants.values())
        operators = tuple(
            (node.op_type, *(entry.SerializeToString() for entry in node.attribute)) for node in self.nodes
        )
        return operators, sizes, quant.dtype, quant.axis, quant.block, bool(np.any(quant.zero_point))

    @property
    def words(self) -> str:
        operators = ", ".join(node.op_type for node in self.nodes if node.op_type != "Abs")
        return f"{self.shape[0]} x {self.shape[1]} {self.quant.dtype} weights ({operators})"

    def alone(self, target: Target) -> OnnxModel:
        """A model of one input, (rows, inputs), whose weight has the values of its codes."""
        values = weight_values(to_array(self.constants[self.weight]), self.quant)
        constants = {**self.constants, self.weight: from_array(values, self.weight)}
        given, made = self.nodes[0].input[0], self.nodes[-1].output[0]
        graph = helper.make_graph(
            self.nodes,
            "product",
            [helper.make_tensor_value_info(given, TensorProto.FLOAT, ["rows", self.shape[0]])],
            [helper.make_tensor_value_info(made, TensorProto.FLOAT, ["rows", self.shape[1]])],
            list(constants.values()),
        )
        body = helper.make_model(graph, opset_imports=[helper.make_opsetid("", newest_opset(target))], ir_version=10)
        signature = Signature((TensorSpec(given, "float32", ("rows", self.shape[0])),), ())
        return OnnxModel(body, signature, QuantPlan({}, {self.weight: self.quant}))


def timed_part(product: Standing) -> Standing:
    """The product with the first of its outputs alone, where its weight is too large to be held in every form at once."""
    inputs, outputs = product.shape
    axis = 0 if attribute(product.nodes[0], "transB", 0) else 1
    whole = product.quant.block if product.quant.block is not None and _is_along(product.quant, axis) else 1
    kept = max(TIMED_NUMBERS // inputs // 64 * 64, 64) // whole * whole
    if inputs * outputs <= TIMED_NUMBERS or not 0 < kept < outputs:
        return product
    constants = {
        name: from_array(
            np.ascontiguousarray(_first(to_array(tensor), kept, axis if name == product.weight else -1)), name
        )
        if name == product.weight or (tensor.dims and tensor.dims[-1] == outputs)
        else tensor
        for name, tensor in product.constants.items()
    }
    scale, point = (
        _first_scales(part, product.quant, axis, kept) for part in (product.quant.scale, product.quant.zero_point)
    )
    return replace(product, constants=constants, quant=replace(product.quant, scale=scale, zero_point=point))


def _first(values: np.ndarray, count: int, axis: int) -> np.ndarray:
    return values[(slice(None),) * (axis % values.ndim) + (slice(count),)]


def _first_scales(part: np.ndarray, quant: TensorQuant, axis: int, kept: int) -> np.ndarray:
    """Of the scales or zero points of a weight (two axes), those of its first kept entries along axis."""
    part = np.asarray(part)
    if part.size == 1:
        return part
    if quant.block is not None:
        return _first(part, kept // quant.block if _is_along(quant, axis) else kept, axis)
    return part[:kept] if _is_along(quant, axis) else part


def _is_along(quant: TensorQuant, axis: int) -> bool:
    return quant.axis is not None and quant.axis % 2 == axis


def standing_of(node: onnx.NodeProto, found: GraphIndex, quant: TensorQuant) -> Standing:
    nodes = [copied(node)]
    while len(nodes) < 3:
        last = nodes[-1].output[0]
        reader = found.only_consumer(last)
        if reader is None or reader.op_type not in _FOLLOWERS or reader.domain not in STANDARD:
            break
        if not all(name == last or name in found.initializers for name in reader.input):
            break
        nodes.append(copied(reader))
    last = nodes[-1].output[0]
    if last not in found.outputs:
        # ONNX Runtime fuses a Relu that makes an output of the graph less readily.
        nodes.append(helper.make_node("Abs", [last], [f"{last}_read"], f"{last}_reader"))
    if len(node.input) > 2 and node.input[2] not in found.initializers:
        del nodes[0].input[2:]
    read = [name for one in nodes for name in one.input if name in found.initializers]
    return Standing(tuple(nodes), {name: found.initializers[name] for name in read}, node.input[1], quant)
