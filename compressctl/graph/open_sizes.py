"""Sizes that stand in a file for "any": exporters write -1 or 0 where ONNX has a name or nothing."""

from __future__ import annotations

import onnx


def open_sizes(graph: onnx.GraphProto) -> None:
    """Leave sizes below 1 open, in place: of inputs and outputs, and of the tensors between them."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.HasField("tensor_type"):
            for dim in value.type.tensor_type.shape.dim:
                if dim.HasField("dim_value") and dim.dim_value < 1:
                    dim.ClearField("dim_value")
