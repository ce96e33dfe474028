"""Truncated singular value decompositions against numpy's own, in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressctl.numerics.low_rank import (
    decompose,
    dropped_shares,
    low_rank,
    whitening,
)

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9))


def _weight(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def _inputs(width: int, seed: int = 1, samples: int = 200) -> np.ndarray:
    """(width, samples) with strong correlations, as activations have."""
    rng = np.random.default_rng(seed)
    return (
        rng.standard_normal((width, width)) @ np.diag(0.5 ** np.arange(width)) @ rng.standard_normal((width, samples))
    )


@given(SHAPES, st.integers(0, 1000))
def test_full_rank_gives_the_matrix_back(shape: tuple[int, int], seed: int) -> None:
    weight = _weight(shape, seed)
    left, right = low_rank(decompose(weight), min(shape))
    np.testing.assert_allclose(left @ right, weight, atol=1e-12)


@given(SHAPES, st.integers(0, 1000), st.data())
def test_the_error_is_what_numpy_s_dropped_singular_values_add_up_to(
    shape: tuple[int, int], seed: int, data: st.DataObject
) -> None:
    weight, rank = _weight(shape, seed), data.draw(st.integers(1, min(shape)))
    left, right = low_rank(decompose(weight), rank)
    values = np.linalg.svd(weight, compute_uv=False)
    assert np.sum((weight - left @ right) ** 2) == pytest.approx(np.sum(values[rank:] ** 2), abs=1e-12)


@given(SHAPES, st.integers(0, 1000), st.data())
def test_no_other_matrix_of_the_rank_has_less_error(shape: tuple[int, int], seed: int, data: st.DataObject) -> None:
    """Eckart and Young, against factors that alternating least squares fits from a random start."""
    weight, rank = _weight(shape, seed), data.draw(st.integers(1, min(shape)))
    left, right = low_rank(decompose(weight), rank)
    other = np.random.default_rng(seed).standard_normal((shape[0], rank))
    for _ in range(30):
        opposite = np.linalg.lstsq(other, weight, rcond=None)[0]
        other = np.linalg.lstsq(opposite.T, weight.T, rcond=None)[0].T
    assert np.linalg.norm(weight - left @ right) <= np.linalg.norm(weight - other @ opposite) + 1e-9


@pytest.mark.parametrize("rank", [1, 3, 6, 10])
def test_whitened_the_output_error_is_the_dropped_singular_values(rank: int) -> None:
    weight, inputs = _weight((12, 10)), _inputs(10)
    found = decompose(weight, whitening(inputs @ inputs.T, damping=1e-14))
    left, right = low_rank(found, rank)
    error = np.sum((weight @ inputs - left @ right @ inputs) ** 2)
    assert error == pytest.approx(np.sum(found.values[rank:] ** 2), rel=1e-6, abs=1e-9 * np.sum((weight @ inputs) ** 2))


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_whitened_no_other_matrix_of_the_rank_has_less_output_error(rank: int) -> None:
    """The least is known: the plain decomposition of the outputs themselves, over all rank-r outputs."""
    weight, inputs = _weight((12, 10)), _inputs(10)
    left, right = low_rank(decompose(weight, whitening(inputs @ inputs.T, damping=1e-14)), rank)
    least = np.sum(np.linalg.svd(weight @ inputs, compute_uv=False)[rank:] ** 2)
    plain_left, plain_right = low_rank(decompose(weight), rank)
    ours = np.sum((weight @ inputs - left @ right @ inputs) ** 2)
    assert ours == pytest.approx(least, rel=1e-5)
    assert ours < np.sum((weight @ inputs - plain_left @ plain_right @ inputs) ** 2)


def test_inputs_that_calibration_never_saw_leave_the_weight_defined() -> None:
    inputs = _inputs(10)
    inputs[7] = 0.0
    left, right = low_rank(decompose(_weight((12, 10)), whitening(inputs @ inputs.T)), 10)
    np.testing.assert_allclose(left @ right, _weight((12, 10)), atol=1e-8)
    assert np.all(np.isfinite(right))


def test_a_layer_that_saw_only_zeros_is_decomposed_as_if_its_inputs_were_white() -> None:
    np.testing.assert_array_equal(whitening(np.zeros((4, 4))), np.eye(4))


@pytest.mark.parametrize(
    ("matrix", "says"), [(np.array([[1.0, 2.0], [0.0, 1.0]]), "symmetric"), (-np.eye(3), "positive semidefinite")]
)
def test_what_is_no_covariance_is_refused(matrix: np.ndarray, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        whitening(matrix)


@pytest.mark.parametrize("rank", [0, 4])
def test_a_rank_outside_the_matrix_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match=r"not in 1 \.\. 3"):
        low_rank(decompose(_weight((3, 5))), rank)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=12))
def test_the_lost_share_falls_from_1_to_0_with_rank(values: list[float]) -> None:
    lost = dropped_shares(np.sort(values)[::-1])
    assert np.all(np.diff(lost) <= 0)
    assert lost[-1] == 0
    assert lost[0] == pytest.approx(1.0 if np.sum(np.square(values)) else 0.0)
