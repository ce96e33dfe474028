"""A budget against what was measured, in a run that just ended or in a report that was kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from compressctl.core.source import MetricSpec, metrics
from compressctl.measure.fidelity_limits import fidelity_checks, missed
from compressctl.measure.results import BudgetCheck, BundleResult, HeadResult, Measurement, Speedup, TaskScore
from compressctl.measure.speed_words import is_wide, times
from compressctl.recipe.schema import BudgetSection, BundleLimits, GateSection

_ROUNDING = 1e-9
"""A drop of exactly the limit, computed from shares, may come out a rounding error above it."""
_MOST_DIGITS = 12


def check(
    budget: BudgetSection, found: Measurement | None, metric: str, bundle: BundleResult | None = None
) -> tuple[BudgetCheck, ...]:
    """One line for every limit that is set. What was not measured does not hold.

    found: None where the file that is held against the budget could not be built or measured. bundle: of the same deliverable.
    """
    change, packed = (found.change, found.packed) if found else (None, None)
    checks = []
    if budget.size is not None:
        taken = found.total_bytes if found else None
        checks.append(at_most("size", budget.size, taken, "bytes of the exported files"))
    if budget.packed_size is not None:
        words = "bytes of the file packed for transport"
        checks.append(at_most("packed_size", budget.packed_size, packed.total_bytes if packed else None, words))
    if budget.accuracy_drop is not None and found is not None and found.heads:
        checks += [
            _head_drop(head, limit) for head in found.heads if (limit := drop_limit(budget, head.name)) is not None
        ]
    elif budget.accuracy_drop is not None:
        words = f"{_drop_of(metric)} on the test split"
        limit = drop_limit(budget, "")
        if limit is not None:
            checks.append(at_most("accuracy_drop", limit, change.drop if change else None, words))
        elif isinstance(budget.accuracy_drop, Mapping):
            checks += [missed(f"accuracy_drop of {name}", limit) for name, limit in budget.accuracy_drop.items()]
    if budget.worst_class_drop is not None:
        name, drop = (change.worst_class if change else None) or (None, None)
        counted = "accuracy" if change is None or change.right_to_wrong is not None else metric
        words = f"points of {counted} of class {name}" if name else f"points of {counted} of one class"
        checks.append(at_most("worst_class_drop", budget.worst_class_drop, drop, words))
    if budget.speedup is not None:
        checks.append(_speedup(budget.speedup, found.speed if found else None))
    latency = found.latency if found else None
    if budget.p99_ms is not None:
        checks.append(at_most("p99_ms", budget.p99_ms, latency.p99_ms if latency else None, "ms of 99 in 100 calls"))
    if budget.slowest_ms is not None:
        known = [ms for ms in (latency.slowest_ms, latency.worst_ms) if ms is not None] if latency else []
        words = "ms of the dearest way through the network" if known else "ms of the median call"
        taken_ms = max(known) if known else latency.p50_ms if latency else None
        checks.append(at_most("slowest_ms", budget.slowest_ms, taken_ms, words))
    outputs = found.fidelity.outputs if found and found.fidelity else ()
    decoded = (
        {"": found.decoded}
        if found and not found.heads
        else {head.name: head.decoded for head in found.heads}
        if found
        else {}
    )
    return (*checks, *fidelity_checks(budget, outputs, decoded), *_of_bundle(budget.bundle, bundle))


def _of_bundle(limits: BundleLimits | None, found: BundleResult | None) -> Iterator[BudgetCheck]:
    if limits is None:
        return
    before, after = (found.baseline, found.compressed) if found else (None, None)
    first = after.first_token[-1] if after and after.first_token else None
    memory = after.memory if after else None
    most = (
        ("size", limits.size, after.size_bytes if after else None, "bytes of the bundle's files"),
        (
            "memory",
            limits.memory,
            memory.run_peak_bytes if memory else None,
            "bytes of the process that serves the bundle",
        ),
        (
            "first_token_ms",
            limits.first_token_ms,
            first.median_ms if first else None,
            f"ms to the first token after {first.prompt_tokens:,} tokens" if first else "",
        ),
    )
    for name, limit, actual, words in most:
        if limit is not None:
            yield at_most(f"bundle.{name}", limit, actual, words)
    if limits.tokens_per_second is not None:
        rate = after.tokens_per_second if after else None
        yield _at_least("bundle.tokens_per_second", limits.tokens_per_second, rate, "tokens a second while decoding")
    if limits.speedup is not None:
        yield _speedup(limits.speedup, after.speed if after else None).model_copy(update={"name": "bundle.speedup"})
    if limits.perplexity_rise is not None:
        was, now = (one.perplexity if one else None for one in (before, after))
        rise = None if was is None or now is None else now - was
        yield at_most("bundle.perplexity_rise", limits.perplexity_rise, rise, "rise of the bundle's perplexity")
    if limits.task_drop is not None:
        yield from _of_tasks(limits.task_drop, found.tasks if found else ())


def _of_tasks(limits: float | Mapping[str, float], scores: Sequence[TaskScore]) -> Iterator[BudgetCheck]:
    """By the metric that a task has first, or by the one that is named behind the task."""
    by_name: dict[str, TaskScore] = {}
    for score in scores:
        by_name.setdefault(score.task, score)
        by_name.setdefault(f"{score.task}/{score.metric}", score)
    if not isinstance(limits, Mapping):
        limits = {score.task: limits for score in scores} or {"a task": limits}
    for name, limit in limits.items():
        one = by_name.get(name)
        words = f"loss of {one.metric} on {one.samples:,} samples, the bundle against the float bundle" if one else ""
        yield at_most(f"bundle.task_drop of {name}", limit, one.drop if one else None, words)


def _at_least(name: str, limit: float, actual: float | None, words: str) -> BudgetCheck:
    if actual is None:
        return missed(name, limit)
    return BudgetCheck(name=name, limit=limit, actual=actual, holds=actual >= limit, explanation=words)


def drop_limit(limits: GateSection | BudgetSection, head: str) -> float | None:
    """What a head may lose; None where nothing is said of it. head: empty where there is one task."""
    given = limits.accuracy_drop
    return given.get(head) if isinstance(given, Mapping) else given


def _head_drop(head: HeadResult, limit: float) -> BudgetCheck:
    words = f"{_drop_of(head.score.metric) if head.score else 'the metric'} on the test split"
    return at_most(f"accuracy_drop of {head.name}", limit, head.change.drop if head.change else None, words)


def _drop_of(metric: str) -> str:
    """What accuracy_drop counts: points of a metric in percent, the rise of one whose low values are good."""
    if metric not in metrics:
        return metric
    spec: MetricSpec = metrics.get(metric)
    return f"points of {metric}" if spec.unit == "%" else f"{'fall' if spec.higher_is_better else 'rise'} of {metric}"


def at_most(name: str, limit: float, actual: float | None, words: str) -> BudgetCheck:
    if actual is None:
        return missed(name, limit)
    return BudgetCheck(name=name, limit=limit, actual=actual, holds=actual <= limit + _ROUNDING, explanation=words)


def beside(limit: float, value: float, digits: int = 2, style: Literal["f", "g"] = "f") -> str:
    """The value, with more digits where it would read as the limit that it is not, or as on the other side of it."""
    wanted = _side(value, limit)
    while digits < _MOST_DIGITS and _side(float(f"{value:.{digits}{style}}"), limit) != wanted:
        digits += 1
    return f"{value:.{digits}{style}}"


def _side(value: float, limit: float) -> int:
    return 0 if abs(value - limit) <= _ROUNDING else 1 if value > limit else -1


def _speedup(limit: float, speed: Speedup | None) -> BudgetCheck:
    """The ratio decides where its interval allows one to be told, and the interval's lower end where it is too wide for that."""
    if speed is None:
        return missed("speedup", limit)
    ratio, low, high = speed.ratio, speed.low, speed.high
    if is_wide(low, high):
        words = f"times as fast as float at least; {times(low)} to {times(high)} is too wide an interval for one value"
        return BudgetCheck(name="speedup", limit=limit, actual=low, holds=low >= limit, explanation=words)
    spans_one = limit > 1 and low <= 1 <= high
    words = "no measurable change: the interval spans 1" if spans_one else "times as fast as float, same runtime"
    holds = ratio >= limit and not spans_one
    return BudgetCheck(name="speedup", limit=limit, actual=ratio, holds=holds, explanation=words)
