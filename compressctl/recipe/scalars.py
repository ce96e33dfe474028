"""Plain scalars as YAML 1.2 reads them (core schema, section 10.3.2), which is not how PyYAML does.

`2:4`, `no`, `on` and `1_000` are text, `1e-5` is a number, `0o17` is 15.
"""

from __future__ import annotations

import re
from typing import TypeVar

from compressctl.recipe.nodes import Scalar

_NULL = {"", "~", "null", "Null", "NULL"}
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?(\.inf|\.Inf|\.INF)|\.nan|\.NaN|\.NAN")

MAX_DIGITS = 64
MAX_INTEGER, MAX_FLOAT = (1 << 63) - 1, 1e30
"""What libraries take as an integer, and what can be squared and summed in float64; fields have bounds of their own."""

Number = TypeVar("Number", int, float)


def resolve(text: str) -> Scalar:
    """The value of an unquoted scalar. Raises ValueError, with a readable message, for numbers that cannot be kept."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _NOT_FINITE.fullmatch(text):
        raise ValueError("numbers must be finite")
    for pattern, base in ((_INT, 10), (_OCTAL, 8), (_HEX, 16)):
        if pattern.fullmatch(text):
            return _within(int(_exact(text), base), MAX_INTEGER)
    if _FLOAT.fullmatch(text):
        return _within(float(_exact(text)), MAX_FLOAT)
    return text


def _within(value: Number, most: Number) -> Number:
    if not -most <= value <= most:
        raise ValueError(f"this number is too large, the largest is {most:.3g}")
    return value


def _exact(text: str) -> str:
    """int("0o17", 8) and int("0x1f", 16) take the prefix themselves. Source of the limit: no seed, size or rate is longer."""
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text)} characters; quote it if it is meant as text")
    return text
