"""What every decomposition of a layer can tell: its ranks, what each costs, what each loses, and the weights of one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from compressctl.layers.layer import Layer, Outline
from compressctl.techniques.factorize._pieces import Piece

Rank = tuple[int, ...]
"""One number for most schemes; for Tucker the output's and the input's."""


class Split(Protocol):
    """One layer, decomposed once by one scheme, and cut to any rank afterwards."""

    @property
    def scheme(self) -> str: ...

    @property
    def layer(self) -> Layer: ...

    @property
    def full_rank(self) -> Rank: ...

    def ranks(self, round_to: int) -> Iterable[Rank]:
        """Those worth a look; from round_to on only its multiples."""
        ...

    def outlines(self, rank: Rank) -> tuple[Outline, ...]:
        """The layers that would take the place of the whole one."""
        ...

    def error(self, rank: Rank) -> float:
        """The share of the squares of the output that is lost, 0 to 1."""
        ...

    def weights(self, rank: Rank) -> tuple[np.ndarray, ...]:
        """float64, of the shapes in the outlines."""
        ...

    def evbmf(self) -> Rank:
        """The ranks that stand out of the noise in the weight, each at least 1."""
        ...


@dataclass(frozen=True)
class Option:
    """A layer at one rank. macs: for one sample. error: share of the squares of the output that is lost."""

    split: Split
    rank: Rank
    parameters: int
    macs: int

    @property
    def error(self) -> float:
        return self.split.error(self.rank)

    @property
    def saves(self) -> bool:
        return self.macs < self.split.layer.macs

    def pieces(self) -> tuple[Piece, ...]:
        """The chain, with the layer's bias on its last piece."""
        outlines, weights = self.split.outlines(self.rank), self.split.weights(self.rank)
        biases = [None] * (len(outlines) - 1) + [self.split.layer.bias]
        return tuple(Piece(*parts) for parts in zip(outlines, weights, biases, strict=True))


def option(split: Split, rank: Rank) -> Option:
    outlines = split.outlines(rank)
    parameters = sum(part.parameters for part in outlines) + split.layer.bias_parameters
    return Option(split, rank, parameters, split.layer.macs_of(outlines))


def options(split: Split, round_to: int) -> list[Option]:
    """Every rank that lowers MACs, cheapest first."""
    found = [option(split, rank) for rank in split.ranks(round_to)]
    return sorted((one for one in found if one.saves), key=lambda one: (one.macs, one.parameters))


def steps(limit: int, round_to: int) -> list[int]:
    """1 to limit; from round_to on only its multiples, which fill the blocks that kernels compute in."""
    return [number for number in range(1, limit + 1) if number < round_to or number % round_to == 0]


def rounded_up(rank: int, limit: int, round_to: int) -> int:
    """The next of `steps` from a rank on, the limit where there is none."""
    return rank if rank < round_to else min(-(-rank // round_to) * round_to, limit)
