"""A number that is summed over many nodes, some of which may be unknown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Count:
    """known: the sum over the nodes that are known. unknown: how many nodes are not, by operator.

    What is summed is `known` where `unknown` is empty, and at least `known` otherwise.
    """

    known: int
    unknown: Mapping[str, int] = field(default_factory=dict)

    @property
    def exact(self) -> int | None:
        """The sum, None where a part of it is unknown."""
        return None if self.unknown else self.known

    @property
    def at_least(self) -> int | None:
        """A lower bound that says something: None where the sum is exact, and where nothing of it is known."""
        return self.known if self.unknown and self.known else None

    @property
    def unknown_nodes(self) -> int:
        return sum(self.unknown.values())

    def __str__(self) -> str:
        if not self.unknown:
            return f"{self.known:,}"
        return f"at least {self.known:,} ({nodes(self.unknown_nodes)} unknown)" if self.known else "unknown"


def count(values: Iterable[tuple[str, int | None]]) -> Count:
    """values: for each node its operator and its number, None where that is unknown."""
    known, unknown = 0, Counter[str]()
    for operator, value in values:
        if value is None:
            unknown[operator] += 1
        else:
            known += value
    return Count(known, dict(unknown.most_common()))


def nodes(number: int) -> str:
    return "1 node" if number == 1 else f"{number:,} nodes"


def by_operator(unknown: Mapping[str, int]) -> str:
    """As in "3 LSTM, 1 MatMul"."""
    return ", ".join(f"{number:,} {operator}" for operator, number in unknown.items())
