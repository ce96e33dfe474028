"""Equal ranges and smoothed outliers, as the papers define them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressctl.numerics.equalize import between_layers, smoothing

Positive = st.lists(st.floats(1e-3, 1e3), min_size=4, max_size=4).map(np.array)


@given(Positive, Positive)
def test_both_sides_end_with_the_geometric_mean_of_their_ranges(first: np.ndarray, second: np.ndarray) -> None:
    scale = between_layers(first, second)
    assert np.allclose(first / scale, np.sqrt(first * second))
    assert np.allclose(second * scale, np.sqrt(first * second))


def test_a_dead_channel_keeps_its_scale() -> None:
    assert between_layers(np.array([0.0, 4.0, 3.0]), np.array([1.0, 1.0, 0.0])).tolist() == [1.0, 2.0, 1.0]


@given(Positive, Positive)
def test_at_one_half_both_sides_share_the_outliers_evenly(activation: np.ndarray, weight: np.ndarray) -> None:
    scale = smoothing(activation, weight, 0.5)
    assert np.allclose(activation / scale, weight * scale)


@given(Positive, Positive)
def test_the_ends_give_one_side_everything(activation: np.ndarray, weight: np.ndarray) -> None:
    assert np.allclose(activation / smoothing(activation, weight, 1.0), 1)
    assert np.allclose(weight * smoothing(activation, weight, 0.0), 1)


def test_alpha_is_a_share() -> None:
    with pytest.raises(ValueError, match="alpha is 2"):
        smoothing(np.ones(2), np.ones(2), 2)
