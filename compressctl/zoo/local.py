"""Jobs on this machine, several at a time as far as its cores and its memory go."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

import psutil

from compressctl.core.machine import usable_cpus
from compressctl.zoo.keys import Planned
from compressctl.zoo.process import Surroundings, run_job
from compressctl.zoo.results import JobResult

_LOOK = 0.5
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class _Running:
    """What runs now. The cores and the memory that jobs may take together are never more than there are, a job alone aside."""

    jobs: dict[Future[JobResult], Planned] = field(default_factory=dict)

    def has_room_for(self, planned: Planned, workers: int, cores: int, memory: int) -> bool:
        resources = [one.job.resources for one in (*self.jobs.values(), planned)]
        return not self.jobs or (
            len(resources) <= workers
            and sum(one.cores or 1 for one in resources) <= cores
            and sum(one.memory or 0 for one in resources) <= memory
        )


def run_local(jobs: Iterator[Planned], around: Surroundings, workers: int, tell: Callable[[JobResult], None]) -> None:
    """Each job once, in order of their coming; tell: called with each result, from this thread.

    No more jobs are taken than run: a zoo of any size takes the same memory. Stops taking jobs when around.stop is set. Raises
    what `tell` and writing raise, once the jobs that ran have been stopped.
    """
    cores, memory = max(workers, len(usable_cpus())), psutil.virtual_memory().total
    running, waiting = _Running(), next(jobs, None)
    with ThreadPoolExecutor(workers) as pool, _stopped_by_errors(around):
        while running.jobs or (waiting is not None and not around.stop.is_set()):
            while (
                waiting is not None
                and not around.stop.is_set()
                and running.has_room_for(waiting, workers, cores, memory)
            ):
                running.jobs[pool.submit(run_job, waiting, around)] = waiting
                waiting = next(jobs, None)
            done, _ = wait(running.jobs, timeout=_LOOK, return_when=FIRST_COMPLETED)
            for future in done:
                del running.jobs[future]
                tell(future.result())


@contextmanager
def _stopped_by_errors(around: Surroundings) -> Iterator[None]:
    """A pool waits for what runs in it, which may be an hour."""
    try:
        yield
    except BaseException:
        around.stop.set()
        raise


@contextmanager
def stopping_cleanly(around: Surroundings) -> Iterator[None]:
    """Ctrl-C, or another signal that ends programs, lets running jobs write what they have; a second one ends them at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        (around.stop_at_once if around.stop.is_set() else around.stop).set()

    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
