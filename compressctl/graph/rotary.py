"""Rotary position embeddings in a graph: what is turned, and by which tables.

Source: RoFormer, Su et al. 2021, section 3.2, in the form that turns halves against each other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import helper

from compressctl.graph.attention import Attention, heads_of
from compressctl.graph.edit import GraphEditor
from compressctl.graph.index import GraphIndex, attribute, copied, reads

_WHOLE = 1 << 31
"""An end of a Slice from which on it means the axis's."""


@dataclass(frozen=True)
class Rotary:
    """cosine, sine: tensors (1, tokens, size), whose halves are equal. size: of each head, how much is turned."""

    cosine: str
    sine: str
    size: int


def unturned(found: GraphIndex, attention: Attention) -> tuple[Attention, Rotary] | None:
    """The attention of queries and keys before they are turned, and by what; None where they are not turned both in the same known way."""
    if attention.queries.tokens_first or attention.keys.tokens_first:
        return None
    queries = _turned(found, attention.queries.tensor, attention.head_size)
    keys = _turned(found, attention.keys.tensor, attention.head_size)
    if queries is None or keys is None or queries[1] != keys[1] or not _is_of_positions(found, queries[1]):
        return None
    before = replace(attention, queries=heads_of(found, queries[0]), keys=heads_of(found, keys[0]))
    return before, queries[1]


def _turned(found: GraphIndex, tensor: str, head_size: int) -> tuple[str, Rotary] | None:
    """What a tensor (batch, heads, tokens, size) was before."""
    node = found.producers.get(tensor)
    if node is None:
        return None
    if node.op_type == "Concat" and len(node.input) == 2:
        part, rest = (_sliced(found, name) for name in (_source(found, node.input[0]), node.input[1]))
        made = _whole_turned(found, node.input[0])
        if made is None or part is None or rest is None or part[0] != rest[0]:
            return None
        size = part[2]
        is_split = (part[1], rest[1]) == (0, size) and rest[2] >= head_size
        return (part[0], replace(made[1], size=size)) if is_split else None
    made = _whole_turned(found, tensor)
    return None if made is None else (made[0], replace(made[1], size=head_size))


def _source(found: GraphIndex, tensor: str) -> str:
    made = _whole_turned(found, tensor)
    return "" if made is None else made[0]


def _whole_turned(found: GraphIndex, tensor: str) -> tuple[str, Rotary] | None:
    """x cos + (-second half of x, first half of x) sin: x, cosine and sine."""
    total = found.producers.get(tensor)
    if total is None or total.op_type != "Add":
        return None
    products = [found.producers.get(name) for name in total.input]
    if any(node is None or node.op_type != "Mul" for node in products):
        return None
    for plain, swapped in (products, products[::-1]):
        assert plain is not None
        assert swapped is not None
        source, cosine = plain.input[0], _without_heads(found, plain.input[1])
        halves, sine = swapped.input[0], _without_heads(found, swapped.input[1])
        if cosine and sine and _is_swapped(found, halves, source):
            return source, Rotary(cosine, sine, 0)
    return None


def _without_heads(found: GraphIndex, tensor: str) -> str | None:
    """(1, tokens, size), from what is the same for every head."""
    node = found.producers.get(tensor)
    axes = None if node is None or node.op_type != "Unsqueeze" else found.array(node.input[1])
    return node.input[0] if node is not None and axes is not None and axes.reshape(-1).tolist() == [1] else None


def _is_swapped(found: GraphIndex, tensor: str, source: str) -> bool:
    """Whether it is the second half of the source, negated, then the first."""
    node = found.producers.get(tensor)
    if node is None or node.op_type != "Concat" or len(node.input) != 2 or attribute(node, "axis") not in (-1, 3):
        return False
    negated = found.producers.get(node.input[0])
    if negated is None or negated.op_type != "Neg":
        return False
    second, first = _sliced(found, negated.input[0]), _sliced(found, node.input[1])
    if second is None or first is None:
        return False
    return first[0] == second[0] == source and first[1] == 0 and first[2] == second[1] and second[2] >= 2 * second[1]


def _sliced(found: GraphIndex, tensor: str) -> tuple[str, int, int] | None:
    """Source, start and end, of a Slice of the last axis in steps of 1."""
    node = found.producers.get(tensor)
    if node is None or node.op_type != "Slice":
        return None
    settings = [found.array(name) for name in node.input[1:]]
    if len(settings) < 3 or any(value is None or value.size != 1 for value in settings):
        return None
    start, end, axis, *step = (int(value.item()) for value in settings if value is not None)
    if axis not in (-1, 3) or step not in ([], [1]) or start < 0:
        return None
    return node.input[0], start, end if end >= 0 else _WHOLE


def _is_of_positions(found: GraphIndex, rotary: Rotary) -> bool:
    """Whether the tables follow from positions alone, which one Range counts."""
    nodes = _before(found, [rotary.cosine, rotary.sine])
    return [node.op_type for node in nodes].count("Range") == 1


def _before(found: GraphIndex, tensors: list[str]) -> list[onnx.NodeProto]:
    """The nodes that make tensors, in order, back to a Range, or everything where there is none."""
    known: dict[str, onnx.NodeProto] = {}
    waiting = list(tensors)
    while waiting:
        node = found.producers.get(waiting.pop())
        if node is None or node.output[0] in known:
            continue
        known[node.output[0]] = node
        if node.op_type != "Range":
            waiting.extend(reads(node))
    order = {id(node): place for place, node in enumerate(found.producers.values())}
    return sorted(known.values(), key=lambda node: order[id(node)])


def tables(
    editor: GraphEditor, found: GraphIndex, rotary: Rotary, positions: int
) -> tuple[str, str, list[onnx.NodeProto]]:
    """Cosine and sine of so many positions, (positions, half of the size) each, and the nodes that make them.

    They read nothing but constants: a runtime computes them once, when the file is loaded, and the file does not hold them.
    """
    key = f"tables of {rotary.cosine} {rotary.sine}"
    if key in editor.visible:
        cosine, sine = editor.visible[key]
        return cosine, sine, []
    nodes = []
    names: dict[str, str] = {}
    for node in _before(found, [rotary.cosine, rotary.sine]):
        made = copied(node)
        if made.op_type == "Range":
            made.input[1] = editor.constant(np.array(positions, np.int64), "all_positions")
        made.input[:] = [names.get(name, name) for name in made.input]
        names |= {name: editor.new_name(f"{name}_of_all") for name in made.output}
        made.output[:] = [names[name] for name in made.output]
        made.name = editor.new_name(f"{node.name}_of_all")
        nodes.append(made)
    found_tables = []
    bounds = [
        editor.constant(np.array([value], np.int64), "rotary", part)
        for value, part in ((0, "start"), (rotary.size // 2, f"half_{rotary.size}"), (2, "axis"))
    ]
    for tensor, part in ((rotary.cosine, "cosine"), (rotary.sine, "sine")):
        half, table = editor.new_name(f"{part}_half"), editor.new_name(f"{part}_table")
        nodes.append(helper.make_node("Slice", [names[tensor], *bounds], [half], half))
        nodes.append(helper.make_node("Squeeze", [half, bounds[0]], [table], table))
        found_tables.append(table)
    editor.visible[key] = (found_tables[0], found_tables[1])
    return found_tables[0], found_tables[1], nodes
