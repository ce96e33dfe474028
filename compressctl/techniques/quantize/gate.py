"""Hold an accuracy gate: give the layers that cost most back to float until the drop is within the limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from compressctl.core.data import bind
from compressctl.core.errors import GateError
from compressctl.core.model import Model
from compressctl.core.technique import RunContext

_PROBED_SAMPLES = 64
"""Calibration samples on which each layer's cost is measured; only the order of the layers depends on it."""


Rebuild = Callable[[Mapping[str, str]], Model]
"""The quantized model with some nodes in float, each with the reason."""

_REASON = "gate: costs too much accuracy in int8"


def hold_gate(
    rebuild: Rebuild, original: Model, nodes: Sequence[str], run: RunContext, reason: str = _REASON
) -> tuple[dict[str, str], dict[str, Any]]:
    """The fewest of these nodes that must be float for the gate to hold, with the reason, and what was found, for the report.

    Layers go back in the order of what each costs: the drop in output error when that one alone is float. The least number
    is found by doubling and halving, each step scored on the validation split through the target's runtime. Raises
    GateError when the gate does not hold even with every layer in float.
    """
    gate, score, baseline, metric = run.gate, run.score, run.baseline_score, run.metric
    assert gate is not None, "the pipeline gives a gate only with labelled data"
    assert score is not None
    assert baseline is not None
    assert metric is not None
    before = baseline()

    def drop(given_back: Sequence[str]) -> float:
        after = score(rebuild(dict.fromkeys(given_back, reason)), "validation")
        return metric.drop(before, after)

    first = drop([])
    if first <= gate.accuracy_drop:
        return {}, {"validation_drop": first}
    ranked = _rank(rebuild, original, nodes, run)
    drops: dict[int, float] = {}

    def holds(count: int) -> bool:
        drops[count] = drop(ranked[:count])
        run.events.emit("note", message=f"{count} of {len(ranked)} layers in float: drop {drops[count]:.2f}")
        return drops[count] <= gate.accuracy_drop

    count = _least(holds, len(ranked))
    if count is None:
        raise GateError(
            f"the gate of {gate.accuracy_drop}{' points' if metric.unit == '%' else ''} does not hold even with every layer in "
            f"float ({metric.drop_words(drops[len(ranked)])})",
            hint="the validation split may be too small for so tight a gate",
        )
    facts = {"validation_drop": drops[count], "validation_drop_all_int8": first}
    return dict.fromkeys(ranked[:count], reason), facts


def _least(holds: Callable[[int], bool], total: int) -> int | None:
    """The least count from 1 to total that holds, found in about 2 log2(total) trials; None when total does not."""
    low, high = 0, 1
    while not holds(high):
        if high == total:
            return None
        low, high = high, min(2 * high, total)
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return high


def _rank(rebuild: Rebuild, original: Model, nodes: Sequence[str], run: RunContext) -> list[str]:
    """Names of the nodes that round something, the one that costs most first.

    A node's cost is the larger of two errors of the output: what it causes when it alone is quantized, and what goes away
    when it alone is float. The first finds a range that two readers share and that spoils both, which floating either
    does not mend; the second finds what only rounds between integer neighbours.
    """
    assert run.data is not None
    assert run.open is not None
    open_ = run.open
    batch = next(iter(run.data.split("calibration").batches(_PROBED_SAMPLES)))
    inputs = bind(batch, original.signature)
    wanted = open_(original).run(inputs)

    def error(floats: Sequence[str]) -> float:
        found = open_(rebuild(dict.fromkeys(floats, _REASON))).run(inputs)
        return sum(float(np.mean((found[name] - wanted[name]) ** 2)) for name in wanted)

    whole = error([])
    costs = {}
    for done, node in enumerate(nodes):
        alone = error([other for other in nodes if other != node])
        costs[node] = max(alone, whole - error([node]))
        run.events.progress("ranking layers", done + 1, len(nodes))
    return sorted(nodes, key=lambda node: -costs[node])
