"""A model whose own functions are written out where they are called."""

from __future__ import annotations

import onnx


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model itself where it has no functions, and where they cannot be written out: past protobuf's 2 GiB, or a call that
    does not fit. What such a function costs, and the shape of what it gives, stay unknown."""
    if not model.functions:
        return model
    from onnx import inliner

    try:
        return inliner.inline_local_functions(model)
    except Exception:
        return model
