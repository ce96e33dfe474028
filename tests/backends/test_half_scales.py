"""Scales of quantized weights in float16: what is stored so, and what stays."""

import numpy as np
import pytest

import compressctl.backends.openvino  # noqa: F401  before anything of OpenVINO's, which would report its use

openvino = pytest.importorskip("openvino")

from openvino import opset13 as ops  # noqa: E402

from compressctl.backends.openvino.half_scales import halve_scales  # noqa: E402


@pytest.mark.parametrize("has_zero_points", [True, False])
def test_scales_of_codes_are_halved_and_nothing_else(has_zero_points: bool) -> None:
    model = _of_codes(np.linspace(-0.1, 0.1, 8, dtype=np.float32), has_zero_points=has_zero_points)
    before = _computed(model)
    assert halve_scales(model) == 1
    kinds = [node.get_element_type() for node in model.get_ops() if node.get_type_name() == "Constant"]
    assert kinds.count(openvino.Type.f16) == 1
    assert kinds.count(openvino.Type.f32) == 1  # the factor of the outputs
    assert np.allclose(_computed(model), before, rtol=1e-3)


@pytest.mark.parametrize("scale", [1e-6, -1e-6, 1e6])
def test_scales_that_float16_cannot_hold_stay(scale: float) -> None:
    model = _of_codes(np.array([0.1, scale] * 4, np.float32), has_zero_points=False)
    assert halve_scales(model) == 0


def _of_codes(scale: np.ndarray, *, has_zero_points: bool) -> openvino.Model:
    """x (2, 4) times codes (4, 8) with a scale for each output, times 3."""
    x = ops.parameter([2, 4], np.float32)
    codes = ops.convert(ops.constant(np.arange(32, dtype=np.int8).reshape(4, 8)), "f32")
    if has_zero_points:
        codes = ops.subtract(codes, ops.convert(ops.constant(np.full((1, 8), 5, np.int8)), "f32"))
    product = ops.matmul(x, ops.multiply(codes, ops.constant(scale[None])), False, False)
    return openvino.Model([ops.multiply(product, ops.constant(np.float32([[3.0]])))], [x])


def _computed(model: openvino.Model) -> np.ndarray:
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.array(compiled(np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4))[0])
