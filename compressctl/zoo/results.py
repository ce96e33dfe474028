"""What became of a job: one small file each, whole or not there."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from compressctl.core.errors import CompressctlError, UsageError
from compressctl.core.regular_files import read_regular
from compressctl.core.secrets import for_others
from compressctl.core.whole_files import write_whole

MARK = "zoo.json"
"""What every zoo's folder holds: its name."""

FOLDERS = RESULTS, LOGS, RUNS, TEMPORARY = "results", "logs", "runs", "temporary"

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
"""Of zoos, models and recipes: they become names of files."""

JOB = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}(@[A-Za-z0-9._-]{0,100})?$"
_MOST_BYTES = 1 << 20
_REPORT, SEARCH = "report.html", "search.html"

Figure = Annotated[float, Field(ge=-1e30, le=1e30, allow_inf_nan=False)]
Ratio = Annotated[float, Field(ge=0, le=1e30, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, lt=1 << 63)]


class Outcome(StrEnum):
    """How a job ended. good: inside its budget. Everything but good and missed has no file to hand over that was measured."""

    GOOD = "good"
    MISSED = "missed"
    NOTHING = "nothing to compress"
    INVALID = "invalid"
    MISSING = "missing dependency"
    FAILED = "failed"
    CRASHED = "crashed"
    MEMORY = "out of memory"
    TIME = "out of time"
    DISK = "out of disk"
    MACHINE = "machine"
    BUG = "bug"
    INTERRUPTED = "interrupted"


TRANSIENT = frozenset({Outcome.MACHINE})
"""What may pass by itself. A job that took more than it may will do so again."""

UNSETTLED = TRANSIENT | {Outcome.INTERRUPTED, Outcome.MISSING}
"""How a job ends that the next `zoo apply` tries again: nothing of the job need have changed for it to end otherwise."""

LIMITED = {Outcome.MEMORY: "memory", Outcome.TIME: "time", Outcome.DISK: "disk"}
"""Which of a job's resources it took too much of."""

OUTCOME_WORDS = {
    Outcome.GOOD: "inside their budgets",
    Outcome.MISSED: "a budget or gate missed",
    Outcome.NOTHING: "nothing there that the recipe compresses",
    Outcome.INVALID: "a model, recipe or data that cannot be read",
    Outcome.MISSING: "something optional is not installed",
    Outcome.FAILED: "a stage or deliverable failed",
    Outcome.CRASHED: "native code ended the process",
    Outcome.MEMORY: "more memory than they may take",
    Outcome.TIME: "more time than they may take",
    Outcome.DISK: "more disk than they may take",
    Outcome.MACHINE: "the machine: disk, rights, memory",
    Outcome.BUG: "a bug of compressctl",
    Outcome.INTERRUPTED: "stopped",
}


class Figures(BaseModel):
    """Of the job's first deliverable, against the original in the same runtime. None: not measured.

    speed: how many times as fast, with its 95 % interval. fidelity: the worst output's signal-to-noise ratio in dB and cosine.
    """

    model_config = ConfigDict(frozen=True)

    backend: str
    size_before: Count
    size_after: Count
    speed: Ratio | None = None
    speed_low: Ratio | None = None
    speed_high: Ratio | None = None
    metric: str | None = None
    score_before: Figure | None = None
    score_after: Figure | None = None
    sqnr_db: Figure | None = None
    cosine: Figure | None = None
    headline: str = ""

    @property
    def smaller(self) -> float:
        return self.size_before / self.size_after if self.size_after else 0.0


class JobResult(BaseModel):
    """key: what decided the run, see keys.py; a result under another key is not this job's any more.

    notes: what else is to be known, such as patterns of the recipe that fit nothing in this model. allowed: how much it might take, bytes or seconds, of what it took too much of (see LIMITED); None: it had no limit, or ended otherwise.
    found_recipe: the one that a search found. report, log: relative to the zoo's folder. lost: what became of nodes or workers of a cluster that it ran on before. seconds: on the clock; paused_seconds of them it stood still for others' timings.
    """

    model_config = ConfigDict(frozen=True)

    job: str = Field(pattern=JOB)
    model: str
    recipe: str
    why: str
    key: str
    outcome: Outcome
    message: str
    exit_code: int | None
    attempts: Count
    started: Figure
    seconds: Ratio
    paused_seconds: Ratio
    peak_memory: Count | None
    host: str
    log: str
    report: str | None
    figures: Figures | None
    command: tuple[str, ...]
    lost: tuple[str, ...] = ()
    allowed: Count | None = None
    notes: tuple[str, ...] = ()
    found_recipe: str | None = None

    @model_validator(mode="after")
    def _leads_to_its_own_files(self) -> Self:
        """A page links to them, and whoever merged the results named folders before them."""
        for path, names in ((self.report, (_REPORT, SEARCH)), (self.found_recipe, ("recipe.yaml",))):
            place = PurePosixPath(path) if path is not None else None
            if place is not None and (
                place.is_absolute() or place.parts[-3:] not in [(RUNS, self.job, name) for name in names]
            ):
                raise ValueError("not a file of this job")
        return self

    @property
    def run(self) -> str | None:
        """The folder of the run that measured its file, relative to the zoo's; None for one that has none."""
        if self.report is None:
            return None
        folder = PurePosixPath(self.report).parent
        return (folder / "best" if self.report.endswith(SEARCH) else folder).as_posix()


class _Mark(BaseModel):
    name: str = Field(pattern=NAME)


def zoo_name(folder: Path) -> str | None:
    """None for a folder that holds no zoo, or none whose name can be read."""
    try:
        return _Mark.model_validate_json(read_regular(folder / MARK, _MOST_BYTES)).name
    except (OSError, CompressctlError, ValidationError):
        return None


def write_mark(folder: Path, name: str) -> None:
    """Raises what write_whole does."""
    write_whole(folder / MARK, [json.dumps({"zoo": "compressctl/v1", "name": name}).encode()])


def check_own(folder: Path) -> None:
    """Raises UsageError where what is written into a zoo's folder would land elsewhere, or cannot be there."""
    for place in map(folder.joinpath, (*FOLDERS, MARK)):
        if place.is_symlink() or (place.name in FOLDERS and place.exists() and not place.is_dir()):
            raise UsageError(
                f"{place} is a link, or a file, and a zoo writes over what is in its folders",
                hint="remove it; a zoo that is to lie on another disk has --output there",
            )


def result_file(folder: Path, job_id: str) -> Path:
    return folder / RESULTS / f"{job_id}.json"


def write_result(folder: Path, result: JobResult) -> None:
    """Raises what write_whole does."""
    file = result_file(folder, result.job)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, [json.dumps(for_others(result.model_dump(mode="json")), indent=1).encode(), b"\n"])


def read_result(folder: Path, job_id: str) -> JobResult | None:
    """None where there is none, or none of this job that can be read: it is then run again."""
    try:
        found = JobResult.model_validate_json(read_regular(result_file(folder, job_id), _MOST_BYTES))
    except (OSError, CompressctlError, ValidationError):
        return None
    return found if found.job == job_id else None


def all_results(folder: Path, jobs: Container[str] | None = None) -> Iterator[JobResult]:
    """One after the other, by name: as many as there are need not be in memory. jobs: of these alone, where a manifest has others no more."""
    for file in _files(folder):
        found = read_result(folder, file.stem) if jobs is None or file.stem in jobs else None
        if found is not None:
            yield found


def unreadable(folder: Path, jobs: Container[str] | None = None) -> list[str]:
    """Jobs whose results are there and say nothing: damaged, or of a version to come."""
    names = (file.stem for file in _files(folder) if jobs is None or file.stem in jobs)
    return [name for name in names if read_result(folder, name) is None]


def _files(folder: Path) -> list[Path]:
    """None that is still being written."""
    return sorted(file for file in (folder / RESULTS).glob("*.json") if not file.name.startswith("."))
