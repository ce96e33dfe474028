"""Logarithms and probabilities in whole numbers, from tables that are the same on every machine."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.int64]

PER_NAT = 256
"""Logarithms and logits are whole numbers of this part of 1."""
LARGEST = 11 * PER_NAT
"""Of a logit: beyond it a probability of 1 / 65536 changes no more."""
_COUNTS = 1 << 15
_OFFSET = 8
"""Added to a count, so that what was never seen is not impossible."""


def log_of(count: Array) -> Array:
    """count: 0 to 32767. Returns the logarithm of count + 8."""
    return _logarithms()[count]


def probability_of(logit: Array) -> Array:
    """logit: -LARGEST to LARGEST. Returns probabilities in 1 / 65536, from 1 to 65535."""
    return _probabilities()[logit + LARGEST]


@cache
def _logarithms() -> Array:
    return np.round(exact_logarithms()).astype(np.int64)


@cache
def _probabilities() -> Array:
    return np.clip(np.round(exact_probabilities()), 1, 65535).astype(np.int64)


def exact_logarithms() -> NDArray[np.float64]:
    """Before rounding: none is so near to a half that a last bit of the library's logarithm would decide (tested)."""
    return np.asarray(np.log(np.arange(_COUNTS) + float(_OFFSET)) * PER_NAT, np.float64)


def exact_probabilities() -> NDArray[np.float64]:
    logits = np.arange(-LARGEST, LARGEST + 1) / PER_NAT
    return np.asarray(65536.0 / (1.0 + np.exp(-logits)), np.float64)
