"""Hold a gate: give the layers that cost most back to float until what is lost is within the limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from compressctl.core.errors import GateError
from compressctl.core.feeds import Feed, first_feeds
from compressctl.core.model import OnnxModel
from compressctl.core.technique import Acceptance, RunContext, StageResult
from compressctl.graph.untouched import Untouched, planned
from compressctl.numerics.channel_statistics import noise_to_signal
from compressctl.techniques.quantize._no_kernel import no_kernel

if TYPE_CHECKING:
    from compressctl.core.data import Split
    from compressctl.core.model import Signature

_PROBED_SAMPLES = 64
"""Calibration samples on which each layer's cost is measured, two runs a layer; only the order of the layers depends on it."""

_PROBED_VALUES = 2_000_000
"""Of large samples fewer: as many as hold this many input values, such as four images of 400x400."""

_MOST_PROBES = 64
"""Groups of layers whose cost is measured: each takes two builds of the file."""

Rebuild = Callable[[Mapping[str, str]], OnnxModel]
"""The quantized model with some nodes in float, each with the reason."""

_REASON = "gate: costs too much accuracy in int8"


def gated(
    use: str,
    reads: str,
    rebuild: Rebuild,
    original: OnnxModel,
    nodes: Sequence[str],
    facts: Mapping[str, Any],
    run: RunContext,
    reason: str = _REASON,
) -> StageResult:
    """A stage's result: where it has a gate the model that holds it, and what of it stayed in float. See `hold_gate`, `Untouched`."""
    held: Mapping[str, Any] = {}
    if run.accept is None:
        model = rebuild({})
    else:
        model, held = hold_gate(rebuild, original, nodes, run, reason)
    floats = {} if model.quant is None else model.quant.float_nodes
    why = floats if use == "quantize.weights" else {**no_kernel(model.body, use, run.target.backend), **floats}
    left = Untouched(use, reads, planned(model), why).facts(model, run.events)
    return StageResult(model, {**facts, **held, "left_in_float": floats, **left})


def hold_gate(
    rebuild: Rebuild, original: OnnxModel, nodes: Sequence[str], run: RunContext, reason: str = _REASON
) -> tuple[OnnxModel, Mapping[str, Any]]:
    """The model with the fewest of these nodes in float for which the gate holds, as it was scored, and facts for the report.

    Layers go back in the order of what each costs: the drop in output error when that one alone is float. The least number
    is found by doubling and halving, each step scored on the validation split through the target's runtime. Raises
    GateError when the gate does not hold even with every layer in float.
    """
    assert run.accept is not None, "a technique holds a gate only where it is given one"
    accept = run.accept
    model = rebuild({})
    first = accept(model)
    if first.holds:
        return model, first.facts
    ranked = _rank(rebuild, original, nodes, run)
    tried: dict[int, Acceptance] = {}

    def holds(count: int) -> bool:
        nonlocal model
        made = rebuild(dict.fromkeys(ranked[:count], reason))
        tried[count] = accept(made)
        run.events.emit(
            "note",
            message=f"{count} of {len(ranked)} layers in float: {tried[count].words or 'the gate holds'}",
        )
        model = made if tried[count].holds else model
        return tried[count].holds

    count = _least(holds, len(ranked))
    if count is None:
        raise GateError(
            f"the gate does not hold even with every layer in float: {tried[len(ranked)].words}",
            hint="the validation split may be too small for so tight a gate",
        )
    before = {f"{name}_all_int8": value for name, value in first.facts.items() if name == "validation_drop"}
    return model, {**tried[count].facts, **before}


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


def _rank(rebuild: Rebuild, original: OnnxModel, nodes: Sequence[str], run: RunContext) -> list[str]:
    """Names of the nodes that round something, the one that costs most first.

    A node's cost is the larger of two errors of the output: what it causes when it alone is quantized, and what goes away
    when it alone is float. The first finds a range that two readers share and that spoils both, which floating either
    does not mend; the second finds what only rounds between integer neighbours.
    """
    assert run.data is not None
    assert run.open is not None
    open_ = run.open
    calls = _probed(run.data.split("calibration"), original.signature)
    reference = open_(original)
    wanted = [reference.run(call.inputs) for call in calls]

    def error(floats: Sequence[str]) -> float:
        session = open_(rebuild(dict.fromkeys(floats, _REASON)))
        return noise_of([session.run(call.inputs) for call in calls], wanted)

    whole = error([])
    total = min(len(nodes), _MOST_PROBES)
    probed = 0

    def cost(group: Sequence[str]) -> float:
        nonlocal probed
        probed += 1
        run.events.progress("ranking layers", probed, total)
        inside = set(group)
        return max(error([node for node in nodes if node not in inside]), whole - error(group))

    return ranked(nodes, cost, total)


def ranked(nodes: Sequence[str], cost: Callable[[Sequence[str]], float], probes: int) -> list[str]:
    """The nodes, the one that costs most first. cost: of a group of nodes, asked for at most `probes` groups.

    Where there are more nodes than probes, half of these go to neighbours together, then the group that costs most is halved
    again and again; a node that was never asked for alone counts with its group's mean.
    """
    if len(nodes) <= probes:
        costs = {node: cost([node]) for node in nodes}
        return sorted(nodes, key=lambda node: -costs[node])
    bounds = np.linspace(0, len(nodes), probes // 2 + 1).astype(int)
    parts = [nodes[start:end] for start, end in pairwise(bounds)]
    groups = [(cost(part), part) for part in parts]
    left = probes - len(groups)
    while left >= 2:
        together = [entry for entry in groups if len(entry[1]) > 1]
        if not together:
            break
        most = max(together, key=lambda entry: entry[0])
        groups.remove(most)
        middle = len(most[1]) // 2
        groups += [(cost(half), half) for half in (most[1][:middle], most[1][middle:])]
        left -= 2
    means = {node: found / len(group) for found, group in groups for node in group}
    return sorted(nodes, key=lambda node: -means[node])


def _probed(split: Split, signature: Signature) -> list[Feed]:
    calls: list[Feed] = []
    values = 0
    for call in first_feeds(split, signature, _PROBED_SAMPLES, _PROBED_SAMPLES):
        if calls and values >= _PROBED_VALUES:
            break
        calls.append(call)
        values += sum(array.size for array in call.inputs.values())
    return calls


def noise_of(found: Sequence[Mapping[str, np.ndarray]], wanted: Sequence[Mapping[str, np.ndarray]]) -> float:
    """Noise to signal, summed over the outputs that are numbers. Channels count alike, so that scores are not lost beside boxes in pixels."""
    total = 0.0
    for name in (name for name, values in wanted[0].items() if values.dtype.kind in "biuf"):
        was, now = ([np.asarray(outputs[name], np.float64) for outputs in calls] for calls in (wanted, found))
        ratios = noise_to_signal(was, now, 1 if was[0].ndim > 2 else None)
        total += float(np.nan_to_num(ratios).mean())
    return total
