"""What a subnetwork will take on the target, by a table of what narrower layers and missing blocks save there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from compressctl.core.technique import RunContext
from compressctl.numerics.evenly import evenly
from compressctl.techniques.prune._measured_widths import clock
from compressctl.techniques.search._space import Space, Subnetwork

_TOGETHER = 6
"""Networks that are timed in one go."""


class Predicted:
    """A subnetwork's latency in milliseconds. whole_ms: the whole network's. saved, blocks: milliseconds that it takes less where a group alone has so
    many channels, or a block alone is gone. measured: the share of the whole's latency that the last one measured took."""

    def __init__(
        self, space: Space, whole_ms: float, saved: dict[str, dict[int, float]], blocks: dict[str, float]
    ) -> None:
        self._space, self.whole_ms, self._saved, self._blocks = space, whole_ms, saved, blocks
        self._factor = 1.0
        self.measured: float | None = None

    def __call__(self, subnetwork: Subnetwork) -> float:
        gone = set(subnetwork.gone)
        saved = sum(self._blocks.get(name, 0.0) for name in gone)
        for name, width in subnetwork.widths:
            if self._space.groups[name].block not in gone:
                saved += self._saved[name].get(width, 0.0)
        return self.whole_ms if not saved else max(self.whole_ms - saved, 0.02 * self.whole_ms) * self._factor

    def learn(self, subnetwork: Subnetwork, share: float) -> None:
        """share: of the whole network's latency, as it was measured."""
        self.measured = share
        self._factor *= share * self.whole_ms / self(subnetwork)


def predicted(space: Space, run: RunContext) -> Predicted:
    """Timed in place: all groups of one structure at once, and all blocks, some widths of each."""
    whole = 0.0
    saved: dict[str, dict[int, float]] = {name: {group.whole: 0.0} for name, group in space.groups.items()}
    kinds: dict[str, list[str]] = {}
    for name, group in space.groups.items():
        kinds.setdefault(group.kind, []).append(name)
    for number, alike in enumerate(kinds.values()):
        run.events.progress("timing widths in the target's runtime", number, len(kinds))
        widths = space.groups[alike[0]].widths
        some = evenly(widths, _TOGETHER)
        cuts = [_narrowed(space, alike, width) for width in some]
        whole, *others = clock(run)([space.model, *(space.cut(cut) for cut in cuts)])
        for name in alike:
            own = dict(zip(some, ((whole - other) / len(alike) for other in others), strict=True))
            saved[name] |= _between(own, space.groups[name].widths, space.groups[name].whole)
    blocks: dict[str, float] = {}
    for start in range(0, len(space.blocks) if space.most_gone else 0, _TOGETHER):
        some_blocks = space.blocks[start : start + _TOGETHER]
        cuts = [replace(space.whole, gone=(name,)) for name in some_blocks]
        whole, *others = clock(run)([space.model, *(space.cut(cut) for cut in cuts)])
        blocks |= {name: max(whole - other, 0.0) for name, other in zip(some_blocks, others, strict=True)}
    return Predicted(space, whole, saved, blocks)


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
