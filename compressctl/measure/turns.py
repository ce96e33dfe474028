"""Calls that take turns on several inputs: what one costs where the input decides how much is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def typical(seconds: Sequence[float] | np.ndarray, inputs: int = 1) -> float:
    """Of runs that went round `inputs` inputs, whole rounds of them: the mean over inputs of each one's median; the median where there is one."""
    return float(np.median(np.reshape(np.asarray(seconds), (-1, inputs)), axis=0).mean())


def by_input(blocks: Sequence[Sequence[float]], inputs: int) -> np.ndarray:
    """(inputs,): the median of each one's runs in all blocks, each of which begins with the first."""
    return np.asarray(np.median(np.concatenate([np.reshape(block, (-1, inputs)) for block in blocks]), axis=0))


def packed(calls: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Several calls' arrays as those of one message."""
    return {f"{place}/{name}": array for place, call in enumerate(calls) for name, array in call.items()}


def unpacked(arrays: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The calls that were packed, in their order; one without arrays where there are none."""
    found: dict[int, dict[str, np.ndarray]] = {}
    for key, array in arrays.items():
        place, _, name = key.partition("/")
        found.setdefault(int(place), {})[name] = array
    return list(found.values()) or [{}]
