"""One weight on its grid, however it lies in memory."""

import tracemalloc

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from compressctl.graph.weight_nodes import WeightNode, find_weighted
from compressctl.techniques.quantize import _round_weight
from compressctl.techniques.quantize._moments import Moments
from compressctl.techniques.quantize._round_weight import Rounded, Treatment, round_weight


def _node(values: np.ndarray, *, transposed: bool) -> WeightNode:
    """Of a product with values, (inputs, outputs), or (outputs, inputs) when transposed."""
    inputs, outputs = values.shape[::-1] if transposed else values.shape
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"], "product", transB=int(transposed))],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, outputs])],
        [numpy_helper.from_array(values, "w")],
    )
    [node] = find_weighted(onnx.load_model_from_string(helper.make_model(graph).SerializeToString()).graph)
    return node


def _moments(inputs: int) -> Moments:
    x = np.random.default_rng(1).normal(0, 1, (4 * inputs, inputs)).astype(np.float32)
    return Moments((x.T @ x / len(x)).astype(np.float64), np.abs(x).mean(axis=0), len(x))


def _rounded(values: np.ndarray, treatment: Treatment, *, transposed: bool) -> Rounded:
    node = _node(values, transposed=transposed)
    inputs = values.shape[1 if transposed else 0]
    return round_weight(values, node, treatment, _moments(inputs), 0.01, act_order=True)


@given(
    transposed=st.booleans(),
    method=st.sampled_from(["rtn", "hqq", "gptq"]),
    granularity=st.sampled_from(["group", "channel", "tensor"]),
    symmetric=st.booleans(),
    inputs=st.integers(2, 70),
    outputs=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_a_weight_that_is_not_copied_is_rounded_to_the_same_numbers(
    transposed: bool, method: str, granularity: str, symmetric: bool, inputs: int, outputs: int, seed: int
) -> None:
    values = np.random.default_rng(seed).normal(0, 0.1, (inputs, outputs)).astype(np.float32)
    values = np.ascontiguousarray(values.T) if transposed else values
    treatment = Treatment(4, method, symmetric, granularity, 16, True)  # type: ignore[arg-type]
    copied = _rounded(values, treatment, transposed=transposed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_round_weight, "_COPIED_NUMBERS", 0)
        as_it_lies = _rounded(values, treatment, transposed=transposed)
    assert np.array_equal(copied.values, as_it_lies.values)
    assert as_it_lies.values.flags.c_contiguous
    for name in ("scale", "zero_point"):
        assert np.array_equal(getattr(copied.quant, name), getattr(as_it_lies.quant, name))
    assert copied.error == pytest.approx(as_it_lies.error)


@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_a_very_large_weight_is_not_turned_around_and_back(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    values = np.random.default_rng(0).normal(0, 0.1, (32, 1 << 18)).astype(np.float32)
    treatment = Treatment(4, method, True, "group", 32, True)  # type: ignore[arg-type]
    copied = _peak(values, treatment)
    monkeypatch.setattr(_round_weight, "_COPIED_NUMBERS", 0)
    assert _peak(values, treatment) < copied - 0.4 * values.nbytes


def _peak(values: np.ndarray, treatment: Treatment) -> int:
    """Bytes that rounding took at most."""
    node, moments = _node(values, transposed=False), _moments(len(values))
    tracemalloc.start()
    try:
        round_weight(values, node, treatment, moments, 0.01, act_order=True)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
