"""Changes to a graph and the bodies in it (If, Loop, Scan): nodes replaced where they stand, new names and constants that collide
with nothing."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import onnx

from compressctl.graph.index import GraphIndex, all_graphs, bodies, index, needed, store_what_is_read
from compressctl.graph.tensors import content, from_array, to_array

Replacement = Sequence[onnx.NodeProto] | None
"""What stands in the place of a node, None for the node itself."""


class GraphEditor:
    """Edits a graph in place. It is canonical: constants are the main graph's, and a name means one tensor in all bodies.

    stored: constants by name. visible: names that the caller made so far, by a key of its own, where they can be read from
    the node that is being replaced: in its graph or one around it.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.stored = {tensor.name: tensor for tensor in graph.initializer}
        self.visible: ChainMap[str, tuple[str, ...]] = ChainMap()
        self._taken = names_in(graph)
        self._given: dict[tuple[str, ...], str] = {}
        self._places: list[_Place] = []

    def name(self, *parts: str) -> str:
        """A name that the graph does not have, the parts joined, with a number where that is taken. The same parts, the same name."""
        if parts not in self._given:
            self._given[parts] = unused("_".join(parts), self._taken)
        return self._given[parts]

    def new_name(self, *wanted: str) -> str:
        """Another name each time: the first that is free, or the last with a number."""
        free = (name for name in wanted if name not in self._taken)
        return unused(next(free, wanted[-1]), self._taken)

    def constant(self, value: np.ndarray, *parts: str) -> str:
        """Store a constant under such a name; one that the graph has there already with the same bits is that constant."""
        if parts not in self._given:
            tensor = from_array(np.asarray(value, order="C"), "_".join(parts))
            known = self.stored.get(tensor.name)
            if known is None or not _is_same(known, tensor):
                tensor.name = self.name(*parts)
                self.graph.initializer.append(tensor)
                self.stored[tensor.name] = self.graph.initializer[-1]
            self._given[parts] = tensor.name
        return self._given[parts]

    def store(self, name: str, value: np.ndarray) -> None:
        """Store a constant under a name that the graph has: the constant's, or that of a tensor whose node goes."""
        tensor = from_array(np.asarray(value, order="C"), name)
        if name in self.stored:
            self.stored[name].CopyFrom(tensor)
        else:
            self.graph.initializer.append(tensor)
            self.stored[name] = self.graph.initializer[-1]

    def array(self, name: str) -> np.ndarray | None:
        """A constant's value, None when the tensor is computed."""
        tensor = self.stored.get(name)
        return None if tensor is None else to_array(tensor)

    def replace_nodes(self, replace: Callable[[onnx.NodeProto], Replacement]) -> None:
        """Ask for every node of the graph and its bodies, in graph order, those of a body before the node that it belongs to.

        Constants that nothing reads afterwards are dropped.
        """
        self._replace_in(self.graph, replace)
        self.close()

    @property
    def here(self) -> GraphIndex:
        """The index of the graph or body whose nodes are being replaced, as it was before."""
        return self._places[-1].found

    def drop_unread(self) -> None:
        """Drop nodes, and then constants, that nothing reads any more, in bodies too."""
        for place in reversed(list(all_graphs(self.graph))):
            kept = needed(place.node, [output.name for output in place.output])
            if len(kept) < len(place.node):
                del place.node[:]
                place.node.extend(kept)
        self.close()

    def close(self) -> None:
        """Drop constants that nothing reads."""
        store_what_is_read(self.graph)
        before, self.stored = self.stored, {tensor.name: tensor for tensor in self.graph.initializer}
        dropped = before.keys() - self.stored.keys()
        self._given = {parts: name for parts, name in self._given.items() if name not in dropped}

    def _replace_in(self, graph: onnx.GraphProto, replace: Callable[[onnx.NodeProto], Replacement]) -> None:
        nodes: list[onnx.NodeProto] = []
        changed = False
        self._places.append(_Place(graph, self._places[-1] if self._places else None))
        for node in graph.node:
            for body in bodies(node):
                self.visible = self.visible.new_child()
                self._replace_in(body, replace)
                self.visible = self.visible.parents
            replacement = replace(node)
            nodes.extend([node] if replacement is None else replacement)
            changed |= replacement is not None
        self._places.pop()
        if changed:
            del graph.node[:]
            graph.node.extend(nodes)


class _Place:
    def __init__(self, graph: onnx.GraphProto, outer: _Place | None) -> None:
        self._graph, self._outer = graph, outer

    @cached_property
    def found(self) -> GraphIndex:
        return index(self._graph, self._outer.found if self._outer is not None else None)


def names_in(graph: onnx.GraphProto) -> set[str]:
    """Every name of a tensor or node in a graph and its bodies."""
    found = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    found |= {sparse.values.name for sparse in graph.sparse_initializer}
    for node in graph.node:
        found.update((node.name, *node.input, *node.output))
        for inner in bodies(node):
            found |= names_in(inner)
    return found


def unused(wanted: str, taken: set[str]) -> str:
    """The name itself or with a number behind it; it is taken from then on."""
    name, number = wanted, 2
    while name in taken:
        name, number = f"{wanted}_{number}", number + 1
    taken.add(name)
    return name


def _is_same(tensor: onnx.TensorProto, other: onnx.TensorProto) -> bool:
    return (tensor.data_type, tensor.dims) == (other.data_type, other.dims) and content(tensor) == content(other)
