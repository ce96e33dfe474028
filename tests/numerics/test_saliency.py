"""Scores and schedules against what their papers say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressctl.numerics.saliency import lamp, wanda
from compressctl.numerics.sparsity_schedule import cubic, geometric


@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_lamp_is_the_square_over_all_squares_that_are_not_smaller(seed: int, size: int) -> None:
    weights = np.random.default_rng(seed).normal(size=size)
    expected = [w**2 / sum(v**2 for v in weights if abs(v) >= abs(w)) for w in weights]
    assert lamp(np.abs(weights)) == pytest.approx(np.array(expected))


def test_lamp_scores_the_largest_of_every_layer_1_whatever_its_scale() -> None:
    weights = np.abs(np.random.default_rng(0).normal(size=(4, 1, 5)))
    assert lamp(weights) == pytest.approx(lamp(weights * 1e-3))
    assert lamp(weights).max() == 1
    assert lamp(np.zeros((2, 1, 2))).tolist() == np.zeros((2, 1, 2)).tolist()


def test_wanda_prefers_a_small_weight_of_a_loud_input() -> None:
    weight = np.array([[[0.5, -2.0]]])
    assert wanda(weight, np.array([[10.0, 1.0]])).reshape(-1).tolist() == [5.0, 2.0]


def test_the_cubic_schedule_has_the_paper_s_values() -> None:
    """s_t = s_f + (s_i - s_f) (1 - (t - t0) / (n dt))^3 with s_i 0, s_f 0.875, t0 100, n dt 1000."""
    values = [cubic(step, 100, 1100, 0.0, 0.875) for step in (0, 100, 350, 600, 850, 1100, 5000)]
    by_hand = [0, 0, 0.875 * (1 - 27 / 64), 0.875 * (1 - 1 / 8), 0.875 * (1 - 1 / 64), 0.875, 0.875]
    assert values == pytest.approx(by_hand)


def test_the_cubic_schedule_starts_from_zeros_that_are_there() -> None:
    assert cubic(0, 0, 10, 0.5, 0.9) == 0.5
    assert cubic(5, 0, 10, 0.5, 0.9) == pytest.approx(0.9 - 0.4 / 8)


def test_each_cut_removes_the_same_share_of_what_is_left() -> None:
    left = [1 - geometric(cut, 4, 0.9) for cut in range(5)]
    assert left[0] == 1
    assert left[-1] == pytest.approx(0.1)
    assert np.diff(np.log(left)) == pytest.approx([np.log(0.1) / 4] * 4)
