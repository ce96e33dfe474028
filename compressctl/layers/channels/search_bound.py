"""A bound on how long the search for coupled channels may take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_STEPS_PER_NODE = 10
"""Of one search, per operation of the network. Residual, dense and attention networks of up to 40 layers took 2.2 at most; where one
channel stands for several, as with grouped queries, the library's search goes on for 100 and more without an end in sight."""

_FEWEST_STEPS = 500


class TooFarError(Exception):
    """A search took more steps than a network of this size can need. Its text says so as the reason why a layer stays."""


class Steps:
    """Counts the steps of a search. Steps instead of seconds, so that every machine finds the same groups."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0

    def __call__(self, indices: Sequence[Any]) -> Sequence[Any]:
        """Stands among the mappings that the library sends each step's channels through, and changes none of them."""
        self.taken += 1
        if self.taken > self.limit:
            raise TooFarError(
                f"what its channels are coupled with was not found in {self.limit:,} steps, where the search ends; that happens "
                "where one channel stands for several, as with attention of grouped queries"
            )
        return indices


def bound_search(graph: Any) -> Steps:
    """Let each search in a torch_pruning.DependencyGraph raise TooFarError at the bound; set `taken` to 0 before each."""
    nodes = graph.module2node.values()
    steps = Steps(max(_FEWEST_STEPS, _STEPS_PER_NODE * len(nodes)))
    for node in nodes:
        for dependency in node.dependencies:
            dependency.index_mapping.append(steps)
    return steps
