"""Symbols of a small alphabet, each in about the bits that its frequency is worth: interleaved rANS.

Source: Duda 2013, Asymmetric numeral systems; Giesen 2014, Interleaved entropy coders. Many coders ("lanes") take turns, so
that numpy decodes one symbol of every lane at once: symbol i belongs to lane i modulo lanes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compressctl.packed.cursor import Cursor, varint
from compressctl.packed.errors import damaged
from compressctl.packed.frequencies import BITS, TOTAL, frequencies, levels_of, read_levels, write_levels

Symbols = NDArray[np.uint8]
Levels = NDArray[np.int64]

_LOW = 1 << 16
"""States are between this and 2^32; below it the next 16 bits are taken in."""

_SYMBOLS_PER_LANE = 2048
_MOST_LANES = 2048
"""A lane costs four bytes; a step of all lanes costs some ten microseconds, however many they are."""


def encode_symbols(symbols: Symbols) -> bytes:
    """symbols: (n,), n > 0. The alphabet is 0 to the largest; its frequencies stand in front."""
    counts = np.bincount(symbols)
    levels = levels_of(counts)
    table = frequencies(levels)
    first = np.cumsum(table) - table
    lanes = _lanes(len(symbols))
    state = np.full(lanes, _LOW, np.int64)
    words: list[NDArray[np.int64]] = []
    for start in reversed(range(0, len(symbols), lanes)):
        chosen = symbols[start : start + lanes]
        frequency, lane = table[chosen], state[: len(chosen)]
        is_full = lane >= frequency << (32 - BITS)
        words.append(lane[is_full][::-1] & (_LOW - 1))
        lane = np.where(is_full, lane >> 16, lane)
        state[: len(chosen)] = (lane // frequency << BITS) + lane % frequency + first[chosen]
    body = np.concatenate(words)[::-1].astype("<u2").tobytes()
    head = bytes([len(counts) - 1]) + write_levels(levels)
    return head + state.astype("<u4").tobytes() + varint(len(body) // 2) + body


def decode_symbols(source: Cursor, count: int) -> Symbols:
    """The first `count` symbols, (count,). Raises PackedError where the bytes cannot be what encode_symbols wrote."""
    alphabet = source.byte() + 1
    lanes = _lanes(count)
    table = frequencies(read_levels(source, alphabet))
    state = np.frombuffer(source.bytes(4 * lanes), "<u4").astype(np.int64)
    words = np.frombuffer(source.bytes(2 * source.varint(most=count)), "<u2")
    symbol_at = np.repeat(np.arange(alphabet, dtype=np.uint8), table)
    frequency_at = np.repeat(table, table)
    offset_at = np.arange(TOTAL) - np.repeat(np.cumsum(table) - table, table)
    if lanes == 1:
        return _decode_lane(int(state[0]), words, symbol_at, frequency_at, offset_at, count)
    found = np.empty(count, np.uint8)
    position = 0
    for start in range(0, count, lanes):
        lane = state[: min(lanes, count - start)]
        slot = lane & (TOTAL - 1)
        found[start : start + len(lane)] = symbol_at[slot]
        lane = frequency_at[slot] * (lane >> BITS) + offset_at[slot]
        hungry = (lane < _LOW).nonzero()[0]
        if len(hungry):
            taken = words[position : position + len(hungry)]
            if len(taken) < len(hungry):
                raise damaged("a stream of symbols ends too early")
            lane[hungry] = lane[hungry] << 16 | taken
            position += len(hungry)
        state[: len(lane)] = lane
    if position != len(words) or (state != _LOW).any():
        raise damaged("a stream of symbols does not end where it should")
    return found


def _decode_lane(
    state: int, words: NDArray[np.uint16], symbol_at: Symbols, frequency_at: Levels, offset_at: Levels, count: int
) -> Symbols:
    """The same for one lane, where a step in Python takes a tenth of one in numpy."""
    frequencies_at, offsets_at, waiting = frequency_at.tolist(), offset_at.tolist(), iter(words.tolist())
    slots = []
    for _ in range(count):
        slot = state & (TOTAL - 1)
        slots.append(slot)
        state = frequencies_at[slot] * (state >> BITS) + offsets_at[slot]
        if state < _LOW:
            word = next(waiting, None)
            if word is None:
                raise damaged("a stream of symbols ends too early")
            state = state << 16 | word
    if state != _LOW or next(waiting, None) is not None:
        raise damaged("a stream of symbols does not end where it should")
    return symbol_at[slots]


def _lanes(count: int) -> int:
    """Both sides know it, so that no file can ask for a slow one."""
    lanes = 1
    while lanes < _MOST_LANES and lanes * 2 * _SYMBOLS_PER_LANE <= count:
        lanes *= 2
    return lanes
