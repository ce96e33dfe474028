"""Yes-or-no decisions, each with a probability of its own: the coder behind the adaptive model of zeros.

Binary rANS with one state, or with several that take turns within each call where there are very many decisions.
Probabilities are of "yes", in 1 / 65536, from 1 to 65535.
"""

from __future__ import annotations

from array import array

import numpy as np
from numpy.typing import NDArray

from compressctl.packed.cursor import Cursor, varint
from compressctl.packed.errors import damaged

Array = NDArray[np.int64]
Decisions = NDArray[np.bool_]

ONE = 1 << 16
_LOW = 1 << 16


def encode_decisions(steps: list[tuple[Decisions, Array]], lanes: int) -> bytes:
    """steps: what each call of DecisionReader.read will be asked for, in order: (decisions, probabilities), equally long."""
    encoded = _encode_one_by_one(steps) if lanes == 1 else _encode_together(steps, lanes)
    state, words = encoded
    return state.astype("<u4").tobytes() + varint(len(words)) + np.array(words[::-1], "<u2").tobytes()


def _encode_one_by_one(steps: list[tuple[Decisions, Array]]) -> tuple[Array, list[int]]:
    """The last state, and the words that went out, last first."""
    state, words = _LOW, []
    for decisions, probabilities in reversed(steps):
        pairs = zip(reversed(decisions.tolist()), reversed(probabilities.tolist()), strict=True)
        for decision, probability in pairs:
            share = probability if decision else ONE - probability
            if state >= share << 16:
                words.append(state & 0xFFFF)
                state >>= 16
            state = (state // share << 16) + state % share + (0 if decision else probability)
    return np.array([state], np.int64), words


def _encode_together(steps: list[tuple[Decisions, Array]], lanes: int) -> tuple[Array, list[int]]:
    state = np.full(lanes, _LOW, np.int64)
    words: list[int] = []
    for decisions, probabilities in reversed(steps):
        begins = np.where(decisions, 0, probabilities)
        shares = np.where(decisions, probabilities, ONE - probabilities)
        for start in reversed(range(0, len(decisions), lanes)):
            share = shares[start : start + lanes]
            lane = state[: len(share)]
            is_full = lane >= share << 16
            words.extend((lane[is_full][::-1] & 0xFFFF).tolist())
            lane = np.where(is_full, lane >> 16, lane)
            state[: len(share)] = (lane // share << 16) + lane % share + begins[start : start + lanes]
    return state, words


class DecisionReader:
    """Gives decisions back in the order in which they were encoded."""

    def __init__(self, source: Cursor, count: int, lanes: int) -> None:
        """count: how many decisions there are in all."""
        self._state = np.frombuffer(source.bytes(4 * lanes), "<u4").astype(np.int64)
        self._words = np.frombuffer(source.bytes(2 * source.varint(most=count)), "<u2")
        self._position = 0
        self._one = int(self._state[0])
        self._plain = array("H", self._words.astype(np.uint16).tobytes()) if lanes == 1 else array("H")

    def read(self, probabilities: Array) -> Decisions:
        """probabilities: (n,). Returns (n,). Raises PackedError when the bytes are used up."""
        if len(self._state) == 1:
            return self._one_by_one(probabilities.tolist())
        lanes = len(self._state)
        parts = [self._together(probabilities[at : at + lanes]) for at in range(0, len(probabilities), lanes)]
        return np.concatenate(parts)

    def _one_by_one(self, probabilities: list[int]) -> Decisions:
        state, position, words, found = self._one, self._position, self._plain, []
        for probability in probabilities:
            low = state & 0xFFFF
            if low < probability:
                found.append(True)
                state = probability * (state >> 16) + low
            else:
                found.append(False)
                state = (ONE - probability) * (state >> 16) + low - probability
            if state < _LOW:
                if position == len(words):
                    raise damaged("a stream of decisions ends too early")
                state = state << 16 | words[position]
                position += 1
        self._one, self._position = state, position
        return np.array(found, bool)

    def _together(self, probabilities: Array) -> Decisions:
        lane = self._state[: len(probabilities)]
        low = lane & 0xFFFF
        found = low < probabilities
        lane = (
            np.where(found, probabilities, ONE - probabilities) * (lane >> 16) + low - np.where(found, 0, probabilities)
        )
        hungry = np.flatnonzero(lane < _LOW)
        taken = self._words[self._position : self._position + len(hungry)]
        if len(taken) < len(hungry):
            raise damaged("a stream of decisions ends too early")
        lane[hungry] = lane[hungry] << 16 | taken
        self._position += len(hungry)
        self._state[: len(probabilities)] = lane
        return found

    def end(self) -> None:
        """Nothing may be left, and the states must be where the encoder began."""
        is_done = self._one == _LOW if len(self._state) == 1 else bool((self._state == _LOW).all())
        if not is_done or self._position != len(self._words):
            raise damaged("a stream of decisions does not end where it should")
