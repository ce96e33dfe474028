"""Which operators a model speaks of, and how large it may be as one file."""

from __future__ import annotations

import onnx

STANDARD = ("", "ai.onnx")
"""Both names of the standard domain."""

LARGEST_SINGLE_FILE = 1_500_000_000
"""Bytes. Protobuf messages end at 2 GiB, and a runtime holds a file's weights twice while it loads them: a larger graph keeps
its weights in a file beside it."""


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
