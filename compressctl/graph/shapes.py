"""The shape of every tensor of an ONNX graph, for one sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx
from onnx import shape_inference

from compressctl.graph.fold_shapes import fold_shapes
from compressctl.graph.open_axes import graph_inputs, is_open, sizes_of, symbol
from compressctl.graph.stand_ins import with_stand_ins
from compressctl.graph.tensors import copy_of

Shape = tuple[int | None, ...]
"""None where a dimension is not known without running the model."""

LARGEST_READ = 1024
"""Shape inference reads only small constants (the target of a Reshape, the axes of a Slice), never weights."""

_ROUNDS = 12
"""Of folding: a shape that is computed from a tensor whose shape is computed, and so on."""


def shapes(
    model: onnx.ModelProto,
    sizes: Mapping[str, int] | None = None,
    inputs: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, Shape]:
    """Tensor name to shape, for every tensor of the main graph whose rank is known.

    inputs: concrete shapes by name of the input, those of a real sample. sizes: numbers for open axes by symbol, or by
    "input.axis" where an axis has no symbol. Where neither says anything the open axis that counts samples is 1, wherever its symbol appears; every other open axis is None, and so is what depends on it. A size that the
    file writes as 0 or less is open.

    Tensors of ONNX Runtime's operators are known as far as `stand_ins` knows them, those of other operators that ONNX does
    not define only where the model states them. Never raises for an odd graph: what cannot be inferred is missing. Raises
    ValueError for inputs that are not the graph's.
    """
    known = sizes_of(model.graph, sizes, inputs)
    skeleton = with_stand_ins(_without_weights(model))
    _fix(skeleton.graph, known, inputs or {})
    inferred = _infer(skeleton)
    for _ in range(_ROUNDS):
        if _all_known(inferred.graph) or not fold_shapes(skeleton, _stated(inferred.graph), LARGEST_READ):
            break
        inferred = _infer(skeleton)
    constants = {tensor.name: tuple(tensor.dims) for tensor in (*skeleton.graph.initializer, *model.graph.initializer)}
    return {**_stated(inferred.graph), **constants}


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with the data of large constants left out: small enough for protobuf, and fast, whatever the model."""
    skeleton = onnx.ModelProto(ir_version=model.ir_version)
    skeleton.opset_import.extend(model.opset_import)
    skeleton.functions.extend(model.functions)
    graph = skeleton.graph
    graph.name = model.graph.name or "graph"
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    graph.value_info.extend(model.graph.value_info)
    for tensor in model.graph.initializer:
        graph.initializer.append(_light(tensor))
    for sparse in model.graph.sparse_initializer:
        graph.initializer.add(name=sparse.values.name, data_type=sparse.values.data_type, dims=sparse.dims)
    for node in model.graph.node:
        value = next((entry.t for entry in node.attribute if entry.HasField("t")), None)
        if node.op_type == "Constant" and value is not None and _is_large(value):
            light = graph.initializer.add()
            light.CopyFrom(_light(value))
            light.name = node.output[0]
        else:
            graph.node.append(node)
    return skeleton


def _light(tensor: onnx.TensorProto) -> onnx.TensorProto:
    if not _is_large(tensor):
        return tensor
    return onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)


def _is_large(tensor: onnx.TensorProto) -> bool:
    count = 1
    for size in tensor.dims:
        count *= size
    return count > LARGEST_READ or tensor.data_location == onnx.TensorProto.EXTERNAL


def _fix(graph: onnx.GraphProto, known: Mapping[str, int], inputs: Mapping[str, Sequence[int]]) -> None:
    """Write what is known into the statements of the graph, and take out sizes that are none."""
    ours = {value.name for value in graph_inputs(graph)}
    for info in (*graph.input, *graph.output, *graph.value_info):
        shape = info.type.tensor_type.shape
        if info.name in inputs and not info.type.tensor_type.HasField("shape"):
            shape.dim.extend(onnx.TensorShapeProto.Dimension(dim_value=size) for size in inputs[info.name])
        for axis, dim in enumerate(shape.dim):
            if not is_open(dim):
                continue
            name = symbol(info.name, axis, dim) if info.name in ours else dim.dim_param
            if name in known:
                dim.dim_value = known[name]
            elif name:
                dim.dim_param = name
            else:
                dim.Clear()


def _infer(skeleton: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return shape_inference.infer_shapes(skeleton, data_prop=True)
    except Exception:
        # Statements in the file that contradict each other, or what the inputs really are: the inputs decide.
        bare = copy_of(skeleton)
        del bare.graph.value_info[:]
        for output in bare.graph.output:
            output.type.tensor_type.ClearField("shape")
    try:
        return shape_inference.infer_shapes(bare, data_prop=True)
    except Exception:
        # What the file says tensor by tensor is still worth reading.
        return skeleton


def _stated(graph: onnx.GraphProto) -> dict[str, Shape]:
    return dict(_ranked(graph))


def _ranked(graph: onnx.GraphProto) -> Iterator[tuple[str, Shape]]:
    for info in (*graph.output, *graph.value_info, *graph.input):
        tensor = info.type.tensor_type
        if info.type.HasField("tensor_type") and tensor.HasField("shape"):
            yield info.name, tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)


def _all_known(graph: onnx.GraphProto) -> bool:
    known = {name for name, shape in _ranked(graph) if None not in shape}
    return all(output in known for node in graph.node for output in node.output if output)
