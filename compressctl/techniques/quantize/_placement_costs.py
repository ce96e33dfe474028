"""What a placement of integers is expected to take, fitted to placements that were timed, and the best one by that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import lsq_linear

from compressctl.numerics.least_cut import least_cut
from compressctl.techniques.quantize._regions import Placement, Regions

_TOLD_APART = 0.005
"""Share of the latency to which a median is known: what the fit trusts a timing with."""

_EXPECTED = 0.1, 0.5
"""How much a kind of layers, and all conversions, change the latency at most, about: what the fit expects before it has seen anything."""

_OFFSETS = (0.0, 0.5, -0.5, 1.5, -1.5)
"""Placements that put less in float, or more, than the fit takes for best: in units of what a layer adds or saves at the median."""


@dataclass(frozen=True)
class Costs:
    """Relative to everything in integers, which takes 1. of_kinds: what one layer of each kind adds in float, in the order of
    `regions.kinds`. to_float, to_codes: what a conversion of one value costs."""

    regions: Regions
    of_kinds: tuple[float, ...]
    to_float: float
    to_codes: float

    def of(self, placement: Placement) -> float:
        features = _features(self.regions, placement)
        return 1.0 + float(features @ np.array([*self.of_kinds, self.to_float, self.to_codes]))

    def best(self) -> list[Placement]:
        """The cheapest placement, then those next to it, each once. See `_OFFSETS`."""
        units, place = self.regions.units, self.regions.place
        kinds = dict(zip(self.regions.kinds, self.of_kinds, strict=True))
        costs = np.array([kinds[unit.kind] for unit in units.values()])
        # In float behind integers reads what is converted to float; in integers behind float, what is converted to codes.
        arcs = [(place[link.reader], place[link.maker], self.to_float * link.values) for link in self.regions.links]
        arcs += [(place[link.maker], place[link.reader], self.to_codes * link.values) for link in self.regions.links]
        step = float(np.median(np.abs(costs))) if len(costs) else 0.0
        found: dict[Placement, None] = {}
        for offset in _OFFSETS:
            sides = least_cut(list(costs + offset * step), arcs)
            found[self.regions.closed([node for node, is_float in zip(units, sides, strict=True) if is_float])] = None
        return list(found)


def fit(regions: Regions, timed: Sequence[tuple[Placement, float]]) -> Costs:
    """Least squares with a prior, conversions costing at least nothing. timed: placements with their time, everything in integers taking 1."""
    rows = np.array([_features(regions, placement) for placement, _ in timed])
    times = np.array([time for _, time in timed])
    sizes = np.array([float(len(nodes)) for nodes in regions.kinds.values()])
    values = float(max(1, sum(link.values for link in regions.links)))
    kinds, conversions = _EXPECTED
    expected = np.concatenate([kinds / sizes, [conversions / values] * 2])
    matrix = np.vstack([rows * expected / (_TOLD_APART * times[:, None]), np.eye(len(expected))])
    wanted = np.concatenate([(times - 1.0) / (_TOLD_APART * times), np.zeros(len(expected))])
    least = np.concatenate([np.full(len(sizes), -np.inf), np.zeros(2)])
    found = lsq_linear(matrix, wanted, (least, np.inf)).x * expected
    return Costs(regions, tuple(map(float, found[:-2])), float(found[-2]), float(found[-1]))


def _features(regions: Regions, placement: Placement) -> np.ndarray:
    """How many layers of each kind are in float, and how many values are converted to float and to codes."""
    counts = [float(len(nodes & placement)) for nodes in regions.kinds.values()]
    cut = [link for link in regions.links if (link.maker in placement) is not (link.reader in placement)]
    to_codes = sum(link.values for link in cut if link.maker in placement)
    return np.array([*counts, float(sum(link.values for link in cut) - to_codes), float(to_codes)])
