"""Canonical polyadic decompositions: laws, and tensors whose factors are known."""

import numpy as np
import pytest

from compressctl.numerics.cp import composed, cp, full_rank


def _tensor(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def _of_rank(rank: int, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    letters = "abcd"[: len(shape)]
    factors = [rng.standard_normal((size, rank)) for size in shape]
    return np.einsum(",".join(f"{letter}r" for letter in letters) + "->" + letters, *factors)


def _lost(tensor: np.ndarray, factors: tuple[np.ndarray, ...]) -> float:
    return float(np.sum((tensor - composed(factors)) ** 2) / np.sum(tensor**2))


@pytest.mark.parametrize("shape", [(6, 5, 4), (5, 4, 3, 2)])
def test_the_composed_tensor_is_the_sum_of_outer_products(shape: tuple[int, ...]) -> None:
    factors = [_tensor((size, 3), seed) for seed, size in enumerate(shape)]
    letters = "abcd"[: len(shape)]
    wanted = np.einsum(",".join(f"{letter}r" for letter in letters) + "->" + letters, *factors)
    np.testing.assert_allclose(composed(factors), wanted, atol=1e-12)


@pytest.mark.parametrize("shape", [(6, 5, 9), (4, 5, 3, 3)])
def test_full_rank_gives_the_tensor_back(shape: tuple[int, ...]) -> None:
    assert _lost(_tensor(shape), cp(_tensor(shape), full_rank(shape))) < 1e-20


@pytest.mark.parametrize("shape", [(8, 7, 9), (6, 5, 3, 3)])
def test_the_error_falls_with_rank(shape: tuple[int, ...]) -> None:
    lost = [_lost(_tensor(shape), cp(_tensor(shape), rank)) for rank in (1, 4, 12, 24, 40)]
    assert lost == sorted(lost, reverse=True)
    assert lost[-1] < 0.1


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_a_tensor_of_low_rank_is_found(rank: int) -> None:
    tensor = _of_rank(rank, (10, 9, 9))
    assert _lost(tensor, cp(tensor, rank, sweeps=500)) < 1e-4


def test_more_sweeps_are_never_worse() -> None:
    tensor = _tensor((8, 7, 9))
    lost = [_lost(tensor, cp(tensor, 10, sweeps)) for sweeps in (0, 1, 3, 10, 50)]
    assert lost == sorted(lost, reverse=True)


def test_a_matrix_is_cut_like_a_singular_value_decomposition() -> None:
    matrix = _tensor((7, 9))
    values = np.linalg.svd(matrix, compute_uv=False)
    assert _lost(matrix, cp(matrix, 3)) == pytest.approx(np.sum(values[3:] ** 2) / np.sum(values**2))


def test_the_factors_stay_of_the_size_of_the_tensor() -> None:
    """A tensor that sums of two products come ever nearer to without reaching it, by parts that grow and cancel."""
    a, b = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    tensor = sum(np.einsum("i,j,k->ijk", *order) for order in ((a, a, b), (a, b, a), (b, a, a)))
    factors = cp(np.asarray(tensor), 2, sweeps=2000)
    assert max(np.abs(factor).max() for factor in factors) < 10


def test_the_same_tensor_gives_the_same_factors() -> None:
    for one, two in zip(cp(_tensor((6, 5, 9)), 8), cp(_tensor((6, 5, 9)), 8), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("rank", [0, 46])
def test_a_rank_outside_the_tensor_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match=r"is not in 1 \.\. 45"):
        cp(_tensor((6, 5, 9)), rank)


def test_an_all_zero_tensor_has_zero_factors() -> None:
    assert not np.any(composed(cp(np.zeros((4, 3, 9)), 2)))
