"""Other numbers for a graph's weights."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

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
    rounded: onnx.ModelProto, original: onnx.ModelProto, weights: Mapping[str, str]
) -> onnx.ModelProto:
    """The rounded graph in which some nodes read their weight from the original graph again.

    weights: initializer by node. Each gets a copy under a name of its own, since others may read the rounded one.
    """
    if not weights:
        return rounded
    changed = copy_of(rounded)
    before = {tensor.name: tensor for tensor in original.graph.initializer}
    for name in dict.fromkeys(weights.values()):
        changed.graph.initializer.add().CopyFrom(before[name])
        changed.graph.initializer[-1].name = f"{name}_float"
    for node in changed.graph.node:
        if node.name in weights:
            for position, name in enumerate(node.input):
                if name == weights[node.name]:
                    node.input[position] = f"{name}_float"
    return changed
