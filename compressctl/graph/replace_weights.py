"""Other numbers for a graph's weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx

from compressctl.graph.edit import GraphEditor
from compressctl.graph.index import all_nodes, index, rename_reads
from compressctl.graph.tensors import copy_of, from_array


def with_weights(model: onnx.ModelProto, values: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """The model with other values for some initializers, by name; the same object when there are none."""
    if not values:
        return model
    changed = copy_of(model)
    for tensor in changed.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(from_array(values[tensor.name], tensor.name))
    return changed


def with_own_weights(
    rounded: onnx.ModelProto, original: onnx.ModelProto, weights: Collection[tuple[str, str]]
) -> onnx.ModelProto:
    """The rounded graph in which some nodes read their weight from the original graph again.

    weights: node and initializer. Each gets a copy under a name of its own, since others may read the rounded one.
    """
    if not weights:
        return rounded
    changed = copy_of(rounded)
    editor, before = GraphEditor(changed.graph), index(original.graph)
    by_node: dict[str, list[str]] = {}
    for reader, weight in weights:
        by_node.setdefault(reader, []).append(weight)
    for node in all_nodes(changed.graph):
        for name in by_node.get(node.name, ()):
            values = before.array(name)
            assert values is not None
            rename_reads(node, {name: editor.constant(values, name, "float")})
    return changed
