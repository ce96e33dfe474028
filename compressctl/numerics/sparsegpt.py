"""SparseGPT: weights become zero one column at a time, and those that remain make up for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from compressctl.numerics.inverse_factor import inverse_factor
from compressctl.numerics.masks import Block, block_means, n_of_m_mask, spread

_WIDTH = 128
"""Columns whose masks are chosen together, and after which the columns to their right are brought up to date at once."""


@dataclass(frozen=True)
class Zeros:
    """What shall become zero: a share of blocks (single weights by default), or all but n of m neighbours."""

    share: float = 0.0
    block: Block = (1, 1)
    n_of_m: tuple[int, int] | None = None

    @property
    def group(self) -> int:
        """Neighbouring columns that are decided together."""
        return self.n_of_m[1] if self.n_of_m else self.block[1]


def sparsegpt(weight: np.ndarray, gram: np.ndarray, zeros: Zeros, damping: float = 0.01) -> np.ndarray:
    """Prune a layer with the least change of its outputs, second order, and update what remains.

    weight: (out, positions, in). gram: (positions * in, positions * in), the sum of x x^T over the layer's inputs. damping:
    added to the diagonal, as a share of its mean. Returns float32 of the weight's shape; exactly round(share * units) units
    are zero, up to ragged blocks. Raises ValueError when the gram matrix has another size or is not finite.
    Source: Frantar & Alistarh 2023, "SparseGPT", algorithm 1; the update is that of Optimal Brain Surgeon (Hassibi & Stork
    1993) with the columns to the left frozen.
    """
    out, positions, channels = weight.shape
    if gram.shape != (positions * channels,) * 2:
        raise ValueError(f"the gram matrix is {gram.shape}, the weight has {positions * channels} columns")
    factor = _damped(gram, damping)
    values = weight.reshape(out, -1).astype(np.float64)
    chunks = list(_chunks(positions, channels, zeros.group))
    total, done, dropped = _units(out, chunks, zeros), 0, 0
    for groups in chunks:
        chunk = slice(groups[0].start, groups[-1].stop)
        done += _units(out, [groups], zeros)
        count = round(zeros.share * done) - dropped if total else 0
        dropped += count
        errors = _prune_chunk(values, factor, groups, zeros, count)
        values[:, chunk.stop :] -= errors @ factor[chunk, chunk.stop :]
    return values.reshape(weight.shape).astype(np.float32)


def _damped(gram: np.ndarray, damping: float) -> np.ndarray:
    """The upper triangular U with U^T U = H^-1: U_jj^2 is the first entry of the inverse of H restricted to columns from j on.

    An input that was never anything but zero gets next to no damping: its weights cost nothing and go first.
    """
    if not np.isfinite(gram).all():
        raise ValueError("the gram matrix is not finite")
    seen = np.diag(gram).astype(np.float64)
    added = damping * float(seen.mean()) or 1.0
    return inverse_factor(gram, np.where(seen > 0, added, added * 1e-9))


def _chunks(positions: int, channels: int, group: int) -> Iterator[list[slice]]:
    """Groups of neighbouring columns, gathered until there are about _WIDTH columns."""
    gathered: list[slice] = []
    for position in range(positions):
        for start in range(0, channels, group):
            offset = position * channels
            gathered.append(slice(offset + start, offset + min(start + group, channels)))
            if gathered[-1].stop - gathered[0].start >= _WIDTH:
                yield gathered
                gathered = []
    if gathered:
        yield gathered


def _units(out: int, chunks: Sequence[Sequence[slice]], zeros: Zeros) -> int:
    return -(-out // zeros.block[0]) * sum(len(groups) for groups in chunks)


def _prune_chunk(
    values: np.ndarray, factor: np.ndarray, groups: Sequence[slice], zeros: Zeros, count: int
) -> np.ndarray:
    """Prune the columns of some groups in place, `count` units of them; returns each column's error over its pivot."""
    chunk = slice(groups[0].start, groups[-1].stop)
    errors = np.zeros((len(values), chunk.stop - chunk.start))
    kept = np.ones(errors.shape, dtype=bool)
    if zeros.n_of_m is None:
        kept = _chosen(values, factor, groups, zeros, count)
    for group in groups:
        here = slice(group.start - chunk.start, group.stop - chunk.start)
        if zeros.n_of_m is not None:
            scores = _scores(values, factor, group)[:, None, :]
            kept[:, here] = n_of_m_mask(scores, *zeros.n_of_m)[:, 0]
        for column in range(group.start, group.stop):
            place = column - chunk.start
            errors[:, place] = np.where(kept[:, place], 0.0, values[:, column]) / factor[column, column]
            values[:, column : chunk.stop] -= np.outer(errors[:, place], factor[column, column : chunk.stop])
            values[~kept[:, place], column] = 0.0
    return errors


def _scores(values: np.ndarray, factor: np.ndarray, columns: slice) -> np.ndarray:
    """The rise of the squared output error when a weight goes and those to its right make up for it, times two."""
    return np.asarray(np.square(values[:, columns] / np.diag(factor)[columns]))


def _chosen(values: np.ndarray, factor: np.ndarray, groups: Sequence[slice], zeros: Zeros, count: int) -> np.ndarray:
    """Which weights of the groups' columns stay when the `count` units of least error go."""
    units = []
    for group in groups:
        scores = _scores(values, factor, group)[:, None, :]
        units.append(block_means(scores, (zeros.block[0], group.stop - group.start))[:, 0, 0])
    table = np.stack(units, axis=1)
    kept = np.ones(table.size, dtype=bool)
    if count:
        kept[np.argpartition(table.reshape(-1), count - 1)[:count]] = False
    by_unit = kept.reshape(table.shape)
    return np.concatenate(
        [
            spread(by_unit[:, place, None, None], (zeros.block[0], width), (len(values), 1, width))[:, 0]
            for place, width in enumerate(group.stop - group.start for group in groups)
        ],
        axis=1,
    )
