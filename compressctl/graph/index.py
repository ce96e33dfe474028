"""Who makes and who reads each tensor of an ONNX graph."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from compressctl.graph.tensors import to_array


def copied(node: onnx.NodeProto) -> onnx.NodeProto:
    made = onnx.NodeProto()
    made.CopyFrom(node)
    return made


@dataclass(frozen=True)
class GraphIndex:
    """A reading aid over one graph; it does not follow later edits.

    producers: tensor name to the node that makes it. consumers: tensor name to the nodes that read it, in graph order, also those
    in whose bodies (If, Loop, Scan) it is read.
    initializers: constants by name. outputs: names of the graph's outputs.
    """

    producers: dict[str, onnx.NodeProto]
    consumers: dict[str, list[onnx.NodeProto]]
    initializers: dict[str, onnx.TensorProto]
    outputs: frozenset[str]

    def array(self, name: str) -> np.ndarray | None:
        """A constant's value, None when the tensor is computed."""
        initializer = self.initializers.get(name)
        return None if initializer is None else to_array(initializer)

    def only_consumer(self, tensor: str) -> onnx.NodeProto | None:
        """The node that alone reads a tensor; None when several do, or when it is also an output of the graph."""
        readers = self.consumers.get(tensor, [])
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None


def index(graph: onnx.GraphProto, outer: GraphIndex | None = None) -> GraphIndex:
    """outer: of the graph around a body, whose tensors and constants it can read."""
    producers: dict[str, onnx.NodeProto] = {} if outer is None else dict(outer.producers)
    consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for output in node.output:
            producers[output] = node
        for name in reads(node):
            consumers[name].append(node)
    return GraphIndex(
        producers=producers,
        consumers=dict(consumers),
        initializers={**({} if outer is None else outer.initializers), **{t.name: t for t in graph.initializer}},
        outputs=frozenset(output.name for output in graph.output),
    )


def places(graph: onnx.GraphProto, outer: GraphIndex | None = None) -> Iterator[tuple[onnx.GraphProto, GraphIndex]]:
    """The graph and every body in it, each with its index."""
    found = index(graph, outer)
    yield graph, found
    for node in graph.node:
        for body in bodies(node):
            yield from places(body, found)


def bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs that an If, Loop or Scan runs."""
    return [
        graph
        for entry in node.attribute
        if entry.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
        for graph in (entry.g, *entry.graphs)
        if graph.node or graph.output
    ]


def all_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph, what its nodes run, and what nodes in there run, at any depth."""
    yield graph
    for node in graph.node:
        for body in bodies(node):
            yield from all_graphs(body)


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of its bodies."""
    for place in all_graphs(graph):
        yield from place.node


def captured(node: onnx.NodeProto) -> set[str]:
    """Tensors of the graph around a node that its bodies read."""
    found: set[str] = set()
    for body in bodies(node):
        own = {tensor.name for tensor in (*body.input, *body.initializer)}
        own |= {name for inner in body.node for name in inner.output}
        found |= (names_read(body.node) | {output.name for output in body.output}) - own
    return found


def reads(node: onnx.NodeProto) -> list[str]:
    """Every tensor that a node reads, once: its inputs, then what its bodies take from around it."""
    return list(dict.fromkeys([*filter(None, node.input), *sorted(captured(node))]))


def rename_reads(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Let a node read other tensors, in its bodies too, where a name means the graph around them."""
    node.input[:] = [names.get(name, name) for name in node.input]
    for body in bodies(node):
        own = {tensor.name for tensor in (*body.input, *body.initializer)}
        own |= {name for inner in body.node for name in inner.output}
        outer = {old: new for old, new in names.items() if old not in own}
        for inner in body.node:
            rename_reads(inner, outer)
        for output in body.output:
            output.name = outer.get(output.name, output.name)


def needed(nodes: Iterable[onnx.NodeProto], tensors: Iterable[str]) -> list[onnx.NodeProto]:
    """Those of a graph's nodes that tensors depend on, in their order."""
    wanted, kept = set(tensors), []
    for node in reversed(list(nodes)):
        if wanted & set(node.output):
            kept.append(node)
            wanted.update(reads(node))
    return kept[::-1]


def names_read(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Every tensor that one of these nodes reads, in its bodies too."""
    return {name for node in nodes for name in reads(node)}


def store_what_is_read(graph: onnx.GraphProto, candidates: Iterable[onnx.TensorProto] | None = None) -> None:
    """Leave of the constants (candidates, by default the graph's own) those that a node or an output of the graph reads."""
    read = names_read(graph.node) | {output.name for output in graph.output}
    kept = [tensor for tensor in (graph.initializer if candidates is None else candidates) if tensor.name in read]
    if candidates is None and len(kept) == len(graph.initializer):
        return
    del graph.initializer[:]
    graph.initializer.extend(kept)


def attribute(node: onnx.NodeProto, name: str, default: object = None) -> object:
    """An attribute's Python value, or the default when the node does not carry it."""
    for candidate in node.attribute:
        if candidate.name == name:
            return onnx.helper.get_attribute_value(candidate)
    return default
