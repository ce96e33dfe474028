"""From bytes to an array: one small function per coding. docs/packed.md describes each.

Every coding tells its decoder nothing that it could compute: sizes come from the ledger and from the coding around it, and
are checked before memory is taken.
"""

from __future__ import annotations

import lzma
from collections.abc import Callable, Iterator
from enum import IntEnum

import numpy as np

from compressctl.packed.bits import UNSIGNED, Bits, join_nibbles, join_planes
from compressctl.packed.cursor import Cursor
from compressctl.packed.errors import damaged
from compressctl.packed.mask import decode_mask
from compressctl.packed.symbols import decode_symbols

Shape = tuple[int, int]

MOST_ENTRIES = 1 << 16
MOST_SCALED = 1 << 8
_DEEPEST = 5
_AT_ONCE = 1 << 16
"""Numbers that are computed together, in eight bytes each."""


class Coding(IntEnum):
    """The first byte of each coded array."""

    RAW = 0
    REPEATED = 1
    LZMA = 2
    PLANES = 3
    FLOAT_PLANES = 4
    NIBBLES = 5
    SYMBOLS = 6
    SPARSE = 7
    CODEBOOK = 8
    ROW_CODEBOOKS = 9
    SCALED_CODEBOOK = 10


def decode(source: Cursor, shape: Shape, size: int, depth: int = 0) -> Bits:
    """The next array: shape, of unsigned numbers of `size` bytes (1, 2, 4 or 8). Raises PackedError."""
    tag = source.byte()
    if tag not in _DECODERS:
        raise damaged(f"there is no coding {tag}")
    if depth > _DEEPEST:
        raise damaged("codings are nested too deeply")
    if not shape[0] * shape[1]:
        raise damaged("a coded array is empty")
    source.codings.append(Coding(tag).name.lower().replace("_", " "))
    return _DECODERS[Coding(tag)](source, shape, size, depth)


def lzma_filters(raw_size: int) -> list[dict[str, int]]:
    """The dictionary is as large as what it packs, up to 8 MiB: both sides know it."""
    return [
        {"id": lzma.FILTER_LZMA1, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": min(max(raw_size, 4096), 1 << 23)}
    ]


def unpack_lzma(packed: memoryview, raw_size: int) -> bytes:
    """Exactly raw_size bytes. Raises PackedError."""
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=lzma_filters(raw_size))
    try:
        found = unpacker.decompress(bytes(packed), max_length=raw_size)
    except (lzma.LZMAError, EOFError):
        raise damaged("an LZMA stream cannot be read") from None
    if len(found) != raw_size:
        raise damaged("an LZMA stream has not the length that it should")
    return found


def _raw(source: Cursor, shape: Shape, size: int, depth: int) -> Bits:
    return np.frombuffer(source.bytes(shape[0] * shape[1] * size), UNSIGNED[size]).reshape(shape)


def _repeated(source: Cursor, shape: Shape, size: int, depth: int) -> Bits:
    return np.full(shape, np.frombuffer(source.bytes(size), UNSIGNED[size])[0])


def _lzma(source: Cursor, shape: Shape, size: int, depth: int) -> Bits:
    packed = source.bytes(source.varint())
    return np.frombuffer(unpack_lzma(packed, shape[0] * shape[1] * size), UNSIGNED[size]).reshape(shape)


def _planes(source: Cursor, shape: Shape, size: int, depth: int) -> Bits:
    return join_planes([decode(source, shape, 1, depth + 1) for _ in range(size)], is_float=False)


def _float_planes(source: Cursor, shape: Shape, size: int, depth: int) -> Bits:
    return join_planes([decode(source, shape, 1, depth + 1) for _ in range(size)], is_float=True)


def _nibbles(source: Cursor, shape: Shape, size: int, depth: int) -> Bits:
    _only_bytes(size)
    if source.codings.count("nibbles") > 1:
        # Each doubles what is inside, and what is joined from numbers up to 15 has no half to split off.
        raise damaged("four-bit numbers are made of four-bit numbers")
    found = decode(source, (shape[0], 2 * shape[1]), 1, depth + 1)
    if found.max() > 15:
        raise damaged("a four-bit number is more than 15")
    return join_nibbles(found)


def _symbols(source: Cursor, shape: Shape, size: int, depth: int) -> Bits:
    _only_bytes(size)
    return decode_symbols(source, shape[0] * shape[1]).reshape(shape)


def _sparse(source: Cursor, shape: Shape, size: int, depth: int) -> Bits:
    common = np.frombuffer(source.bytes(size), UNSIGNED[size])[0]
    mask = decode_mask(source, shape)
    count = int(mask.sum())
    found = np.full(shape, common)
    if count:
        found[mask] = decode(source, (1, count), size, depth + 1)[0]
    return found


def _codebook(source: Cursor, shape: Shape, size: int, depth: int) -> Bits:
    entries = source.varint(most=min(MOST_ENTRIES, shape[0] * shape[1]))
    book = decode(source, (1, entries), size, depth + 1)[0]
    indices = decode(source, shape, index_size(entries), depth + 1)
    _check_indices(indices, entries)
    return np.take(book, indices)


def _row_codebooks(source: Cursor, shape: Shape, size: int, depth: int) -> Bits:
    entries = source.varint(most=min(MOST_ENTRIES, shape[1]))
    books = decode(source, (shape[0], entries), size, depth + 1)
    indices = decode(source, shape, index_size(entries), depth + 1)
    _check_indices(indices, entries)
    found = np.empty(shape, UNSIGNED[size])
    for part in _some_rows(shape):
        found[part] = np.take_along_axis(books[part], indices[part].astype(np.intp), axis=1)
    return found


def _scaled_codebook(source: Cursor, shape: Shape, size: int, depth: int) -> Bits:
    """Products of float64 numbers, each rounded once: every machine finds the same bits."""
    if size != 4:
        raise damaged("a coding of float32 numbers stands where others are")
    entries = source.varint(most=MOST_SCALED)
    book = decode(source, (1, entries), 8, depth + 1)[0].view(np.float64)
    scale = decode(source, (shape[0], 1), 8, depth + 1).view(np.float64)
    indices = decode(source, shape, 1, depth + 1)
    _check_indices(indices, entries)
    found = np.empty(shape, UNSIGNED[4])
    with np.errstate(all="ignore"):
        for part in _some_rows(shape):
            found[part] = (np.take(book, indices[part]) * scale[part]).astype(np.float32).view(UNSIGNED[4])
    return found


def _some_rows(shape: Shape) -> Iterator[slice]:
    """All rows, as many at a time as make few numbers."""
    step = max(1, _AT_ONCE // shape[1])
    for start in range(0, shape[0], step):
        yield slice(start, start + step)


def index_size(entries: int) -> int:
    return 1 if entries <= 256 else 2


def _check_indices(indices: Bits, entries: int) -> None:
    if int(indices.max()) >= entries:
        raise damaged("an index is outside its codebook")


def _only_bytes(size: int) -> None:
    if size != 1:
        raise damaged("a coding of bytes stands where larger numbers are")


_DECODERS: dict[int, Callable[[Cursor, Shape, int, int], Bits]] = {
    Coding.RAW: _raw,
    Coding.REPEATED: _repeated,
    Coding.LZMA: _lzma,
    Coding.PLANES: _planes,
    Coding.FLOAT_PLANES: _float_planes,
    Coding.NIBBLES: _nibbles,
    Coding.SYMBOLS: _symbols,
    Coding.SPARSE: _sparse,
    Coding.CODEBOOK: _codebook,
    Coding.ROW_CODEBOOKS: _row_codebooks,
    Coding.SCALED_CODEBOOK: _scaled_codebook,
}
