"""Histograms of streams, and the ranges chosen from them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressctl.numerics.affine import asymmetric, dequantize, quantize
from compressctl.numerics.histogram import StreamingHistogram
from compressctl.numerics.ranges import find_range, swish_low

METHODS = ["minmax", "percentile", "entropy", "mse"]
chunks = st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=30), min_size=1, max_size=8)


def _observed(*arrays: np.ndarray) -> StreamingHistogram:
    histogram = StreamingHistogram()
    for array in arrays:
        histogram.add(array)
    return histogram


@given(chunks)
def test_the_order_of_the_stream_does_not_matter(stream: list[list[float]]) -> None:
    arrays = [np.array(chunk, dtype=np.float32) for chunk in stream]
    forward, backward = _observed(*arrays), _observed(*reversed(arrays))
    assert (forward.low, forward.high) == (backward.low, backward.high)
    assert forward.trimmed()[0].sum() == sum(array.size for array in arrays)
    assert np.array_equal(forward.trimmed()[0], backward.trimmed()[0])
    assert np.array_equal(forward.trimmed()[1], backward.trimmed()[1])


@given(chunks)
def test_bounds_are_exact_and_every_value_lies_in_its_bin(stream: list[list[float]]) -> None:
    arrays = [np.array(chunk, dtype=np.float32) for chunk in stream]
    histogram, values = _observed(*arrays), np.concatenate(arrays)
    counts, edges = histogram.trimmed()
    assert (histogram.low, histogram.high) == (values.min(), values.max())
    if edges[-1] > edges[0]:
        assert np.array_equal(counts, np.histogram(values.astype(np.float64), bins=edges)[0])


def test_a_value_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        StreamingHistogram().add(np.array([1.0, np.nan]))


def test_an_empty_histogram_has_no_range() -> None:
    with pytest.raises(ValueError, match="nothing was counted"):
        find_range(StreamingHistogram(), "mse")


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=25)
@given(stream=chunks)
def test_a_range_never_leaves_what_was_seen(method: str, stream: list[list[float]]) -> None:
    histogram = _observed(*[np.array(chunk, dtype=np.float32) for chunk in stream])
    low, high = find_range(histogram, method)  # type: ignore[arg-type]
    assert histogram.low <= low <= high <= histogram.high


def test_percentile_agrees_with_numpy_to_a_bin() -> None:
    values = np.random.default_rng(1).normal(size=200_000).astype(np.float32)
    low, high = find_range(_observed(values), "percentile", 99.0)
    expected = np.percentile(values, [0.5, 99.5])
    assert (low, high) == pytest.approx(tuple(expected), abs=0.02)


def test_mse_beats_minmax_on_a_heavy_tail_and_is_near_the_best_range() -> None:
    values = np.random.default_rng(2).standard_t(3, size=100_000).astype(np.float32)
    histogram = _observed(values)
    widest = float(np.abs(values).max())
    chosen = _error(values, *find_range(histogram, "mse"))
    best = min(
        _error(values, -low, high) for low in np.geomspace(2, widest, 30) for high in np.geomspace(2, widest, 30)
    )
    assert chosen < 0.9 * _error(values, *find_range(histogram, "minmax"))
    assert chosen < 1.05 * best


def test_entropy_clips_a_lone_outlier_and_keeps_a_bell_nearly_whole() -> None:
    body = np.random.default_rng(3).normal(size=100_000).astype(np.float32)
    with_outlier = np.append(body, np.float32(50.0))
    assert find_range(_observed(with_outlier), "entropy")[1] < 25
    assert find_range(_observed(body), "entropy")[1] > 2.5


def _error(values: np.ndarray, low: float, high: float) -> float:
    scale, zero_point = asymmetric(low, high)
    return float(np.mean((dequantize(quantize(values, scale, zero_point, "uint8"), scale, zero_point) - values) ** 2))


def _swish(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


@given(st.floats(0, 1e4))
def test_what_swish_gives_below_its_codes_is_no_more_than_their_rounding(high: float) -> None:
    low = swish_low(high)
    assert -10 <= low <= -1.28
    below, step = np.linspace(-60, low, 2000), (high - low) / 255
    assert np.abs(_swish(below) - _swish(np.array(low))).max() <= max(step / np.sqrt(12), 5e-4) + 1e-9


@given(st.floats(0, 1e4), st.floats(0, 1e4))
def test_a_wider_range_clips_no_less_of_a_swish(one: float, other: float) -> None:
    assert swish_low(min(one, other)) <= swish_low(max(one, other))
