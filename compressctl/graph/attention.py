"""Causal attention in a graph: which tensors are its queries, keys and values, whatever the exporter wrote between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from compressctl.core.errors import StageError
from compressctl.graph.index import GraphIndex, attribute, index
from compressctl.graph.open_axes import graph_inputs
from compressctl.graph.shapes import Shape, shapes

_TO_HEADS = [0, 2, 1, 3]
"""Axes of (batch, tokens, heads, size) as (batch, heads, tokens, size), and back."""


@dataclass(frozen=True)
class Heads:
    """A tensor (batch, heads, tokens, size), or (batch, tokens, heads, size) where tokens come first."""

    tensor: str
    tokens_first: bool = False


@dataclass(frozen=True)
class Attention:
    """Softmax(scale * queries keys^T + mask) values.

    name: of the Softmax. nodes: names of the two products and of what stands between. keys and values: before they are repeated for the queries that share them. output: the tensor
    (batch, heads, tokens, size). mask: what is added to the scores, None without.
    """

    name: str
    nodes: tuple[str, ...]
    queries: Heads
    keys: Heads
    values: Heads
    output: str
    mask: str | None
    scale: float
    heads: int
    kv_heads: int
    head_size: int


_TOKENS = 8
"""In a text by which shapes are told: any number, but one that no other axis is taken for."""


def find_attention(proto: onnx.ModelProto) -> list[Attention]:
    """Every attention of a graph whose inputs are (batch, tokens), in its order.

    Raises StageError for a Softmax between two products of activations whose parts are not seen.
    """
    graph = proto.graph
    given = {value.name: (1, _TOKENS) for value in graph_inputs(graph) if len(value.type.tensor_type.shape.dim) == 2}
    finder = _Finder(index(graph), shapes(proto, inputs=given))
    return [found for node in graph.node if node.op_type == "Softmax" and (found := finder.around(node)) is not None]


@dataclass(frozen=True)
class _Finder:
    found: GraphIndex
    shapes: Mapping[str, Shape]

    def around(self, softmax: onnx.NodeProto) -> Attention | None:
        """None where no product of the Softmax's output with activations follows: the last layer of a classifier, a gate."""
        product = self.found.only_consumer(softmax.output[0])
        if product is None or product.op_type != "MatMul" or product.input[0] != softmax.output[0]:
            return None
        if product.input[1] in self.found.initializers:
            return None
        between, mask, scale = self._scores(softmax)
        queries, transposed = between[0].input
        keys, kv_heads, size = self._keys(transposed, softmax.name)
        values, value_heads = self._shared(product.input[1])
        shape, values_shape = self.shapes.get(queries), self.shapes.get(values)
        if shape is None or len(shape) != 4 or not shape[1] or shape[3] != size:
            raise StageError(f"attention {softmax.name}: the shapes of its queries and keys do not agree")
        if not kv_heads or kv_heads != value_heads or shape[1] % kv_heads:
            raise StageError(f"attention {softmax.name}: its keys and values have different numbers of heads")
        if values_shape is None or values_shape[-1] != size:
            raise StageError(f"attention {softmax.name}: its values have another size than its keys")
        return Attention(
            softmax.name,
            (*(node.name for node in between), softmax.name, product.name),
            heads_of(self.found, queries),
            keys,
            heads_of(self.found, values),
            product.output[0],
            mask,
            scale,
            shape[1],
            kv_heads,
            size,
        )

    def _scores(self, softmax: onnx.NodeProto) -> tuple[list[onnx.NodeProto], str | None, float]:
        """The product of queries and keys and the nodes after it, what is added to it, and by how much it is multiplied."""
        nodes: list[onnx.NodeProto] = []
        mask, scale, tensor = None, 1.0, softmax.input[0]
        while True:
            node = self.found.producers.get(tensor)
            if node is None:
                break
            nodes.insert(0, node)
            if node.op_type == "MatMul" and not any(name in self.found.initializers for name in node.input):
                return nodes, mask, scale
            if node.op_type == "Add" and mask is None and scale == 1.0:
                tensor, mask = self._scored_first(node)
            elif node.op_type in ("Mul", "Div") and (factor := self._factor(node)) is not None:
                scale, tensor = scale * factor, node.input[0]
            else:
                break
        raise StageError(
            f"attention {softmax.name}: {node.op_type if node else 'an input'} stands between its products",
            hint="scores may be multiplied by a number and a mask added to them",
        )

    def _scored_first(self, node: onnx.NodeProto) -> tuple[str, str]:
        """The inputs of an Add, that of the scores first: the mask is the same for every head."""
        first, second = node.input
        shape = self.shapes.get(second)
        is_mask = shape is not None and (len(shape) < 4 or shape[1] == 1)
        return (first, second) if is_mask or self.found.producers.get(second) is None else (second, first)

    def _factor(self, node: onnx.NodeProto) -> float | None:
        value = self.found.array(node.input[1])
        if value is None or value.size != 1:
            return None
        return float(value.item()) if node.op_type == "Mul" else 1 / float(value.item())

    def _keys(self, transposed: str, name: str) -> tuple[Heads, int, int]:
        """From (batch, heads, size, tokens): the keys, how many heads they have, and their size."""
        node = self.found.producers.get(transposed)
        order = None if node is None or node.op_type != "Transpose" else attribute(node, "perm")
        shape = self.shapes.get(transposed)
        if node is None or shape is None or len(shape) != 4 or order not in ([0, 1, 3, 2], [0, 2, 3, 1]):
            raise StageError(f"attention {name}: its keys are not transposed by themselves")
        size = shape[2] or 0
        if order == [0, 2, 3, 1]:
            return Heads(node.input[0], tokens_first=True), shape[1] or 0, size
        keys, heads = self._shared(node.input[0])
        return heads_of(self.found, keys), heads, size

    def _shared(self, tensor: str) -> tuple[str, int]:
        """What is repeated for the queries that share it, and how many heads it has: Unsqueeze, Expand, Reshape."""
        shape = self.shapes.get(tensor)
        heads = 0 if shape is None or len(shape) != 4 else shape[1] or 0
        chain = []
        at = tensor
        for kind in ("Reshape", "Expand", "Unsqueeze"):
            node = self.found.producers.get(at)
            if node is None or node.op_type != kind:
                return tensor, heads
            chain.append(node)
            at = node.input[0]
        inner = self.shapes.get(at)
        if inner is None or len(inner) != 4 or not inner[1] or not heads or heads % inner[1]:
            return tensor, heads
        return at, inner[1]


def heads_of(found: GraphIndex, tensor: str) -> Heads:
    """(batch, heads, tokens, size) without the Transpose that put the heads first, where there is one."""
    node = found.producers.get(tensor)
    if node is not None and node.op_type == "Transpose" and attribute(node, "perm") == _TO_HEADS:
        return Heads(node.input[0], tokens_first=True)
    return Heads(tensor)
