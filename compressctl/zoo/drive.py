"""A zoo from its manifest to its results: what is done already, what runs, and what came of the whole."""

from __future__ import annotations

import json
import os
import shutil
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from compressctl.core.cache import Cache
from compressctl.core.errors import CompressctlError, ExitCode, UsageError
from compressctl.core.failures import refusal
from compressctl.core.whole_files import lock
from compressctl.store.cache_place import cache_folder
from compressctl.zoo.facts import FactsReader
from compressctl.zoo.jobs import check_only, ids_of, is_selected, jobs_of
from compressctl.zoo.keys import Planned, planned
from compressctl.zoo.leaderboard import begin_anew
from compressctl.zoo.models import models_of
from compressctl.zoo.pauses import Pauses
from compressctl.zoo.process import Surroundings
from compressctl.zoo.results import (
    LIMITED,
    MARK,
    TEMPORARY,
    UNSETTLED,
    JobResult,
    Outcome,
    all_results,
    check_own,
    read_result,
    unreadable,
    write_mark,
    write_result,
    zoo_name,
)
from compressctl.zoo.schema import Manifest, ZooBudget
from compressctl.zoo.stored import ZooStore

Execute = Callable[[Iterator[Planned], Surroundings, Callable[[JobResult], None]], None]
"""Runs each job once, and tells its result: see local.py and ray_cluster.py."""


@dataclass(frozen=True)
class Choice:
    """Which jobs of a zoo. only: ids, patterns over them, or `failed` for those that did not end well the last time. limit: so many of
    those that are to run."""

    only: Sequence[str] = ()
    shard: tuple[int, int] | None = None
    limit: int | None = None

    @property
    def repeats(self) -> bool:
        """Whether jobs run again whose result still counts."""
        return "failed" in self.only


@dataclass(frozen=True)
class Standing:
    """A job with what is known of it: its result, where the same job ended before."""

    planned: Planned
    result: JobResult | None

    @property
    def is_done(self) -> bool:
        """Whether it need not run again. What stopped from outside, or may pass by itself, does, and what may now take more of what it had too little of."""
        return (
            self.result is not None
            and self.result.key == self.planned.key
            and self.result.outcome not in UNSETTLED
            and not self._may_take_more
        )

    @property
    def _may_take_more(self) -> bool:
        """A job without a limit that the system ended for want of memory may be given one, so that others leave it room."""
        if self.result is None or self.result.outcome not in LIMITED:
            return False
        before, now = self.result.allowed, getattr(self.planned.job.resources, LIMITED[self.result.outcome])
        return before != now and (before is None or now is None or now > before)

    @property
    def is_waiting(self) -> bool:
        return not self.is_done and self.planned.problem is None


def standings(
    manifest: Manifest,
    base: Path,
    folder: Path,
    choice: Choice,
    cache: Cache | None,
    *,
    store: ZooStore | None = None,
    fetches: bool = False,
) -> Iterator[Standing]:
    """In the manifest's order, one after the other. store: where results are too. fetches: whether models at addresses, and results of
    jobs that are done there, are brought, each when it is its turn.

    Raises UsageError for models that are not there, and for a choice of none.
    """
    patterns = [pattern for pattern in choice.only if pattern != "failed"]
    place = cache_folder() if cache is not None else None
    facts = FactsReader(place / "facts" if place is not None else None)

    def selected(job: str, model: str) -> bool:
        is_wanted = is_selected(job, model, only=patterns, shard=choice.shard)
        return is_wanted and ("failed" not in choice.only or _failed(folder, job))

    models = models_of(manifest, base)
    check_only(manifest, models, patterns)
    count = 0
    try:
        for job in jobs_of(manifest, base, facts, selected, fetches=fetches, models=models):
            if choice.limit is not None and count >= choice.limit:
                return
            here = Standing(
                planned(job, manifest.defaults.measure, cache, strict=manifest.defaults.strict),
                read_result(folder, job.id),
            )
            standing = here if store is None else _with_stored(here, store, brings=fetches)
            count += choice.repeats or not standing.is_done
            yield standing
    finally:
        facts.close()


def _with_stored(here: Standing, store: ZooStore, *, brings: bool) -> Standing:
    """With what the store knows, where that is newer; what is done here and not there is put there."""
    job = here.planned.job.id
    if here.is_done:
        if brings and here.result is not None and not store.has(job):
            _put(store, here.result)
        return here
    try:
        stored = store.look(job)
        if stored is None or (here.result is not None and here.result.started >= stored.result.started):
            return here
        there = Standing(here.planned, stored.result)
        if brings and there.is_done:
            store.bring(stored)
    except CompressctlError as error:
        warnings.warn(f"what the store has of {job} does not count: {error.message}", stacklevel=2)
        return here
    return there


def carry_out(
    manifest: Manifest,
    base: Path,
    folder: Path,
    choice: Choice,
    *,
    execute: Execute,
    cache: Cache | None,
    store: ZooStore | None,
    tell: Callable[[JobResult], None],
) -> None:
    """Run what is not done. Results are written as they come, and put into the store.

    Raises UsageError where another driver works on the folder, and what asking the store raises before anything runs.
    """
    held = _claim(folder, manifest)
    try:
        if store is not None:
            store.claim(manifest.name)
        begin_anew(folder)
        with Pauses() as pauses:
            around = Surroundings(
                folder,
                str(manifest.defaults.measure),
                cache is not None,
                manifest.defaults.retries,
                pauses,
                threading.Event(),
                threading.Event(),
                manifest.defaults.strict,
            )
            waiting = (
                one.planned
                for one in standings(manifest, base, folder, choice, cache, store=store, fetches=True)
                if choice.repeats or not one.is_done
            )

            def keep(result: JobResult) -> None:
                write_result(folder, result)
                if store is not None:
                    _put(store, result)
                tell(result)

            execute(waiting, around, keep)
            if around.stop.is_set():
                raise KeyboardInterrupt
    finally:
        os.close(held)


def bring_results(manifest: Manifest, folder: Path, store: ZooStore) -> None:
    """All results that the store has and this machine has not, also while jobs run. Raises what asking the store raises."""
    _prepare(folder, manifest)
    store.claim(manifest.name)
    store.bring_all()


def _put(store: ZooStore, result: JobResult) -> None:
    """The other jobs go on where the store takes nothing: what is here and not there is put there by the next run."""
    try:
        store.put(result)
    except CompressctlError as error:
        what = f"the result of {result.job} is not in the store, and the next zoo apply puts it there: {error.message}"
        warnings.warn(what, stacklevel=2)


@dataclass(frozen=True)
class Whole:
    """What came of a zoo. broken: limits of its budget that do not hold, in words. unreadable: jobs whose results say nothing."""

    counts: dict[Outcome, int]
    size: int
    broken: tuple[str, ...]
    unreadable: tuple[str, ...] = ()

    @property
    def exit_code(self) -> ExitCode:
        if self.broken:
            return ExitCode.BUDGET_MISSED
        return ExitCode.INTERRUPTED if self.counts.get(Outcome.INTERRUPTED) else ExitCode.DONE


def own_jobs(manifest: Manifest, base: Path) -> frozenset[str] | None:
    """What the manifest's jobs may be called: results of models that it has no more do not count. None, and a warning, where its models
    cannot be listed here; then all results do."""
    try:
        return frozenset(name for model in models_of(manifest, base) for name in ids_of(manifest, model))
    except CompressctlError as error:
        warnings.warn(
            f"all results in the folder count, also of models that the manifest has no more: {error}", stacklevel=2
        )
        return None


def whole(folder: Path, budget: ZooBudget, jobs: Container[str] | None = None) -> Whole:
    """Of all results in the folder, or of these jobs'. Without limits of its own, no job may fail or miss; one whose result cannot be read has failed."""
    counts: Counter[Outcome] = Counter()
    size = 0
    for result in all_results(folder, jobs):
        counts[result.outcome] += 1
        size += result.figures.size_after if result.figures is not None and result.outcome is Outcome.GOOD else 0
    unknown = tuple(unreadable(folder, jobs))
    total = sum(counts.values()) + len(unknown)
    missed = counts[Outcome.MISSED]
    failed = total - missed - counts[Outcome.GOOD]
    broken = [
        *_over("failed", failed, budget.at_most_failed or 0, total),
        *_over("missed a budget", missed, budget.at_most_missed or 0, total),
    ]
    if budget.total_size is not None and size > budget.total_size:
        broken.append(f"the files are {size:,} bytes together, {budget.total_size:,} are allowed")
    return Whole(dict(counts), size, tuple(broken), unknown)


def _over(what: str, count: int, limit: int | str, total: int) -> list[str]:
    most = float(limit.removesuffix("%")) / 100 * total if isinstance(limit, str) else limit
    return [f"{count} of {total} jobs {what}, {limit} may"] if count > most else []


def _failed(folder: Path, job: str) -> bool:
    result = read_result(folder, job)
    return result is not None and result.outcome is not Outcome.GOOD


def _claim(folder: Path, manifest: Manifest) -> int:
    """A lock on the zoo's folder, which is made. Temporary files of a driver that was killed go. Raises UsageError, MachineError."""
    _prepare(folder, manifest)
    held = lock(folder / MARK)
    if held is None:
        raise UsageError(f"another zoo apply works on {folder}", hint="wait for it, or name another --output")
    shutil.rmtree(folder / TEMPORARY, ignore_errors=True)
    return held


def _prepare(folder: Path, manifest: Manifest) -> None:
    """Make the zoo's folder, or find it. Raises UsageError, MachineError."""
    mark = folder / MARK
    try:
        if folder.is_dir() and any(folder.iterdir()) and not os.path.lexists(mark):
            raise UsageError(f"{folder} is not empty and holds no zoo", hint="name a new or empty folder for --output")
        folder.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(mark):
            name = zoo_name(folder)
            if name is None:
                whole = json.dumps({"name": manifest.name})
                raise UsageError(f"{mark} is damaged", hint=f"with {whole} in it, the results that are there count")
            if name != manifest.name:
                raise UsageError(
                    f"{folder} holds the zoo {name}, and this one is {manifest.name}", hint="name another --output"
                )
        else:
            write_mark(folder, manifest.name)
    except OSError as error:
        raise refusal(error) or UsageError(f"cannot write to {folder}: {error.strerror}") from error
    check_own(folder)
