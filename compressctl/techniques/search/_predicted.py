"""What a subnetwork will take where it is measured, by a table of what narrower layers and missing blocks save there."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np

from compressctl.core.technique import RunContext
from compressctl.layers.channels.dependency_groups import example_inputs, samples_in
from compressctl.layers.live_values import live_values
from compressctl.numerics.evenly import evenly
from compressctl.techniques.search._meters import Meter
from compressctl.techniques.search._space import Space, Subnetwork

_TOGETHER = 6
"""Networks that are measured in one go."""

_LEAST = 0.02
"""Of the whole, what a subnetwork is taken to take at least."""


class Foretold(Protocol):
    """What a subnetwork will take. whole: what the whole network takes."""

    @property
    def whole(self) -> float: ...

    def __call__(self, subnetwork: Subnetwork) -> float: ...

    def measure(self, subnetwork: Subnetwork) -> float:
        """The share of the whole's that it takes. What was foretold is corrected by it."""
        ...


class PredictedMemory:
    """Bytes of the weights, and of the values that are alive at once in a call of so many samples, in float."""

    def __init__(self, space: Space, samples: int) -> None:
        self._space, self._samples = space, samples
        self._factor = 1.0
        self.whole = self._bytes(space.whole, space.values(space.whole))

    def __call__(self, subnetwork: Subnetwork) -> float:
        values = self._space.values(subnetwork)
        return self._bytes(subnetwork, values * (1.0 if subnetwork == self._space.whole else self._factor))

    def measure(self, subnetwork: Subnetwork) -> float:
        network, inputs = self._space.cut(subnetwork).body.eval(), example_inputs(self._space.model.signature)
        values = live_values(network, inputs).peak() / samples_in(self._space.model.signature, inputs)
        self._factor = values / self._space.values(subnetwork)
        return self._bytes(subnetwork, values) / self.whole

    def _bytes(self, subnetwork: Subnetwork, values: float) -> float:
        return 4 * self._space.parameters(subnetwork) + self._samples * values


class Predicted:
    """A subnetwork's latency in milliseconds, or its energy in joules. saved, blocks: what it takes less where a group alone has so
    many channels, or a block alone is gone."""

    def __init__(
        self, space: Space, meter: Meter, whole: float, saved: dict[str, dict[int, float]], blocks: dict[str, float]
    ) -> None:
        self._space, self._meter, self.whole, self._saved, self._blocks = space, meter, whole, saved, blocks
        self._factor = 1.0

    def __call__(self, subnetwork: Subnetwork) -> float:
        gone = set(subnetwork.gone)
        saved, share = sum(self._blocks.get(name, 0.0) for name in gone), 1.0
        for name, width in subnetwork.widths:
            less = self._saved[name].get(width, 0.0)
            if self._space.is_resolution(name):
                share = 1 - less / self.whole
            elif self._space.groups[name].block not in gone:
                saved += less
        if not saved and share == 1:
            return self.whole
        return max(self.whole - saved, _LEAST * self.whole) * share * self._factor

    def measure(self, subnetwork: Subnetwork) -> float:
        before, after = self._meter([self._space.entire, self._space.cut(subnetwork)])
        self._factor *= after / before * self.whole / self(subnetwork)
        return after / before


def predicted(space: Space, name: str, meter: Meter, run: RunContext) -> Predicted:
    """Measured in place: all groups of one structure at once, and all blocks, some widths of each. name: of the limit, for the progress."""
    whole = 0.0
    saved: dict[str, dict[int, float]] = {name: {group.whole: 0.0} for name, group in space.groups.items()}
    kinds: dict[str, list[str]] = {}
    for name, group in space.groups.items():
        kinds.setdefault(group.kind, []).append(name)
    for number, alike in enumerate(kinds.values()):
        run.events.progress(f"measuring what widths take ({name})", number, len(kinds))
        widths = space.groups[alike[0]].widths
        some = evenly(widths, _TOGETHER)
        cuts = [_narrowed(space, alike, width) for width in some]
        whole, *others = meter([space.entire, *(space.cut(cut) for cut in cuts)])
        for name in alike:
            own = dict(zip(some, ((whole - other) / len(alike) for other in others), strict=True))
            saved[name] |= _between(own, space.groups[name].widths, space.groups[name].whole)
    blocks: dict[str, float] = {}
    for start in range(0, len(space.blocks) if space.most_gone else 0, _TOGETHER):
        some_blocks = space.blocks[start : start + _TOGETHER]
        cuts = [replace(space.whole, gone=(name,)) for name in some_blocks]
        whole, *others = meter([space.entire, *(space.cut(cut) for cut in cuts)])
        blocks |= {name: max(whole - other, 0.0) for name, other in zip(some_blocks, others, strict=True)}
    return Predicted(space, meter, whole, saved, blocks)


def _narrowed(space: Space, names: list[str], width: int) -> Subnetwork:
    found = space.whole
    for name in names:
        found = found.with_width(name, width)
    return found


def _between(known: dict[int, float], widths: tuple[int, ...], whole: int) -> dict[int, float]:
    """By width, what is saved; on a line between those that were timed, never less than nothing, and no less than what a wider one saves."""
    places = [*sorted(known), whole]
    values = np.maximum.accumulate(np.maximum([*(known[width] for width in sorted(known)), 0.0], 0.0)[::-1])[::-1]
    return {width: float(np.interp(width, places, values)) for width in widths}
