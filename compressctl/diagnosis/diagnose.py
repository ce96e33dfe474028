"""A finished run, looked into: what lost most, why, and the recipe edit that mends it, tried and measured."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compressctl.core.cache import Cache
from compressctl.core.data import SplitName
from compressctl.core.errors import CompressctlError, UsageError
from compressctl.core.events import Listener
from compressctl.diagnosis.document import Diagnosis, Edit, Figures, Trial
from compressctl.diagnosis.edits import edited
from compressctl.diagnosis.look import FINE_DB, Look, Why
from compressctl.diagnosis.mends import advice, candidates
from compressctl.diagnosis.noise import Focus
from compressctl.diagnosis.trace import Place, traced
from compressctl.diagnosis.words import rows
from compressctl.measure.session_host import SessionHost
from compressctl.recipe.lock import changed_sources, load_lock
from compressctl.recipe.schema import Recipe
from compressctl.report.document import Report
from compressctl.report.read import read_report

_MENDS_DB = 1.0
_MOST_TRIALS = 6

_FINE_DECODED = 99.0
"""Percent of decoded results kept, less those that are added: noise that changes one in a hundred is not worth speed."""


def diagnose(
    folder: Path, cache: Cache | None, listeners: Sequence[Listener] = (), *, tries: bool = True
) -> tuple[Diagnosis, Recipe]:
    """What a run's folder tells, its stages' outputs taken from the cache or made again; and the recipe with the edits that mended.

    tries: whether edits are tried. Raises UsageError for a folder that holds no run, and for one in which nothing was compressed,
    what loading the model and the data raises, and what stopped the run where that is all there is to say.
    """
    report, recipe, locked = _run(folder)
    with SessionHost() as host:
        return _diagnosed(folder, report, recipe, locked, Place(cache, listeners, host), tries=tries)


def _diagnosed(
    folder: Path, report: Report, recipe: Recipe, locked: dict[str, Any], place: Place, *, tries: bool
) -> tuple[Diagnosis, Recipe]:
    with traced(recipe, place) as trace:
        sources = {"model_sha256": trace.plan.model_fingerprint, "data_sha256": trace.plan.data_fingerprint}
        look = Look(trace)
        found, causes = look.diagnosis(str(folder), report.status)
        found = found.model_copy(update={"notes": tuple(changed_sources(locked, sources))})
        as_tested = Look(trace, "test", look.focus).figures() if tries and causes else None
    if not tries or not causes:
        return found.model_copy(update={"advice": advice(causes, ())}), recipe
    tried = _Tried(recipe, place, look.split, look.focus, found.figures)
    for why in causes:
        tried.mend(why)
    found = found.model_copy(
        update={"trials": tuple(tried.trials), "edits": tuple(tried.edits), "advice": advice(causes, tried.trials)}
    )
    if not tried.edits:
        return found, recipe
    better = edited(recipe, tried.edits)
    after, notes = _applied(better, place)
    with traced(better, place) as trace:
        tested = Look(trace, "test", tried.focus).figures()
    measured = rows((report, as_tested), (after, tested))
    return found.model_copy(update={"measured": measured, "notes": (*found.notes, *notes)}), better


def _run(folder: Path) -> tuple[Report, Recipe, dict[str, Any]]:
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder", hint="name a folder that `compressctl apply` wrote")
    report = read_report(folder)
    recipe, locked = load_lock(folder / "recipe.lock.yaml")
    if not any(stage.enabled for stage in recipe.stages):
        raise UsageError(
            f"{folder}: nothing was compressed, since the recipe has no stages", hint="there is nothing to diagnose"
        )
    if recipe.data is None:
        raise UsageError(
            f"{folder}: the recipe names no data, on which the model could be compared with the original",
            hint="add `data`, and apply the recipe again",
        )
    return report, recipe, locked


@dataclass
class _Tried:
    """Edits, tried one after the other, each together with those that mended before it. figures: with these; None where nothing runs yet."""

    recipe: Recipe
    place: Place
    split: SplitName
    focus: Focus | None
    figures: Figures | None
    edits: list[Edit] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)

    def mend(self, why: Why) -> None:
        """Try what may mend a cause until little is lost."""
        for edits in candidates(why):
            if is_fine(self.figures) or len(self.trials) >= _MOST_TRIALS:
                return
            if any(trial.edits == tuple(edits) for trial in self.trials):
                continue
            trial = self._trial(why, edits)
            self.trials.append(trial)
            if trial.mends:
                self.figures, self.edits = trial.figures, _together(self.edits, edits)

    def _trial(self, why: Why, edits: Sequence[Edit]) -> Trial:
        cause = why.found.name
        try:
            with traced(edited(self.recipe, _together(self.edits, edits)), self.place) as trace:
                error = trace.last.error
                if error is not None:
                    raise error
                figures = Look(trace, self.split, self.focus).figures()
        except CompressctlError as error:
            return Trial(cause=cause, edits=tuple(edits), figures=None, mends=False, error=error.message)
        return Trial(cause=cause, edits=tuple(edits), figures=figures, mends=is_better(self.figures, figures))


def is_fine(figures: Figures | None) -> bool:
    """Whether nothing needs mending: nothing is refused, and decoded results remain, or else outputs as a whole."""
    if figures is None or figures.refused:
        return False
    if figures.kept is not None and figures.added is not None:
        return figures.kept - figures.added >= _FINE_DECODED
    return figures.sqnr_db is None or figures.sqnr_db >= FINE_DB


def is_better(before: Figures | None, after: Figures | None) -> bool:
    """More of the decoded results kept, else less of the metric lost, else at least a decibel more; and the first two no worse."""
    if before is None or after is None:
        return after is not None
    gains = [new - old for old, new in zip(_scores(before), _scores(after), strict=True)]
    return next((gain > 0 for gain in gains if abs(gain) > 1e-9), False)


def _scores(figures: Figures) -> list[float]:
    decoded = 0.0 if figures.kept is None or figures.added is None else figures.kept - figures.added
    decibels = 100.0 if figures.sqnr_db is None else figures.sqnr_db
    return [decoded, -(figures.drop or 0.0), float(decibels // _MENDS_DB)]


def _together(edits: Sequence[Edit], more: Sequence[Edit]) -> list[Edit]:
    """Those of one path joined: overrides of both."""
    found = {edit.path: edit for edit in edits}
    for edit in more:
        known = found.get(edit.path)
        if known is not None and isinstance(edit.after, list):
            own = [entry for entry in edit.after if entry not in known.after]
            edit = edit.model_copy(update={"after": [*known.after, *own]})
        found[edit.path] = edit
    return list(found.values())


def _applied(recipe: Recipe, place: Place) -> tuple[Report, tuple[str, ...]]:
    """The edited recipe's report, measured briefly; notes where it did not come to that."""
    from compressctl.api import carry_out
    from compressctl.pipeline.measure_level import MeasureLevel
    from compressctl.pipeline.plan import make_plan

    with tempfile.TemporaryDirectory() as folder:
        result, report, _ = carry_out(
            recipe,
            make_plan(recipe, place.cache),
            place.listeners,
            output=Path(folder) / "run",
            cache=place.cache,
            measure=MeasureLevel.QUICK,
        )
    return report, () if result.error is None else (f"the edited recipe ends with: {result.error.message}",)
