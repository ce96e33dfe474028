"""Which layers read what others make: where numbers are converted when one of two computes in integers and the other does not."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import onnx

from compressctl.graph.index import GraphIndex, index
from compressctl.graph.shapes import shapes

OUTSIDE = ""
"""In place of a layer's name: the model's inputs, which are floats."""


@dataclass(frozen=True)
class Beside:
    """reads: numbers of a sample that the layer reads, by the layer that they come from without passing another. gives: numbers that reach the
    model's outputs so."""

    reads: Mapping[str, int]
    gives: int


def neighbours(model: onnx.ModelProto, layers: Mapping[str, Collection[str]]) -> dict[str, Beside]:
    """layers: names of nodes by layer. Of shapes that are open each axis counts as 1: shares between tensors are what matters."""
    found, sizes = index(model.graph), shapes(model)
    owner = {node: name for name, nodes in layers.items() for node in nodes}
    reads: dict[str, dict[str, int]] = {name: {} for name in layers}
    gives = dict.fromkeys(layers, 0)
    for node in model.graph.node:
        if node.name not in owner:
            continue
        for tensor in _activations(node, found):
            for source in dict.fromkeys(_sources(tensor, found, owner)):
                if source != owner[node.name]:
                    mine = reads[owner[node.name]]
                    mine[source] = mine.get(source, 0) + _elements(sizes.get(tensor))
    for output in model.graph.output:
        for source in dict.fromkeys(_sources(output.name, found, owner)):
            if source:
                gives[source] += _elements(sizes.get(output.name))
    return {name: Beside(reads[name], gives[name]) for name in layers}


def _activations(node: onnx.NodeProto, found: GraphIndex) -> list[str]:
    return [name for name in node.input if name and name not in found.initializers]


def _sources(tensor: str, found: GraphIndex, owner: Mapping[str, str]) -> Iterator[str]:
    """Layers, or OUTSIDE, that a tensor is made of without passing another."""
    waiting, seen = [tensor], {tensor}
    while waiting:
        maker = found.producers.get(waiting.pop())
        if maker is None:
            yield OUTSIDE
            continue
        if maker.name in owner:
            yield owner[maker.name]
            continue
        for name in _activations(maker, found):
            if name not in seen:
                seen.add(name)
                waiting.append(name)


def _elements(shape: tuple[int | None, ...] | None) -> int:
    return math.prod(size or 1 for size in shape) if shape else 1
