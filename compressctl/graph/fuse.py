"""Small patterns as the single operator that a runtime knows better."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from compressctl.graph.edit import GraphEditor, Replacement
from compressctl.graph.index import all_nodes, attribute
from compressctl.graph.opset import opset_of, raised
from compressctl.graph.tensors import copy_of

_OPSET = 14
"""HardSwish is an operator from here on."""


def fuse_hard_swish(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with x * HardSigmoid(x) as HardSwish, named like the product: folding constants takes HardSwish apart.

    Source: ONNX operator HardSwish-14, HardSigmoid with alpha 1/6 and beta 1/2. An older opset is raised where there are such gates; where it cannot
    be, they stay: OpenVINO has kernels in one piece for HardSwish alone.
    """
    if any(_is_gate(node) for node in all_nodes(model.graph)):
        model = raised(model, _OPSET)
    made = copy_of(model)
    if opset_of(made) < _OPSET:
        return made
    editor = GraphEditor(made.graph)
    gates: set[str] = set()

    def fused(node: onnx.NodeProto) -> Replacement:
        makers = (editor.here.producers.get(name) for name in node.input) if node.op_type == "Mul" else ()
        gate = next((maker for maker in makers if maker is not None and _is_gate(maker)), None)
        if gate is None or editor.here.only_consumer(gate.output[0]) is None or gate.input[0] not in node.input:
            return None
        gates.add(gate.output[0])
        return [helper.make_node("HardSwish", [gate.input[0]], list(node.output), node.name)]

    editor.replace_nodes(fused)
    editor.replace_nodes(lambda node: [] if gates & set(node.output) else None)
    return made


def _is_gate(node: onnx.NodeProto) -> bool:
    if node.op_type != "HardSigmoid":
        return False
    alpha, beta = attribute(node, "alpha", 0.2), attribute(node, "beta", 0.5)
    return bool(np.isclose(float(alpha), 1 / 6, rtol=1e-4) and np.isclose(float(beta), 0.5))  # type: ignore[arg-type]
