"""Grids, GPTQ, AWQ and half-quadratic fitting against independent computations, in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressctl.numerics.awq import awq_scale
from compressctl.numerics.gptq import gptq, output_error
from compressctl.numerics.grid import Grid, fit_grid, levels, one_grid
from compressctl.numerics.half_quadratic import half_quadratic

RNG = np.random.default_rng(0)
WEIGHT = (RNG.standard_t(4, (24, 64)) * 0.05).astype(np.float32)
INPUTS = RNG.normal(0, 1, (500, 64)) @ (np.eye(64) + RNG.normal(0, 0.15, (64, 64))) * np.exp(RNG.normal(0, 1, 64))
HESSIAN = INPUTS.T @ INPUTS / len(INPUTS)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_without_a_search_the_whole_range_is_covered(bits: int, symmetric: bool) -> None:
    grid = fit_grid(WEIGHT, bits, 16, symmetric=symmetric, search=False)
    assert (grid.low, grid.high) == levels(bits, symmetric=symmetric)
    step = np.repeat(grid.scale, 16, axis=1)
    # A rounded zero point moves the grid by up to half a step more.
    assert np.all(np.abs(grid.values(WEIGHT) - WEIGHT) <= (0.5 if symmetric else 1.0) * step * 1.0001)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_search_comes_near_the_best_of_a_fine_search_by_hand(bits: int, symmetric: bool) -> None:
    row = WEIGHT[:1, :16].astype(np.float64)
    grid = fit_grid(row, bits, 16, symmetric=symmetric)
    low, high = levels(bits, symmetric=symmetric)
    best = np.inf
    for share in np.linspace(0.2, 1, 400):
        bottom, top = share * min(row.min(), 0), share * max(row.max(), 0)
        scale = max(-bottom, top) / high if symmetric else (top - bottom) / (high - low)
        point = 0 if symmetric else np.clip(np.rint(low - bottom / scale), low, high)
        codes = np.clip(np.rint(row / scale) + point, low, high)
        best = min(best, float(np.sum(((codes - point) * scale - row) ** 2)))
    assert np.sum((grid.values(row) - row) ** 2) < 1.15 * best + 1e-12


def test_columns_that_matter_are_rounded_better() -> None:
    importance = np.ones(64)
    importance[:8] = 1000
    plain, weighted = (fit_grid(WEIGHT, 3, 32, symmetric=False, importance=h) for h in (None, importance))
    errors = [np.sum((grid.values(WEIGHT) - WEIGHT)[:, :8] ** 2) for grid in (plain, weighted)]
    assert errors[1] < 0.8 * errors[0]


@settings(max_examples=60)
@given(st.integers(1, 5), st.integers(1, 40), st.sampled_from([2, 3, 4, 8]), st.booleans(), st.integers(0, 2**31))
def test_values_are_on_the_grid_and_stay_there(rows: int, columns: int, bits: int, symmetric: bool, seed: int) -> None:
    weight = np.random.default_rng(seed).normal(0, 1, (rows, columns)).astype(np.float32)
    weight[0] = 0
    grid = fit_grid(weight, bits, 16, symmetric=symmetric)
    codes = grid.codes(weight)
    assert codes.min() >= grid.low
    assert codes.max() <= grid.high
    values = grid.values(weight)
    assert np.array_equal(grid.codes(values), codes)
    assert np.array_equal(values[0], np.zeros(columns))


def test_one_grid_is_one_group_of_everything() -> None:
    grid = one_grid(WEIGHT, 4, symmetric=True)
    assert len(np.unique(grid.scale)) == 1
    assert np.sum((grid.values(WEIGHT) - WEIGHT) ** 2) <= np.sum(
        (one_grid(WEIGHT, 4, symmetric=True, search=False).values(WEIGHT) - WEIGHT) ** 2
    )


def _by_solving_again(weight: np.ndarray, hessian: np.ndarray, grid: Grid, order: np.ndarray) -> np.ndarray:
    """After each rounded column, all columns that are left at the optimum that the rounded ones leave them."""
    scale, point = grid.spread(weight.shape[1])
    current, done = weight.astype(np.float64).copy(), []
    for j in order:
        codes = np.clip(np.rint(current[:, j] / scale[:, j]) + point[:, j], grid.low, grid.high)
        current[:, j] = (codes - point[:, j]) * scale[:, j]
        done.append(j)
        left = [k for k in order if k not in done]
        if left:
            error = current[:, done] - weight[:, done]
            solved = np.linalg.solve(hessian[np.ix_(left, left)], hessian[np.ix_(left, done)] @ error.T)
            current[:, left] = weight[:, left] - solved.T
    return current


@pytest.mark.parametrize("act_order", [True, False])
@pytest.mark.parametrize("symmetric", [True, False])
def test_gptq_is_rounding_and_solving_again_column_by_column(act_order: bool, symmetric: bool) -> None:
    grid = fit_grid(WEIGHT, 3, 16, symmetric=symmetric)
    damped = HESSIAN + 0.01 * np.mean(np.diag(HESSIAN)) * np.eye(64)
    order = np.argsort(-np.diag(HESSIAN), kind="stable") if act_order else np.arange(64)
    wanted = _by_solving_again(WEIGHT, damped, grid, order)
    found = gptq(WEIGHT, HESSIAN, grid, act_order=act_order)
    # A value at the middle between two codes may fall to either side.
    assert np.mean(np.abs(found - wanted) > 1e-5) < 0.01


def test_gptq_loses_less_output_than_rounding_and_works_in_blocks() -> None:
    wide = (RNG.standard_t(4, (16, 300)) * 0.05).astype(np.float32)
    inputs = RNG.normal(0, 1, (900, 300)) @ (np.eye(300) + RNG.normal(0, 0.06, (300, 300)))
    hessian = inputs.T @ inputs / 900
    grid = fit_grid(wide, 4, 32, symmetric=False)
    plain, better = grid.values(wide), gptq(wide, hessian, grid)
    assert output_error(wide, better, hessian) < 0.7 * output_error(wide, plain, hessian)
    assert np.allclose(grid.values(better), better, atol=1e-6)
    by_hand = np.sum((inputs @ (better - wide).T.astype(np.float64)) ** 2) / 900
    assert output_error(wide, better, hessian) == pytest.approx(by_hand, rel=1e-9)


def test_gptq_with_inputs_that_are_always_zero_rounds_those_columns_to_nearest() -> None:
    hessian = HESSIAN.copy()
    hessian[5], hessian[:, 5] = 0, 0
    grid = fit_grid(WEIGHT, 4, 16, symmetric=True)
    assert np.allclose(gptq(WEIGHT, hessian, grid)[:, 5], grid.values(WEIGHT)[:, 5])


def test_gptq_with_fewer_samples_than_columns_still_has_an_answer() -> None:
    few = INPUTS[:10]
    grid = fit_grid(WEIGHT, 4, 16, symmetric=True)
    found = gptq(WEIGHT, few.T @ few, grid)
    assert output_error(WEIGHT, found, few.T @ few) < output_error(WEIGHT, grid.values(WEIGHT), few.T @ few)


def test_gptq_refuses_what_is_not_finite() -> None:
    with pytest.raises(ValueError, match="NaN"):
        gptq(WEIGHT, np.full((64, 64), np.nan), fit_grid(WEIGHT, 4, 16, symmetric=True))


def test_awq_tries_no_scale_that_makes_a_weight_infinite() -> None:
    def place(matrix: np.ndarray, power: np.ndarray) -> np.ndarray:
        assert np.isfinite(matrix).all()
        return np.rint(matrix)

    magnitude = np.abs(INPUTS).mean(axis=0)
    weight = WEIGHT.copy()
    weight[0, magnitude.argmax()] = 3e38
    with np.errstate(over="ignore"):
        awq_scale([weight], magnitude, HESSIAN, [place])


def test_awq_scales_lower_the_output_error_by_what_they_say() -> None:
    def place(matrix: np.ndarray, power: np.ndarray) -> np.ndarray:
        return fit_grid(matrix, 3, 32, symmetric=True, search=False).values(matrix)

    scale, share = awq_scale([WEIGHT], np.abs(INPUTS).mean(axis=0), HESSIAN, [place])
    assert scale is not None
    assert scale.min() * scale.max() == pytest.approx(1, rel=1e-3)
    by_hand = [
        np.sum((INPUTS / s @ place(WEIGHT * s, s).T.astype(np.float64) - INPUTS @ WEIGHT.T.astype(np.float64)) ** 2)
        for s in (np.ones(64), scale.astype(np.float64))
    ]
    assert by_hand[1] / by_hand[0] == pytest.approx(share, rel=1e-3)
    assert share < 0.95


def test_awq_leaves_alone_what_it_cannot_improve() -> None:
    scale, share = awq_scale([WEIGHT], np.ones(64), np.eye(64), [lambda matrix, power: matrix])
    assert (scale, share) == (None, 1.0)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_half_quadratic_lowers_the_norm_that_it_is_for(bits: int, symmetric: bool) -> None:
    start = fit_grid(WEIGHT, bits, 32, symmetric=symmetric, search=False)
    found = half_quadratic(WEIGHT, start)
    norms = [np.sum(np.abs(grid.values(WEIGHT) - WEIGHT.astype(np.float64)) ** 0.7) for grid in (start, found)]
    assert norms[1] < 0.98 * norms[0]
    assert found.zero_point.min() >= found.low
    assert found.zero_point.max() <= found.high


def _weighted_error(weight: np.ndarray, grid: Grid, importance: np.ndarray) -> np.ndarray:
    """(rows, groups), float64."""
    error = (grid.values(weight).astype(np.float64) - weight) ** 2 * importance
    missing = grid.scale.shape[1] * grid.group - weight.shape[1]
    return np.asarray(np.pad(error, ((0, 0), (0, missing))).reshape(*grid.scale.shape, -1).sum(axis=2))


def _adversarial(rng: np.random.Generator) -> np.ndarray:
    """(10, 40): rows on which one of the two grids is at its worst."""
    row = rng.normal(0, 1, 40)
    rows = [row, -np.abs(row), np.abs(row), np.zeros(40), np.full(40, 3.0), np.where(row > 0, 1.0, -1.0)]
    rows += [np.linspace(-1, 1, 40), np.where(np.arange(40) % 16 == 3, -100.0, row), row * 1e-12, row * 1e12]
    return np.array(rows, np.float32)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([2, 3, 4]), st.booleans(), st.booleans(), st.integers(0, 2**31))
def test_signed_scales_never_cost_more_than_positive_ones(bits: int, search: bool, weighs: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = np.concatenate([_adversarial(rng), rng.standard_t(3, (6, 40)).astype(np.float32)])
    importance = rng.exponential(1, 40).astype(np.float32) if weighs else np.ones(40, np.float32)
    positive, signed = (
        fit_grid(weight, bits, 16, symmetric=True, signed=signed, search=search, importance=importance)
        for signed in (False, True)
    )
    before, after = (_weighted_error(weight, grid, importance) for grid in (positive, signed))
    assert np.all(after <= before * (1 + 1e-5) + 1e-30)
    assert np.all(positive.scale > 0)
    assert not np.any(signed.zero_point)


def test_signed_scales_lose_a_tenth_less_of_normal_weights() -> None:
    weight = np.random.default_rng(1).normal(0, 1, (200, 128)).astype(np.float32)
    errors = [
        np.sum((fit_grid(weight, 4, 32, symmetric=True, signed=signed).values(weight) - weight) ** 2)
        for signed in (False, True)
    ]
    assert errors[1] < 0.9 * errors[0]


@pytest.mark.parametrize("search", [True, False])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_what_a_signed_grid_holds_comes_back_as_it_was(bits: int, sign: int, search: bool) -> None:
    low, high = levels(bits, symmetric=True)
    codes = np.resize(np.arange(low, high + 1), 32)[None]
    weight = (codes * np.float32(sign * 0.375)).astype(np.float32)
    grid = fit_grid(weight, bits, 32, symmetric=True, signed=True, search=search)
    assert np.array_equal(grid.values(weight), weight)
    assert np.sign(grid.scale[0, 0]) == sign
    assert np.array_equal(grid.codes(weight), codes)


@pytest.mark.parametrize("extreme", [1.0, -1.0])
def test_a_value_too_small_for_its_scale_becomes_zero(extreme: float) -> None:
    weight = np.full((1, 32), 1e-30 * extreme, np.float32)
    grid = fit_grid(weight, 4, 32, symmetric=True, signed=True)
    assert abs(grid.scale[0, 0]) >= np.float32(1e-8)
    assert not np.any(grid.values(weight))


def test_half_quadratic_keeps_the_sign_of_a_scale() -> None:
    start = fit_grid(WEIGHT, 4, 32, symmetric=True, signed=True, search=False)
    fitted = half_quadratic(WEIGHT, start)
    assert np.any(start.scale < 0)
    assert np.array_equal(np.sign(fitted.scale), np.sign(start.scale))
    losses = [np.sum(np.abs(grid.values(WEIGHT) - WEIGHT) ** 0.7) for grid in (start, fitted)]
    assert losses[1] < 0.98 * losses[0]
