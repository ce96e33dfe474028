"""The chosen recipe carried out once more, measured in full on the test split, and its file put where it is looked for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressctl.core.errors import UsageError
from compressctl.core.events import Listener
from compressctl.core.run_folder import below
from compressctl.core.secrets import for_others
from compressctl.pipeline.measure_level import MeasureLevel
from compressctl.pipeline.plan import make_plan
from compressctl.recipe.schema import Recipe
from compressctl.report.document import Report
from compressctl.report.read import read_report
from compressctl.search.document import Point
from compressctl.search.evaluate import Bench, figures_of
from compressctl.search.facts import Facts
from compressctl.search.handed_files import RUN
from compressctl.search.recipes import READABLE, write_chosen, write_pinned
from compressctl.search.request import Goal
from compressctl.search.space import Candidate


@dataclass(frozen=True)
class HandedOver:
    """point: with what the file measured. missed: names of the limits that it does not keep. files: below the search's folder."""

    point: Point
    missed: tuple[str, ...]
    files: tuple[str, ...]
    status: str
    error: str = ""
    exit_code: int = 0


def hand_over(
    point: Point,
    candidate: Candidate,
    bench: Bench,
    goal: Goal,
    limit_bytes: int | None,
    listeners: Sequence[Listener],
    measure: MeasureLevel,
) -> HandedOver:
    """The run lies in `best`, its file and recipes in the search's folder. Raises what keeps a run from being begun."""
    budget = budget_of(goal, bench.facts, limit_bytes, point, is_timed=bench.is_timed)
    recipe = bench.recipe(candidate, budget)
    report = _known(recipe, bench.folder / RUN) if point.confirmed is not None else None
    if report is None:
        report = _measured(recipe, bench, listeners, measure)
    write_chosen(bench.folder, bench.subject_of(candidate), candidate, budget)
    write_pinned(bench.folder, recipe, bench.folder / RUN / "recipe.pinned.yaml")
    missed = tuple(check.name for check in report.budget if not check.holds)
    if report.status not in ("done", "budget missed") or not report.backends:
        return HandedOver(point, missed, (), report.status, report.error or "", report.exit_code)
    confirmed = figures_of(report.backends[0], bench.facts)
    return HandedOver(
        point.model_copy(update={"confirmed": confirmed, "confirmed_run": RUN}),
        missed,
        files_of(report, bench.folder),
        report.status,
    )


def _measured(recipe: Recipe, bench: Bench, listeners: Sequence[Listener], measure: MeasureLevel) -> Report:
    from compressctl.api import carry_out

    _, report, _ = carry_out(
        recipe,
        make_plan(recipe, bench.cache),
        listeners,
        output=bench.folder / RUN,
        cache=bench.cache,
        measure=measure,
        recipe_file=bench.folder / READABLE,
    )
    return report


def _known(recipe: Recipe, run: Path) -> Report | None:
    """What an earlier start measured of the same recipe, under the same goal; None where that is not there, or was not finished."""
    try:
        report = read_report(run)
    except UsageError:
        return None
    is_same = report.recipe == for_others(recipe.resolved) and report.status in ("done", "budget missed")
    return report if is_same and report.backends and (run / report.backends[0].compressed.path).is_file() else None


def files_of(report: Report, folder: Path) -> tuple[str, ...]:
    """The file that was handed over, and what belongs to it, linked or copied into the search's folder."""
    made = report.backends[0].compressed
    place = (folder / RUN / made.path).parent
    found = []
    for name in made.files:
        target, source = folder / name, place / name
        target.unlink(missing_ok=True)
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)
        found.append(below(target, folder))
    return tuple(found)


def budget_of(goal: Goal, facts: Facts, limit_bytes: int | None, point: Point, *, is_timed: bool) -> dict[str, Any]:
    """The goal as a recipe's budget. What cannot be judged is not bounded, nor a speed that this machine does not have."""
    found: dict[str, Any] = {}
    if facts.scores:
        found["accuracy_drop"] = goal.drop
    elif facts.is_judged and point.figures is not None and point.figures.loss is not None:
        found |= _of_outputs(goal.drop, point.figures.loss.kind == "decoded results", point.figures.has_decisions)
    if limit_bytes is not None:
        found["size"] = limit_bytes
    if goal.speedup is not None and is_timed:
        found["speedup"] = goal.speedup
    return found


def _of_outputs(drop: float, is_decoded: bool, has_decisions: bool) -> Mapping[str, float]:
    share = max(0.0, 100.0 - drop)
    if is_decoded:
        return {"kept": share, "added": drop}
    return {"cosine": share / 100, **({"agreement": share} if has_decisions else {})}
