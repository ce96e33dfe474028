"""A packed file read back: the nodes that unpack are computed, and their results are plain constants again."""

from __future__ import annotations

import onnx
import onnxruntime

from compressctl.core.errors import UsageError
from compressctl.graph.index import names_read
from compressctl.graph.packed_sources import is_unpacker
from compressctl.graph.session import open_graph
from compressctl.graph.tensors import copy_of, from_array
from compressctl.graph.unpacking import PREFIX


def is_packed(graph: onnx.GraphProto) -> bool:
    """Whether there are nodes that unpack, of constants alone: nodes of others may happen to be called so."""
    unpackers = [node for node in graph.node if is_unpacker(node)]
    known = {tensor.name for tensor in graph.initializer} | {name for node in unpackers for name in node.output}
    return bool(unpackers) and all(name in known for node in unpackers for name in node.input)


def unpack_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with plain constants, bit by bit those that were packed; the model itself where nothing is.

    The result depends on the constants in the file alone. Raises UsageError when the nodes that unpack cannot be run.
    """
    if not is_packed(model.graph):
        return model
    unpackers = [node for node in model.graph.node if is_unpacker(node)]
    others = [node for node in model.graph.node if not is_unpacker(node)]
    read = names_read(others) | {output.name for output in model.graph.output}
    wanted = [name for node in unpackers for name in node.output if name in read]
    plain = copy_of(model)
    kept = [tensor for tensor in model.graph.initializer if not tensor.name.startswith(PREFIX)]
    del plain.graph.initializer[:], plain.graph.node[:]
    plain.graph.node.extend(others)
    plain.graph.initializer.extend([*kept, *_computed(model, unpackers, wanted)])
    return plain


def _computed(model: onnx.ModelProto, unpackers: list[onnx.NodeProto], wanted: list[str]) -> list[onnx.TensorProto]:
    needed = {name for node in unpackers for name in node.input}
    alone = onnx.ModelProto(ir_version=model.ir_version)
    alone.opset_import.extend(model.opset_import)
    alone.graph.name = "unpack"
    alone.graph.node.extend(unpackers)
    alone.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in needed)
    alone.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        values = open_graph(alone, options).run(wanted, {})
    except Exception as error:
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UsageError(
            f"the file's packed weights cannot be unpacked: {first}", hint="write the file again"
        ) from error
    return [from_array(value, name) for name, value in zip(wanted, values, strict=True)]
