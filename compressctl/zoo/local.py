"""Jobs on this machine, several at a time as far as its cores and its memory go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

import psutil

from compressctl.core.machine import usable_cpus
from compressctl.zoo.keys import Planned
from compressctl.zoo.process import Surroundings, run_job
from compressctl.zoo.results import JobResult
from compressctl.zoo.stopping import stopped_by_errors, stopping_cleanly

_LOOK = 0.5


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


def run_local(
    jobs: Iterator[Planned], around: Surroundings, tell: Callable[[JobResult], None], *, workers: int
) -> None:
    """Each job once, in order of their coming; tell: called with each result, from this thread.

    No more jobs are taken than run: a zoo of any size takes the same memory. Stops taking jobs when around.stop is set. Raises
    what `tell` and writing raise, once the jobs that ran have been stopped.
    """
    cores, memory = max(workers, len(usable_cpus())), psutil.virtual_memory().total
    with stopping_cleanly(around), ThreadPoolExecutor(workers) as pool, stopped_by_errors(around):
        running, waiting = _Running(), next(jobs, None)
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
