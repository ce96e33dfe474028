"""Layers with stored weights that no integer kernel multiplies, and what else makes them small."""

from __future__ import annotations

import onnx

from compressctl.graph.index import all_nodes
from compressctl.graph.weight_nodes import RECURRENT, find_weighted

_STORED = "`quantize.weights` stores it in 8 bits or fewer"
_RECURRENT = (
    "no runtime multiplies its weights as integers: `quantize.weights` and `quantize.dynamic` store them in 8 bits"
)


def no_kernel(body: onnx.ModelProto, use: str, backend: str) -> dict[str, str]:
    """By node, why a stage that runs layers on integers leaves it. backend: the target's."""
    reasons: dict[str, str] = {}
    for weighted in find_weighted(body.graph):
        if weighted.op == "ConvTranspose":
            what = "ONNX Runtime has no integer kernel" if backend == "onnxruntime" else f"{use} writes no integers"
            reasons[weighted.node] = f"{what} for transposed convolutions; {_STORED}"
        elif weighted.op in RECURRENT and use == "quantize.static":
            is_dynamic = weighted.op == "LSTM"
            reasons[weighted.node] = (
                "no range can be fixed for a state that is fed back inside; `quantize.dynamic` runs it on integers in ONNX Runtime"
                if is_dynamic
                else _RECURRENT
            )
        elif weighted.stacked and weighted.op not in RECURRENT:
            reasons[weighted.node] = (
                f"its weight is a stack of matrices, and integer kernels take one matrix; {_STORED}"
            )
    return reasons


def why_no_kernel(body: onnx.ModelProto, use: str, backend: str) -> str:
    """The same for a message, one sentence for each reason; empty where there is no such layer."""
    kinds = {node.name: node.op_type for node in all_nodes(body.graph)}
    found: dict[str, str] = {}
    for node, reason in no_kernel(body, use, backend).items():
        found.setdefault(reason, f"{kinds[node]} {node}")
    return "".join(f"{layer}: {reason}; " for reason, layer in found.items())
