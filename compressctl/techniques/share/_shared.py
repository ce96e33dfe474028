"""A layer whose weights share values: indices, codebooks and scales, and how they are found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compressctl.numerics.bitpack import code_bits
from compressctl.numerics.entropy_kmeans import entropy_bits, entropy_codes
from compressctl.numerics.kmeans import kmeans, nearest
from compressctl.numerics.kmeans_rows import kmeans_rows, nearest_in_rows
from compressctl.numerics.levels import powers_of_two, rounded, uniform
from compressctl.techniques.share.params import Granularity, KmeansParams

_SCALE_ROUNDS = 3
"""Times that scales and codebook are fitted to each other; more changes the error by less than 1 %."""


@dataclass(frozen=True)
class Shared:
    """codes: (rows, columns) uint8. codebook: (books, entries) float32; books are equal runs of a row, or whole rows, or all.

    scale: (rows, 1) float32, None for 1. has_zero: entry 0 of every codebook is 0.0, for the weights that stay zero.
    """

    codes: np.ndarray
    codebook: np.ndarray
    scale: np.ndarray | None = None
    has_zero: bool = False

    def values(self) -> np.ndarray:
        """(rows, columns) float32. A product of scale and entry is rounded once."""
        runs = self.codes.reshape(len(self.codebook), -1).astype(np.intp)
        entries = np.take_along_axis(self.codebook, runs, axis=1).reshape(self.codes.shape)
        return entries if self.scale is None else np.asarray(entries * self.scale, np.float32)

    @property
    def bits(self) -> float:
        """Of indices with an ideal entropy coder, codebooks and scales. What a file takes is measured elsewhere."""
        scales = 0 if self.scale is None else 32 * self.scale.size
        return entropy_bits(self.codes) + 32 * self.codebook.size + scales

    @property
    def index_bits(self) -> int:
        return code_bits(self.codebook.shape[1])


@dataclass(frozen=True)
class Codebooks:
    """What a layer's weights shall share. clusters: entries of one codebook."""

    clusters: int
    granularity: Granularity


def short(values: np.ndarray, bits: int) -> np.ndarray:
    """float32 values with so many significant bits.

    Scales have 8 and entries behind scales 16, so that their products are exact: whatever multiplies a weight afterwards, as
    a BatchNorm that is folded into it, rounds once, and scale and entry can still be told apart in the result.
    """
    mantissa, exponent = np.frexp(np.asarray(values, np.float64))
    return np.asarray(np.ldexp(np.rint(mantissa * 2.0**bits), exponent - bits), np.float32)


SCALE_BITS, ENTRY_BITS = 8, 16


def share(
    weight: np.ndarray,
    wanted: Codebooks,
    params: KmeansParams,
    importance: np.ndarray | None,
    rng: np.random.Generator,
) -> Shared:
    """weight: (rows, columns) float32. importance: of its shape, not negative. Raises ValueError where it is not finite."""
    if not np.isfinite(weight).all():
        raise ValueError("the weight holds NaN or infinity")
    zero = weight == 0 if params.keep_zeros and np.any(weight == 0) else None
    match wanted.granularity:
        case "tensor":
            return _one_book(weight, None, wanted.clusters, zero, params, importance, rng)
        case "scaled":
            return _scaled(weight, wanted.clusters, zero, params, importance, rng)
        case "channel":
            return _many_books(weight, len(weight), wanted.clusters, zero, params, importance)
    columns = weight.shape[1]
    size = params.group_size if columns % params.group_size == 0 else columns
    return _many_books(weight, weight.size // size, wanted.clusters, zero, params, importance)


def _one_book(
    weight: np.ndarray,
    scale: np.ndarray | None,
    clusters: int,
    zero: np.ndarray | None,
    params: KmeansParams,
    importance: np.ndarray | None,
    rng: np.random.Generator,
) -> Shared:
    """scale: (rows, 1); the codebook is of weights divided by it, whose errors it multiplies again."""
    values = weight if scale is None else np.asarray(weight / scale, np.float32)
    heavy = importance
    if scale is not None:
        heavy = np.broadcast_to(scale**2, weight.shape) if importance is None else importance * scale**2
    kept = np.ones(weight.shape, bool) if zero is None else ~zero
    some, some_heavy = values[kept], None if heavy is None else heavy[kept]
    entries = _codebook(some, clusters - (zero is not None), params, some_heavy, rng)
    if zero is not None:
        entries = np.concatenate([[0.0], entries[entries != 0]])
    if params.rate_weight:
        return _priced(values, entries, zero, scale, params, heavy)
    codes = np.zeros(weight.shape, np.uint8)
    first = int(zero is not None)
    if entries.size > first:
        codes[kept] = nearest(some, entries[first:]) + np.uint8(first)
    return Shared(codes, _book(entries, scale), scale, zero is not None)


def _book(entries: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    return (entries.astype(np.float32) if scale is None else short(entries, ENTRY_BITS))[None]


def _codebook(
    values: np.ndarray, clusters: int, params: KmeansParams, importance: np.ndarray | None, rng: np.random.Generator
) -> np.ndarray:
    if not values.size:
        return np.zeros(0)
    count = max(1, clusters)
    if params.codebook == "uniform":
        entries = uniform(values, count, importance)
    elif params.codebook == "power-of-two":
        return powers_of_two(values, count, importance)
    else:
        entries = kmeans(values, count, init=params.init, importance=importance, rng=rng)
    return rounded(entries, params.codebook_bits)


def _priced(
    values: np.ndarray,
    entries: np.ndarray,
    zero: np.ndarray | None,
    scale: np.ndarray | None,
    params: KmeansParams,
    importance: np.ndarray | None,
) -> Shared:
    """Weights that are not zero may become so here where that saves more bits than it costs error."""
    heavy = np.ones(values.shape) if importance is None else importance
    price = params.rate_weight * float(np.average(values.astype(np.float64) ** 2, weights=heavy)) * float(heavy.mean())
    held = np.zeros(entries.size, bool)
    held[0] = zero is not None
    flat = np.array(heavy, np.float64).reshape(-1)
    if zero is not None:
        # They may not leave: an error there would cost more than all bits.
        flat[zero.reshape(-1)] = max(float(flat.max()), 1e-30) * 1e12
    codes, moved = entropy_codes(values.reshape(-1).astype(np.float64), entries, price, flat, fixed=held)
    # Indices are settled; what is left is to round the entries.
    if params.codebook_bits != 32:
        grid = rounded(moved, params.codebook_bits)
        moved = grid[nearest(moved, grid)]
    return Shared(codes.reshape(values.shape), _book(moved, scale), scale, zero is not None)


def _scaled(
    weight: np.ndarray,
    clusters: int,
    zero: np.ndarray | None,
    params: KmeansParams,
    importance: np.ndarray | None,
    rng: np.random.Generator,
) -> Shared:
    """Scales start as each row's deviation from zero and follow the codebook by least squares."""
    heavy = np.ones(weight.shape) if importance is None else importance.astype(np.float64)
    power, counted = (weight.astype(np.float64) ** 2).sum(axis=1), np.count_nonzero(weight, axis=1)
    scale = np.sqrt(power / np.maximum(counted, 1))[:, None]
    scale = short(np.where(scale > 0, scale, 1.0), SCALE_BITS)
    best: tuple[float, Shared] | None = None
    for _ in range(_SCALE_ROUNDS + 1):
        found = _one_book(weight, scale, clusters, zero, params, importance, rng)
        error = float((heavy * (weight - found.values()) ** 2).sum())
        if best is not None and error >= best[0]:
            break
        best = error, found
        entries = found.codebook[0][found.codes].astype(np.float64)
        below = (heavy * entries**2).sum(axis=1, keepdims=True)
        fitted = (heavy * entries * weight).sum(axis=1, keepdims=True) / np.where(below > 0, below, 1)
        scale = short(np.where(fitted > 0, fitted, scale), SCALE_BITS)
    assert best is not None
    return best[1]


def _many_books(
    weight: np.ndarray,
    books: int,
    clusters: int,
    zero: np.ndarray | None,
    params: KmeansParams,
    importance: np.ndarray | None,
) -> Shared:
    runs = weight.reshape(books, -1)
    heavy = np.ones(runs.shape) if importance is None else importance.reshape(runs.shape)
    first = int(zero is not None)
    if zero is not None:
        heavy = np.where(zero.reshape(runs.shape), 0, heavy)
    count = max(1, min(clusters - first, runs.shape[1]))
    if params.codebook == "kmeans":
        table = kmeans_rows(runs, count, heavy)
    else:
        make = uniform if params.codebook == "uniform" else powers_of_two
        table = np.stack([_as_long(make(run, count, some), count) for run, some in zip(runs, heavy, strict=True)])
    if params.codebook_bits != 32 and params.codebook != "power-of-two":
        table = np.stack([_as_long(rounded(entries, params.codebook_bits), count) for entries in table])
    codes = nearest_in_rows(runs, table) + np.uint8(first)
    if zero is not None:
        codes[zero.reshape(runs.shape)] = 0
        table = np.concatenate([np.zeros((books, 1)), table], axis=1)
    return Shared(codes.reshape(weight.shape), table.astype(np.float32), None, zero is not None)


def _as_long(entries: np.ndarray, count: int) -> np.ndarray:
    """Filled up with the last entry."""
    return np.concatenate([entries, np.repeat(entries[-1:], count - entries.size)])
