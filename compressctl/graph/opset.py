"""Which operators a model speaks of, and how large it may be as one file."""

from __future__ import annotations

import onnx

STANDARD = ("", "ai.onnx")
"""Both names of the standard domain."""

LARGEST_SINGLE_FILE = 1_500_000_000
"""Bytes. Protobuf messages end at 2 GiB, and a runtime holds a file's weights twice while it loads them: a larger graph keeps
its weights in a file beside it."""


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the standard operators, 0 where the model imports none."""
    return next((entry.version for entry in model.opset_import if entry.domain in STANDARD), 0)
