"""k-means on a line, against all ways to cut the line and against scikit-learn."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from compressctl.numerics.entropy_kmeans import entropy_bits, entropy_codes
from compressctl.numerics.kmeans import Line, kmeans, lloyd, nearest
from compressctl.numerics.kmeans_exact import exact_codebook
from compressctl.numerics.kmeans_rows import kmeans_rows, nearest_in_rows
from compressctl.numerics.levels import powers_of_two, rounded, squared_error, uniform

seeds = st.integers(0, 2**32 - 1)


def _least_error(values: np.ndarray, weight: np.ndarray, clusters: int) -> float:
    """Over every way to cut the ordered values into so many runs."""
    order = np.argsort(values)
    x, w = values[order], weight[order]

    def cost(first: int, last: int) -> float:
        mean = np.average(x[first:last], weights=w[first:last])
        return float((w[first:last] * (x[first:last] - mean) ** 2).sum())

    cuts = combinations(range(1, len(x)), clusters - 1)
    return min(sum(cost(a, b) for a, b in zip((0, *cut), (*cut, len(x)), strict=True)) for cut in cuts)


@given(seeds, st.integers(4, 9), st.integers(1, 4))
def test_the_exact_codebook_is_the_best_of_all(seed: int, count: int, clusters: int) -> None:
    rng = np.random.default_rng(seed)
    values, weight = np.sort(rng.normal(3, 1, count)), rng.random(count) + 0.1
    found = exact_codebook(values, weight, clusters)
    error = float((weight * (values - found[nearest(values, found)]) ** 2).sum())
    assert error == pytest.approx(_least_error(values, weight, clusters), abs=1e-9)


@pytest.mark.parametrize("count", [3000, 100_000])
@pytest.mark.parametrize("init", ["optimal", "linear", "density", "k-means++"])
def test_no_start_is_far_from_what_scikit_learn_finds(init: str, count: int) -> None:
    values = np.random.default_rng(0).laplace(0, 0.05, count).astype(np.float32)
    theirs = KMeans(8, n_init=1, random_state=0, tol=0).fit(values[:, None]).inertia_
    ours = squared_error(values, kmeans(values, 8, init=init, rng=np.random.default_rng(0)))  # type: ignore[arg-type]
    assert ours <= theirs * (1.001 if init == "optimal" else 1.15)


@given(seeds, st.integers(1, 20))
def test_lloyd_never_gets_worse(seed: int, clusters: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=200).astype(np.float32)
    start = np.sort(rng.normal(size=clusters))
    found = lloyd(Line.of(values), start)
    assert squared_error(values, found) <= squared_error(values, start) + 1e-9


def test_important_values_pull_entries() -> None:
    values = np.array([0.0, 1.0, 10.0, 11.0], np.float32)
    weight = np.array([1.0, 3.0, 1.0, 1.0], np.float32)
    assert kmeans(values, 2, importance=weight) == pytest.approx([0.75, 10.5])


def test_few_values_are_their_own_codebook() -> None:
    values = np.array([2.0, -1.0, 2.0, 0.5, -1.0], np.float32)
    assert kmeans(values, 16).tolist() == [-1.0, 0.5, 2.0]
    assert kmeans(np.zeros(0, np.float32), 4).size == 0


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        kmeans(np.array([1.0, np.nan], np.float32), 2)


@given(seeds, st.integers(1, 100))
def test_nearest_is_nearest(seed: int, entries: int) -> None:
    rng = np.random.default_rng(seed)
    values, codebook = rng.normal(size=50).astype(np.float32), np.sort(rng.normal(size=entries))
    distance = np.abs(values[:, None].astype(np.float64) - codebook)
    chosen = np.take_along_axis(distance, nearest(values, codebook)[:, None].astype(np.intp), axis=1)[:, 0]
    assert np.array_equal(chosen, distance.min(axis=1))


def _errors(rows: np.ndarray, codebooks: np.ndarray) -> np.ndarray:
    """(rows,): the sum of squared distances to the nearest entry."""
    return (np.abs(rows[:, :, None] - codebooks[:, None, :]).min(axis=2) ** 2).sum(axis=1)


@given(seeds, st.integers(1, 6), st.integers(1, 40), st.integers(1, 16))
def test_rows_are_clustered_each_by_itself(seed: int, rows: int, columns: int, clusters: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows, columns)).astype(np.float32) * rng.random((rows, 1)).astype(np.float32)
    together = kmeans_rows(values, clusters)
    alone = np.concatenate([kmeans_rows(row[None], clusters) for row in values])
    assert np.allclose(together, alone)
    assert np.all(np.diff(together, axis=1) >= 0)
    even = np.stack([np.linspace(row.min(), row.max(), clusters) for row in values])
    assert np.all(_errors(values, together) <= _errors(values, even) + 1e-12)
    assert nearest_in_rows(values, together).max() < clusters


def test_rows_come_near_the_best_codebooks() -> None:
    values = np.random.default_rng(0).laplace(size=(40, 200)).astype(np.float32)
    found = _errors(values, kmeans_rows(values, 8)).sum()
    best = sum(squared_error(row, exact_codebook(np.sort(row), np.ones(200), 8)) for row in values)
    assert best <= found <= 1.1 * best


def test_bits_that_cost_are_saved_and_error_is_paid() -> None:
    values = np.random.default_rng(0).laplace(0, 1, 20_000)
    start = kmeans(values, 16)
    found = [entropy_codes(values, start, price) for price in (0.0, 0.01, 0.1)]
    errors = [float(((values - entries[index]) ** 2).sum()) for index, entries in found]
    sizes = [entropy_bits(index) for index, _ in found]
    assert errors == sorted(errors)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[2] < 0.75 * sizes[0]
    # Nearest neighbours with fewer entries, at the error that the priced bits gave, take more bits.
    plain = {k: entropy_bits(nearest(values, c)) for k in range(3, 16) if squared_error(values, c := kmeans(values, k)) >= errors[2]}  # fmt: skip
    assert sizes[2] < min(plain.values(), default=np.inf) or errors[2] < squared_error(values, kmeans(values, 3))


def test_a_fixed_entry_stays() -> None:
    values = np.random.default_rng(1).normal(1, 1, 500)
    _, entries = entropy_codes(values, np.array([0.0, 1.0, 2.0]), 0.01, fixed=np.array([True, False, False]))
    assert 0.0 in entries


def test_uniform_entries_are_evenly_spaced() -> None:
    entries = uniform(np.random.default_rng(0).normal(size=2000).astype(np.float32), 8)
    assert np.allclose(np.diff(entries), np.diff(entries)[0])


@pytest.mark.parametrize("clusters", [8, 9])
def test_powers_of_two(clusters: int) -> None:
    entries = powers_of_two(np.random.default_rng(0).normal(size=2000).astype(np.float32), clusters)
    assert len(entries) == clusters
    assert (0 in entries) == (clusters == 9)
    exponents = np.log2(np.abs(entries[entries != 0]))
    assert np.array_equal(exponents, np.rint(exponents))


@pytest.mark.parametrize(("bits", "step"), [(8, 1 / 127), (16, 2**-10)])
def test_entries_are_rounded_to_their_bits(bits: int, step: float) -> None:
    codebook = np.sort(np.random.default_rng(0).normal(size=16))
    found = rounded(codebook, bits)
    largest = np.abs(codebook).max()
    assert np.abs(codebook - found[nearest(codebook, found)]).max() <= step * largest / 2 * 1.01
    assert rounded(np.array([0.0]), bits).tolist() == [0.0]
