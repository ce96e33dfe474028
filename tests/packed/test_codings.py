"""What is coded comes back to the last bit, in about the bits that it is worth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from compressctl.packed import logistic
from compressctl.packed.cursor import Cursor, varint
from compressctl.packed.decode import Coding, decode
from compressctl.packed.encode import encode
from compressctl.packed.errors import PackedError
from compressctl.packed.frequencies import TOTAL, frequencies, levels_of
from compressctl.packed.mask import decode_mask, encode_mask
from compressctl.packed.symbols import decode_symbols, encode_symbols

UNSIGNED = st.sampled_from([np.uint8, np.uint16, np.uint32, np.uint64])
SHAPES = npst.array_shapes(min_dims=2, max_dims=2, max_side=20)
FEW_OR_MANY = st.sampled_from([1, 2, 3, 15, 255]) | st.integers(0, 255)


def entropy_bytes(counts: np.ndarray) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum() * counts.sum() / 8)


@settings(max_examples=40)
@given(UNSIGNED.flatmap(lambda kind: npst.arrays(kind, SHAPES, elements=FEW_OR_MANY)), st.booleans(), st.booleans())
def test_every_array_comes_back(values: np.ndarray, is_float: bool, is_packed: bool) -> None:
    source = Cursor(encode(values, is_float, is_packed and values.dtype.itemsize == 1), "test")
    found = decode(source, values.shape, values.dtype.itemsize)
    source.end()
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values)


@settings(max_examples=20)
@given(npst.arrays(np.float32, SHAPES))
def test_every_float_comes_back_with_its_bits_nan_and_negative_zero_included(values: np.ndarray) -> None:
    bits = values.view(np.uint32)
    np.testing.assert_array_equal(decode(Cursor(encode(bits, True), "test"), bits.shape, 4), bits)


def drawn(name: str) -> tuple[np.ndarray, float]:
    """An array, and the bytes that its information is worth, computed from how it was made."""
    rng = np.random.default_rng(3)
    size = 64 * 512
    if name == "codebook":
        indices = rng.choice(16, size, p=(shares := rng.dirichlet(np.ones(16))))
        worth = -(shares * np.log2(shares)).sum() * size / 8 + 16 * 4
        return rng.normal(size=16).astype(np.float32)[indices], worth
    if name == "integers":
        values = np.clip(np.round(rng.normal(0, 20, size)), -127, 127).astype(np.int8)
        return values, entropy_bytes(np.bincount(values.astype(int) + 128))
    if name == "scaled rows":
        codes = rng.integers(-7, 8, (64, 512))
        scales = rng.random((64, 1)).astype(np.float32) + 0.5
        return (scales * codes.astype(np.float32)).ravel(), np.log2(15) * size / 8 + 64 * 15 * 4
    if name == "four-bit pairs":
        low, high = rng.binomial(15, 0.5, (2, size)).astype(np.uint8)
        return low | high << 4, 2 * entropy_bytes(np.bincount(low))
    raise AssertionError(name)


@pytest.mark.parametrize("name", ["codebook", "integers", "scaled rows", "four-bit pairs"])
def test_what_is_simple_takes_what_it_is_worth(name: str) -> None:
    values, worth = drawn(name)
    bits = values.reshape(64, 512).view(f"<u{values.itemsize}")
    assert len(encode(bits, values.dtype == np.float32, values.itemsize == 1)) < 1.02 * worth + 100


def folded(rows: int, columns: int, zeros: float, seed: int = 0) -> np.ndarray:
    """Pruned weights that share 15 values, after a BatchNorm was folded into them in float32."""
    rng = np.random.default_rng(seed)
    shared = rng.choice(rng.normal(size=15).astype(np.float32), (rows, columns))
    shared[rng.random((rows, columns)) < zeros] = 0
    return shared * (rng.normal(size=(rows, 1)) * 0.3 + 1).astype(np.float32)


@pytest.mark.parametrize("zeros", [0.0, 0.5, 0.85, 1.0])
def test_few_values_times_scales_take_their_indices_and_the_scales(zeros: float) -> None:
    values = folded(64, 288, zeros)
    packed = encode(values.view(np.uint32), True)
    np.testing.assert_array_equal(decode(Cursor(packed, "test"), values.shape, 4), values.view(np.uint32))
    share = np.array([zeros, *[(1 - zeros) / 15] * 15])
    indices = -(share[share > 0] * np.log2(share[share > 0])).sum() * values.size / 8
    assert len(packed) < 1.03 * indices + (64 + 15) * 6 + 120


def test_where_one_codebook_is_enough_no_scales_are_stored() -> None:
    """Rows with a single value different from zero could have any scale."""
    values = np.zeros((200, 300), np.float32)
    values[np.arange(200), np.arange(200)] = np.random.default_rng(0).choice(np.float32([0.1, 0.2, 0.3, -0.4]), 200)
    assert encode(values.view(np.uint32), True)[0] == Coding.SPARSE


def test_a_scaled_codebook_of_other_numbers_is_refused() -> None:
    packed = encode(folded(64, 288, 0.5).view(np.uint32), True)
    assert packed[0] == Coding.SCALED_CODEBOOK
    for size in (1, 2, 8):
        with pytest.raises(PackedError, match="float32"):
            decode(Cursor(packed, "test"), (64, 288), size)
    with pytest.raises(PackedError):
        decode(Cursor(packed, "test"), (32, 288), 4)


@pytest.mark.parametrize("count", [1, 7, 2049, 100_000])
def test_symbols_take_their_entropy(count: int) -> None:
    symbols = np.random.default_rng(count).binomial(40, 0.3, count).astype(np.uint8)
    packed = encode_symbols(symbols)
    np.testing.assert_array_equal(decode_symbols(Cursor(packed, "test"), count), symbols)
    assert len(packed) < 1.005 * entropy_bytes(np.bincount(symbols)) + 80 + count / 512


@given(npst.arrays(np.int64, st.integers(1, 256), elements=st.integers(0, 10**6)).filter(lambda counts: counts.any()))
def test_frequencies_add_up_and_none_that_occurs_is_lost(counts: np.ndarray) -> None:
    table = frequencies(levels_of(counts))
    assert table.sum() == TOTAL
    np.testing.assert_array_equal(table > 0, counts > 0)


def uneven(rows: int, columns: int, density: float, seed: int = 0) -> tuple[np.ndarray, float]:
    """A mask whose rows and columns differ in density, as pruned weights do; and its worth in bytes were these known."""
    rng = np.random.default_rng(seed)
    share = np.exp(rng.normal(0, 1, (rows, 1)) + rng.normal(0, 1.5, (1, columns)))
    share = np.clip(density * share / share.mean(), 1e-6, 0.9)
    worth = -(share * np.log2(share) + (1 - share) * np.log2(1 - share)).sum() / 8
    return rng.random((rows, columns)) < share, worth


@pytest.mark.parametrize("shape", [(100, 300), (300, 100), (1, 5000), (5000, 2), (9, 8000)])
def test_masks_come_back(shape: tuple[int, int]) -> None:
    mask, _ = uneven(*shape, density=0.05)
    np.testing.assert_array_equal(decode_mask(Cursor(encode_mask(mask), "test"), shape), mask)


@settings(max_examples=40)
@given(npst.arrays(np.bool_, npst.array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_any_mask_comes_back(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(decode_mask(Cursor(encode_mask(mask), "test"), mask.shape), mask)


def test_a_mask_that_many_states_share_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compressctl.packed.mask._ONE_LANE", 1)
    monkeypatch.setattr("compressctl.packed.mask._DECISIONS_PER_LANE", 1 << 10)
    mask, _ = uneven(60, 200, density=0.1)
    np.testing.assert_array_equal(decode_mask(Cursor(encode_mask(mask), "test"), mask.shape), mask)


def test_a_mask_takes_less_than_its_places_would_if_they_were_even() -> None:
    mask, worth = uneven(300, 400, density=0.03)
    even = entropy_bytes(np.array([mask.sum(), (~mask).sum()]))
    taken = len(encode_mask(mask))
    assert worth < 0.75 * even
    assert taken < 0.85 * even


@pytest.mark.parametrize("exact", [logistic.exact_logarithms, logistic.exact_probabilities])
def test_no_table_depends_on_the_last_bits_of_a_logarithm(exact: object) -> None:
    values = exact()  # type: ignore[operator]
    assert np.abs(values - np.floor(values) - 0.5).min() > 1e-6


@given(st.integers(0, 2**63 - 1))
def test_numbers_come_back(value: int) -> None:
    assert Cursor(varint(value), "test").varint() == value
