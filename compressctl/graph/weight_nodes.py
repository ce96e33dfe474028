"""Nodes with a constant weight, and that weight as a matrix: a row for each output, a column for each input."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from compressctl.graph.index import GraphIndex, attribute, index, places
from compressctl.graph.opset import STANDARD

RECURRENT = ("LSTM", "GRU", "RNN")
"""Operators with a weight for their input and another for their state, both a matrix for each direction."""


def weight_positions(node: onnx.NodeProto) -> tuple[int, ...]:
    """Which of the node's inputs are its weights."""
    if node.op_type in RECURRENT:
        return (1, 2)
    return (0,) if node.op_type == "Gather" else (1,)


@dataclass(frozen=True)
class WeightNode:
    """weight: an initializer. input: the activation that meets it, of a Gather the indices.

    transposed: what is stored is (columns, rows, ...). stacked: leading axes of the weight that count matrices, of which a Gather chooses some. is_inner: it stands
    in a body of an If, Loop or Scan, where nothing can watch its input. Rows of an embedding are its entries, so that a table
    that is also the matrix of the head (tied weights) has the same rows and columns for both.
    """

    node: str
    op: str
    weight: str
    input: str
    transposed: bool = False
    is_inner: bool = False
    stacked: int = 0

    @property
    def row_axis(self) -> int:
        return self.stacked + (1 if self.transposed else 0)

    @property
    def column_axis(self) -> int:
        return self.stacked + (0 if self.transposed else 1)

    @property
    def is_embedding(self) -> bool:
        """Whether it looks up entries of a table that are no matrices."""
        return self.op == "Gather" and not self.stacked

    @property
    def is_watched(self) -> bool:
        """Whether it can be seen which numbers meet each column."""
        return not self.is_inner and not self.stacked and self.op in ("MatMul", "Gemm", "Conv")

    def matrix(self, values: np.ndarray) -> np.ndarray:
        """(rows, columns): a convolution's columns are input channel, then kernel position; rows of stacked matrices follow one another."""
        turned = np.moveaxis(values, self.row_axis, self.column_axis) if self.transposed else values
        return turned.reshape(int(np.prod(turned.shape[: self.stacked + 1])), -1)

    def stored(self, matrix: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """The matrix in the order and shape in which the graph stores it."""
        turned = list(shape)
        if self.transposed:
            turned.insert(self.column_axis, turned.pop(self.row_axis))
        values = matrix.reshape(turned)
        return np.ascontiguousarray(np.moveaxis(values, self.column_axis, self.row_axis) if self.transposed else values)


def find_weighted(graph: onnx.GraphProto) -> list[WeightNode]:
    """Every weight that is constant, of products, convolutions, recurrent layers and lookups: in graph order, then those of each body."""
    return [
        weighted
        for place, found in places(graph)
        for node in place.node
        if node.op_type in _MAKERS and node.domain in STANDARD
        for weighted in _MAKERS[node.op_type](node, found, is_inner=place is not graph)
    ]


def weight_readers(nodes: Sequence[WeightNode]) -> dict[str, list[WeightNode]]:
    """Those that read each weight: several when layers share it."""
    readers: dict[str, list[WeightNode]] = {}
    for node in nodes:
        readers.setdefault(node.weight, []).append(node)
    return readers


def tied_weights(graph: onnx.GraphProto, nodes: Sequence[WeightNode]) -> dict[str, str]:
    """The weight that is the table of an embedding too, by weight: the same matrix in the same rows and columns.

    The two are one initializer, or two that hold the same numbers: exporters and constant folding write the transpose out.
    """
    found = index(graph)
    tables: dict[tuple[tuple[int, ...], bytes], str] = {}
    tied: dict[str, str] = {}

    def key(node: WeightNode) -> tuple[tuple[int, ...], bytes]:
        values = found.array(node.weight)
        assert values is not None
        matrix = node.matrix(values)
        return matrix.shape, hashlib.sha256(np.ascontiguousarray(matrix).data).digest()

    for node in nodes:
        if node.is_embedding:
            tables.setdefault(key(node), node.weight)
    shapes = {shape for shape, _ in tables}
    for node in nodes:
        if node.op in ("MatMul", "Gemm"):
            dims = tuple(found.initializers[node.weight].dims)
            table = tables.get(key(node)) if dims in shapes or dims[::-1] in shapes else None
            if table is not None:
                tied[node.weight] = table
    return tied


def _product(node: onnx.NodeProto, found: GraphIndex, *, is_inner: bool) -> Iterator[WeightNode]:
    if not _is_float(found, node.input[1]) or node.input[0] in found.initializers:
        return
    axes = len(found.initializers[node.input[1]].dims)
    plain = node.op_type == "MatMul" or (
        attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0 and not attribute(node, "transA", 0)
    )
    transposed = node.op_type == "MatMul" or not attribute(node, "transB", 0)
    if plain and axes > 1:
        yield WeightNode(node.name, node.op_type, node.input[1], node.input[0], transposed, is_inner, axes - 2)


def _convolution(node: onnx.NodeProto, found: GraphIndex, *, is_inner: bool) -> Iterator[WeightNode]:
    if _is_float(found, node.input[1]) and len(found.initializers[node.input[1]].dims) > 2:
        transposed = node.op_type == "ConvTranspose"
        yield WeightNode(node.name, node.op_type, node.input[1], node.input[0], transposed, is_inner)


def _recurrent(node: onnx.NodeProto, found: GraphIndex, *, is_inner: bool) -> Iterator[WeightNode]:
    """Source of the shapes: ONNX, LSTM-14: W (directions, gates * hidden, inputs), R (directions, gates * hidden, hidden)."""
    for position in weight_positions(node):
        if _is_float(found, node.input[position]) and len(found.initializers[node.input[position]].dims) == 3:
            yield WeightNode(node.name, node.op_type, node.input[position], node.input[0], False, is_inner, 1)


def _embedding(node: onnx.NodeProto, found: GraphIndex, *, is_inner: bool) -> Iterator[WeightNode]:
    # A constant index is a constant row: nothing that a table is looked up for.
    if attribute(node, "axis", 0) != 0 or node.input[1] in found.initializers:
        return
    if _is_matrix(found, node.input[0]) and not any(
        _chooses(reader, found) for reader in found.consumers.get(node.input[1], [])
    ):
        yield WeightNode(node.name, node.op_type, node.input[0], node.input[1], is_inner=is_inner)
    elif _chooses(node, found):
        yield WeightNode(node.name, node.op_type, node.input[0], node.input[1], is_inner=is_inner, stacked=1)


def _chooses(node: onnx.NodeProto, found: GraphIndex) -> bool:
    """Whether a node looks up matrices that a product reads, as of experts. What vectors it looks up with the same indices are their biases, too small to be worth rounding."""

    if node.op_type != "Gather" or attribute(node, "axis", 0) != 0 or not _is_float(found, node.input[0]):
        return False
    reader = found.only_consumer(node.output[0])
    while reader is not None and reader.op_type == "Reshape":
        reader = found.only_consumer(reader.output[0])
    return len(found.initializers[node.input[0]].dims) == 3 and reader is not None and reader.op_type == "MatMul"


_MAKERS = {
    "MatMul": _product,
    "Gemm": _product,
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "Gather": _embedding,
    **dict.fromkeys(RECURRENT, _recurrent),
}


def _is_matrix(found: GraphIndex, name: str) -> bool:
    return _is_float(found, name) and len(found.initializers[name].dims) == 2


def _is_float(found: GraphIndex, name: str) -> bool:
    tensor = found.initializers.get(name)
    return tensor is not None and tensor.data_type == onnx.TensorProto.FLOAT


def names_of(node: WeightNode) -> tuple[str, ...]:
    """What a pattern may call it."""
    return node.weight, node.node, node.op
