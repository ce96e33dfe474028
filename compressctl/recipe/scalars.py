"""Plain scalars as YAML 1.2 reads them (core schema, section 10.3.2), which is not how PyYAML does.

`2:4`, `no`, `on` and `1_000` are text, `1e-5` is a number, `0o17` is 15.
"""

from __future__ import annotations

import math
import re

from compressctl.recipe.nodes import Scalar

_NULL = {"", "~", "null", "Null", "NULL"}
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?(\.inf|\.Inf|\.INF)|\.nan|\.NaN|\.NAN")

MAX_DIGITS = 64


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
            return int(_exact(text), base)
    if _FLOAT.fullmatch(text):
        value = float(_exact(text))
        if math.isinf(value):
            raise ValueError("this number is too large")
        return value
    return text


def _exact(text: str) -> str:
    """int("0o17", 8) and int("0x1f", 16) take the prefix themselves. Source of the limit: no seed, size or rate is longer."""
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text)} characters; quote it if it is meant as text")
    return text
