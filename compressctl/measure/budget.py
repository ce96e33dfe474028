"""A budget against what was measured, in a run that just ended or in a report that was kept."""

from __future__ import annotations

from dataclasses import dataclass

from compressctl.core.source import MetricSpec, metrics
from compressctl.measure.fidelity_limits import fidelity_checks
from compressctl.measure.results import BudgetCheck, Measurement, OutputFidelity, Verdict
from compressctl.recipe.schema import BudgetSection


@dataclass(frozen=True)
class BudgetFacts:
    """What limits are held against. drop of the metric in its unit, worst_class in points; None where it was not measured.


    outputs: against the original's, None where nothing was compared.
    """

    size_bytes: int | None
    metric: str
    packed_bytes: int | None = None
    drop: float | None = None
    worst_class: tuple[str, float] | None = None
    speedup: float | None = None
    verdict: Verdict | None = None
    outputs: tuple[OutputFidelity, ...] | None = None


def facts_of(compressed: Measurement | None, metric: str) -> BudgetFacts:
    """compressed: None where the file that is held against the budget could not be built or measured."""
    if compressed is None:
        return BudgetFacts(size_bytes=None, metric=metric)
    change, speedup = compressed.change, compressed.speedup
    return BudgetFacts(
        size_bytes=compressed.size.total_bytes,
        metric=metric,
        packed_bytes=compressed.packed.total_bytes if compressed.packed else None,
        drop=change.drop if change else None,
        worst_class=change.worst_class if change else None,
        speedup=speedup.ratio if speedup else None,
        verdict=speedup.verdict if speedup else None,
        outputs=compressed.fidelity.outputs if compressed.fidelity and compressed.fidelity.outputs else None,
    )


def check(budget: BudgetSection, facts: BudgetFacts) -> tuple[BudgetCheck, ...]:
    """One line for every limit that is set. What was not measured does not hold."""
    checks = []
    if budget.size is not None:
        checks.append(_at_most("size", budget.size, facts.size_bytes, "bytes of the exported files"))
    if budget.packed_size is not None:
        words = "bytes of the file packed for transport"
        checks.append(_at_most("packed_size", budget.packed_size, facts.packed_bytes, words))
    if budget.accuracy_drop is not None:
        words = f"{_drop_of(facts.metric)} on the test split"
        checks.append(_at_most("accuracy_drop", budget.accuracy_drop, facts.drop, words))
    if budget.worst_class_drop is not None:
        name, drop = facts.worst_class or (None, None)
        words = f"points of class {name}" if name else "points of one class"
        checks.append(_at_most("worst_class_drop", budget.worst_class_drop, drop, words))
    if budget.speedup is not None:
        checks.append(_speedup(budget.speedup, facts))
    return (*checks, *fidelity_checks(budget, facts.outputs))


def _drop_of(metric: str) -> str:
    """What accuracy_drop counts: points of a metric in percent, the rise of one whose low values are good."""
    if metric not in metrics:
        return metric
    spec: MetricSpec = metrics.get(metric)
    return f"points of {metric}" if spec.unit == "%" else f"{'fall' if spec.higher_is_better else 'rise'} of {metric}"


def _at_most(name: str, limit: float, actual: float | None, words: str) -> BudgetCheck:
    if actual is None:
        return BudgetCheck(name, limit, None, False, "not measured")
    # A drop of exactly the limit, computed from shares, may come out a rounding error above it.
    return BudgetCheck(name, limit, actual, actual <= limit + 1e-9, words)


def _speedup(limit: float, facts: BudgetFacts) -> BudgetCheck:
    if facts.speedup is None:
        return BudgetCheck("speedup", limit, None, False, "not measured")
    if limit > 1 and facts.verdict == "no measurable change":
        return BudgetCheck("speedup", limit, facts.speedup, False, "no measurable change: the interval spans 1")
    return BudgetCheck("speedup", limit, facts.speedup, facts.speedup >= limit, "times as fast as float, same runtime")
