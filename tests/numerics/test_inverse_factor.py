"""The factor of a Hessian's inverse against numpy's own inverse, and in the memory that it promises."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressctl.numerics.inverse_factor import inverse_factor


def hessian_of(size: int, rows: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).normal(0, 1, (rows, size)) * np.linspace(0.1, 3, size)
    return values.T @ values / rows


@given(size=st.integers(1, 300), rows=st.integers(1, 400), seed=st.integers(0, 99), is_ordered=st.booleans())
def test_its_square_is_the_damped_hessians_inverse(size: int, rows: int, seed: int, is_ordered: bool) -> None:
    hessian, random = hessian_of(size, rows, seed), np.random.default_rng(seed)
    kept = hessian.copy()
    order = random.permutation(size) if is_ordered else None
    added = random.uniform(0.05, 1, size)
    factor = inverse_factor(hessian, added, order)
    there = np.arange(size) if order is None else order
    wanted = np.linalg.inv((hessian + np.diag(added))[np.ix_(there, there)])
    assert np.array_equal(factor, np.triu(factor))
    assert (np.diag(factor) > 0).all()
    assert np.allclose(factor.T @ factor, wanted, rtol=1e-7, atol=1e-9 * np.abs(wanted).max())
    assert np.array_equal(hessian, kept)


def test_a_hessian_in_float32_is_factorized_in_float64() -> None:
    hessian = hessian_of(40, 100, 0)
    assert np.allclose(
        inverse_factor(hessian.astype(np.float32), 0.1), inverse_factor(hessian, 0.1), rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("hessian", [np.diag([1.0, -2.0]), np.array([[1.0, 2.0], [2.0, 1.0]]), np.zeros((3, 3))])
def test_what_has_no_such_factor_is_refused(hessian: np.ndarray) -> None:
    with pytest.raises(np.linalg.LinAlgError):
        inverse_factor(hessian, 0.0)


def test_it_takes_no_more_than_one_matrix_beside_the_hessian() -> None:
    hessian = hessian_of(1500, 1600, 0)
    tracemalloc.start()
    try:
        inverse_factor(hessian, 0.1, np.random.default_rng(0).permutation(1500))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 1.5 * hessian.nbytes
