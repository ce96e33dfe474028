"""A weight that nodes read in different ways: a constant of its own for each way, so that a plan entry belongs to one use.

A matrix and its transpose have their outputs along different axes, and so their scales; one entry cannot serve both.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx

from compressctl.graph.edit import names_in, unused
from compressctl.graph.index import all_nodes, index, rename_reads, store_what_is_read
from compressctl.graph.tensors import content, copy_of
from compressctl.graph.weight_nodes import weight_positions

Way = Hashable


@dataclass(frozen=True)
class Copied:
    """of: by name of a copy, the constant whose numbers it has. weights: by node that was asked about and the constant that was
    its weight, the one it reads now."""

    model: onnx.ModelProto
    of: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[tuple[str, str], str] = field(default_factory=dict)


def with_own_copies(model: onnx.ModelProto, ways: Mapping[str, Way]) -> Copied:
    """The model in which nodes share a constant weight only where their ways are equal.

    ways: by name of a node with constant weights, anything that compares. Where a weight has other
    readers (a node that is not asked about, an output of the graph) they keep its name and its numbers, and every
    way gets a copy. The argument is not changed, and is returned itself where nothing is copied.
    """
    groups: dict[str, dict[Way, list[str]]] = {}
    for node in all_nodes(model.graph):
        for position in weight_positions(node) if node.name in ways else ():
            groups.setdefault(node.input[position], {}).setdefault(ways[node.name], []).append(node.name)
    elsewhere = read_elsewhere(model.graph, ways)
    taken = names_in(model.graph)
    weights = {
        (name, weight): weight for weight, by_way in groups.items() for names in by_way.values() for name in names
    }
    of: dict[str, str] = {}
    for weight, by_way in groups.items():
        for readers in list(by_way.values())[0 if weight in elsewhere else 1 :]:
            own = unused(f"{weight}_copy", taken)
            of[own] = weight
            weights.update({(name, weight): own for name in readers})
    if not of:
        return Copied(model, {}, weights)
    changed = copy_of(model)
    stored = {tensor.name: tensor for tensor in changed.graph.initializer}
    for own, weight in of.items():
        changed.graph.initializer.add().CopyFrom(stored[weight])
        changed.graph.initializer[-1].name = own
    for node in all_nodes(changed.graph):
        for position in weight_positions(node) if node.name in ways else ():
            node.input[position] = weights[node.name, node.input[position]]
    return Copied(changed, of, weights)


def rejoined(model: onnx.ModelProto, copied: Copied, floats: Collection[str]) -> onnx.ModelProto:
    """The model in which copies that nodes in float alone read, and that hold equal numbers, are one constant again.

    floats: names of nodes whose weight is stored in float after all.
    """
    if not copied.of:
        return model
    quantized = {weight for (node, _), weight in copied.weights.items() if node not in floats}
    family = {*copied.of, *copied.of.values()}
    shapes = {tuple(tensor.dims) for tensor in model.graph.initializer if tensor.name in family}
    first: dict[tuple[object, ...], str] = {}
    same: dict[str, str] = {}
    for tensor in model.graph.initializer:
        if tuple(tensor.dims) in shapes and tensor.name not in quantized:
            same[tensor.name] = first.setdefault(content(tensor), tensor.name)
    names = {name: other for name, other in same.items() if name != other}
    if not names:
        return model
    changed = copy_of(model)
    for node in changed.graph.node:
        rename_reads(node, names)
    store_what_is_read(changed.graph)
    return changed


def in_words(copied: Copied, bits: Mapping[str, int]) -> tuple[list[str], bool]:
    """One sentence for each weight that was copied, with what its constants take, and whether any takes more than in float.

    bits: by weight that is stored in codes. Scales are not counted.
    """
    found = index(copied.model.graph)
    sentences, grew = [], False
    for weight in dict.fromkeys(copied.of.values()):
        family = [name for name in (weight, *(own for own, of in copied.of.items() if of == weight)) if name in bits]
        if not family:
            continue
        readers = {name: [node.name for node in found.consumers.get(name, [])] for name in (weight, *family)}
        elements = int(np.prod(found.initializers[weight].dims, dtype=np.int64))
        codes = sum(-(-elements * bits[name] // 8) for name in family)
        stays = weight not in bits and bool(readers[weight] or weight in found.outputs)
        total, plain = codes + (4 * elements if stays else 0), 4 * elements
        ways = "; ".join(f"{', '.join(readers[name])} in {bits[name]} bits" for name in family)
        also = f"; {', '.join(readers[weight]) or 'an output'} in float" if stays else ""
        sentences.append(
            f"{weight} is read in {len(family) + stays} ways and stored for each: {ways}{also}. "
            f"That takes {total:,} bytes, {plain:,} in float"
        )
        grew |= total > plain
    return sentences, grew


def read_elsewhere(graph: onnx.GraphProto, nodes: Collection[str]) -> set[str]:
    """Names that something else reads than these nodes as their weight: other inputs, outputs of the graph."""
    found = {output.name for output in graph.output}
    for node in all_nodes(graph):
        own = weight_positions(node) if node.name in nodes else ()
        found.update(name for position, name in enumerate(node.input) if position not in own)
    return found
