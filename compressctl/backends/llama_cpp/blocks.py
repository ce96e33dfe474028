"""Quantized weights as the blocks of a GGUF file, with the codes that they have.

Source: ggml, ggml-common.h (block_q4_0, block_q4_1, block_q8_0): blocks of 32 numbers of a row, each with float16 scales.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

BLOCK = 32
Kind = Literal["F32", "Q4_0", "Q4_1", "Q8_0"]
_HALF = 2.0**-10
"""Relative error that float16 has where it is not subnormal, with room."""


@dataclass(frozen=True)
class Rows:
    """kind: as ggml names it. content: float32 (rows, columns), or the bytes of each row's blocks (rows, bytes)."""

    kind: Kind
    content: np.ndarray


def pack(codes: np.ndarray, scale: np.ndarray, point: np.ndarray, least: int) -> Rows:
    """codes, scale, point: (rows, columns), a number being scale * (code - point). least: the least code of their type.

    Raises ValueError, which says why, for what no such block holds: scales that change inside 32 numbers, codes of more than 8 bits, scales
    that float16 cannot hold.
    """
    rows, columns = codes.shape
    if columns % BLOCK:
        raise ValueError(f"its rows have {columns} numbers, which is no multiple of {BLOCK}")
    codes, scale, point = (part.reshape(rows, -1, BLOCK) for part in (codes, scale, point))
    if (scale != scale[..., :1]).any() or (point != point[..., :1]).any():
        raise ValueError(f"its scales or zero points change inside {BLOCK} numbers of a row")
    steps = codes.astype(np.int32) - point.astype(np.int32)
    if steps.min() >= -8 and steps.max() <= 7:
        return _joined("Q4_0", [_half(scale[..., :1])], _nibbles(steps + 8))
    from_least = codes.astype(np.int32) - least
    if from_least.max() <= 15:
        offset = (least - point[..., :1].astype(np.float32)) * scale[..., :1]
        return _joined("Q4_1", [_half(scale[..., :1]), _half(offset)], _nibbles(from_least))
    if steps.min() >= -128 and steps.max() <= 127:
        return _joined("Q8_0", [_half(scale[..., :1])], steps.astype(np.int8).view(np.uint8))
    raise ValueError("its codes lie more than 127 away from their zero point")


def _nibbles(values: np.ndarray) -> np.ndarray:
    """The first half of a block in the low bits, the second in the high ones."""
    low, high = values[..., : BLOCK // 2], values[..., BLOCK // 2 :]
    return np.asarray(low | (high << 4), np.uint8)


def _half(values: np.ndarray) -> np.ndarray:
    """(rows, blocks, 2) bytes."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if (np.abs(half.astype(np.float32) - values) > _HALF * np.abs(values)).any():
        raise ValueError("it has scales that float16 cannot hold")
    return half.view(np.uint8)


def _joined(kind: Kind, halves: list[np.ndarray], codes: np.ndarray) -> Rows:
    return Rows(kind, np.concatenate([*halves, codes], -1).reshape(len(codes), -1))
