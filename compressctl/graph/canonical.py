"""The one form in which graphs are read and edited, so that no edit can forget a body, a function or a place for constants."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper

from compressctl.graph.edit import names_in, unused
from compressctl.graph.index import bodies, places, rename_reads, store_what_is_read
from compressctl.graph.inlined import inlined
from compressctl.graph.opset import close_initializers
from compressctl.graph.tensors import content, from_array, message_bytes

_FEWEST_BYTES = 1024
"""Below this a constant is not compared with others: a name costs as much as it saves."""


def canonical(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same function where a name means one thing. The argument may be changed and must not be used any more.

    Model-local functions are written out where they are called. A tensor of a body (If, Loop, Scan) has a name that nothing
    else in the model has, and so has every node. Constants are initializers of the main graph, whatever body or Constant node
    held them, and equal ones of several bodies are one. No constant is an input, or itself an output of a graph.
    """
    model = inlined(model)
    close_initializers(model)
    graph = model.graph
    _name_nodes(graph)
    taken = set(_defined(graph))
    for node in graph.node:
        for body in bodies(node):
            _rename_within(body, taken)
    _collect_constants(graph)
    return model


def constants_beside_readers(graph: onnx.GraphProto) -> None:
    """Move in place every constant that one body alone reads into that body: runtimes look there for what they rearrange.

    Source: ONNX Runtime, qdq_actions.cc, "Missing required weight": codes of a product with quantized weights.
    """
    reading: dict[str, list[onnx.GraphProto]] = {tensor.name: [] for tensor in graph.initializer}
    for place, _ in places(graph):
        for name in {name for node in place.node for name in node.input} & reading.keys():
            reading[name].append(place)
    moved = {name: readers[0] for name, readers in reading.items() if len(readers) == 1 and readers[0] is not graph}
    for tensor in graph.initializer:
        if tensor.name in moved:
            moved[tensor.name].initializer.append(tensor)
    if moved:
        store_what_is_read(graph)


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Plans and reports speak of nodes by name: the file's where it is the first of that name."""
    taken: set[str] = set()
    unnamed: list[tuple[onnx.NodeProto, str]] = []
    for node, place in _placed_nodes(graph, ""):
        if node.name and node.name not in taken:
            taken.add(node.name)
        else:
            unnamed.append((node, node.name or place))
    for node, wanted in unnamed:
        node.name = unused(wanted, taken)


def _placed_nodes(graph: onnx.GraphProto, place: str) -> Iterator[tuple[onnx.NodeProto, str]]:
    """Every node with a name that says where it is, as in "Loop_3/body/MatMul_0"."""
    for position, node in enumerate(graph.node):
        own = f"{place}{node.op_type}_{position}"
        yield node, own
        for entry in node.attribute:
            for body in (entry.g, *entry.graphs):
                yield from _placed_nodes(body, f"{node.name or own}/{entry.name}/")


def _defined(graph: onnx.GraphProto) -> Iterator[str]:
    """Names that a graph gives to tensors, those of its bodies left out."""
    yield from (value.name for value in (*graph.input, *graph.initializer))
    yield from (sparse.values.name for sparse in graph.sparse_initializer)
    yield from (name for node in graph.node for name in node.output if name)


def _rename_within(body: onnx.GraphProto, taken: set[str]) -> None:
    """Give what a body defines other names where they are taken: by another body, or by what it hides."""
    names = {name: unused(name, taken) for name in dict.fromkeys(_defined(body))}
    names = {old: new for old, new in names.items() if old != new}
    if names:
        for node in body.node:
            rename_reads(node, names)
            node.output[:] = [names.get(name, name) for name in node.output]
        values = (*body.input, *body.initializer, *body.output, *body.value_info)
        for value in (*values, *(sparse.values for sparse in body.sparse_initializer)):
            value.name = names.get(value.name, value.name)
    for node in body.node:
        for inner in bodies(node):
            _rename_within(inner, taken)


def _collect_constants(graph: onnx.GraphProto) -> None:
    """Make every constant an initializer of the main graph, which all bodies can read."""
    known = {key: tensor.name for tensor in graph.initializer if (key := _key(tensor)) is not None}
    same: dict[str, str] = {}
    for tensor in [tensor for node in graph.node for body in bodies(node) for tensor in _taken_from(body)]:
        key = _key(tensor)
        if key is not None and known.setdefault(key, tensor.name) != tensor.name:
            same[tensor.name] = known[key]
        else:
            graph.initializer.append(tensor)
    graph.initializer.extend(_constant_nodes(graph))
    stored = {tensor.name: tensor for tensor in graph.initializer}
    _give_outputs_names(graph, stored, same, names_in(graph))
    for old, new in same.items():
        same[old] = same.get(new, new)
    if same:
        for node in graph.node:
            rename_reads(node, same)


def _taken_from(body: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """The constants of a body and those in it, which leave it."""
    found = [*body.initializer, *_constant_nodes(body)]
    del body.initializer[:]
    yield from found
    for node in body.node:
        for inner in bodies(node):
            yield from _taken_from(inner)


def _constant_nodes(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    """What Constant nodes hold, under the names of their outputs; the nodes are gone."""
    found = []
    for node in [node for node in graph.node if node.op_type == "Constant" and node.domain in ("", "ai.onnx")]:
        tensor = _held(node)
        if tensor is not None:
            tensor.name = node.output[0]
            found.append(tensor)
            graph.node.remove(node)
    return found


def _held(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """None for strings and sparse tensors, and for what is no Constant: the checker does not look into branches."""
    if len(node.attribute) != 1 or len(node.output) != 1:
        return None
    entry = node.attribute[0]
    if entry.name == "value":
        tensor: onnx.TensorProto = entry.t
        return tensor
    dtypes = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    if entry.name not in dtypes:
        return None
    return from_array(np.asarray(helper.get_attribute_value(entry), dtypes[entry.name]))


def _key(tensor: onnx.TensorProto) -> tuple[object, ...] | None:
    """Equal for constants with equal bits; None for those too small to be worth it."""
    return None if message_bytes(tensor) <= _FEWEST_BYTES else content(tensor)


def _give_outputs_names(
    graph: onnx.GraphProto, stored: dict[str, onnx.TensorProto], same: dict[str, str], taken: set[str]
) -> None:
    """Let an Identity make the outputs of a graph or body that are constants, which have another name from then on."""
    for name in dict.fromkeys(output.name for output in graph.output if output.name in {*stored, *same}):
        inner = same.pop(name, None)
        if inner is None:
            inner = stored[name].name = unused(f"{name}_stored", taken)
        same[name] = inner
        graph.node.append(helper.make_node("Identity", [inner], [name], unused(f"{name}_output", taken)))
    for node in graph.node:
        for body in bodies(node):
            _give_outputs_names(body, stored, same, taken)
