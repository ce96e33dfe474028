"""Codebooks: what has few values is found and given back bit by bit, what has many is left alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from compressctl.numerics.codebook import restore, same_bits, shared
from compressctl.numerics.scaled_codebook import scaled

seeds = st.integers(0, 2**32 - 1)
strange = st.sampled_from([0.0, -0.0, np.nan, -np.nan, np.inf, 1e-45, -1.5, 2.0])


def _few(seed: int, shape: tuple[int, ...], entries: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.choice(rng.normal(size=entries).astype(np.float32), shape)


@given(arrays.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 8)), elements=strange), st.booleans())
def test_any_bits_come_back(values: np.ndarray, per_row: bool) -> None:
    coded = shared(values, len(values) if per_row else 1)
    assert coded is not None
    assert same_bits(restore(coded), values)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "uint8", "int32", "bool"])
def test_any_type_comes_back(dtype: str) -> None:
    values = (np.random.default_rng(0).integers(-3, 3, (4, 7)) * 5).astype(dtype)
    coded = shared(values)
    assert coded is not None
    assert same_bits(restore(coded), values)


def test_entries_are_those_that_the_values_have() -> None:
    values = _few(0, (8, 50), 16)
    coded = shared(values)
    assert coded is not None
    assert np.array_equal(coded.codebook[0], np.unique(values))
    assert coded.bits == 4


def test_rows_with_values_of_their_own_need_codebooks_of_their_own() -> None:
    values = np.stack([_few(row, (100,), 4) for row in range(90)])
    coded = shared(values, books=90)
    assert shared(values) is None
    assert coded is not None
    assert coded.codebook.shape == (90, 4)
    assert coded.bits == 2


def test_groups_within_rows() -> None:
    values = np.concatenate([_few(group, (1, 32), 2) for group in range(12)], axis=1).reshape(3, 128)
    coded = shared(values, books=12)
    assert coded is not None
    assert coded.codebook.shape == (12, 2)
    assert same_bits(restore(coded), values)


def test_too_many_values_are_no_codebook() -> None:
    dense = np.random.default_rng(0).normal(size=(16, 400)).astype(np.float32)
    assert shared(dense) is None
    assert shared(dense, books=16) is None
    assert shared(_few(0, (8, 50), 5), most=4) is None


def test_runs_that_do_not_divide_the_values_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be divided"):
        shared(np.zeros((3, 5), np.float32), books=4)


@given(seeds, st.integers(2, 12), st.integers(1, 16), st.booleans(), st.booleans())
def test_a_codebook_times_scales_comes_back(seed: int, rows: int, entries: int, zero: bool, wide: bool) -> None:
    rng = np.random.default_rng(seed)
    codebook = rng.normal(size=entries).astype(np.float32)
    if zero:
        codebook[0] = 0
    scale = rng.normal(size=rows) * np.exp(rng.normal(size=rows))
    # As BatchNorm is folded in float64 and rounded once, and as a product of float32 numbers.
    scale = scale if wide else scale.astype(np.float32)
    weight = codebook[rng.integers(0, entries, (rows, 9, 3))]
    values = (weight.astype(np.float64) * scale[:, None, None]).astype(np.float32)
    coded = scaled(values)
    assert coded is not None
    assert same_bits(restore(coded), values)
    assert coded.codebook.shape[1] <= entries + 1


def test_many_rows_share_sixteen_entries() -> None:
    rng = np.random.default_rng(3)
    weight = _few(3, (256, 144), 16)
    values = weight * np.exp(rng.normal(size=(256, 1))).astype(np.float32)
    coded = scaled(values)
    assert coded is not None
    assert coded.codebook.shape == (1, 16)
    assert same_bits(restore(coded), values)


@given(seeds, st.integers(2, 40), st.booleans())
def test_short_scales_are_found_again(seed: int, rows: int, zero: bool) -> None:
    """8 significant bits times 16: exact products, for which float32 is enough."""
    rng = np.random.default_rng(seed)
    codebook = np.rint(rng.normal(size=16) * 2**14).astype(np.float32) / np.float32(2**17)
    if zero:
        codebook[0] = 0
    scale = rng.integers(128, 256, rows).astype(np.float32) * np.exp2(rng.integers(-12, 3, rows)).astype(np.float32)
    values = codebook[rng.integers(0, 16, (rows, 300))] * scale[:, None]
    values[rng.random(rows) < 0.1] = 0
    coded = scaled(values)
    assert coded is not None
    assert coded.scale is not None
    assert coded.scale.dtype == coded.codebook.dtype == np.float32
    assert same_bits(restore(coded), values)


@pytest.mark.parametrize("spoilt", [np.nan, np.inf])
def test_scales_of_what_is_not_finite_are_refused(spoilt: float) -> None:
    values = np.ones((4, 4), np.float32)
    values[1, 2] = spoilt
    assert scaled(values) is None


def test_one_value_that_is_off_by_a_bit_costs_entries_or_is_refused() -> None:
    values = _few(5, (64, 100), 16) * np.exp(np.random.default_rng(5).normal(size=(64, 1))).astype(np.float32)
    values[7, 7] = np.nextafter(np.nextafter(values[7, 7], np.float32(9)), np.float32(9))
    coded = scaled(values)
    assert coded is None or same_bits(restore(coded), values)
