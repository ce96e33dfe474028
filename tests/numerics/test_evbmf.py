"""The rank beneath noise, on matrices whose rank is known."""

import math

import numpy as np
import pytest

from compressctl.numerics.evbmf import _free_energy, _least_signal, evbmf_rank, noise_variance


def _noisy(rank: int, shape: tuple[int, int], noise: float, seed: int) -> np.ndarray:
    """Every singular value of the signal is 3 to 6 times the largest that the noise alone has."""
    rng = np.random.default_rng(seed)
    left, _ = np.linalg.qr(rng.standard_normal((shape[0], rank)))
    right, _ = np.linalg.qr(rng.standard_normal((shape[1], rank)))
    edge = noise * (math.sqrt(shape[0]) + math.sqrt(shape[1]))
    return (left * np.linspace(6, 3, rank) * edge) @ right.T + noise * rng.standard_normal(shape)


@pytest.mark.parametrize("rank", [1, 4, 12])
@pytest.mark.parametrize("shape", [(40, 60), (64, 64), (96, 30)])
@pytest.mark.parametrize("noise", [1e-3, 1.0])
def test_the_rank_of_a_signal_in_noise_is_found(rank: int, shape: tuple[int, int], noise: float) -> None:
    assert evbmf_rank(_noisy(rank, shape, noise, seed=rank)) == rank


@pytest.mark.parametrize("seed", range(3))
def test_noise_alone_has_rank_0(seed: int) -> None:
    assert evbmf_rank(np.random.default_rng(seed).standard_normal((50, 80))) == 0


def test_an_all_zero_matrix_has_rank_0() -> None:
    assert evbmf_rank(np.zeros((5, 7))) == 0


def test_the_noise_that_is_found_is_the_noise_that_was_added() -> None:
    values = np.linalg.svd(_noisy(4, (60, 90), 0.3, seed=0), compute_uv=False)
    assert noise_variance(values, 60, 90) == pytest.approx(0.09, rel=0.05)


def test_no_other_noise_has_less_free_energy() -> None:
    values = np.linalg.svd(_noisy(4, (20, 30), 0.5, seed=1), compute_uv=False)
    best = noise_variance(values, 20, 30)

    def energy(variance: float) -> float:
        return _free_energy(values**2 / 30 / variance, 20 / 30, _least_signal(20 / 30))

    assert all(energy(best) <= energy(best * factor) + 1e-9 for factor in np.geomspace(0.2, 5, 50))


@pytest.mark.parametrize("alpha", [1.0, 0.5, 0.1])
def test_the_threshold_is_near_the_paper_s_approximation(alpha: float) -> None:
    tau = 2.5129 * math.sqrt(alpha)
    assert _least_signal(alpha) == pytest.approx((1 + tau) * (1 + alpha / tau), rel=0.02)
