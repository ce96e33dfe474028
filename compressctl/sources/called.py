"""Calls that are made of a model on another dataset's samples, as data of that model: by a function, or step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

import numpy as np

from compressctl.core.backend import Session
from compressctl.core.data import Batch, Split, SplitName, WrappedDataset, parts_of
from compressctl.core.feeds import feeds
from compressctl.core.model import Signature
from compressctl.core.streaming import Unrolled, first_call, of_sequences

Call = Mapping[str, np.ndarray]
Calls = Callable[[Split], Iterable[Call]]

_MOST_BYTES = 2 * 1024**3


def steps_of(session: Session, signature: Signature, split: Split) -> Iterator[Call]:
    """The calls that a model with states gets on sequences, with the states that it has itself at each step; a sequence is run when
    its first one is asked for."""
    recording = Recording(session)
    unrolled = Unrolled(recording, signature)
    for feed in feeds(split, of_sequences(signature), 1):
        before = len(recording.calls)
        unrolled.run(feed.inputs)
        yield from recording.calls[before:]


def first_step(signature: Signature, split: Split) -> list[Call]:
    """The call that a model with states gets at the beginning of the first sequence."""
    firsts = islice(feeds(split, of_sequences(signature), 1), 1)
    return [first_call(signature, feed.inputs) for feed in firsts]


class Recording:
    """Another session that keeps the calls which are made of it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.calls: list[Call] = []
        self._bytes = 0

    def run(self, inputs: Call) -> dict[str, np.ndarray]:
        kept = {name: np.array(array) for name, array in inputs.items()}
        self._bytes += sum(array.nbytes for array in kept.values())
        if self._bytes > _MOST_BYTES:
            raise MemoryError("a split's calls take more than 2 GiB; give it fewer samples")
        self.calls.append(kept)
        return self._session.run(kept)

    def repeat(self, inputs: Call) -> Callable[[], object]:
        return self._session.repeat(inputs)


def scored_samples(split: Split) -> Split:
    """What results are read for: the split's own samples, or those on which the calls that it holds are made."""
    return split.samples if isinstance(split, CalledSplit) else split


@dataclass(frozen=True)
class CalledDataset(WrappedDataset):
    """calls: what the model is called with on a split. Each is made when it is first asked for."""

    calls: Calls
    _splits: dict[SplitName, CalledSplit] = field(default_factory=dict, repr=False)

    def split(self, name: SplitName) -> CalledSplit:
        if name not in self._splits:
            self._splits[name] = CalledSplit(self.own.split(name), self.calls)
        return self._splits[name]


@dataclass
class CalledSplit:
    """samples: what the calls are made on, and end results are scored on."""

    samples: Split
    calls: Calls
    _made: list[Call] = field(default_factory=list, repr=False)

    @cached_property
    def _rest(self) -> Iterator[Call]:
        return iter(self.calls(self.samples) if len(self.samples) else ())

    def _each(self) -> Iterator[Call]:
        """In order; those that were asked for before are not made again."""
        place = 0
        while True:
            if place == len(self._made):
                self._make_one()
            if place == len(self._made):
                return
            yield self._made[place]
            place += 1

    def _make_one(self) -> None:
        try:
            self._made += islice(self._rest, 1)
        except BaseException:
            # Whoever asks again must not take the calls so far for all.
            self._made.clear()
            self.__dict__.pop("_rest", None)
            raise

    def __len__(self) -> int:
        return sum(1 for _ in self._each())

    def batches(self, size: int, *, shuffle_seed: int | None = None) -> Iterator[Batch]:
        """One call each, whatever the size."""
        if shuffle_seed is None:
            for place, call in enumerate(self._each()):
                yield Batch(call, None, np.array([place], np.int64), is_request=True)
            return
        for chosen in parts_of(np.arange(len(self)), 1, shuffle_seed):
            yield Batch(self._made[int(chosen[0])], None, chosen, is_request=True)
