"""The axes of a graph's inputs whose size the file leaves open."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from compressctl.core.batch_axes import with_batch_axes
from compressctl.core.model import TensorSpec


@dataclass(frozen=True)
class OpenAxis:
    """name: the symbol in the file, "input.axis" where it has none. Axes with one symbol have one size.

    counts_samples: as far as names and places tell, see core/batch_axes.py.
    """

    name: str
    input: str
    axis: int
    counts_samples: bool = False


def open_axes(graph: onnx.GraphProto) -> list[OpenAxis]:
    """In the order of the inputs. A size that is written as 0 or less is open too: exporters write -1 for "any"."""
    inputs = graph_inputs(graph)
    batch = {spec.name: spec.batch_axis for spec in with_batch_axes(list(map(_spec, inputs)), []).inputs}
    return [
        OpenAxis(symbol(value.name, axis, dim), value.name, axis, axis == batch[value.name])
        for value in inputs
        for axis, dim in enumerate(value.type.tensor_type.shape.dim)
        if is_open(dim)
    ]


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    """Its shape alone. An unnamed first axis is called a batch, as in signatures."""
    dims = value.type.tensor_type.shape.dim
    shape = tuple(
        (dim.dim_param or ("batch" if axis == 0 else f"{value.name}.{axis}")) if is_open(dim) else dim.dim_value
        for axis, dim in enumerate(dims)
    )
    return TensorSpec(value.name, "", shape)


def graph_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Without the constants that older files list among the inputs."""
    constants = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in constants]


def is_open(dim: onnx.TensorShapeProto.Dimension) -> bool:
    return not dim.HasField("dim_value") or dim.dim_value <= 0


def symbol(tensor: str, axis: int, dim: onnx.TensorShapeProto.Dimension) -> str:
    return dim.dim_param or f"{tensor}.{axis}"


def sizes_of(
    graph: onnx.GraphProto, sizes: Mapping[str, int] | None, inputs: Mapping[str, Sequence[int]] | None
) -> dict[str, int]:
    """The size of open axes by symbol. Those that count samples are 1 where nothing else is said.

    sizes: by symbol, or by "input.axis" for any open axis. inputs: concrete shapes by name of the input, which decide
    before sizes do. Raises ValueError for a name or a shape that the graph does not have.
    """
    axes = open_axes(graph)
    found = {axis.name: 1 for axis in axes if axis.counts_samples}
    named = {key: axis.name for axis in axes for key in (axis.name, f"{axis.input}.{axis.axis}")}
    for name, size in (sizes or {}).items():
        if name in named:
            found[named[name]] = size
    for axis in axes:
        if inputs and axis.input in inputs and axis.axis < len(inputs[axis.input]):
            found[axis.name] = int(inputs[axis.input][axis.axis])
    if inputs:
        _check(graph, inputs)
    return found


def _check(graph: onnx.GraphProto, inputs: Mapping[str, Sequence[int]]) -> None:
    stated = {value.name: value.type.tensor_type for value in graph_inputs(graph)}
    for name, shape in inputs.items():
        if name not in stated:
            raise ValueError(f"the graph has no input {name!r}; it has {', '.join(stated)}")
        if not stated[name].HasField("shape"):
            continue
        dims = stated[name].shape.dim
        fits = len(dims) == len(shape) and all(
            size >= 0 and (is_open(dim) or dim.dim_value == size) for dim, size in zip(dims, shape, strict=True)
        )
        if not fits:
            told = "x".join(
                symbol(name, axis, dim) if is_open(dim) else str(dim.dim_value) for axis, dim in enumerate(dims)
            )
            raise ValueError(f"input {name!r} is {told}, not {'x'.join(map(str, shape))}")


def open_sizes(graph: onnx.GraphProto) -> None:
    """Leave sizes below 1 open, in place: of inputs and outputs, and of the tensors between them."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.HasField("tensor_type"):
            for dim in value.type.tensor_type.shape.dim:
                if dim.HasField("dim_value") and dim.dim_value < 1:
                    dim.ClearField("dim_value")


def rename_axes(proto: onnx.ModelProto, names: Mapping[str, str]) -> None:
    """Call symbols of the graph otherwise, also within sizes that are computed of them ("2*s0"). The model changes in place."""
    graph = proto.graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = _SYMBOL.sub(lambda found: names.get(found[0], found[0]), dim.dim_param)


_SYMBOL = re.compile(r"[A-Za-z_]\w*")
