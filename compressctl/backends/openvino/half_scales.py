"""Scales of quantized weights in float16, as NNCF stores them: half the bytes, and another value in the fourth digit at most."""

from __future__ import annotations

import numpy as np
import openvino
from openvino import opset13 as ops

_SMALLEST, _LARGEST = 2.0**-14, 65504.0
"""Float16's normal numbers: outside them a scale loses more than its last digits."""


def halve_scales(model: openvino.Model) -> int:
    """Store in float16 the scales that stored integers are multiplied with, and return how many constants were. Those that float16 cannot hold stay."""
    halved = 0
    for node in model.get_ops():
        if node.get_type_name() != "Multiply":
            continue
        for position in (0, 1):
            scale = node.input_value(position).get_node()
            if _is_float(scale) and _is_of_codes(node.input_value(1 - position).get_node()) and _fits(scale.data):
                stored = ops.constant(scale.data.astype(np.float16))
                stored.set_friendly_name(scale.get_friendly_name())
                node.input(position).replace_source_output(ops.convert(stored, "f32").output(0))
                halved += 1
    return halved


def _is_float(node: openvino.Node) -> bool:
    return bool(node.get_type_name() == "Constant" and node.get_element_type() == openvino.Type.f32)


def _is_of_codes(node: openvino.Node) -> bool:
    """Whether a node is stored integers as floats, perhaps less their zero points."""
    if node.get_type_name() == "Subtract":
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Convert":
        return False
    codes = node.input_value(0).get_node()
    return bool(codes.get_type_name() == "Constant" and codes.get_element_type().is_integral())


def _fits(scale: np.ndarray) -> bool:
    size = np.abs(scale)
    return bool(np.all((size >= _SMALLEST) & (size <= _LARGEST)))
