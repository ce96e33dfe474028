"""The recipe's budget against what was measured."""

from __future__ import annotations

from compressctl.core.source import MetricSpec
from compressctl.measure.results import BudgetCheck, Measurement
from compressctl.recipe.schema import BudgetSection


def check(
    budget: BudgetSection, metric: MetricSpec | None, baseline: Measurement, compressed: Measurement
) -> tuple[BudgetCheck, ...]:
    """One line for every limit that the recipe sets. What was not measured does not hold."""
    checks = []
    if budget.size is not None:
        checks.append(_at_most("size", budget.size, compressed.size.total_bytes, "bytes of the exported files"))
    drop = compressed.change.drop if compressed.change else None
    if budget.accuracy_drop is not None:
        name = metric.name if metric else "accuracy"
        checks.append(_at_most("accuracy_drop", budget.accuracy_drop, drop, f"points of {name} on the test split"))
    if budget.worst_class_drop is not None:
        worst = compressed.change.worst_class if compressed.change else None
        what = f"points of class {worst[0]}" if worst else "points of one class"
        checks.append(_at_most("worst_class_drop", budget.worst_class_drop, worst[1] if worst else None, what))
    if budget.speedup is not None:
        checks.append(_speedup(budget.speedup, compressed))
    return tuple(checks)


def _at_most(name: str, limit: float, actual: float | None, what: str) -> BudgetCheck:
    if actual is None:
        return BudgetCheck(name, limit, None, False, "not measured")
    # A drop of exactly the limit, computed from shares, may come out a rounding error above it.
    return BudgetCheck(name, limit, actual, actual <= limit + 1e-9, what)


def _speedup(limit: float, compressed: Measurement) -> BudgetCheck:
    speedup = compressed.speedup
    if speedup is None:
        return BudgetCheck("speedup", limit, None, False, "not measured")
    if limit > 1 and speedup.verdict == "no measurable change":
        return BudgetCheck("speedup", limit, speedup.ratio, False, "no measurable change: the interval spans 1")
    return BudgetCheck("speedup", limit, speedup.ratio, speedup.ratio >= limit, "times as fast as float, same runtime")
