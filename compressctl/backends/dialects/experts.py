"""Feed-forward layers in chosen parts as ONNX Runtime's mixture of experts, which computes each part for all the rows that chose it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import numpy as np
import onnx
from onnx import helper

from compressctl.backends.dialects.weight_only import MICROSOFT, import_microsoft
from compressctl.core.model import OnnxModel
from compressctl.core.quant import QuantPlan
from compressctl.graph.codes import weight_codes
from compressctl.graph.edit import GraphEditor, Replacement
from compressctl.graph.index import GraphIndex, attribute, index, needed
from compressctl.graph.matmul_nbits import bits_of
from compressctl.numerics.bitpack import join_bits

_ACTIVATIONS = {"Relu": "relu", "Gelu": "gelu"}
_OF_SHAPE = ("Reshape", "Squeeze", "Unsqueeze", "Identity")
_MOST_GROWTH = 1.25
"""Times the memory of a layer's weights."""

_SHORTEST_BLOCK = 16
"""Of weights in codes."""

_BITS = (4, 8)

_NEVER = -1e4
"""A score whose softmax is 0."""


def write_experts(model: OnnxModel, *, packs: bool) -> OnnxModel:
    """The model with what `Experts` is exported as (sources/modules/experts.py) as one operator, itself where there is none. The operator knows layers with as many outputs as inputs: what others lack is filled with zeros where
    that takes a quarter more memory at most, and they stay where it takes more.

    The operator weighs experts by the softmax of their scores. All that are chosen get one score and the others none, and what they give is multiplied by how many there are.
    packs: whether weights that the plan quantizes may become those of QMoE; without, such layers stay.

    Source: ONNX Runtime, ContribOperators.md, com.microsoft.MoE and QMoE; their Gelu is the approximation by tanh, within 5e-4 of the exact one for each hidden unit.
    """
    stored = _Stored(index(model.body.graph), model.quant)
    found = {
        one.end: one
        for node in model.body.graph.node
        if (one := _experts(node, stored)) is not None and (packs or not one.is_packed)
    }
    if not found:
        return model
    proto = onnx.ModelProto()
    proto.CopyFrom(model.body)
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
    return replace(model, body=proto)


def note(proto: onnx.ModelProto) -> tuple[str, ...]:
    """What is written so, in words."""
    nodes = [node for node in proto.graph.node if node.op_type in ("MoE", "QMoE") and node.domain == MICROSOFT]
    if not nodes:
        return ()
    uses_gelu = any(attribute(node, "activation_type") == b"gelu" for node in nodes)
    layers = f"{len(nodes)} feed-forward layer{'s' if len(nodes) > 1 else ''}"
    kinds = " and ".join(f"com.microsoft.{kind}" for kind in sorted({node.op_type for node in nodes}))
    return (f"{layers} written as {kinds}{', GELU in its approximation by tanh' if uses_gelu else ''}",)


@dataclass(frozen=True)
class _Table:
    """What is looked up. values: float32, or the codes of bits bits in uint8, around half of what there are, one in each. scale: (..., blocks) along the last axis."""

    values: np.ndarray
    scale: np.ndarray | None = None
    bits: int = 0

    @property
    def block(self) -> int:
        return 0 if self.scale is None else int(self.values.shape[-1] // self.scale.shape[-1])

    def filled(self, axis: int, size: int) -> _Table:
        """With zeros behind, along one axis."""
        if self.scale is None:
            return _Table(_filled(self.values, axis, size))
        blocks = size if axis != self.values.ndim - 1 else size // self.block
        zero = 1 << (self.bits - 1)
        return replace(self, values=_filled(self.values, axis, size, zero), scale=_filled(self.scale, axis, blocks, 1))

    def times(self, factor: int) -> _Table:
        if self.scale is None:
            return _Table(factor * self.values)
        return replace(self, scale=factor * self.scale)


@dataclass(frozen=True)
class _Stored:
    graph: GraphIndex
    plan: QuantPlan | None

    def table(self, lookup: onnx.NodeProto) -> _Table | None:
        """None of what the operators cannot hold: matrices with zero points, or in blocks that do not fill their rows."""
        values = self.graph.array(lookup.input[0])
        quant = None if self.plan is None or self.plan.is_float(lookup.name) else self.plan.weights.get(lookup.input[0])
        if values is None or values.dtype != np.float32 or quant is None:
            return None if values is None or values.dtype != np.float32 else _Table(values)
        bits = bits_of(quant)
        in_rows = quant.block is not None and quant.axis == values.ndim - 1 and values.shape[-1] % quant.block == 0
        around_zero = not quant.dtype.startswith("u") and not np.any(quant.zero_point)
        if not in_rows or bits not in _BITS or not around_zero or np.any(quant.scale <= 0):
            return None
        codes = weight_codes(values, quant).astype(np.int16) + (1 << (bits - 1))
        return _Table(codes.astype(np.uint8), quant.scale.astype(np.float32), bits)


@dataclass(frozen=True)
class _Experts:
    """rows: (r, features). scores: (r, experts). tables: as in Experts. end: the sum over what was chosen, without what all rows have in common."""

    rows: str
    scores: str
    chosen: int
    up: _Table
    up_bias: np.ndarray
    down: _Table
    usual: np.ndarray
    activation: str
    end: str

    @property
    def is_packed(self) -> bool:
        return self.up.scale is not None

    @property
    def block(self) -> int:
        """Both weights have blocks of one size."""
        return math.gcd(self.up.block, self.down.block)

    @property
    def width(self) -> int:
        """Of the operator, inputs and outputs alike."""
        return int(max(self.up.values.shape[2], self.down.values.shape[1]))

    @property
    def fits(self) -> bool:
        """Whether the operator can hold it: with little more memory, both weights alike, and blocks that zeros fill."""
        features, outputs = self.up.values.shape[2], self.down.values.shape[1]
        if 2 * self.width > _MOST_GROWTH * (features + outputs) or self.up.bits != self.down.bits:
            return False
        fills = self.block >= _SHORTEST_BLOCK and self.width % self.up.block == 0
        return fills or not self.is_packed


def _experts(node: onnx.NodeProto, stored: _Stored) -> _Experts | None:
    """Those that a TopK chooses, where what follows is what `Experts` is exported as."""
    if node.op_type != "TopK" or len(node.output) < 2:
        return None
    looked_up = stored.graph
    tables = dict(_tables(node.output[1], stored))
    ranks = {name: table.values.ndim for name, table in tables.items()}
    if sorted(ranks.values()) != [2, 2, 3, 3]:
        return None
    for up, down in permutations([name for name, rank in ranks.items() if rank == 3]):
        chain = _chain(up, down, looked_up)
        if chain is None:
            continue
        rows, bias, activation, usual, end = chain
        number = looked_up.array(node.input[1])
        if bias not in tables or usual not in tables or number is None:
            return None
        found = _Experts(
            rows, node.input[0], int(number.reshape(-1)[0]), tables[up], tables[bias].values, tables[down], tables[usual].values, activation, end
        )  # fmt: skip
        return found if found.fits else None
    return None


def _tables(chosen: str, stored: _Stored) -> Iterator[tuple[str, _Table]]:
    """What is looked up by the places of the chosen, by the tensor that holds it."""
    for reader in stored.graph.consumers.get(chosen, []):
        if reader.op_type in _OF_SHAPE:
            yield from _tables(reader.output[0], stored)
        elif reader.op_type == "Gather" and attribute(reader, "axis", 0) == 0:
            table = stored.table(reader)
            if table is not None:
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
    make, new, width = helper.make_node, editor.new_name, one.width
    features, outputs = one.up.values.shape[2], one.down.values.shape[1]
    stored = [
        *_stored(one.up.filled(2, width), "up", one, name, editor),
        editor.constant(one.up_bias.astype(np.float32), name, "up_bias"),
        *_stored(one.down.filled(1, width).times(one.chosen), "down", one, name, editor),
        editor.constant((-one.chosen * _filled(one.usual, 1, width)).astype(np.float32), name, "usual"),
    ]
    settings: dict[str, Any] = {"k": one.chosen, "activation_type": one.activation, "normalize_routing_weights": 1}
    if one.is_packed:
        settings |= {"expert_weight_bits": one.up.bits, "block_size": one.block}

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
    kind = "QMoE" if one.is_packed else "MoE"
    yield make(kind, [rows, score, *stored], [made], f"{name}/{kind}", domain=MICROSOFT, **settings)
    if outputs < width:
        yield make("Slice", [made, number(0), number(outputs), number(1)], [one.end], f"{name}/narrower")


def _stored(table: _Table, part: str, one: _Experts, name: str, editor: GraphEditor) -> list[str]:
    """A weight, or its codes and their scales."""
    if table.scale is None:
        return [editor.constant(table.values.astype(np.float32), name, part)]
    codes = join_bits(table.values, table.bits)
    scale = np.repeat(table.scale, table.block // one.block, axis=-1)
    return [editor.constant(codes, name, part), editor.constant(scale, name, part, "scale")]


def _filled(array: np.ndarray, axis: int, size: int, value: float = 0) -> np.ndarray:
    """With one value behind, along one axis."""
    wider = [(0, size - length if place == axis else 0) for place, length in enumerate(array.shape)]
    return np.pad(array, wider, constant_values=value)
