"""Codes in bytes: what is packed comes back, in the bytes that were promised."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressctl.numerics.bitpack import (
    code_bits,
    join_bits,
    pack_planes,
    planes,
    split_bits,
)


@given(st.integers(1, 8), st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_codes_come_back(bits: int, count: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 1 << bits, count).astype(np.uint8)
    stored = pack_planes(codes, bits)
    assert sum(plane.nbytes for plane in stored) == sum(-(-count * width // 8) for width in planes(bits))
    parts = [split_bits(plane, width)[:count] for plane, width in zip(stored, planes(bits), strict=True)]
    firsts = np.cumsum([0, *planes(bits)])
    assert np.array_equal(sum(part.astype(int) << first for part, first in zip(parts, firsts, strict=False)), codes)


@pytest.mark.parametrize(("bits", "widths"), [(1, (1,)), (2, (2,)), (3, (2, 1)), (4, (4,)), (6, (4, 2)), (8, (8,))])
def test_planes_fill_bytes(bits: int, widths: tuple[int, ...]) -> None:
    assert planes(bits) == widths


def test_the_low_bits_come_first() -> None:
    assert join_bits(np.array([1, 2]), 4).tolist() == [0x21]
    assert join_bits(np.array([1, 0, 0, 1, 1]), 1).tolist() == [0b00011001]
    assert split_bits(np.array([0x21], np.uint8), 4).tolist() == [1, 2]


@given(st.integers(1, 256))
def test_no_fewer_bits_would_do(entries: int) -> None:
    bits = code_bits(entries)
    assert 1 << bits >= entries
    assert bits == 1 or 1 << (bits - 1) < entries


def test_codes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit into 2 bits"):
        pack_planes(np.array([1, 4]), 2)
    with pytest.raises(ValueError, match="257 entries"):
        code_bits(257)
