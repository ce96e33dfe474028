"""How many channels each group keeps: widths that kernels like, spread so that the least is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from compressctl.layers.channels.dependency_groups import Group, nearest_width
from compressctl.techniques.prune.params import Scope

Kept = Mapping[str, int]
"""Units that stay, by the group's name."""

_HALVINGS = 40
"""Of the share that is searched: fine enough for a single channel of a million."""


@dataclass(frozen=True)
class Choice:
    """A group as the allocation sees it. widths: units that it may keep, ascending, the last one all of them.

    scores: (units,) ascending, comparable between groups. pinned: units that an override makes it keep.
    """

    group: Group
    widths: tuple[int, ...]
    scores: np.ndarray
    pinned: int | None = None

    def nearest(self, wanted: float) -> int:
        """The permitted width nearest to so many units, or the pinned one."""
        if self.pinned is not None:
            return self.pinned
        return nearest_width(self.widths, wanted)

    def lost(self, kept: int) -> float:
        """The sum of the scores that go when so many units stay."""
        return float(self.scores[: self.group.units - kept].sum())


def allocate(
    choices: Sequence[Choice], scope: Scope, goal: float, cost: Callable[[Kept], float], *, refine: bool = True
) -> Kept:
    """The widths with the largest cost that is not above goal; the smallest possible ones where none is small enough.

    scope: local, global or isomorphic. cost must not rise when widths fall. refine: spend what rounding left over.
    """
    low, high = 0.0, 1.0  # shares that go
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if cost(spread(choices, scope, middle)) <= goal else (middle, high)
    kept = spread(choices, scope, high)
    return _spend_the_rest(choices, kept, goal, cost) if refine else kept


def spread(choices: Sequence[Choice], scope: Scope, share: float) -> Kept:
    """Widths when this share of the channels goes, counted as the scope says."""
    free = [choice for choice in choices if choice.pinned is None]
    kept = {choice.group.name: choice.pinned for choice in choices if choice.pinned is not None}
    if scope == "local":
        kept |= {choice.group.name: choice.nearest((1 - share) * choice.group.units) for choice in free}
        return kept
    pools: dict[str, list[Choice]] = {}
    for choice in free:
        pools.setdefault(choice.group.kind if scope == "isomorphic" else "", []).append(choice)
    for pool in pools.values():
        threshold = float(np.quantile(np.concatenate([choice.scores for choice in pool]), share))
        for choice in pool:
            above = int((choice.scores > threshold).sum()) if share > 0 else choice.group.units
            kept[choice.group.name] = choice.nearest(above)
    return kept


def _spend_the_rest(choices: Sequence[Choice], kept: Kept, goal: float, cost: Callable[[Kept], float]) -> Kept:
    """Widen one step at a time what loses most for its cost, while the goal still holds."""

    def moves(current: Kept) -> Iterator[Move]:
        spent = cost(current)
        for choice in choices:
            name, width = choice.group.name, current[choice.group.name]
            wider = next((w for w in choice.widths if w > width), None)
            if wider is None or choice.pinned is not None:
                continue
            price = cost({**current, name: wider}) - spent
            if spent + price <= goal:
                yield (choice.lost(width) - choice.lost(wider)) / max(price, 1e-12), name, wider

    return _moved(kept, moves)


def allocate_measured(
    choices: Sequence[Choice],
    saved_us: Mapping[str, Mapping[int, float]],
    goal: float,
    cost: Callable[[Kept], float],
) -> Kept:
    """Narrow, one step at a time, the group that loses least for each microsecond that it saves, until cost is at most goal.

    saved_us: by group and units kept, the measured microseconds that the width saves against the full one. Widths that save
    nothing over a wider one are never chosen for speed; they follow only when nothing else can shrink. What the last, large
    step saved too much is spent on width again.
    """

    def narrower(current: Kept) -> Iterator[Move]:
        if cost(current) <= goal:
            return
        for choice in choices:
            name, width = choice.group.name, current[choice.group.name]
            for less in (w for w in choice.widths if w < width and choice.pinned is None):
                gained = saved_us[name].get(less, 0.0) - saved_us[name].get(width, 0.0)
                yield (choice.lost(width) - choice.lost(less)) / max(gained, 1e-3), name, less

    def wider(current: Kept) -> Iterator[Move]:
        """While the goal holds: of two widths that take as long, the wider."""
        for choice in choices:
            name, width = choice.group.name, current[choice.group.name]
            for more in (w for w in choice.widths if w > width and choice.pinned is None):
                if cost({**current, name: more}) > goal:
                    break
                takes = saved_us[name].get(width, 0.0) - saved_us[name].get(more, 0.0)
                yield (choice.lost(width) - choice.lost(more)) / max(takes, 1e-3), name, more

    narrowed = _moved({choice.group.name: choice.nearest(choice.group.units) for choice in choices}, narrower)
    return _moved(narrowed, wider) if cost(narrowed) <= goal else narrowed


Move = tuple[float, str, int]
"""What it gains, the group, and the units that the group keeps then."""


def _moved(kept: Kept, moves: Callable[[Kept], Iterator[Move]]) -> Kept:
    """Make the move that gains most, the first of equal ones, as long as there is one."""
    current = dict(kept)
    while (best := max(moves(current), key=lambda move: move[0], default=None)) is not None:
        current[best[1]] = best[2]
    return current
