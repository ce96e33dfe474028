"""The shape of every tensor of an ONNX graph, for one sample."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
    skeleton = skeleton_of(model)
    fix(skeleton.graph, sizes_of(model.graph, sizes, inputs), inputs or {})
    return deduced(skeleton).shapes


def skeleton_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without the data of large constants, in which ONNX's own inference gets past ONNX Runtime's operators."""
    return with_stand_ins(_without_weights(model))


@dataclass(frozen=True)
class Deduced:
    """shapes: by tensor. types: of elements, as ONNX numbers them. skeleton: what is left to compute when the model runs."""

    shapes: dict[str, Shape]
    types: dict[str, int]
    skeleton: onnx.ModelProto


def deduced(skeleton: onnx.ModelProto) -> Deduced:
    """What follows from the statements of a skeleton, which is changed: arithmetic on shapes is carried out in it."""
    inferred = _infer(skeleton)
    for _ in range(_ROUNDS):
        stated = _stated(inferred.graph)
        if _all_known(skeleton.graph, stated) or not fold_shapes(skeleton, stated, LARGEST_READ):
            break
        inferred = _infer(skeleton)
    infos = (*inferred.graph.output, *inferred.graph.value_info, *inferred.graph.input)
    types = {info.name: info.type.tensor_type.elem_type for info in infos}
    types.update((tensor.name, tensor.data_type) for tensor in skeleton.graph.initializer)
    stated = _stated(inferred.graph)
    stated.update((tensor.name, tuple(tensor.dims)) for tensor in skeleton.graph.initializer)
    return Deduced(stated, types, skeleton)


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with the data of large constants left out: fast to infer, whatever the model."""
    skeleton = copy_of(model)
    graph = skeleton.graph
    graph.name = graph.name or "graph"
    for tensor in filter(_is_large, graph.initializer):
        tensor.CopyFrom(onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims))
    for sparse in graph.sparse_initializer:
        graph.initializer.add(name=sparse.values.name, data_type=sparse.values.data_type, dims=sparse.dims)
    graph.ClearField("sparse_initializer")
    large = {
        node.output[0]: entry.t
        for node in graph.node
        if node.op_type == "Constant"
        for entry in node.attribute
        if entry.HasField("t") and _is_large(entry.t)
    }
    for name, value in large.items():
        graph.initializer.add(name=name, data_type=value.data_type, dims=value.dims)
    if large:
        kept = [node for node in graph.node if not (node.output and node.output[0] in large)]
        del graph.node[:]
        graph.node.extend(kept)
    return skeleton


def _is_large(tensor: onnx.TensorProto) -> bool:
    return math.prod(tensor.dims) > LARGEST_READ or tensor.data_location == onnx.TensorProto.EXTERNAL


def fix(graph: onnx.GraphProto, known: Mapping[str, int], inputs: Mapping[str, Sequence[int]]) -> None:
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
    """What the graph says of the shape of tensors of known rank."""
    stated: dict[str, Shape] = {}
    for info in (*graph.output, *graph.value_info, *graph.input):
        kind = info.type.tensor_type
        if kind.HasField("shape"):
            dims = kind.shape.dim
            stated[info.name] = tuple([dim.dim_value if dim.HasField("dim_value") else None for dim in dims])
    return stated


def _all_known(graph: onnx.GraphProto, stated: Mapping[str, Shape]) -> bool:
    known = {name for name, shape in stated.items() if None not in shape}
    return all(output in known for node in graph.node for output in node.output if output)
