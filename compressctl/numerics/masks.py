"""Which weights stay: boolean masks from scores, for single weights, N of M neighbours, and blocks.

Scores are arrays of shape (out, positions, in): output channels, kernel positions (1 for a linear layer), input channels.
Neighbours and blocks lie along the input channels and never cross from one kernel position to the next, as sparse kernels
expect. A mask is True where the weight stays.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Block = tuple[int, int]
"""Output channels x input channels."""


def layer_mask(scores: np.ndarray, share: float, block: Block = (1, 1)) -> np.ndarray:
    """Drop the lowest scores of one layer: exactly round(share * units) units, a unit being a block, by its mean score.

    share: 0 to 1, of the units that become zero. Equal scores are dropped in no particular, but always the same, order.
    """
    units = block_means(scores, block)
    return spread(_without_lowest(units, round(share * units.size)), block, scores.shape)


def global_masks(scores: Sequence[np.ndarray], share: float, block: Block = (1, 1)) -> list[np.ndarray]:
    """As layer_mask over all layers at once: exactly round(share * all units) are dropped, from wherever they are lowest."""
    units = [block_means(layer, block) for layer in scores]
    together = np.concatenate([layer.reshape(-1) for layer in units])
    kept = _without_lowest(together, round(share * together.size))
    parts = np.split(kept, np.cumsum([layer.size for layer in units])[:-1])
    return [
        spread(part.reshape(layer.shape), block, score.shape)
        for part, layer, score in zip(parts, units, scores, strict=True)
    ]


def row_mask(scores: np.ndarray, share: float, block: Block = (1, 1)) -> np.ndarray:
    """As layer_mask within each output channel (row of blocks), which loses round(share * its units).

    Source: Sun et al. 2023, "A Simple and Effective Pruning Approach for Large Language Models" (Wanda), section 3:
    scores of different outputs are not compared.
    """
    units = block_means(scores, block)
    rows = units.reshape(len(units), -1)
    count = round(share * rows.shape[1])
    kept = np.ones(rows.shape, dtype=bool)
    if count:
        lowest = np.argpartition(rows, count - 1, axis=1)[:, :count]
        np.put_along_axis(kept, lowest, False, axis=1)
    return spread(kept.reshape(units.shape), block, scores.shape)


def n_of_m_mask(scores: np.ndarray, n: int, m: int) -> np.ndarray:
    """Keep the n highest of each m neighbouring input channels, and at most n of the fewer that are left at the end.

    Source: Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks", section 3 (2:4).
    """
    out, positions, channels = scores.shape
    padded = np.full((out, positions, -(-channels // m) * m), -np.inf)
    padded[..., :channels] = scores
    groups = padded.reshape(out, positions, -1, m)
    kept = np.zeros(groups.shape, dtype=bool)
    highest = np.argsort(-groups, axis=-1, kind="stable")[..., :n]
    np.put_along_axis(kept, highest, True, axis=-1)
    return kept.reshape(padded.shape)[..., :channels]


def block_means(scores: np.ndarray, block: Block) -> np.ndarray:
    """The mean score of each block, shape (rows of blocks, positions, columns of blocks); those at the edges are smaller."""
    if block == (1, 1):
        return scores
    row_starts, column_starts = _starts(scores.shape[0], block[0]), _starts(scores.shape[2], block[1])
    sums = np.add.reduceat(np.add.reduceat(scores, row_starts, axis=0), column_starts, axis=2)
    heights = np.diff([*row_starts, scores.shape[0]])
    widths = np.diff([*column_starts, scores.shape[2]])
    return np.asarray(sums / (heights[:, None, None] * widths))


def spread(units: np.ndarray, block: Block, shape: Sequence[int]) -> np.ndarray:
    """A value per block as a value per weight."""
    if block == (1, 1):
        return units
    tall = np.repeat(units, block[0], axis=0)[: shape[0]]
    return np.repeat(tall, block[1], axis=2)[:, :, : shape[2]]


def _starts(length: int, step: int) -> np.ndarray:
    return np.arange(0, length, step)


def _without_lowest(scores: np.ndarray, count: int) -> np.ndarray:
    kept = np.ones(scores.size, dtype=bool)
    if count:
        kept[np.argpartition(scores.reshape(-1), count - 1)[:count]] = False
    return kept.reshape(scores.shape)
