"""Which entry each weight takes when errors are made good by the weights of the same output that come later."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from compressctl.numerics.gptq import compensated
from compressctl.techniques.share._shared import Shared


def compensate(weight: np.ndarray, found: Shared, grams: np.ndarray) -> Shared:
    """The same codebooks and scales with other codes, for a smaller error of the layer's outputs.

    weight: (rows, columns). grams: (groups, columns, columns), means of x x^T over the inputs of each group of rows. Weights that
    are zero stay so.
    """
    rows_per_group = len(weight) // len(grams)
    codes = found.codes.copy()
    for group, gram in enumerate(grams):
        part = slice(group * rows_per_group, (group + 1) * rows_per_group)
        codes[part] = _codes(weight[part], _rows(found, part, weight.shape), gram)
    return replace(found, codes=codes)


def _rows(found: Shared, part: slice, shape: tuple[int, ...]) -> Shared:
    """Some rows alone, with a codebook for each run of a row."""
    books = len(found.codebook)
    by_row = found.codebook[None] if books == 1 else found.codebook.reshape(shape[0], -1, found.codebook.shape[1])
    table = by_row if books == 1 else by_row[part]
    return replace(
        found, codes=found.codes[part], codebook=table, scale=None if found.scale is None else found.scale[part]
    )


def _codes(weight: np.ndarray, found: Shared, gram: np.ndarray) -> np.ndarray:
    """found.codebook: (1 or rows, runs, entries)."""
    codes = found.codes.copy()
    scale = np.ones(len(weight)) if found.scale is None else found.scale[:, 0].astype(np.float64)
    first = int(found.has_zero)
    run = weight.shape[1] // found.codebook.shape[1]
    held = (weight == 0) if found.has_zero else np.zeros(weight.shape, bool)

    def rounding(column: int, values: np.ndarray) -> np.ndarray:
        entries = found.codebook[:, column // run, first:].astype(np.float64)
        if not entries.shape[1]:
            return np.zeros(len(values))
        place = np.abs((values / scale)[:, None] - entries).argmin(axis=1)
        chosen = np.take_along_axis(np.broadcast_to(entries, (len(values), entries.shape[1])), place[:, None], axis=1)
        codes[:, column] = np.where(held[:, column], 0, place + first)
        return np.where(held[:, column], 0.0, chosen[:, 0] * scale)

    compensated(weight, gram, rounding)
    return codes
