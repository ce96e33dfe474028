"""Calls that are made of a model, as data: each is made once, and none before it is asked for."""

from collections.abc import Iterator, Mapping

import numpy as np
import pytest

from compressctl.core.data import Split
from compressctl.core.errors import UsageError
from compressctl.sources.called import CalledSplit


class Samples:
    def __len__(self) -> int:
        return 1

    def batches(self, size: int, *, shuffle_seed: int | None = None) -> Iterator[None]:
        raise AssertionError("nobody asks for samples here")


def test_calls_are_made_once_and_when_they_are_asked_for() -> None:
    made: list[int] = []

    def calls(_: Split) -> Iterator[Mapping[str, np.ndarray]]:
        for number in range(5):
            made.append(number)
            yield {"x": np.array([number])}

    split = CalledSplit(Samples(), calls)  # type: ignore[arg-type]
    first = next(split.batches(8))
    assert (int(first.inputs["x"][0]), made) == (0, [0])
    assert [int(batch.inputs["x"][0]) for batch in split.batches(8)] == [0, 1, 2, 3, 4]
    assert (len(split), made) == (5, [0, 1, 2, 3, 4])
    shuffled = [(int(batch.inputs["x"][0]), int(batch.indices[0])) for batch in split.batches(8, shuffle_seed=1)]
    assert sorted(shuffled) == [(number, number) for number in range(5)]
    assert made == [0, 1, 2, 3, 4]


def test_calls_that_cannot_be_made_are_not_fewer_calls() -> None:
    def calls(_: Split) -> Iterator[Mapping[str, np.ndarray]]:
        yield {"x": np.zeros(1)}
        raise UsageError("the second cannot be made")

    split = CalledSplit(Samples(), calls)  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(UsageError, match="the second"):
            len(split)
