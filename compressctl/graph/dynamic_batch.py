"""A graph that was exported for one sample at a time, opened for any number where that is safe."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from compressctl.core.errors import first_line
from compressctl.core.model import Signature
from compressctl.graph.index import attribute
from compressctl.graph.session import open_graph
from compressctl.graph.tensors import copy_of, from_array, to_array

BATCH = "batch"

_UNKNOWN_DIMENSION = 16
"""Tried for dimensions that the file leaves open (a sequence, an image's height) while checking."""


@dataclass(frozen=True)
class FreedBatch:
    """reason: why the batch size stays fixed; None when it does not."""

    model: onnx.ModelProto
    reason: str | None


def free_batch(model: onnx.ModelProto) -> FreedBatch:
    """A canonical graph with its batch of 1 replaced by "batch", proven by running two samples at once and one by one.

    A graph whose batch is not fixed is returned as it is; a batch fixed to another number stays. The input is not changed.
    """
    leading = {_leading(value) for value in model.graph.input}
    if not any(leading):
        return FreedBatch(model, None)
    if leading != {1}:
        sizes = ", ".join(str(size) for size in sorted(leading) if size)
        return FreedBatch(model, f"the inputs' first axes are fixed to {sizes}, and only a batch of 1 can be freed")
    freed = _with_free_batch(model)
    reason = _difference(model, freed)
    return FreedBatch(model, reason) if reason else FreedBatch(freed, None)


def _leading(value: onnx.ValueInfoProto) -> int:
    """The first dimension's fixed size, 0 when it has none."""
    dims = value.type.tensor_type.shape.dim
    return dims[0].dim_value if dims and dims[0].HasField("dim_value") else 0


def _with_free_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    freed = copy_of(model)
    for value in (*freed.graph.input, *freed.graph.output):
        if _leading(value) == 1:
            value.type.tensor_type.shape.dim[0].dim_param = BATCH
    del freed.graph.value_info[:]  # shapes inferred for the fixed batch
    _free_reshapes(freed.graph)
    return freed


def _free_reshapes(graph: onnx.GraphProto) -> None:
    """A Reshape to [1, ...] fixes the batch too; a leading 0 copies it from the input instead."""
    targets = {
        node.input[1]
        for node in graph.node
        if node.op_type == "Reshape" and not attribute(node, "allowzero", 0) and len(node.input) > 1
    }
    for tensor in [tensor for tensor in graph.initializer if tensor.name in targets]:
        shape = to_array(tensor)
        if shape.ndim == 1 and shape.size > 1 and shape[0] == 1:
            tensor.CopyFrom(from_array(np.concatenate([[0], shape[1:]]).astype(np.int64), tensor.name))


def _difference(fixed: onnx.ModelProto, freed: onnx.ModelProto) -> str | None:
    """Why two samples at once are not the same as one by one; None when they are."""
    try:
        one, both = open_graph(fixed), open_graph(freed)
    except Exception as error:
        return f"ONNX Runtime does not load the graph with another batch size: {first_line(error)}"
    samples = _two_samples(fixed.graph)
    names = [output.name for output in one.get_outputs()]
    try:
        singles = [
            one.run(names, {name: pair[place : place + 1] for name, pair in samples.items()}) for place in (0, 1)
        ]
        together = both.run(names, samples)
    except Exception as error:
        return f"the graph does not run with two samples: {first_line(error)}"
    for name, first, second, pair in zip(names, *singles, together, strict=True):
        expected = np.concatenate([first, second]) if np.ndim(first) else np.stack([first, second])
        if expected.shape != np.shape(pair):
            return f"for two samples {name} has shape {list(np.shape(pair))} instead of {list(expected.shape)}"
        tolerance = 1e-4 * max(1.0, float(np.abs(expected).max(initial=0)))
        if not np.allclose(expected, pair, rtol=1e-3, atol=tolerance, equal_nan=True):
            return f"{name} depends on which samples share a batch"
    return None


def _two_samples(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """Values from 0 to 1 for floats, 0 or 1 for integers: indices that every embedding has."""
    generator = np.random.default_rng(0)
    samples = {}
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        shape = [2, *(dim.dim_value if dim.HasField("dim_value") else _UNKNOWN_DIMENSION for dim in dims[1:])]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        is_float = np.issubdtype(dtype, np.floating)
        drawn = generator.random(shape) if is_float else generator.integers(0, 2, shape)
        samples[value.name] = drawn.astype(dtype)
    return samples


def fix_batch(model: onnx.ModelProto, signature: Signature) -> onnx.ModelProto:
    """A copy in which every batch axis of inputs and outputs is 1; the input is not changed."""
    fixed = copy_of(model)
    axes = {spec.name: spec.batch_axis for spec in (*signature.inputs, *signature.outputs)}
    for value in (*fixed.graph.input, *fixed.graph.output):
        axis = axes.get(value.name)
        if axis is not None:
            value.type.tensor_type.shape.dim[axis].dim_value = 1
    del fixed.graph.value_info[:]  # shapes inferred for the open batch
    return fixed
