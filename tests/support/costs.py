"""What a whole graph costs, in one number."""

from typing import Any

import onnx

from compressctl.graph.cost import costs, count_macs


def total_macs(model: onnx.ModelProto, *sizes: Any, **inputs: Any) -> int | None:
    return count_macs(model, *sizes, **inputs).exact


def total_parameters(model: onnx.ModelProto) -> int:
    return sum(cost.parameters for cost in costs(model, {}))
