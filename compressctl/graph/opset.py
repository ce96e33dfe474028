"""Which operators a model speaks of."""

from __future__ import annotations

from functools import cache

import onnx
from onnx import version_converter

from compressctl.graph.tensors import is_in_file

STANDARD = ("", "ai.onnx")
"""Both names of the standard domain."""

OLDEST_QUANTIZED_OPSET = 13
"""DequantizeLinear knows a channel axis from here on."""

_IR_WITH_CLOSED_INITIALIZERS = 4


def close_initializers(model: onnx.ModelProto) -> None:
    """Weights that are listed as inputs too (as up to IR 3) could be fed by the caller, which forbids every fusion."""
    stored = {tensor.name for tensor in model.graph.initializer}
    free = [tensor for tensor in model.graph.input if tensor.name not in stored]
    if len(free) < len(model.graph.input):
        model.ir_version = max(model.ir_version, _IR_WITH_CLOSED_INITIALIZERS)
        del model.graph.input[:]
        model.graph.input.extend(free)


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the standard operators, 0 where the model imports none."""
    return next((entry.version for entry in model.opset_import if entry.domain in STANDARD), 0)


@cache
def is_defined(operator: str, domain: str = "") -> bool:
    """Whether ONNX defines it. Asking onnx for each node of a large graph would take longer than reading the graph."""
    return bool(onnx.defs.has(operator, domain))


def converted(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    """The model in another version of the standard operators. Raises what onnx's converter raises."""
    made = version_converter.convert_version(model, version)
    # Before release 1.18 the converter forgets which numbers stand in files.
    in_files = {tensor.name: tensor for tensor in model.graph.initializer if is_in_file(tensor)}
    for tensor in made.graph.initializer:
        if tensor.name in in_files:
            tensor.CopyFrom(in_files[tensor.name])
    return made


def raised(model: onnx.ModelProto, oldest: int) -> onnx.ModelProto:
    """The model in that opset where its own is older and it can be converted; the model itself otherwise."""
    if opset_of(model) >= oldest:
        return model
    try:
        return converted(model, oldest)
    except Exception:
        return model
