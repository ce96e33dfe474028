"""A float graph in the shape that quantization expects: constants folded, BatchNorm and Pad inside the convolutions."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from compressctl.core.errors import StageError
from compressctl.core.failures import refused_in
from compressctl.graph.activations import write_hard_gates
from compressctl.graph.canonical import canonical
from compressctl.graph.cast_weights import as_dequantized
from compressctl.graph.edit import GraphEditor, Replacement
from compressctl.graph.float16 import to_single
from compressctl.graph.index import GraphIndex, attribute, index
from compressctl.graph.opset import OLDEST_QUANTIZED_OPSET, raised
from compressctl.graph.plain_products import as_plain_products
from compressctl.graph.schema import without_defaults
from compressctl.graph.session import open_graph, quiet_options
from compressctl.graph.shapes import shapes
from compressctl.graph.shortcuts import shortcuts_as_convolutions
from compressctl.graph.tensors import copy_of, move_to_files


def simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same function with fewer nodes, every node named, every constant an initializer; the input is not changed.

    ONNX Runtime's basic level does the folding (standard operators only, the same for every runtime); then a spatial mean
    becomes the pooling that has an integer kernel, a shortcut without weights the convolution that has one, and a HardSwish in four nodes two. Weights that are stored as integers stay integers, behind a
    DequantizeLinear. Products with constant weights are plain ones (see `plain_products`). The graph is canonical, computes in float32, and is in an opset from OLDEST_QUANTIZED_OPSET on where it
    can be converted. Raises StageError when ONNX Runtime cannot load the graph, OSError or MachineError when the machine stops it.
    """
    model = as_plain_products(as_dequantized(raised(to_single(canonical(copy_of(model))), OLDEST_QUANTIZED_OPSET)))
    # Folding writes what branches share into each of them.
    folded = onnx.shape_inference.infer_shapes(without_defaults(canonical(_fold(model))))
    _mean_to_pool(folded.graph)
    shortcuts_as_convolutions(folded.graph, _channels(folded.graph))
    write_hard_gates(folded.graph, {name: len(sizes) for name, sizes in shapes(folded).items() if sizes is not None})
    return folded


def _fold(model: onnx.ModelProto) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "folded.onnx"
        options = quiet_options()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(path)
        # Kernels' own copies of weights would be for nothing: the graph is written, not run.
        options.add_session_config_entry("session.disable_prepacking", "1")
        try:
            open_graph(model, options)
        except Exception as error:
            path.write_bytes(bytes(4096))  # Where the disk takes no more, this says so, and ONNX Runtime does not.
            said = "ONNX Runtime cannot load the graph"
            raise refused_in(said, error) or StageError(f"{said}: {error}") from error
        folded = move_to_files(onnx.load(path, load_external_data=False))
    used = {node.domain for node in folded.graph.node} | {""}
    kept = [entry for entry in folded.opset_import if entry.domain in used]
    del folded.opset_import[:]
    folded.opset_import.extend(kept)
    folded.ir_version = model.ir_version
    return folded


def _mean_to_pool(graph: onnx.GraphProto) -> None:
    """ReduceMean over the two spatial axes as GlobalAveragePool, which runtimes have integer kernels for."""
    looked_up, editor = index(graph), GraphEditor(graph)

    def pooled(node: onnx.NodeProto) -> Replacement:
        if not _is_spatial_mean(node, looked_up, graph):
            return None
        make = onnx.helper.make_node
        if attribute(node, "keepdims", 1):
            return [make("GlobalAveragePool", [node.input[0]], [node.output[0]], node.name)]
        inner = editor.name(node.output[0], "pooled")
        return [
            make("GlobalAveragePool", [node.input[0]], [inner], node.name),
            make("Flatten", [inner], [node.output[0]], editor.name(node.name, "flat"), axis=1),
        ]

    editor.replace_nodes(pooled)


def _is_spatial_mean(node: onnx.NodeProto, looked_up: GraphIndex, graph: onnx.GraphProto) -> bool:
    if node.op_type != "ReduceMean":
        return False
    axes = looked_up.array(node.input[1]) if len(node.input) > 1 else attribute(node, "axes")
    if axes is None or _rank(graph, node.input[0]) != 4:
        return False
    return sorted(int(axis) % 4 for axis in np.atleast_1d(np.asarray(axes))) == [2, 3]


def _channels(graph: onnx.GraphProto) -> dict[str, int]:
    """Of maps (n, channels, height, width) of numbers in float32, where they are known."""
    found = {}
    for info in (*graph.value_info, *graph.input, *graph.output):
        kind = info.type.tensor_type
        if kind.elem_type == onnx.TensorProto.FLOAT and len(kind.shape.dim) == 4 and kind.shape.dim[1].dim_value:
            found[info.name] = int(kind.shape.dim[1].dim_value)
    return found


def _rank(graph: onnx.GraphProto, tensor: str) -> int | None:
    for info in (*graph.value_info, *graph.input, *graph.output):
        if info.name == tensor and info.type.tensor_type.HasField("shape"):
            return len(info.type.tensor_type.shape.dim)
    return None
