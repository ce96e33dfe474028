"""Products with constant weights that are written in other ways, as the plain matrix products that every technique and runtime knows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from compressctl.graph.edit import GraphEditor, Replacement
from compressctl.graph.index import attribute, copied
from compressctl.graph.opset import STANDARD


def as_plain_products(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, changed in place: Gemm without alpha, beta and transA where its weight is constant, Einsum as MatMul where it is one."""
    editor = GraphEditor(model.graph)

    def plain(node: onnx.NodeProto) -> Replacement:
        if node.domain not in STANDARD:
            return None
        if node.op_type == "Gemm":
            return _gemm(node, editor)
        return _einsum(node, editor) if node.op_type == "Einsum" else None

    editor.replace_nodes(plain)
    return model


def _gemm(node: onnx.NodeProto, editor: GraphEditor) -> Replacement:
    """alpha * A' * B' + beta * C: the factors go into B and C where these are constants, the transpose of A in front."""
    alpha, beta, turned = (
        attribute(node, name, default) for name, default in (("alpha", 1.0), ("beta", 1.0), ("transA", 0))
    )
    weight = editor.array(node.input[1])
    has_bias = len(node.input) > 2 and bool(node.input[2])
    bias = editor.array(node.input[2]) if has_bias else None
    if alpha == beta == 1.0 and not turned:
        return None
    if weight is None or weight.dtype.kind != "f" or editor.array(node.input[0]) is not None:
        return None
    if has_bias and bias is None and beta != 1.0:
        return None
    made, nodes = copied(node), []
    kept = [entry for entry in node.attribute if entry.name not in ("alpha", "beta", "transA")]
    del made.attribute[:]
    made.attribute.extend(kept)
    if alpha != 1.0:
        made.input[1] = editor.constant(weight * np.asarray(alpha, weight.dtype), node.name, node.input[1], "alpha")
    if bias is not None and beta != 1.0:
        made.input[2] = editor.constant(bias * np.asarray(beta, bias.dtype), node.name, node.input[2], "beta")
    if turned:
        made.input[0] = editor.new_name(f"{node.input[0]}_turned")
        nodes.append(
            helper.make_node("Transpose", [node.input[0]], [made.input[0]], f"{made.input[0]}_node", perm=[1, 0])
        )
    return [*nodes, made]


@dataclass(frozen=True)
class _Product:
    """kept: letters of the activation that stay. summed: those that both have and the output lacks. own: the weight's."""

    given: str
    weight: str
    output: str

    @property
    def kept(self) -> str:
        return "".join(letter for letter in self.given if letter in self.output)

    @property
    def summed(self) -> str:
        return "".join(letter for letter in self.weight if letter not in self.output)

    @property
    def own(self) -> str:
        return "".join(letter for letter in self.output if letter in self.weight)

    @property
    def is_plain(self) -> bool:
        """Whether every letter is there once, is summed on both sides or stays from one of them alone."""
        once = all(len(set(term)) == len(term) for term in (self.given, self.weight, self.output))
        is_split = not set(self.kept) & set(self.weight) and set(self.given) == {*self.kept, *self.summed}
        return once and is_split and set(self.output) == {*self.kept, *self.own} and bool(self.summed)


def _einsum(node: onnx.NodeProto, editor: GraphEditor) -> Replacement:
    """One activation and one constant with nothing in common but what is summed, as Transpose, Reshape, MatMul, Reshape, Transpose.

    Steps that change nothing are left out.
    """
    arrays = [editor.array(name) for name in node.input]
    constants = [place for place, array in enumerate(arrays) if array is not None and array.dtype.kind == "f"]
    terms = _terms(str(helper.get_node_attr_value(node, "equation").decode()))
    if len(arrays) != 2 or len(constants) != 1 or terms is None:
        return None
    at = constants[0]
    values = arrays[at]
    product = _Product(terms[1 - at], terms[at], terms[2])
    if values is None or values.ndim != len(product.weight) or not product.is_plain:
        return None
    sizes = dict(zip(product.weight, values.shape, strict=True))
    matrix = values.transpose([product.weight.index(letter) for letter in product.summed + product.own]).reshape(
        math.prod(sizes[letter] for letter in product.summed), -1
    )
    return _written(node, editor, product, node.input[1 - at], matrix, sizes, node.input[at])


def _written(
    node: onnx.NodeProto,
    editor: GraphEditor,
    product: _Product,
    last: str,
    matrix: np.ndarray,
    sizes: dict[str, int],
    weight: str,
) -> list[onnx.NodeProto]:
    nodes: list[onnx.NodeProto] = []

    def then(operator: str, *more: str, **attributes: Any) -> None:
        nonlocal last
        made = editor.new_name(f"{node.output[0]}_{operator.lower()}")
        nodes.append(
            helper.make_node(operator, [last, *more], [made], editor.new_name(f"{node.name}_{operator}"), **attributes)
        )
        last = made

    def reshape(tail: list[int], step: str) -> None:
        # 0 keeps a size as it is.
        shape = np.array([0] * len(product.kept) + tail, np.int64)
        then("Reshape", editor.constant(shape, node.name, step))

    order = product.kept + product.summed
    if order != product.given:
        then("Transpose", perm=[product.given.index(letter) for letter in order])
    if len(product.summed) > 1:
        reshape([len(matrix)], "summed")
    then("MatMul", editor.constant(np.ascontiguousarray(matrix), node.name, weight, "matrix"))
    nodes[-1].name = node.name
    if len(product.own) != 1:
        reshape([sizes[letter] for letter in product.own], "own")
    made = product.kept + product.own
    if made != product.output:
        then("Transpose", perm=[made.index(letter) for letter in product.output])
    nodes[-1].output[0] = node.output[0]
    return nodes


def _terms(equation: str) -> tuple[str, str, str] | None:
    """Of an equation of two operands; None for one with an ellipsis. Without an arrow the output has what occurs once, sorted."""
    operands, arrow, output = equation.replace(" ", "").partition("->")
    if "." in equation or operands.count(",") != 1:
        return None
    first, second = operands.split(",")
    return first, second, output if arrow else "".join(sorted(set(first) ^ set(second)))
