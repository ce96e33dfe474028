"""The shape of every tensor of an ONNX graph, for one sample."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import shape_inference

Shape = tuple[int | None, ...]
"""None where a dimension is not known without running the model."""

_LARGEST_READ = 1024
"""Shape inference reads only small constants (the target of a Reshape, the axes of a Slice), never weights."""


def shapes(model: onnx.ModelProto, sizes: Mapping[str, int] | None = None) -> dict[str, Shape]:
    """Tensor name to shape, for every tensor whose rank is known.

    The leading dimension of an input counts as the batch: where it is symbolic it is 1, wherever that symbol appears.
    sizes: numbers for other symbols (a sequence length, an image's height), which stay None otherwise. A batch that is
    fixed in the model stays what it is. Tensors of operators that ONNX does not define are known only where the model
    states them. Never raises for an odd graph: what cannot be inferred is missing.
    """
    skeleton = _without_weights(model)
    fixed = {**_batch_symbols(skeleton.graph), **(sizes or {})}
    _fix(skeleton.graph, fixed)
    inferred = _infer(skeleton)
    found = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for info in (*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input):
        shape = _shape_of(info, fixed)
        if shape is not None:
            found.setdefault(info.name, shape)
    return found


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with the data of large constants left out: small enough for protobuf, and fast, whatever the model."""
    skeleton = onnx.ModelProto(ir_version=model.ir_version)
    skeleton.opset_import.extend(model.opset_import)
    skeleton.functions.extend(model.functions)
    graph = skeleton.graph
    graph.name = model.graph.name or "graph"
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    graph.value_info.extend(model.graph.value_info)
    for tensor in model.graph.initializer:
        if _elements(tuple(tensor.dims)) <= _LARGEST_READ and tensor.data_location != onnx.TensorProto.EXTERNAL:
            graph.initializer.append(tensor)
        else:
            graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    return skeleton


def _elements(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _batch_symbols(graph: onnx.GraphProto) -> dict[str, int]:
    constants = {tensor.name for tensor in graph.initializer}
    symbols = {}
    for position, tensor in enumerate(graph.input):
        dims = tensor.type.tensor_type.shape.dim
        if tensor.name in constants or not dims or dims[0].HasField("dim_value"):
            continue
        if not dims[0].dim_param:
            dims[0].dim_param = f"unnamed_batch_{position}"
        symbols[dims[0].dim_param] = 1
    return symbols


def _fix(graph: onnx.GraphProto, sizes: Mapping[str, int]) -> None:
    for info in (*graph.input, *graph.output, *graph.value_info):
        for dim in info.type.tensor_type.shape.dim:
            if dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]


def _infer(skeleton: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return shape_inference.infer_shapes(skeleton, data_prop=True)
    except Exception:
        # Statements in the file that contradict each other; what they say one by one is still worth reading.
        return skeleton


def _shape_of(info: onnx.ValueInfoProto, sizes: Mapping[str, int]) -> Shape | None:
    tensor = info.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(dim.dim_value if dim.HasField("dim_value") else sizes.get(dim.dim_param) for dim in tensor.shape.dim)
