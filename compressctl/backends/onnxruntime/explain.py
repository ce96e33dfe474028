"""How ONNX Runtime really executes an artifact, read from its own optimized graph."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

from compressctl.backends.node_names import RENAMED
from compressctl.backends.preprocess import KEY, PREFIX, read_steps, taken_shapes
from compressctl.backends.rules import broken_rule
from compressctl.core.backend import ExecutedNode
from compressctl.core.custom_ops import register
from compressctl.core.target import Target
from compressctl.graph.constants import node_name
from compressctl.graph.cost import costs, executed_macs
from compressctl.graph.index import attribute, index
from compressctl.graph.model_file import metadata, read_model
from compressctl.graph.unpack_constants import is_packed, unpack_constants

_INTEGER = re.compile(r"QLinear|QGemm|QAttention|MatMulInteger|ConvInteger|DynamicQuantizeMatMul|DynamicQuantizeLSTM")
_MULTIPLIES = re.compile(r"Conv|Gemm|MatMul|LSTM|GRU|RNN|Attention|Einsum")


def explain(path: Path, target: Target, inputs: Mapping[str, Sequence[int]] | None = None) -> list[ExecutedNode]:
    """Every node of the graph as the runtime executes it, in its order, and the rule that a float island broke.

    MACs and names are those of the artifact's own node that an executed node computes; fused helpers carry none. A node that
    multiplies and is none of the artifact's has unknown MACs, and so has one whose body does. inputs: as in `Backend`.
    """
    artifact = read_model(path)
    if is_packed(artifact.graph):
        artifact = unpack_constants(artifact)
    executed = _optimized(path, target)
    steps = read_steps(metadata(artifact).get(KEY), path)
    left = executed_macs(costs(artifact, inputs=None if inputs is None else taken_shapes(inputs, steps)))
    producers = index(artifact.graph).producers
    is_quantized = any(node.op_type == "QuantizeLinear" for node in artifact.graph.node)
    found = []
    for node in executed.graph.node:
        name = _original_name(node, left, producers)
        precision = "int8" if _INTEGER.search(node.op_type) else _float_precision(node)
        taken = left.pop(name, None if _MULTIPLIES.search(node.op_type) else 0)
        rule = None
        if (
            is_quantized
            and not name.startswith(PREFIX)
            and precision.startswith("float")
            and (taken != 0 or node.op_type in _COMPUTES)
        ):
            rule = broken_rule(artifact, name)
        found.append(ExecutedNode(name, node.op_type, precision, taken, rule))
    return found


_COMPUTES = {
    "Conv",
    "FusedConv",
    "Gemm",
    "FusedGemm",
    "MatMul",
    "FusedMatMul",
    "Add",
    "Mul",
    "Relu",
    "HardSwish",
    "Concat",
}


def _optimized(path: Path, target: Target) -> onnx.ModelProto:
    import onnxruntime

    from compressctl.backends.onnxruntime.session import providers, serving_options, translated

    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "optimized.onnx"
        options = register(serving_options(target))
        options.optimized_model_filepath = str(written)
        # Only its nodes are read: neither one message of all weights nor kernels' own copies of them are made.
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights")
        options.add_session_config_entry("session.disable_prepacking", "1")
        try:
            onnxruntime.InferenceSession(str(path), options, providers=providers(target))
        except Exception as error:
            raise translated(error, path) from error
        return onnx.load(written, load_external_data=False)


def _original_name(node: onnx.NodeProto, left: Mapping[str, int | None], producers: dict[str, onnx.NodeProto]) -> str:
    """The artifact's node that an executed node stands for: fusions keep its name, or its output's, with a suffix.

    left: MACs of the artifact's nodes that nothing stands for yet. A multiplication fused with what follows it carries
    the name of the last of them, so the way back through the producers leads to it.
    """
    base = RENAMED.sub("", node.name)
    by_name = {node_name(made): made for made in producers.values()}
    found = [by_name[name] for name in (node.name, base) if name in by_name]
    found += [producers[tensor] for tensor in (base, *node.output) if tensor in producers]
    if not _MULTIPLIES.search(node.op_type):
        # A conversion of layout may carry the name of what it serves; it is not that node.
        return next((node_name(made) for made in found if made.op_type in node.op_type), node.name or base)
    current = next(iter(found), None)
    while current is not None:
        if left.get(node_name(current), 0) != 0:
            return node_name(current)
        current = producers.get(current.input[0]) if current.input else None
    return base


def _float_precision(node: onnx.NodeProto) -> str:
    if node.op_type == "MatMulNBits":
        # Only at this level are the activations rounded too, so that codes are multiplied with codes.
        if attribute(node, "accuracy_level", 0) == 4:
            return "int8"
        return f"int{attribute(node, 'bits', 4)} weights"
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return "conversion"
    return "float32"
