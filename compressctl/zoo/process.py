"""One job in processes of its own: started, watched, stopped where it takes more than it may, and told what became of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from compressctl.core.errors import LONGEST_MESSAGE
from compressctl.store.cache_place import shared_place
from compressctl.zoo.jobs import Job
from compressctl.zoo.keys import Planned
from compressctl.zoo.outcome import BY_CODE, figures_of, notes_of, outcome_of
from compressctl.zoo.pauses import Pauses
from compressctl.zoo.results import LIMITED, LOGS, RUNS, TEMPORARY, TRANSIENT, JobResult, Outcome
from compressctl.zoo.searches import Found, found_by, written

_THREADS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
)  # fmt: skip
_LOOK, _LOOK_AT_DISK = 0.2, 2.0
_GRACE = 20.0
"""Seconds for a report after SIGTERM."""

_SPARE = 1 << 30
"""Bytes of private memory above the limit that the kernel allows: what is asked for need not be resident. It holds what takes more at once."""


@dataclass(frozen=True)
class Surroundings:
    """What all jobs of one driver share. folder: the zoo's. is_cached: whether finished stages come from the cache. is_strict: as for
    `apply --strict`. stop: set when nothing more is to be done, and twice when at once."""

    folder: Path
    measure: str
    is_cached: bool
    retries: int
    pauses: Pauses
    stop: threading.Event
    stop_at_once: threading.Event
    is_strict: bool


@dataclass
class _Watched:
    """What was seen of a running job. broken: the limit that it broke."""

    peak: int = 0
    broken: Outcome | None = None
    words: str = ""


def run_job(planned: Planned, around: Surroundings) -> JobResult:
    """Until it has ended, and again after what may pass by itself. Raises OSError where the zoo's folder takes nothing."""
    job, started, began = planned.job, time.time(), time.monotonic()
    if planned.problem is not None:
        return unstarted(planned, BY_CODE[planned.code], planned.problem)
    attempts, paused, run = 0, 0.0, around.folder / RUNS / job.id
    while True:
        attempts += 1
        before = written(run)
        watched, code, paused_now = _attempt(job, around)
        paused += paused_now
        found = _found(job, around, watched, code, is_written=written(run) != before)
        if found.outcome not in TRANSIENT or attempts > around.retries or around.stop.is_set():
            break
    return JobResult(
        job=job.id,
        model=job.model,
        recipe=job.recipe_id,
        why=job.why,
        key=planned.key,
        outcome=found.outcome,
        message=found.message,
        exit_code=code,
        attempts=attempts,
        started=started,
        seconds=time.monotonic() - began,
        paused_seconds=paused,
        peak_memory=watched.peak or None,
        host=socket.gethostname(),
        log=f"{LOGS}/{job.id}.log",
        report=f"{RUNS}/{job.id}/{found.report}" if found.report is not None else None,
        figures=found.figures,
        command=tuple(command(job, around)),
        notes=notes_of(run / "report.json") if job.searching is None else (),
        allowed=getattr(job.resources, LIMITED[found.outcome]) if found.outcome in LIMITED else None,
        found_recipe=f"{RUNS}/{job.id}/{found.recipe}" if found.recipe is not None else None,
    )


def _found(job: Job, around: Surroundings, watched: _Watched, code: int | None, *, is_written: bool) -> Found:
    run, log = around.folder / RUNS / job.id, _log(around.folder, job)
    if job.searching is not None:
        return found_by(
            code, watched.broken, watched.words, run, log, is_written=is_written, is_strict=around.is_strict
        )
    outcome, message = outcome_of(code, watched.broken, watched.words, run / "report.json", log)
    page = "report.html" if (run / "report.html").exists() else None
    return Found(outcome, message, figures_of(run / "report.json"), page, None)


def command(job: Job, around: Surroundings) -> list[str]:
    """What is run, so that anybody can run it again."""
    assert job.recipe is not None
    sets = [part for text in job.sets for part in ("--set", text)]
    output = str((around.folder / RUNS / job.id).absolute())
    if job.searching is not None:
        one = job.searching
        cached = _shared_cache() if around.is_cached else ("--no-cache",)
        return ["compressctl", "auto", one.subject, *one.options, *sets, "--output", output, *cached]
    return [
        "compressctl",
        "apply",
        job.recipe,
        *sets,
        *("--output", output),
        *("--measure", around.measure),
        *(("--strict",) if around.is_strict else ()),
        *("--log-format", "plain"),
        *(_shared_cache() if around.is_cached else ("--no-cache",)),
    ]


def _shared_cache() -> Iterator[str]:
    """For a job that may run elsewhere, and for whoever runs it again."""
    place = shared_place()
    if place is not None:
        yield from ("--shared-cache", place.address.text, "--shared-cache-mode", place.mode)


def _attempt(job: Job, around: Surroundings) -> tuple[_Watched, int | None, float]:
    """What was seen, the exit code (negative for a signal), and how long it stood still."""
    temporary = around.folder / TEMPORARY / job.id
    log = _log(around.folder, job)
    for path in (temporary, log):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(path)
    _make_room(around.folder / RUNS / job.id, searches=job.searching is not None)
    temporary.mkdir()
    limits = {"data": job.resources.memory + _SPARE if job.resources.memory is not None else None}
    start = [
        sys.executable,
        "-I",
        "-S",
        str(Path(__file__).with_name("_limited.py")),
        json.dumps(limits),
        str(os.getpid()),
    ]
    with log.open("xb") as written:
        process = subprocess.Popen(
            [*start, sys.executable, "-m", *command(job, around)],
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
            env=_environment(job, temporary),
            process_group=0,
        )
        around.pauses.add(process.pid)
        try:
            watched = _watch(process, job, around, temporary)
            return watched, process.wait(), around.pauses.seconds(process.pid)
        finally:
            _kill(process)
            around.pauses.remove(process.pid)
            _remove(temporary)


def _make_room(run: Path, *, searches: bool) -> None:
    """Remove what says how the job ended: of another attempt, or under another recipe, it would speak for one that was killed. Neither a
    run nor a search begins in a folder of the other; a search goes on in its own."""
    if not run.is_dir() or run.is_symlink():
        return
    if (run / ("events.jsonl" if searches else "journal")).exists():
        _remove(run)
    elif not searches:
        for name in ("report.json", "report.html"):
            _remove(run / name)


def _remove(path: Path) -> None:
    """Whatever is there, and nothing that a link leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _environment(job: Job, temporary: Path) -> Mapping[str, str]:
    """The driver's, but for what says how much to use and where; a CI job's page has no room for the report of each."""
    cores = str(job.resources.cores or 1)
    return {
        **{name: value for name, value in os.environ.items() if name != "GITHUB_STEP_SUMMARY"},
        **dict.fromkeys(_THREADS, cores),
        "TMPDIR": str(temporary.absolute()),
        "PYTHONUNBUFFERED": "1",
    }


def _watch(process: subprocess.Popen[bytes], job: Job, around: Surroundings, temporary: Path) -> _Watched:
    """Until it has ended, by itself or because it was told to."""
    watched, began, looked_at_disk = _Watched(), time.monotonic(), 0.0
    asked_at: float | None = None
    while process.poll() is None:
        now = time.monotonic()
        watched.peak = max(watched.peak, _resident(process.pid))
        if now - looked_at_disk > _LOOK_AT_DISK and job.resources.disk is not None:
            looked_at_disk = now
            _check_disk(watched, job, (temporary, around.folder / RUNS / job.id))
        _check(watched, job, now - began - around.pauses.seconds(process.pid))
        if around.stop.is_set() and watched.broken is None:
            watched.broken, watched.words = Outcome.INTERRUPTED, "stopped"
        if watched.broken is Outcome.MEMORY or around.stop_at_once.is_set():
            _kill(process)
        elif watched.broken is not None and asked_at is None:
            asked_at = now
            _send(process, signal.SIGTERM)
        elif asked_at is not None and now - asked_at > _GRACE:
            _kill(process)
        around.stop_at_once.wait(_LOOK)
    return watched


def _check(watched: _Watched, job: Job, seconds: float) -> None:
    limits = job.resources
    if watched.broken is not None:
        return
    if limits.memory is not None and watched.peak > limits.memory:
        watched.broken = Outcome.MEMORY
        watched.words = f"its processes held {_bytes(watched.peak)}, and may hold {_bytes(limits.memory)}"
    elif limits.time is not None and seconds > limits.time:
        watched.broken = Outcome.TIME
        watched.words = f"it took more than the {limits.time} s that it may"


def _check_disk(watched: _Watched, job: Job, folders: tuple[Path, ...]) -> None:
    taken = sum(_on_disk(folder) for folder in folders)
    if watched.broken is None and job.resources.disk is not None and taken > job.resources.disk:
        watched.broken = Outcome.DISK
        watched.words = f"its files take {_bytes(taken)}, and may take {_bytes(job.resources.disk)}"


def _resident(process: int) -> int:
    """Bytes of the process and its children, each page for each of them."""
    total = 0
    with suppress(psutil.Error):
        leader = psutil.Process(process)
        for one in (leader, *leader.children(recursive=True)):
            with suppress(psutil.Error):
                total += one.memory_info().rss
    return total


def _on_disk(folder: Path) -> int:
    total = 0
    for place, _, files in os.walk(folder):
        for file in files:
            with suppress(OSError):
                total += os.lstat(os.path.join(place, file)).st_size  # noqa: PTH118
    return total


def _send(process: subprocess.Popen[bytes], what: signal.Signals) -> None:
    """To all of its group. One that stands still for a timing must go on to hear it."""
    with suppress(OSError):
        os.killpg(process.pid, what)
        os.killpg(process.pid, signal.SIGCONT)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Whatever is left of its group."""
    with suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def unstarted(planned: Planned, outcome: Outcome, message: str) -> JobResult:
    """The result of a job that no process was started for."""
    job = planned.job
    return JobResult(
        job=job.id, model=job.model, recipe=job.recipe_id, why=job.why, key=planned.key, outcome=outcome, message=message[:LONGEST_MESSAGE],
        exit_code=None, attempts=0, started=time.time(), seconds=0.0, paused_seconds=0.0, peak_memory=None,
        host=socket.gethostname(), log="", report=None, figures=None, command=(),
    )  # fmt: skip


def _log(folder: Path, job: Job) -> Path:
    return folder / LOGS / f"{job.id}.log"


def _bytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
