"""ONNX's element types by their number in TensorProto.data_type: a name, the bits of one, and numpy's type where it has one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Element:
    """numpy: None where numpy has no such type; then arrays hold the bits, as unsigned numbers (4-bit and 2-bit types as
    ONNX packs them into bytes). is_float: has an exponent that is worth coding by itself."""

    name: str
    bits: int
    numpy: str | None = None
    is_float: bool = False

    @property
    def size(self) -> int:
        """Bytes of the unsigned numbers that its bits are handled as."""
        return max(1, self.bits // 8) if self.bits <= 64 else 8

    @property
    def stored_as(self) -> np.dtype:
        return np.dtype(self.numpy or f"<u{self.size}")

    def bytes_of(self, count: int) -> int:
        return -(-count * self.bits // 8)


ELEMENTS = {
    1: Element("float32", 32, "<f4", is_float=True),
    2: Element("uint8", 8, "u1"),
    3: Element("int8", 8, "i1"),
    4: Element("uint16", 16, "<u2"),
    5: Element("int16", 16, "<i2"),
    6: Element("int32", 32, "<i4"),
    7: Element("int64", 64, "<i8"),
    9: Element("bool", 8, "?"),
    10: Element("float16", 16, "<f2", is_float=True),
    11: Element("float64", 64, "<f8", is_float=True),
    12: Element("uint32", 32, "<u4"),
    13: Element("uint64", 64, "<u8"),
    14: Element("complex64", 64, "<c8"),
    15: Element("complex128", 128, "<c16"),
    16: Element("bfloat16", 16, is_float=True),
    17: Element("float8e4m3fn", 8),
    18: Element("float8e4m3fnuz", 8),
    19: Element("float8e5m2", 8),
    20: Element("float8e5m2fnuz", 8),
    21: Element("uint4", 4),
    22: Element("int4", 4),
    23: Element("float4e2m1", 4),
    24: Element("float8e8m0", 8),
    25: Element("uint2", 2),
    26: Element("int2", 2),
}
