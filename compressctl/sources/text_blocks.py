"""Windows of running text dealt to splits: blocks from many places of every file, so that no token is in two splits and each sees the whole text.

One block of a file for each split would leave a file of two kinds of text (articles, then a play) with calibration and, where `train` is limited,
with training that know only one of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from compressctl.core.source import SplitSizes
from compressctl.sources.splits import Splits, choose

_MOST_PLACES = 16
_FEWEST_WINDOWS = 32
"""Of a place: blocks of fewer windows would stand in the same paragraphs as their neighbours."""


def dealt(own: Sequence[int], others: Sequence[int], sizes: SplitSizes, seed: int, overlapped: int) -> Splits:
    """own, others: windows of each file, others those of the dataset's own test split, whose positions follow. overlapped: how many windows after
    one hold some of its tokens; between blocks of two splits so many are left out. How many each split gets is for `choose` to say.

    Each split is in an order of its own, so that its first samples are from everywhere, too. Raises UsageError as `choose` does.
    """
    of_test = _places(others, sum(own), 2 if sizes.validation_from == "test" else 1, overlapped)
    for blocks in range(1, 5):
        of_own = _places(own, 0, blocks, overlapped)
        chosen = choose(_held(of_own), sizes, seed, own_test=_held(of_test))
        parts = (chosen.train, chosen.validation, chosen.calibration, chosen.test)
        from_own = [int((part < _held(of_own)).sum()) for part in parts]
        if sum(count > 0 for count in from_own) <= blocks:
            break
    from_test = [len(part) - count for part, count in zip(parts, from_own, strict=True)]
    both = zip(_taken(of_own, from_own), _taken(of_test, from_test), strict=True)
    train, validation, calibration, test = (
        np.random.default_rng([seed, number]).permutation(np.concatenate(pair)) for number, pair in enumerate(both)
    )
    return Splits(train, validation, calibration, test)


@dataclass(frozen=True)
class _Place:
    """A stretch of one file. first: the position of its first window. length: windows that splits may take. gap: windows left out behind a block."""

    first: int
    length: int
    gap: int


def _places(counts: Sequence[int], first: int, blocks: int, overlapped: int) -> list[_Place]:
    """blocks: how many splits share each place, at most."""
    gap = overlapped if blocks > 1 else 0
    found = []
    for count in counts:
        number = min(_MOST_PLACES, max(1, count // (_FEWEST_WINDOWS + 40 * gap)))
        ends = [count * place // number for place in range(number + 1)]
        for begin, end in pairwise(ends):
            left_out = gap * (blocks - (end == count))
            found.append(_Place(first + begin, max(min(end - begin, 1), end - begin - left_out), gap))
        first += count
    return found


def _held(places: Sequence[_Place]) -> int:
    return sum(place.length for place in places)


def _taken(places: Sequence[_Place], wanted: Sequence[int]) -> list[np.ndarray]:
    """Positions that each split gets, as many as are wanted, block after block in each place."""
    found: list[list[np.ndarray]] = [[np.empty(0, np.int64)] for _ in wanted]
    for place, shares in zip(places, _shares(wanted, [place.length for place in places]), strict=True):
        first = place.first
        for split, count in zip(found, shares, strict=True):
            split.append(np.arange(first, first + count))
            first += count + place.gap if count else 0
    return [np.concatenate(split) for split in found]


def _shares(wanted: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """How many windows of each place every split takes: what it should have of the places so far, rounded so that no place gives more than it has."""
    total, held, given = sum(lengths), 0, [0] * len(wanted)
    for length in lengths:
        held += length
        due = [count * held - had * total for count, had in zip(wanted, given, strict=True)]
        taken = [max(0, each // max(total, 1)) for each in due]
        room = sum(wanted) * held // max(total, 1) - sum(given)
        while sum(taken) != room:
            step = 1 if sum(taken) < room else -1
            among = [split for split, count in enumerate(taken) if step > 0 or count]
            left = {split: step * (due[split] - taken[split] * total) for split in among}
            taken[max(among, key=left.__getitem__)] += step
        given = [had + more for had, more in zip(given, taken, strict=True)]
        yield taken
