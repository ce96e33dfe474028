"""Weight scales: what fits the codes, the 16-bit pairs of VPMADDUBSW, and the int32 bias."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from compressctl.core.quant import TensorQuant
from compressctl.graph.codes import bias_codes, bias_scale, weight_codes, weight_values
from compressctl.numerics.int8_weights import PairsSeen, channel_rows, fit_bias, quantize_weight

weights = arrays(np.float32, array_shapes(min_dims=2, max_dims=4, max_side=7), elements=st.floats(-4, 4, width=32))


@given(weights)
def test_neighbouring_products_of_a_guarded_weight_fit_16_bits(values: np.ndarray) -> None:
    quant = quantize_weight(values, 0, per_channel=True, guard="pairs")
    codes = channel_rows(weight_codes(values, quant), 0).astype(np.int64)
    activation = np.array([0, 255])
    for left in activation:
        for right in activation:
            pairs = codes[:, :-1] * left + codes[:, 1:] * right
            assert np.all((pairs >= -(2**15)) & (pairs < 2**15))


@given(weights, st.integers(0, 2**32 - 1), st.booleans(), st.floats(0.05, 1))
def test_no_pair_of_inputs_that_were_seen_overflows(
    values: np.ndarray, seed: int, goes_up: bool, loudness: float
) -> None:
    rng = np.random.default_rng(seed)
    columns = channel_rows(values, 0).shape[1]
    inputs = np.rint(255 * loudness * rng.beta(0.3, 0.3, size=(40, columns))).astype(np.int64)
    pairs = (inputs[:, :-1] + inputs[:, 1:]).max(axis=0, initial=0)
    seen = PairsSeen(inputs.max(axis=0).astype(float), pairs.astype(float))
    quant = quantize_weight(values, 0, per_channel=True, guard="calibrated", goes_up=goes_up, seen=seen)
    codes = channel_rows(weight_codes(values, quant), 0).astype(np.int64)
    if goes_up:
        exact = channel_rows(values, 0) / quant.scale[:, None].astype(np.float64)
        codes = np.clip(np.floor(exact) + rng.integers(0, 2, size=exact.shape), -127, 127).astype(np.int64)
    products = codes[None] * inputs[:, None]
    sums = products[..., :-1] + products[..., 1:]
    assert np.all((sums >= -(2**15)) & (sums < 2**15))
    guarded = quantize_weight(values, 0, per_channel=True, guard="pairs", goes_up=goes_up)
    assert np.all(quant.scale <= guarded.scale * (1 + 1e-6)), "never coarser than what fits any input"


def test_quiet_inputs_need_no_guard_and_unknown_ones_the_whole() -> None:
    values = np.ones((1, 4), np.float32)
    quiet = PairsSeen(np.full(4, 60.0), np.full(3, 120.0))
    assert quantize_weight(values, 0, per_channel=True, guard="calibrated", seen=quiet).scale == pytest.approx(1 / 127)
    loud = PairsSeen(np.full(4, 255.0), np.full(3, 510.0))
    at_most = quantize_weight(values, 0, per_channel=True, guard="pairs").scale
    assert quantize_weight(values, 0, per_channel=True, guard="calibrated", seen=loud).scale == pytest.approx(at_most)
    assert quantize_weight(values, 0, per_channel=True, guard="calibrated").scale == pytest.approx(at_most)


def test_guarded_weights_of_two_or_three_values_are_exact() -> None:
    """What quantize.binary makes: 64 + 64 = 128 just fits, so that nothing is rounded."""
    signs = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], (6, 4, 3, 3))
    values = (signs * np.linspace(0.01, 0.3, 6).reshape(-1, 1, 1, 1)).astype(np.float32)
    quant = quantize_weight(values, 0, per_channel=True, guard="pairs")
    assert np.allclose(weight_values(values, quant), values, rtol=1e-6)
    assert set(np.unique(weight_codes(values, quant))) == {-64, 0, 64}


@given(weights, st.sampled_from(["off", "reduce_range"]), st.booleans())
def test_rounding_moves_a_weight_by_at_most_half_a_step(values: np.ndarray, guard: str, per_channel: bool) -> None:
    quant = quantize_weight(values, 0, per_channel=per_channel, guard=guard)  # type: ignore[arg-type]
    step = np.broadcast_to(np.asarray(quant.scale).reshape(-1, *[1] * (values.ndim - 1)), values.shape)
    assert np.all(np.abs(weight_values(values, quant) - values) <= step * 0.5001)


def test_the_guard_limits_a_channel_no_more_than_it_must() -> None:
    lone = np.zeros((1, 4, 1, 1), dtype=np.float32)
    lone[0, 2] = 1.0
    assert quantize_weight(lone, 0, per_channel=True, guard="pairs").scale == pytest.approx(1 / 127)


def test_reduced_range_uses_seven_bits() -> None:
    values = np.random.default_rng(0).normal(size=(8, 32)).astype(np.float32)
    codes = weight_codes(values, quantize_weight(values, 0, per_channel=True, guard="reduce_range"))
    assert np.abs(codes).max() == 64


def test_scales_follow_the_output_channels_axis() -> None:
    values = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    quant = quantize_weight(values, 1, per_channel=True, guard="off")
    assert quant.axis == 1
    assert quant.scale == pytest.approx(np.abs(values).max(axis=0) / 127)


def test_a_bias_that_would_overflow_int32_raises_its_channels_scale_only() -> None:
    values = np.array([[1e-9, -1e-9], [0.5, 0.25]], dtype=np.float32)
    bias = np.array([3.0, 3.0], dtype=np.float32)
    activation = TensorQuant("uint8", np.asarray(np.float32(0.001)), np.asarray(np.uint8(0)))
    plain = quantize_weight(values, 0, per_channel=True, guard="off")
    fitted = fit_bias(plain, activation, bias)
    scale = bias_scale(activation, fitted)
    assert bias_codes(bias, scale) * scale.astype(np.float64) == pytest.approx(bias, rel=1e-6)
    assert fitted.scale[0] > plain.scale[0]
    assert fitted.scale[1] == plain.scale[1]


def test_convolution_rows_put_the_input_channel_innermost() -> None:
    values = np.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2)
    assert channel_rows(values, 0)[0].tolist() == values[0].transpose(1, 2, 0).reshape(-1).tolist()
