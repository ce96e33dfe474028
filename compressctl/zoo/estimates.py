"""How long jobs will take, by what they, or others of the same recipe, took before."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from compressctl.zoo.jobs import Job
from compressctl.zoo.results import JobResult


@dataclass(frozen=True)
class Estimates:
    """Seconds, without those that a job stood still for others' timings. own: by job. of_recipe: the median by recipe."""

    own: dict[str, float]
    of_recipe: dict[str, float]

    @classmethod
    def of(cls, results: Iterable[JobResult]) -> Estimates:
        """Of jobs that were started; how they ended does not count."""
        own: dict[str, float] = {}
        by_recipe: dict[str, list[float]] = defaultdict(list)
        for result in results:
            if result.attempts:
                own[result.job] = result.seconds - result.paused_seconds
                by_recipe[result.recipe].append(own[result.job])
        return cls(own, {recipe: median(seconds) for recipe, seconds in by_recipe.items()})

    def seconds(self, job: Job) -> float | None:
        """None where nothing is known of the job, nor of its recipe."""
        return self.own.get(job.id, self.of_recipe.get(job.recipe_id))


def in_words(seconds: float) -> str:
    if seconds < 90:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"
