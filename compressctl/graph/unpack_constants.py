"""A packed file read back: the nodes that unpack are computed, and their results are plain constants again."""

from __future__ import annotations

import onnx
import onnxruntime

from compressctl.core.errors import UsageError, first_line
from compressctl.graph.index import names_read, reads, store_what_is_read
from compressctl.graph.packed_sources import is_unpacker
from compressctl.graph.session import open_graph, quiet_options
from compressctl.graph.tensors import copy_of, from_array


def is_packed(graph: onnx.GraphProto) -> bool:
    """Whether there are nodes that unpack."""
    return bool(_unpackers(graph))


def unpack_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with plain constants, bit by bit those that were packed; the model itself where nothing is.

    The result depends on the constants in the file alone. Raises UsageError when the nodes that unpack cannot be run.
    """
    unpackers = _unpackers(model.graph)
    if not unpackers:
        return model
    made = {name for node in unpackers for name in node.output}
    others = [node for node in model.graph.node if not made & set(node.output)]
    read = names_read(others) | {output.name for output in model.graph.output}
    wanted = [name for node in unpackers for name in node.output if name in read]
    plain = copy_of(model)
    del plain.graph.node[:]
    plain.graph.node.extend(others)
    plain.graph.initializer.extend(_computed(model, unpackers, wanted))
    store_what_is_read(plain.graph)
    return plain


def _unpackers(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Nodes that are called so and compute with constants alone: others may happen to be called so."""
    known = {tensor.name for tensor in graph.initializer}
    found = []
    for node in graph.node:
        if is_unpacker(node) and known.issuperset(reads(node)):
            found.append(node)
            known.update(node.output)
    return found


def _computed(model: onnx.ModelProto, unpackers: list[onnx.NodeProto], wanted: list[str]) -> list[onnx.TensorProto]:
    needed = {name for node in unpackers for name in node.input}
    alone = onnx.ModelProto(ir_version=model.ir_version)
    alone.opset_import.extend(model.opset_import)
    alone.graph.name = "unpack"
    alone.graph.node.extend(unpackers)
    alone.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in needed)
    alone.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    options = quiet_options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        values = open_graph(alone, options).run(wanted, {})
    except Exception as error:
        raise UsageError(
            f"the file's packed weights cannot be unpacked: {first_line(error)}", hint="write the file again"
        ) from error
    return [from_array(value, name) for name, value in zip(wanted, values, strict=True)]
