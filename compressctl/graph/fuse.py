"""Small patterns as the single operator that a runtime knows better."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from compressctl.graph.index import attribute, index
from compressctl.graph.opset import opset_of
from compressctl.graph.tensors import copy_of


def fuse_hard_swish(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with x * HardSigmoid(x) as HardSwish, named like the product: folding constants takes HardSwish apart.

    Source: ONNX operator HardSwish-14, HardSigmoid with alpha 1/6 and beta 1/2. Older opsets are left alone.
    """
    made = copy_of(model)
    opset = opset_of(model)
    if opset < 14:
        return made
    looked_up = index(made.graph)
    nodes: list[onnx.NodeProto] = []
    dropped: set[str] = set()
    for node in made.graph.node:
        gate = next(
            (looked_up.producers.get(name) for name in node.input if _is_gate(looked_up.producers.get(name))), None
        )
        if node.op_type != "Mul" or gate is None or looked_up.only_consumer(gate.output[0]) is None:
            nodes.append(node)
            continue
        if gate.input[0] not in node.input:
            nodes.append(node)
            continue
        dropped.add(gate.output[0])
        nodes.append(helper.make_node("HardSwish", [gate.input[0]], list(node.output), node.name))
    del made.graph.node[:]
    made.graph.node.extend(node for node in nodes if node.output[0] not in dropped)
    return made


def _is_gate(node: onnx.NodeProto | None) -> bool:
    if node is None or node.op_type != "HardSigmoid":
        return False
    alpha, beta = attribute(node, "alpha", 0.2), attribute(node, "beta", 0.5)
    return bool(np.isclose(float(alpha), 1 / 6, rtol=1e-4) and np.isclose(float(beta), 0.5))  # type: ignore[arg-type]
