"""From an array to bytes: the codings that may suit are tried, and the shortest is kept."""

from __future__ import annotations

import lzma
from collections.abc import Iterator

import numpy as np

from compressctl.numerics.codebook import shared
from compressctl.numerics.scaled_codebook import scaled
from compressctl.packed.bits import UNSIGNED, Bits, nibbles, planes
from compressctl.packed.cursor import varint
from compressctl.packed.decode import MOST_ENTRIES, MOST_SCALED, Coding, index_size, lzma_filters
from compressctl.packed.mask import encode_mask
from compressctl.packed.symbols import encode_symbols

_SAMPLE = 1 << 16
"""Elements, or bytes, that are looked at first in a large array, to see whether a slow coding can win."""

_NOISE = 0.995
"""Bytes with an entropy of more than this share of a byte are stored as they are."""

_SPARSE_FROM = 0.4
"""Share of the commonest element from which a mask of its places is tried."""


def encode(values: Bits, is_float: bool = False, is_packed: bool = False) -> bytes:
    """values: (rows, columns), not empty. is_float, is_packed: what the elements are (floats; two 4-bit numbers each), which
    decides what is tried, not what can be stored."""
    by_scale = _as_scaled_codebook(values) if is_float and values.dtype.itemsize == 4 else None
    if by_scale is not None and shared(values) is None:
        return by_scale  # nothing else comes near
    tried = [*_dense(values, is_float, is_packed), *_as_sparse(values, is_float)]
    return min([*tried, by_scale] if by_scale is not None else tried, key=len)


def _dense(values: Bits, is_float: bool = False, is_packed: bool = False) -> Iterator[bytes]:
    """The codings that do not look where elements stand."""
    first = values[:1, :1]
    if (values == first).all():
        yield bytes([Coding.REPEATED]) + first.tobytes()
        return
    yield from _plain(values)
    yield from _dictionary(values)
    if is_packed:
        yield bytes([Coding.NIBBLES]) + _shortest_plain(nibbles(values))
    if values.dtype.itemsize > 1:
        yield _as_planes(values, is_float)
        yield from _as_codebook(values, is_float)


def _plain(values: Bits) -> Iterator[bytes]:
    yield bytes([Coding.RAW]) + values.tobytes()
    if values.dtype.itemsize == 1 and _entropy_bytes(values) < _NOISE * values.size:
        yield bytes([Coding.SYMBOLS]) + encode_symbols(values.reshape(-1))


def _entropy_bytes(values: Bits) -> float:
    counts = np.bincount(values.reshape(-1))
    shares = counts[counts > 0] / values.size
    return float(-(shares * np.log2(shares)).sum()) * values.size / 8


def _shortest_plain(values: Bits) -> bytes:
    """For pieces of another coding, most of which are noise."""
    if values.dtype.itemsize > 1:
        return _as_planes(values, is_float=False)
    if (values == values[0, 0]).all():
        return bytes([Coding.REPEATED]) + values[:1, :1].tobytes()
    return min(_plain(values), key=len)


def _dictionary(values: Bits) -> Iterator[bytes]:
    """LZMA finds what repeats; it is slow, so that a sample of a large array has to promise something."""
    raw = np.ascontiguousarray(values).tobytes()
    sample = raw[:_SAMPLE]
    promises = len(sample) == len(raw) or len(_lzma(sample)) < 0.8 * len(sample)
    if promises:
        packed = _lzma(raw)
        yield bytes([Coding.LZMA]) + varint(len(packed)) + packed


def _lzma(raw: bytes) -> bytes:
    return lzma.compress(raw, lzma.FORMAT_RAW, filters=lzma_filters(len(raw)))


def _as_planes(values: Bits, is_float: bool) -> bytes:
    tag = Coding.FLOAT_PLANES if is_float else Coding.PLANES
    return bytes([tag]) + b"".join(_shortest_plain(plane) for plane in planes(values, is_float))


def _as_codebook(values: Bits, is_float: bool) -> Iterator[bytes]:
    """Few different values in the whole array, or in each row."""
    if not _has_few(values.reshape(-1)):
        return
    book, indices = np.unique(values, return_inverse=True)
    if len(book) <= min(MOST_ENTRIES, values.size // 2):
        indices = indices.reshape(values.shape).astype(UNSIGNED[index_size(len(book))])
        parts = _shortest_book(book[None], is_float), _shortest_plain(indices)
        yield bytes([Coding.CODEBOOK]) + varint(len(book)) + b"".join(parts)
    yield from _as_row_codebooks(values, is_float)


def _as_scaled_codebook(values: Bits) -> bytes | None:
    """One codebook times a scale for each row, as when BatchNorm is folded into shared weights."""
    found = scaled(values.view(np.float32), MOST_SCALED)
    if found is None or found.scale is None:
        return None
    parts = [part.astype("<f8").view(UNSIGNED[8]) for part in (found.codebook, found.scale[:, None])]
    head = bytes([Coding.SCALED_CODEBOOK]) + varint(found.codebook.shape[1])
    return head + b"".join(_shortest_book(part, is_float=True) for part in parts) + encode(found.indices)


def _as_row_codebooks(values: Bits, is_float: bool) -> Iterator[bytes]:
    rows, columns = values.shape
    if rows < 2 or columns < 16:
        return
    books = []
    for row in values:
        books.append(np.unique(row))
        if len(books[-1]) > min(256, columns // 2):
            return
    entries = max(map(len, books))
    table = np.stack([np.pad(book, (0, entries - len(book)), mode="edge") for book in books])
    indices = np.stack([np.searchsorted(book, row) for book, row in zip(books, values, strict=True)])
    yield (
        bytes([Coding.ROW_CODEBOOKS])
        + varint(entries)
        + _shortest_book(table, is_float)
        + _shortest_plain(indices.astype(np.uint8))
    )


def _has_few(values: Bits) -> bool:
    sample = values if len(values) <= _SAMPLE else values[:: len(values) // _SAMPLE]
    return len(np.unique(sample)) <= len(sample) // 2


def _shortest_book(book: Bits, is_float: bool) -> bytes:
    if (book == book[0, 0]).all():
        return bytes([Coding.REPEATED]) + book[:1, :1].tobytes()
    return min([*_plain(book), _as_planes(book, is_float)] if book.dtype.itemsize > 1 else [*_plain(book)], key=len)


def _as_sparse(values: Bits, is_float: bool) -> Iterator[bytes]:
    common, share = _commonest(values)
    if not _SPARSE_FROM <= share < 1:
        return
    mask = values != common
    head = bytes([Coding.SPARSE]) + values.dtype.type(common).tobytes()
    yield head + encode_mask(mask) + min(_dense(values[mask][None], is_float), key=len)


def _commonest(values: Bits) -> tuple[int, float]:
    found, counts = np.unique(values, return_counts=True)
    best = int(counts.argmax())
    return int(found[best]), float(counts[best]) / values.size
