"""What an IR stores as weights: element types, bytes, and how many of them are zero."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino

from compressctl.core.backend import StoredWeights

_NOT_WEIGHTS = ("_scale", "_zero_point")
_SHAPES = ("i64", "i32", "boolean")
_NAMES = {
    "bf16": "bfloat16",
    **{f"f{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"i{bits}": f"int{bits}" for bits in (4, 8, 16, 32, 64)},
    **{f"u{bits}": f"uint{bits}" for bits in (1, 2, 4, 8, 16)},
}
"""One word for one thing in every backend's ledger."""


def stored_weights(path: Path) -> list[StoredWeights]:
    """One entry per element type, the largest first. Shapes, scales and zero points are left out."""
    found: dict[str, StoredWeights] = {}
    for node in openvino.Core().read_model(path).get_ops():
        if node.get_type_name() != "Constant":
            continue
        name, dtype = node.get_friendly_name(), node.get_element_type().get_type_name()
        if name.endswith(_NOT_WEIGHTS) or (dtype in _SHAPES and not name.endswith("_codes")):
            continue
        dtype, values = _NAMES.get(dtype, dtype), node.data
        old = found.get(dtype, StoredWeights(dtype, 0, 0, 0))
        elements = int(np.prod(list(node.get_output_shape(0)), dtype=np.int64))
        zeros = elements - int(np.count_nonzero(values)) if values.size == elements else 0
        stored = (elements * node.get_element_type().bitwidth + 7) // 8
        found[dtype] = StoredWeights(dtype, old.elements + elements, old.stored_bytes + stored, old.zeros + zeros)
    return sorted(found.values(), key=lambda entry: -entry.stored_bytes)
