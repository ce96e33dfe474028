"""Convolutions with few outputs, written so that neighbouring positions are computed as further outputs.

A vector kernel computes 8 or 16 outputs at once. One with a single output wastes most of that; here rows x columns of its positions become
outputs, whose kernels are the same one moved, with zeros around it. The sums are the same. Shi et al. 2016, Is the deconvolution layer
the same as a convolutional layer?, turn outputs into positions in this way (pixel shuffle).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from compressctl.graph.edit import GraphEditor, Replacement
from compressctl.graph.index import attribute, index
from compressctl.graph.shapes import Shape
from compressctl.graph.tensors import copy_of

OLDEST_OPSET = 11
"""Pad and Slice take what they do as inputs from here on."""

_FOLLOWERS = ("Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid", "HardSwish")
"""Activations that runtimes fuse with the convolution before them, which they therefore have to follow directly."""


@dataclass(frozen=True)
class Convolution:
    """A plain 2-D convolution. given, made: (height, width) of what it reads and makes. pads: top and left.

    weight: (out, in, height, width). Its name may be that of a stored constant or of what nodes make of one at loading.
    """

    node: str
    weight_name: str
    weight: tuple[int, int, int, int]
    strides: tuple[int, int]
    pads: tuple[int, int]
    given: tuple[int, int]
    made: tuple[int, int]

    def work(self, lanes: int, rows: int = 1, columns: int = 1) -> float:
        """Multiply-accumulates of vector lanes, busy or not, with rows x columns positions at once."""
        height, width = self.kernel(rows, columns)
        blocks = -(-self.weight[0] * rows * columns // lanes)
        places = -(-self.made[0] // rows) * -(-self.made[1] // columns)
        return float(blocks * lanes * self.weight[1] * height * width * places)

    def kernel(self, rows: int, columns: int) -> tuple[int, int]:
        return (
            self.weight[2] + (rows - 1) * self.strides[0],
            self.weight[3] + (columns - 1) * self.strides[1],
        )


def convolutions(graph: onnx.GraphProto, known: Mapping[str, Shape]) -> dict[str, Convolution]:
    """By node, those of the main graph that can be unrolled: one group, no dilation, constant weights, known height and width."""
    found = index(graph)
    constant = _constants(graph)
    result = {}
    for node in graph.node:
        if node.op_type != "Conv" or node.domain or node.input[1] not in constant or attribute(node, "group", 1) != 1:
            continue
        weight, given, made = (known.get(name) for name in (node.input[1], node.input[0], node.output[0]))
        is_plain = attribute(node, "auto_pad", b"NOTSET") == b"NOTSET" and set(_numbers(node, "dilations", (1, 1))) == {
            1
        }
        has_stored_bias = len(node.input) < 3 or not node.input[2] or node.input[2] in found.initializers
        sizes = (*(weight or (None,)), *(given or (None,))[2:], *(made or (None,))[2:])
        if not is_plain or not has_stored_bias or weight is None or len(weight) != 4 or None in sizes:
            continue
        whole = [int(size or 0) for size in sizes]
        strides, pads = _numbers(node, "strides", (1, 1)), _numbers(node, "pads", (0, 0, 0, 0))
        result[node.name] = Convolution(
            node=node.name,
            weight_name=node.input[1],
            weight=(whole[0], whole[1], whole[2], whole[3]),
            strides=(strides[0], strides[1]),
            pads=(pads[0], pads[1]),
            given=(whole[4], whole[5]),
            made=(whole[6], whole[7]),
        )
    return result


def _constants(graph: onnx.GraphProto) -> set[str]:
    """Names of stored constants, and of what nodes make of them alone: weights that are widened or unpacked at loading."""
    names = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.input and all(name in names for name in node.input if name):
            names.update(node.output)
    return names


def _numbers(node: onnx.NodeProto, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    value = attribute(node, name, default)
    return tuple(int(number) for number in value)  # type: ignore[attr-defined]


def unrolled(
    model: onnx.ModelProto, chosen: Mapping[str, tuple[int, int]], found: Mapping[str, Convolution]
) -> onnx.ModelProto:
    """A copy with these convolutions computing (rows, columns) positions at once.

    What they compute is the same up to the order of summation. Wide kernels are not stored: runtimes make them of the weights
    when they load the file.
    """
    made = copy_of(model)
    editor = GraphEditor(made.graph)
    followers: set[str] = set()

    def written(node: onnx.NodeProto) -> Replacement:
        if node.name in followers:
            return []
        if node.name not in chosen:
            return None
        convolution, factors = found[node.name], chosen[node.name]
        kernel, nodes = _kernel(convolution, factors, editor)
        follower = editor.here.only_consumer(node.output[0])
        if follower is not None and follower.op_type in _FOLLOWERS:
            followers.add(follower.name)
        else:
            follower = None
        return [*nodes, *_positions(node, follower, convolution, factors, kernel, editor)]

    editor.replace_nodes(written)
    return made


def _kernel(
    convolution: Convolution, factors: tuple[int, int], editor: GraphEditor
) -> tuple[str, list[onnx.NodeProto]]:
    """(out x rows x columns, in, height, width), one for convolutions that read one weight in one way; and the nodes that make it.

    Repeating a row of `size + stride` numbers and cutting the repetition into rows of `size` moves each row by one stride.
    """
    key = f"{convolution.weight_name} unrolled {factors} {convolution.strides}"
    if key in editor.visible:
        return editor.visible[key][0], []
    (out, depth, high, wide), (rows, columns) = convolution.weight, factors
    height, width = convolution.kernel(*factors)
    name = convolution.weight_name
    margins = [height + convolution.strides[0] - high, width + convolution.strides[1] - wide]
    steps: list[tuple[str, list[str], dict[str, Any]]] = [
        ("Pad", [_int64([0] * 6 + margins, editor)], {}),
        ("Tile", [_int64([1, 1, rows, columns], editor)], {}),
        ("Slice", [_int64(part, editor) for part in ([0, 0], [rows * height, columns * width], [2, 3])], {}),
        ("Reshape", [_int64([out, depth, rows, height, columns, width], editor)], {}),
        ("Transpose", [], {"perm": [0, 2, 4, 1, 3, 5]}),
        ("Reshape", [_int64([out * rows * columns, depth, height, width], editor)], {}),
    ]
    nodes = []
    for operator, inputs, attributes in steps:
        output = editor.new_name(f"{convolution.weight_name}_unrolled")
        nodes.append(helper.make_node(operator, [name, *inputs], [output], output, **attributes))
        name = output
    editor.visible[key] = (name,)
    return name, nodes


def _positions(
    node: onnx.NodeProto,
    follower: onnx.NodeProto | None,
    convolution: Convolution,
    factors: tuple[int, int],
    kernel: str,
    editor: GraphEditor,
) -> list[onnx.NodeProto]:
    """The convolution, its activation, and its outputs put where they belong."""
    (rows, columns), out = factors, convolution.weight[0]
    sizes = convolution.kernel(rows, columns)
    strides = [stride * factor for stride, factor in zip(convolution.strides, factors, strict=True)]
    places = [-(-made // factor) for made, factor in zip(convolution.made, factors, strict=True)]
    behind = [
        max(0, (place - 1) * stride + size - pad - given)
        for place, stride, size, pad, given in zip(
            places, strides, sizes, convolution.pads, convolution.given, strict=True
        )
    ]
    inputs = [node.input[0], kernel]
    if len(node.input) > 2 and node.input[2]:
        bias = editor.array(node.input[2])
        assert bias is not None
        inputs.append(editor.constant(np.repeat(bias, rows * columns), node.input[2], f"{rows * columns}"))
    output = node.output[0] if follower is None else follower.output[0]
    tensors = [editor.new_name(f"{node.name}_{part}") for part in ("positions", "active", "apart", "beside", "whole")]
    made = [
        helper.make_node(
            "Conv",
            inputs,
            [tensors[0]],
            node.name,
            kernel_shape=sizes,
            strides=strides,
            pads=[*convolution.pads, *behind],
        )
    ]
    if follower is not None:
        active = onnx.NodeProto()
        active.CopyFrom(follower)
        active.input[0], active.output[0] = tensors[0], tensors[1]
        made.append(active)
    is_whole = all(
        place * factor == size for place, factor, size in zip(places, factors, convolution.made, strict=True)
    )
    together = [place * factor for place, factor in zip(places, factors, strict=True)]
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("Reshape", [_int64([0, out, rows, columns, *places], editor)], tensors[2], {}),
        ("Transpose", [], tensors[3], {"perm": [0, 1, 4, 2, 5, 3]}),
        ("Reshape", [_int64([0, out, *together], editor)], output if is_whole else tensors[4], {}),
    ]
    if not is_whole:
        ends = [_int64(part, editor) for part in ([0, 0], list(convolution.made), [2, 3])]
        steps.append(("Slice", ends, output, {}))
    name = made[-1].output[0]
    for operator, constants, result, attributes in steps:
        made.append(helper.make_node(operator, [name, *constants], [result], editor.new_name(result), **attributes))
        name = result
    return made


def _int64(numbers: list[int], editor: GraphEditor) -> str:
    return editor.constant(np.array(numbers, np.int64), "_".join(map(str, numbers)))
