"""What decides what a job gives: resuming compares it, so that a changed line of a recipe repeats only what it changes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import compressctl
from compressctl.core.cache import Cache
from compressctl.core.errors import CompressctlError, ExitCode
from compressctl.pipeline.measure_level import MeasureLevel
from compressctl.pipeline.plan import make_plan
from compressctl.recipe.loader import load, resolve
from compressctl.sources.fingerprint import hash_file
from compressctl.zoo.jobs import Job
from compressctl.zoo.schema import AUTO
from compressctl.zoo.searches import recipe_of

_LONGEST_SETS = 100_000
"""What fits into a command line. Linux takes 131,072 bytes of an argument, MAX_ARG_STRLEN of binfmts.h."""


@dataclass(frozen=True)
class Planned:
    """A job that was looked at before it runs. cached: steps that the cache holds, of so many.

    problem: why it cannot run, code: what a run of its own would end with; its key is then of what was asked, so that it is looked
    at again when that changes.
    """

    job: Job
    key: str
    cached: int = 0
    steps: int = 0
    problem: str | None = None
    code: ExitCode = ExitCode.USAGE


def planned(job: Job, measure: MeasureLevel, cache: Cache | None, *, strict: bool = False) -> Planned:
    """Reads the recipe and hashes what it names; loads nothing, and raises nothing that is the job's own fault."""
    if job.recipe is None:
        return Planned(job, _digest(["no recipe", job.model]), problem=job.problem, code=job.code)
    if job.is_unfetched:
        return Planned(job, _digest(["its model was not brought", job.recipe, job.sets]))
    if sum(map(len, job.sets)) > _LONGEST_SETS:
        what = f"the values that the manifest puts into its recipe take more than {_LONGEST_SETS:,} letters"
        return Planned(job, _digest([job.recipe, job.sets]), problem=what)
    try:
        if job.searching is not None:
            return _searched(job, strict=strict)
        recipe = load(Path(job.recipe), job.sets)
        plan = make_plan(recipe, cache)
    except CompressctlError as error:
        return Planned(job, _digest([job.recipe, job.sets, str(error)]), problem=str(error), code=error.exit_code)
    kept = [step for step in plan.steps if step.key is not None]
    key = _digest([compressctl.__version__, resolve(recipe), plan.digest, str(measure), strict])
    return Planned(job, key, sum(step.cached for step in kept), len(kept))


def _searched(job: Job, *, strict: bool) -> Planned:
    """A search goes on where it was stopped: its own journal knows what was measured. Raises what is wrong with its model and data."""
    assert job.searching is not None
    recipe = recipe_of(job.searching, job.sets)
    made = make_plan(replace(recipe, search=None), None).digest
    parts = [compressctl.__version__, AUTO, job.searching.options, resolve(recipe), made, strict]
    if job.searching.costs is not None:
        parts.append(hash_file(job.searching.costs))
    return Planned(job, _digest(parts))


def _digest(parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
