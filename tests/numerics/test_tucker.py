"""Tucker-2 against projections that numpy computes, and against random bases."""

import numpy as np
import pytest

from compressctl.numerics.tucker import dropped_shares, hosvd, tucker2


def _tensor(shape: tuple[int, ...] = (8, 6, 3, 3), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def _lost(tensor: np.ndarray, found: np.ndarray) -> float:
    return float(np.sum((tensor - found) ** 2) / np.sum(tensor**2))


def test_full_ranks_give_the_tensor_back() -> None:
    np.testing.assert_allclose(tucker2(_tensor(), (8, 6)).full, _tensor(), atol=1e-12)


@pytest.mark.parametrize("ranks", [(1, 1), (3, 5), (8, 2)])
def test_the_table_of_lost_shares_is_the_error_of_cutting_the_core(ranks: tuple[int, int]) -> None:
    whole = hosvd(_tensor())
    p, q = ranks
    cut = np.einsum("tp,pqyx,sq->tsyx", whole.left[:, :p], whole.core[:p, :q], whole.right[:, :q])
    assert dropped_shares(whole)[p, q] == pytest.approx(_lost(_tensor(), cut), abs=1e-12)


@pytest.mark.parametrize("ranks", [(1, 1), (3, 4), (5, 2)])
def test_sweeps_lose_no_more_than_the_truncated_decomposition(ranks: tuple[int, int]) -> None:
    truncated = dropped_shares(hosvd(_tensor()))[ranks]
    assert _lost(_tensor(), tucker2(_tensor(), ranks).full) <= truncated + 1e-12


@pytest.mark.parametrize("seed", range(5))
def test_random_bases_lose_more(seed: int) -> None:
    rng = np.random.default_rng(seed)
    left, _ = np.linalg.qr(rng.standard_normal((8, 3)))
    right, _ = np.linalg.qr(rng.standard_normal((6, 3)))
    other = np.einsum("tsyx,tp,sq,up,vq->uvyx", _tensor(), left, right, left, right)
    assert _lost(_tensor(), tucker2(_tensor(), (3, 3)).full) < _lost(_tensor(), other)


def test_the_error_falls_with_each_rank() -> None:
    lost = dropped_shares(hosvd(_tensor()))[1:, 1:]
    assert np.all(np.diff(lost, axis=0) <= 1e-12)
    assert np.all(np.diff(lost, axis=1) <= 1e-12)


def test_a_tensor_of_low_rank_is_found_exactly() -> None:
    rng = np.random.default_rng(3)
    core, left, right = rng.standard_normal((2, 3, 3, 3)), rng.standard_normal((8, 2)), rng.standard_normal((6, 3))
    tensor = np.einsum("tp,pqyx,sq->tsyx", left, core, right)
    assert _lost(tensor, tucker2(tensor, (2, 3)).full) < 1e-20


@pytest.mark.parametrize("ranks", [(0, 1), (9, 1), (1, 7)])
def test_ranks_outside_the_tensor_are_refused(ranks: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"is not in 1 \.\."):
        tucker2(_tensor(), ranks)
