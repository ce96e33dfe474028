"""How ONNX Runtime really executes an artifact, read from its own optimized graph."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import onnx

from compressctl.backends.rules import broken_rule
from compressctl.core.backend import ExecutedNode
from compressctl.core.target import Target
from compressctl.graph.cost import costs

_INTEGER = re.compile(r"QLinear|QGemm|QAttention|MatMulInteger|ConvInteger|DynamicQuantizeMatMul")
_RENAMED = re.compile(r"(_token_\d+|_nchwc|/\w+Fusion\w*)+$")


def explain(path: Path, target: Target) -> list[ExecutedNode]:
    """Every node of the graph as the runtime executes it, in its order, and the rule that a float island broke.

    MACs and names are those of the artifact's own node that an executed node computes; fused helpers carry none.
    """
    artifact = onnx.load(path, load_external_data=False)
    executed = _optimized(path, target)
    macs = {cost.name: cost.macs for cost in costs(artifact)}
    by_output = {output: node.name for node in artifact.graph.node for output in node.output}
    is_quantized = any(node.op_type == "QuantizeLinear" for node in artifact.graph.node)
    left, found = dict(macs), []
    for node in executed.graph.node:
        name = _original_name(node, left, by_output)
        precision = "int8" if _INTEGER.search(node.op_type) else _float_precision(node)
        taken = left.pop(name, 0)
        rule = None
        if is_quantized and precision.startswith("float") and (taken or node.op_type in _COMPUTES):
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

    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "optimized.onnx"
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(written)
        options.log_severity_level = 3
        options.intra_op_num_threads = target.threads
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return onnx.load(written, load_external_data=False)


def _original_name(node: onnx.NodeProto, known: dict[str, int], by_output: dict[str, str]) -> str:
    """The artifact's node that an executed node stands for: fusions keep its name, or its output, with a suffix."""
    base = _RENAMED.sub("", node.name)
    candidates = [
        node.name,
        base,
        by_output.get(base, ""),
        *(by_output.get(output, "") for output in node.output),
        *node.output,
    ]
    return next(
        (name for name in candidates if known.get(name)), next((name for name in candidates if name in known), base)
    )


def _float_precision(node: onnx.NodeProto) -> str:
    if node.op_type == "MatMulNBits":
        return "int4 weights"
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return "conversion"
    return "float32"
