"""How many microseconds narrower layers save in the runtime that will serve the network: a small table, measured here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from torch import nn

from compressctl.core.errors import StageError
from compressctl.core.model import TorchModel
from compressctl.core.technique import RunContext
from compressctl.layers.channels.surgery import cut, removal
from compressctl.numerics.evenly import evenly
from compressctl.techniques.prune._allocate import Choice, Kept

_MOST_WIDTHS = 8
"""Timed for one kind of group; widths between them are interpolated."""

_NOISE = 0.004
"""Share of the whole latency below which two medians of one run say nothing."""


def saved_us(model: TorchModel, choices: Sequence[Choice], run: RunContext) -> dict[str, dict[int, float]]:
    """By group and units kept, the microseconds that one group of that width saves against the full one.

    All groups of one structure are narrowed together and share what that saves, so that small savings rise above the noise.
    Whole networks are timed, since a layer alone also pays for reordering its input and output.
    """
    kinds: dict[str, list[Choice]] = {}
    for choice in choices:
        if choice.pinned is None and len(choice.widths) > 1:
            kinds.setdefault(choice.group.kind, []).append(choice)
    table: dict[str, dict[int, float]] = {choice.group.name: {choice.group.units: 0.0} for choice in choices}
    for number, alike in enumerate(kinds.values()):
        run.events.progress("timing widths in the target's runtime", number, len(kinds))
        timed = evenly(alike[0].widths, _MOST_WIDTHS)
        narrowed = [narrow(model, alike, {choice.group.name: width for choice in alike}) for width in timed[:-1]]
        whole, *others = run.clock()([model, *narrowed])
        each = [(whole - other) * 1e3 / len(alike) for other in others]
        floor = _NOISE * whole * 1e3 / len(alike)
        known = np.array([*(saved if saved > floor else 0.0 for saved in each), 0.0])
        for choice in alike:
            for width in choice.widths:
                table[choice.group.name][width] = float(np.interp(width, timed, known))
    return table


def narrow(
    model: TorchModel, choices: Sequence[Choice], kept: Kept, order: Mapping[str, np.ndarray] | None = None
) -> TorchModel:
    """The model cut to these widths. order: by group, units from the weakest on; as numbered where it is not given."""
    groups = [choice.group for choice in choices if choice.group.name in kept]
    units = {
        group.name: (order[group.name] if order else np.arange(group.units))[: group.units - kept[group.name]]
        for group in groups
    }
    return replace(model, body=cut(model.body, removal(groups, units)))


def reach_latency(
    model: TorchModel,
    goal: float,
    candidate: Callable[[float], tuple[Kept, nn.Module]],
    run: RunContext,
    tries: int = 7,
) -> tuple[Kept, float]:
    """The widest network whose measured latency is at most `goal` times the model's; and that share, as measured.

    candidate: widths, and the network, for a share of the multiply-accumulates. Latency falls with them, not in proportion,
    so that the share is searched by halving. Raises StageError when no width is narrow enough.
    """
    seen: dict[tuple[tuple[str, int], ...], float] = {}
    best: tuple[Kept, float] | None = None
    low, high = 0.0, 1.0
    share = goal
    for number in range(tries):
        run.events.progress("searching the widths that meet the latency", number, tries)
        kept, network = candidate(share)
        key = tuple(sorted(kept.items()))
        if key not in seen:
            before, after = run.clock()([model, replace(model, body=network)])
            seen[key] = after / before
        found = seen[key]
        if found <= goal:
            low = share
            if best is None or sum(kept.values()) >= sum(best[0].values()):
                best = (kept, found)
        else:
            high = share
        share = (low + high) / 2
    if best is not None:
        return best
    kept, network = candidate(0.0)
    before, after = run.clock()([model, replace(model, body=network)])
    if after / before <= goal:
        return kept, after / before
    raise StageError(
        f"even the narrowest network takes {after / before:.0%} of the latency, {goal:.0%} was asked for",
        hint="remove whole blocks too (prune.layers), lower min_keep or round_to, or ask for less",
    )
