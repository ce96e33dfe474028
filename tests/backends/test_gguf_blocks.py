"""Blocks of GGUF files: what the gguf package reads out of them is what the codes stand for, or they are refused."""

import numpy as np
import pytest

from compressctl.backends.llama_cpp.blocks import pack

gguf = pytest.importorskip("gguf")

ROWS, COLUMNS = 6, 128


def _parts(low: int, high: int, *, zero: int | None, block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes of all values from low to high, scales of both signs that float16 holds exactly, and zero points."""
    random = np.random.default_rng(0)
    codes = random.integers(low, high + 1, (ROWS, COLUMNS))
    codes[0, : high - low + 1] = np.arange(low, high + 1)[:COLUMNS]
    scale = random.choice([0.25, -0.5, 0.125, 3.0], (ROWS, COLUMNS // block)).astype(np.float32)
    points = random.integers(low, high + 1, scale.shape) if zero is None else np.full(scale.shape, zero)
    return codes, np.repeat(scale, block, 1), np.repeat(points, block, 1)


@pytest.mark.parametrize(
    ("low", "high", "zero", "block", "kind"),
    [
        (-8, 7, 0, 32, "Q4_0"),
        (-2, 1, 0, 64, "Q4_0"),
        (0, 15, 8, 128, "Q4_0"),
        (0, 15, None, 32, "Q4_1"),
        (-8, 7, None, 64, "Q4_1"),
        (-128, 127, 0, 32, "Q8_0"),
        (1, 255, 128, 64, "Q8_0"),
    ],
)
def test_blocks_hold_the_numbers_exactly(low: int, high: int, zero: int | None, block: int, kind: str) -> None:
    codes, scale, point = _parts(low, high, zero=zero, block=block)
    made = pack(codes, scale, point, low if high < 16 else 0)
    assert made.kind == kind
    found = gguf.quants.dequantize(made.content, gguf.GGMLQuantizationType[kind])
    np.testing.assert_array_equal(found, scale * (codes - point))


@pytest.mark.parametrize(
    ("block", "columns", "factor", "said"),
    [
        (16, 128, 1.0, "change inside 32 numbers"),
        (32, 112, 1.0, "no multiple of 32"),
        (32, 128, 1e-9, "float16 cannot hold"),
        (32, 128, 1e9, "float16 cannot hold"),
    ],
)
def test_what_blocks_cannot_hold_is_refused(block: int, columns: int, factor: float, said: str) -> None:
    parts = _parts(-8, 7, zero=0, block=block)
    codes, scale, point = (part[:, :columns] for part in parts)
    with pytest.raises(ValueError, match=said):
        pack(codes, scale * np.float32(factor), point, -8)


def test_codes_of_eight_bits_far_from_their_zero_point_are_refused() -> None:
    codes, scale, point = _parts(0, 255, zero=10, block=32)
    with pytest.raises(ValueError, match="more than 127 away"):
        pack(codes, scale, point, 0)
