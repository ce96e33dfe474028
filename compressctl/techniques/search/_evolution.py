"""Looking for the subnetwork that loses least within limits: by what each layer loses alone, and from there by evolution."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from compressctl.numerics.evenly import evenly
from compressctl.techniques.search._space import Space, Subnetwork

Over = Callable[[Subnetwork], float]
"""By how much of what the whole network takes a subnetwork is over the limits, over all of them; 0 or less where it keeps them."""

Loss = Callable[[Subnetwork], float]

_LOOKED_AT = 6
"""Widths of a group whose loss is measured."""

_FRESH = 0.2
"""Share of evolution's subnetworks that come from nowhere."""

_CHANGED = 0.15
"""Share of a subnetwork's groups and blocks that a mutation changes, one at least."""


@dataclass
class Sensitivity:
    """How much the loss rises when a group alone has so many channels, or a block alone is gone."""

    widths: dict[str, dict[int, float]] = field(default_factory=dict)
    blocks: dict[str, float] = field(default_factory=dict)

    @property
    def thresholds(self) -> list[float]:
        """Ascending."""
        return sorted({*self.blocks.values(), *(rise for row in self.widths.values() for rise in row.values())})


def measured(space: Space, loss: Loss, tell: Callable[[int, int], None]) -> Sensitivity:
    """Some widths of each group, and what lies between them on a line. tell: is told how many of how many subnetworks were looked at."""
    found, whole = Sensitivity(), loss(space.whole)
    looked = {name: evenly(group.widths, _LOOKED_AT) for name, group in space.groups.items()}
    count = sum(map(len, looked.values())) + len(space.blocks if space.most_gone else ())
    done = 0
    for name, group in space.groups.items():
        known = {group.whole: 0.0}
        for width in looked[name]:
            known[width] = loss(space.whole.with_width(name, width)) - whole
            tell(done := done + 1, count)
        places = sorted(known)
        found.widths[name] = {
            width: float(np.interp(width, places, [known[place] for place in places])) for width in space.widths(name)
        }
    for name in space.blocks if space.most_gone else ():
        found.blocks[name] = loss(Subnetwork(space.whole.widths, (name,))) - whole
        tell(done := done + 1, count)
    return found


def by_threshold(space: Space, known: Sensitivity, over: Over) -> Subnetwork | None:
    """Of every group the fewest channels, and of blocks as many, that alone lose no more than a threshold: the lowest that keeps the limits, found by
    halving, and then as much more as fits. None where even the highest does not."""
    thresholds = known.thresholds
    low, high = -1, len(thresholds) - 1
    if over(_at(space, known, thresholds[high])) > 0:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if over(_at(space, known, thresholds[middle])) <= 0 else (middle, high)
    found = _at(space, known, thresholds[high])
    return grown(space, found, over, _most_sensitive_first(known, found))


def _at(space: Space, known: Sensitivity, threshold: float) -> Subnetwork:
    widths = tuple(
        (name, min(width for width, rise in known.widths[name].items() if rise <= max(threshold, 0.0)))
        for name in space.groups
    )
    going = sorted((rise, name) for name, rise in known.blocks.items() if rise <= threshold)
    return Subnetwork(widths, space.in_order([name for _, name in going[: space.most_gone]]))


def _most_sensitive_first(known: Sensitivity, found: Subnetwork) -> list[str]:
    rises = {name: known.widths[name][width] for name, width in found.widths}
    return sorted(rises, key=lambda name: -rises[name])


def grown(space: Space, start: Subnetwork, over: Over, order: Sequence[str]) -> Subnetwork:
    """With more channels, one step of a group at a time, in this order again and again, as long as the limits hold."""
    current, open_groups = start, list(order)
    while open_groups:
        for name in list(open_groups):
            wider = next((width for width in space.widths(name) if width > current.kept[name]), None)
            more = None if wider is None else current.with_width(name, wider)
            if more is None or over(more) > 0:
                open_groups.remove(name)
            else:
                current = more
    return current


def fitted(space: Space, start: Subnetwork, over: Over, generator: np.random.Generator) -> Subnetwork | None:
    """Narrower at random until the limits hold, then wider at random while they do; None where the narrowest does not keep them."""
    current = start
    while over(current) > 0:
        steps = [*_narrower(space, current)]
        if not steps:
            return None
        current = steps[int(generator.integers(len(steps)))]
    return grown(space, current, over, list(generator.permutation(np.array(list(space.groups), object))))


def _narrower(space: Space, current: Subnetwork) -> Iterator[Subnetwork]:
    for name, width in current.widths:
        less = [one for one in space.widths(name) if one < width]
        if less:
            yield current.with_width(name, less[-1])
    if len(current.gone) < space.most_gone:
        for name in space.blocks:
            if name not in current.gone:
                yield Subnetwork(current.widths, space.in_order([*current.gone, name]))


def evolved(
    space: Space,
    start: Sequence[Subnetwork],
    over: Over,
    loss: Loss,
    generator: np.random.Generator,
    evaluations: int,
    population: int,
    tell: Callable[[int, int], None],
) -> list[tuple[float, Subnetwork]]:
    """Every subnetwork that was looked at, the best first. start: the first ones; all keep the limits."""
    seen: dict[Subnetwork, float] = {}
    waiting = list(dict.fromkeys(start))
    misses = 0
    while len(seen) < evaluations and misses < 10 * population:
        best = sorted(seen, key=seen.__getitem__)[:population]
        made = waiting.pop(0) if waiting else fitted(space, _next(space, best, generator), over, generator)
        if made is None or made in seen:
            misses += 1
            continue
        seen[made], misses = loss(made), 0
        tell(len(seen), evaluations)
    return sorted(((rise, one) for one, rise in seen.items()), key=lambda entry: entry[0])


def _next(space: Space, best: Sequence[Subnetwork], generator: np.random.Generator) -> Subnetwork:
    """One from nowhere, a mutation of one of the best, or a mixture of two."""
    if not best or generator.random() < _FRESH:
        return space.random(generator)
    one, other = (best[int(generator.integers(len(best)))] for _ in range(2))
    return mutated(space, one if generator.random() < 0.5 else crossed(space, one, other, generator), generator)


def crossed(space: Space, one: Subnetwork, other: Subnetwork, generator: np.random.Generator) -> Subnetwork:
    """Each group as in one of two, and the blocks of one of them."""
    widths = tuple(
        pair if generator.random() < 0.5 else alternative
        for pair, alternative in zip(one.widths, other.widths, strict=True)
    )
    return Subnetwork(widths, one.gone if generator.random() < 0.5 else other.gone)


def mutated(space: Space, one: Subnetwork, generator: np.random.Generator) -> Subnetwork:
    """With some groups' channels, and some blocks, as chance has it."""
    parts = len(space.groups) + (len(space.blocks) if space.most_gone else 0)
    count = max(1, int(generator.binomial(parts, _CHANGED)))
    names = list(space.groups)
    current = one
    for place in generator.permutation(parts)[:count]:
        if place < len(names):
            current = current.with_width(names[place], int(generator.choice(space.widths(names[place]))))
            continue
        block = space.blocks[place - len(names)]
        gone = set(current.gone) ^ {block}
        while len(gone) > space.most_gone:
            gone.discard(sorted(gone - {block})[int(generator.integers(len(gone) - 1))])
        current = Subnetwork(current.widths, space.in_order(sorted(gone)))
    return current
