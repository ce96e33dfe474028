"""Affine codes: what ONNX Runtime computes, and the laws of rounding."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from compressctl.numerics.affine import along, asymmetric, dequantize, quantize

finite = st.floats(-1e6, 1e6, allow_nan=False, width=32)


@given(finite, finite)
def test_zero_is_on_a_code_and_the_range_is_covered(a: float, b: float) -> None:
    scale, zero_point = asymmetric(min(a, b), max(a, b))
    lowest, highest = (0 - zero_point) * float(scale), (255 - zero_point) * float(scale)
    assert 0 <= zero_point <= 255
    assert scale > 0
    assert lowest <= min(a, b, 0) + float(scale) * 0.51
    assert highest >= max(a, b, 0) - float(scale) * 0.51


@given(st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=50))
def test_a_value_inside_the_range_moves_by_at_most_half_a_step(values: list[float]) -> None:
    array = np.array(values, dtype=np.float32)
    scale, zero_point = asymmetric(-10, 10)
    back = dequantize(quantize(array, scale, zero_point, "uint8"), scale, zero_point)
    # The nudged zero point may move the ends of the range by half a step more.
    inside = np.abs(array) < 10 - float(scale)
    assert np.all(np.abs(back - array)[inside] <= float(scale) * 0.501)


def test_codes_equal_the_runtimes_own() -> None:
    values = np.random.default_rng(0).normal(size=(4, 1000)).astype(np.float32)
    scale, zero_point = asymmetric(-2.5, 3.1)
    ours = quantize(values, scale, zero_point, "uint8")
    assert np.array_equal(ours, _onnx_quantize(values, scale, np.uint8(zero_point)))


@pytest.mark.parametrize(("low", "high"), [(np.nan, 1), (0, np.inf), (2, 1)])
def test_a_range_that_is_none_is_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="no range"):
        asymmetric(low, high)


def test_per_channel_values_broadcast_along_their_axis() -> None:
    assert along(np.arange(3), 1, 4).shape == (1, 3, 1, 1)
    assert along(np.arange(3), -1, 2).shape == (1, 3)
    assert along(np.float32(2), None, 2) == 2


def _onnx_quantize(values: np.ndarray, scale: np.float32, zero_point: np.uint8) -> np.ndarray:
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])
    graph = helper.make_graph(
        [node],
        "q",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, values.shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.UINT8, values.shape)],
        [numpy_helper.from_array(np.asarray(scale), "s"), numpy_helper.from_array(np.asarray(zero_point), "z")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": values})[0])
