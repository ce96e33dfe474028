"""Feed-forward layers in chosen parts as ONNX Runtime's mixture of experts, which computes each part for all the rows that chose it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from compressctl.backends.dialects.weight_only import MICROSOFT, import_microsoft
from compressctl.graph.edit import GraphEditor, Replacement
from compressctl.graph.index import GraphIndex, attribute, index, needed

_ACTIVATIONS = {"Relu": "relu", "Gelu": "gelu"}
_OF_SHAPE = ("Reshape", "Squeeze", "Unsqueeze", "Identity")
_MOST_GROWTH = 1.25
"""Times the memory of a layer's weights."""

_NEVER = -1e4
"""A score whose softmax is 0."""


def write_experts(proto: onnx.ModelProto) -> int:
    """Replace what `Experts` is exported as (sources/modules/experts.py), in place; how many. The operator knows layers with as many outputs as inputs: what others lack is filled with zeros where
    that takes a quarter more memory at most, and they stay where it takes more.

    The operator weighs experts by the softmax of their scores. All that are chosen get one score and the others none, and what they give is multiplied by how many there are.
    Source: ONNX Runtime, ContribOperators.md, com.microsoft.MoE; its Gelu is the approximation by tanh, within 5e-4 of the exact one for each hidden unit.
    """
    looked_up = index(proto.graph)
    found = {one.end: one for node in proto.graph.node if (one := _experts(node, looked_up)) is not None}
    if not found:
        return 0
    editor = GraphEditor(proto.graph)

    def replacement(node: onnx.NodeProto) -> Replacement:
        one = found.get(node.output[0]) if node.output else None
        return None if one is None else list(_written(one, node.name, editor))

    editor.replace_nodes(replacement)
    kept = needed(proto.graph.node, [output.name for output in proto.graph.output])
    del proto.graph.node[:]
    proto.graph.node.extend(kept)
    editor.close()
    import_microsoft(proto)
    return len(found)


def note(proto: onnx.ModelProto) -> tuple[str, ...]:
    """What is written so, in words."""
    nodes = [node for node in proto.graph.node if node.op_type == "MoE" and node.domain == MICROSOFT]
    if not nodes:
        return ()
    uses_gelu = any(attribute(node, "activation_type") == b"gelu" for node in nodes)
    layers = f"{len(nodes)} feed-forward layer{'s' if len(nodes) > 1 else ''}"
    return (f"{layers} written as com.microsoft.MoE{', GELU in its approximation by tanh' if uses_gelu else ''}",)


@dataclass(frozen=True)
class _Experts:
    """rows: (r, features). scores: (r, experts). tables: arrays, as in Experts. end: the sum over what was chosen, without what all rows have in common."""

    rows: str
    scores: str
    chosen: int
    up: np.ndarray
    up_bias: np.ndarray
    down: np.ndarray
    usual: np.ndarray
    activation: str
    end: str


def _experts(node: onnx.NodeProto, looked_up: GraphIndex) -> _Experts | None:
    """Those that a TopK chooses, where what follows is what `Experts` is exported as."""
    if node.op_type != "TopK" or len(node.output) < 2:
        return None
    tables = list(_tables(node.output[1], looked_up))
    shapes = [(name, len(array.shape)) for name, array in tables]
    arrays = dict(tables)
    if sorted(rank for _, rank in shapes) != [2, 2, 3, 3]:
        return None
    for up, down in (
        (first, second) for first, rank in shapes for second, other in shapes if rank == other == 3 and first != second
    ):
        chain = _chain(up, down, looked_up)
        if chain is None:
            continue
        rows, bias, activation, usual, end = chain
        sizes = arrays[up].shape, arrays[down].shape
        number = looked_up.array(node.input[1])
        if bias not in arrays or usual not in arrays or number is None or _grows_too_much(*sizes):
            return None
        return _Experts(
            rows, node.input[0], int(number.reshape(-1)[0]), arrays[up], arrays[bias], arrays[down], arrays[usual], activation, end
        )  # fmt: skip
    return None


def _grows_too_much(up: tuple[int, ...], down: tuple[int, ...]) -> bool:
    """Shapes of the weights."""
    return 2 * max(up[2], down[1]) > _MOST_GROWTH * (up[2] + down[1])


def _tables(chosen: str, looked_up: GraphIndex) -> Iterator[tuple[str, np.ndarray]]:
    """What is looked up by the places of the chosen, by the tensor that holds it."""
    for reader in looked_up.consumers.get(chosen, []):
        if reader.op_type in _OF_SHAPE:
            yield from _tables(reader.output[0], looked_up)
        elif reader.op_type == "Gather" and attribute(reader, "axis", 0) == 0:
            table = looked_up.array(reader.input[0])
            if table is not None and table.dtype == np.float32:
                yield reader.output[0], table


def _chain(up: str, down: str, looked_up: GraphIndex) -> tuple[str, str, str, str, str] | None:
    """From the chosen weights to the sum: rows, the chosen biases, the activation, what is usual of the chosen, the sum."""
    first = _reader(up, "MatMul", looked_up)
    added = None if first is None else _reader(first.output[0], "Add", looked_up)
    if first is None or added is None:
        return None
    bias = next((name for one in added.input if (name := _before(one, looked_up)) != first.output[0]), "")
    active = looked_up.only_consumer(added.output[0])
    if active is None or active.op_type not in _ACTIVATIONS:
        return None
    second = _reader(active.output[0], "MatMul", looked_up)
    if second is None or _before(second.input[0], looked_up) != down:
        return None
    less = _reader(second.output[0], "Sub", looked_up)
    total = None if less is None else _reader(less.output[0], "ReduceSum", looked_up)
    if less is None or total is None or attribute(total, "keepdims", 1):
        return None
    rows = looked_up.producers.get(first.input[1])
    if rows is None or rows.op_type not in _OF_SHAPE:
        return None
    return rows.input[0], bias, _ACTIVATIONS[active.op_type], _before(less.input[1], looked_up), total.output[0]


def _reader(tensor: str, op: str, looked_up: GraphIndex) -> onnx.NodeProto | None:
    """The node of a kind that alone reads a tensor, past what changes its shape alone."""
    reader = looked_up.only_consumer(tensor)
    while reader is not None and reader.op_type in _OF_SHAPE:
        reader = looked_up.only_consumer(reader.output[0])
    return reader if reader is not None and reader.op_type == op else None


def _before(tensor: str, looked_up: GraphIndex) -> str:
    """What a tensor was before its shape was changed."""
    maker = looked_up.producers.get(tensor)
    while maker is not None and maker.op_type in _OF_SHAPE:
        tensor = maker.input[0]
        maker = looked_up.producers.get(tensor)
    return tensor


def _written(one: _Experts, name: str, editor: GraphEditor) -> Iterator[onnx.NodeProto]:
    make, new = helper.make_node, editor.new_name
    features, outputs = one.up.shape[2], one.down.shape[1]
    width = max(features, outputs)
    tables = {
        "up": _filled(one.up, 2, width),
        "up_bias": one.up_bias,
        "down": one.chosen * _filled(one.down, 1, width),
        "usual": -one.chosen * _filled(one.usual, 1, width),
    }
    stored = [editor.constant(array.astype(np.float32), name, part) for part, array in tables.items()]

    def number(value: int) -> str:
        return editor.constant(np.array([value], np.int64), "experts", f"at{value}")

    zero, never = (editor.constant(np.array(value, np.float32), "experts", f"{value:g}") for value in (0.0, _NEVER))
    best, places, least, taken, score = (
        new(f"{name}/{part}") for part in ("best", "places", "least", "taken", "score")
    )
    yield make("TopK", [one.scores, number(one.chosen)], [best, places], best, axis=1)
    yield make("Slice", [best, number(one.chosen - 1), number(one.chosen), number(1)], [least], least)
    yield make("GreaterOrEqual", [one.scores, least], [taken], taken)
    yield make("Where", [taken, zero, never], [score], score)
    rows, made = one.rows, one.end
    if features < width:
        rows = new(f"{name}/wider")
        pads = editor.constant(np.array([0, 0, 0, width - features], np.int64), name, "pads")
        yield make("Pad", [one.rows, pads], [rows], rows)
    if outputs < width:
        made = new(f"{name}/wide")
    yield make(
        "MoE", [rows, score, *stored], [made], f"{name}/MoE", domain=MICROSOFT, k=one.chosen, activation_type=one.activation,
        normalize_routing_weights=1,
    )  # fmt: skip
    if outputs < width:
        yield make("Slice", [made, number(0), number(outputs), number(1)], [one.end], f"{name}/narrower")


def _filled(array: np.ndarray, axis: int, size: int) -> np.ndarray:
    """With zeros behind, along one axis."""
    return np.pad(array, [(0, size - length if place == axis else 0) for place, length in enumerate(array.shape)])
