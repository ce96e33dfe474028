"""Arrays of few different values as indices into a codebook, found from the values alone and exact to the last bit.

Values are compared as bit patterns, so that -0.0 and 0.0 are two entries and every NaN keeps its payload.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compressctl.numerics.bitpack import code_bits

MOST_ENTRIES = 256
_LOOK_FIRST = 4096
"""Values that are looked at first: most arrays that have too many different ones show it there."""


@dataclass(frozen=True)
class Coded:
    """values[i] = codebook[book of i, indices[i]], times scale[row of i] where there is one.

    indices: uint8, of the values' shape. codebook: (books, entries); books are equal runs of the values in C order, so that 1 is
    one for the tensor and shape[0] one per output channel. scale: (shape[0],), float64 like the codebook then, whose product is
    rounded once, to dtype; or both float32, where their products are exact. A book of fewer entries than another repeats one of its own.
    """

    indices: np.ndarray
    codebook: np.ndarray
    dtype: np.dtype[np.generic]
    scale: np.ndarray | None = None

    @property
    def books(self) -> int:
        return len(self.codebook)

    @property
    def bits(self) -> int:
        """Of one index."""
        return code_bits(self.codebook.shape[1])


def shared(values: np.ndarray, books: int = 1, most: int = MOST_ENTRIES) -> Coded | None:
    """The codebooks of an array, entries in ascending order; None where a book would need more than `most` entries.

    books: 1 for one codebook, values.shape[0] for one per output channel, a multiple of it for groups within channels. Raises
    ValueError where so many books do not divide the values.
    """
    if not values.size:
        return None
    if values.size % books:
        raise ValueError(f"{values.size} values cannot be divided into {books} runs")
    runs = _bit_patterns(values).reshape(books, -1)
    if not all(_may_fit(run, most) for run in (runs[:1] if books == 1 else (runs[0], runs[-1]))):
        return None
    if books == 1:
        entries, indices = np.unique(runs[0], return_inverse=True)
        table = entries[None]
    else:
        table, indices = _by_run(runs, most)
    if not table.size or table.shape[1] > most:
        return None
    return _in_order(Coded(indices.reshape(values.shape).astype(np.uint8), table.view(values.dtype), values.dtype))


def restore(coded: Coded) -> np.ndarray:
    """The values, bit by bit. Raises IndexError where an index is beyond the codebook."""
    runs = coded.indices.reshape(coded.books, -1)
    values = np.take_along_axis(coded.codebook, runs.astype(np.intp), axis=1).reshape(coded.indices.shape)
    if coded.scale is None:
        return values
    rows = coded.scale.reshape(-1, *[1] * (values.ndim - 1))
    with np.errstate(over="ignore"):  # a codebook that does not fit may reach beyond the type; callers compare
        return np.asarray((values * rows).astype(coded.dtype))


def same_bits(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two arrays agree in type, shape and every bit."""
    alike = first.dtype == second.dtype and first.shape == second.shape
    return alike and bool(np.array_equal(_bit_patterns(first), _bit_patterns(second)))


def _bit_patterns(values: np.ndarray) -> np.ndarray:
    contiguous = np.asarray(values, order="C")
    return contiguous.reshape(contiguous.shape or (1,)).view(f"u{contiguous.dtype.itemsize}")


def _may_fit(run: np.ndarray, most: int) -> bool:
    return run.size <= most or len(np.unique(run[:_LOOK_FIRST])) <= most


def _by_run(runs: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Codebooks (books, entries) and indices (books, run); an empty codebook where one needs more than `most`."""
    order = np.argsort(runs, axis=1, kind="stable")
    ordered = np.take_along_axis(runs, order, axis=1)
    ranks = np.zeros(runs.shape, np.int32)
    np.cumsum(ordered[:, 1:] != ordered[:, :-1], axis=1, out=ranks[:, 1:])
    entries = int(ranks[:, -1].max()) + 1
    if entries > most:
        return np.empty((0, 0), runs.dtype), ranks
    table = np.repeat(ordered[:, -1:], entries, axis=1)
    np.put_along_axis(table, ranks, ordered, axis=1)
    indices = np.empty_like(ranks)
    np.put_along_axis(indices, order, ranks, axis=1)
    return table, indices


def _in_order(coded: Coded) -> Coded:
    """The same with each codebook's entries in the order of their values: neighbours in value are neighbours in index."""
    table = coded.codebook
    if table.dtype.kind == "u":
        return coded
    patterns = _bit_patterns(table).reshape(table.shape)
    # Equal values with other bits (0.0 and -0.0, NaNs) keep one order.
    numbers = table.astype(np.float64) if table.dtype.kind not in "i" else table
    order = np.lexsort((patterns, numbers), axis=1)
    rank = np.argsort(order, axis=1)
    runs = coded.indices.reshape(coded.books, -1)
    indices = np.take_along_axis(rank, runs.astype(np.intp), axis=1).astype(np.uint8)
    return Coded(indices.reshape(coded.indices.shape), np.take_along_axis(table, order, axis=1), coded.dtype)
