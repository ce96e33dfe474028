"""Second moments of few samples: what is fitted to them has to hold for others."""

from __future__ import annotations

import numpy as np
import pytest

from compressctl.numerics.gptq import gptq
from compressctl.numerics.grid import fit_grid
from compressctl.numerics.low_rank import decompose, low_rank, whitening
from compressctl.numerics.second_moments import SecondMoments, samples_of

SIZE = 24


def _inputs(seed: int, samples: int, places: int = 1, size: int = SIZE, rank: int = 6) -> np.ndarray:
    """(samples * places, size): positive mean, a few common directions, columns of different sizes; places of a sample are alike."""
    rng = np.random.default_rng(seed)
    fixed = np.random.default_rng(0)
    directions, mean, sizes = fixed.normal(size=(rank, size)), fixed.uniform(0, 2, size), fixed.uniform(0.2, 3, size)
    common = np.repeat(rng.normal(size=(samples, rank)), places, axis=0) @ directions
    own = np.repeat(rng.normal(size=(samples, size)), places, axis=0) + 0.3 * rng.normal(size=(samples * places, size))
    return (mean + common + own) * sizes


def _moments(inputs: np.ndarray, places: int = 1, batch: int = 8) -> np.ndarray:
    found = SecondMoments(inputs.shape[1])
    for start in range(0, len(inputs), batch * places):
        part = inputs[start : start + batch * places]
        found.add(part, np.arange(len(part)) // places)
    return found.matrices()[0]


def _error(weight: np.ndarray, fitted: np.ndarray, inputs: np.ndarray) -> float:
    return float(np.square(inputs @ (weight - fitted).T).sum())


@pytest.mark.parametrize("places", [1, 9])
@pytest.mark.parametrize("samples", [4, 6, 10, 20])
def test_what_is_rounded_by_few_samples_loses_less_on_others_than_by_their_plain_moments(
    samples: int, places: int
) -> None:
    shares = []
    for seed in range(12):
        seen, others = _inputs(seed + 1, samples, places), _inputs(seed + 100, 1000)
        weight = np.random.default_rng(seed + 200).normal(size=(32, SIZE)).astype(np.float32)
        grid = fit_grid(weight, 3, SIZE, symmetric=True)
        plain, shrunk = (
            _error(weight, gptq(weight, moments, grid), others)
            for moments in (seen.T @ seen / len(seen), _moments(seen, places))
        )
        shares.append(shrunk / plain)
    assert np.mean(shares) < 0.96


def test_low_ranks_of_fewer_samples_than_columns_lose_less_on_others() -> None:
    """Plain moments of 12 samples say that rank 12 loses nothing."""
    lost = np.zeros(2)
    for seed in range(12):
        seen, others = _inputs(seed + 1, 12), _inputs(seed + 100, 1000)
        weight = np.random.default_rng(seed + 200).normal(size=(32, SIZE)).astype(np.float32)
        plain = seen.T @ seen / len(seen)
        factors = [whitening(moments) for moments in (plain, _moments(seen))]
        lost += [_error(weight, np.matmul(*low_rank(decompose(weight, factor), 12)), others) for factor in factors]
    assert lost[1] < 0.9 * lost[0]


def test_many_samples_keep_their_moments() -> None:
    seen = _inputs(1, 20_000)
    plain = seen.T @ seen / len(seen)
    np.testing.assert_allclose(_moments(seen, batch=500), plain, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_how_samples_come_in_batches_matters_little(batch: int) -> None:
    seen = _inputs(4, 64)
    whole, parted = _moments(seen, batch=64), _moments(seen, batch=batch)
    assert np.linalg.norm(whole - parted) < 0.05 * np.linalg.norm(whole)


def test_places_of_a_sample_are_no_samples_of_their_own() -> None:
    """Nine times the same place tells as little of other samples as one does."""
    seen = _inputs(5, 20)
    np.testing.assert_allclose(_moments(np.repeat(seen, 9, axis=0), places=9), _moments(seen), rtol=1e-6)


def test_one_sample_tells_no_correlation_but_how_large_each_column_is() -> None:
    seen = _inputs(6, 1, places=50)
    found = _moments(seen, places=50) - np.outer(seen.mean(axis=0), seen.mean(axis=0))
    np.testing.assert_allclose(found, np.diag(seen.var(axis=0)), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("samples", [2, 3, 7])
def test_few_samples_still_tell_which_column_is_huge(samples: int) -> None:
    """What is rounded as if all columns were alike loses most where the huge one is."""
    seen = _inputs(12, samples, places=36)
    seen[:, 0] *= 1e4
    spread = np.diagonal(_moments(seen, places=36)) - np.square(seen.mean(axis=0))
    assert spread[0] > 0.3 * seen[:, 0].var()


def test_a_column_of_another_size_hides_no_others() -> None:
    """As of a language model's few channels of a thousand times the usual size: the others' moments are what they are without it."""
    seen = _inputs(7, 40)
    large = np.concatenate([seen, 1e4 * _inputs(8, 40)[:, :1]], axis=1)
    alone, beside = _moments(seen), _moments(large)[:-1, :-1]
    assert np.linalg.norm(alone - beside) < 0.05 * np.linalg.norm(alone)


def test_groups_are_looked_at_apart() -> None:
    seen = np.stack([_inputs(9, 16), _inputs(10, 16)])
    found = SecondMoments(SIZE, groups=2)
    found.add(seen)
    both = found.matrices()
    np.testing.assert_allclose(both, np.stack([_moments(part, batch=16) for part in seen]), rtol=1e-9)


@pytest.mark.parametrize("dead", [0.0, 3.0])
def test_columns_that_never_change_are_no_reason_to_fail(dead: float) -> None:
    seen = _inputs(11, 10)
    seen[:, :20] = dead
    found = _moments(seen)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, found.T)
    whitening(found)


def test_nothing_seen_is_zeros_and_few_vectors_wait_for_the_end() -> None:
    assert not SecondMoments(3).matrices().any()
    found = SecondMoments(3)
    found.add(np.ones((1, 3)))
    np.testing.assert_allclose(found.matrices()[0], np.ones((3, 3)))


def test_vectors_are_told_apart_by_their_places_in_a_batch() -> None:
    assert samples_of(np.array([0, 3, 4, 11]), 12, 3).tolist() == [0, 0, 1, 2]
