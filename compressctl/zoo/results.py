"""What became of a job: one small file each, whole or not there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from compressctl.core.errors import CompressctlError
from compressctl.core.regular_files import read_regular
from compressctl.core.secrets import for_others
from compressctl.core.whole_files import write_whole

MARK, MARK_BYTES = "zoo.json", 1 << 16
"""What every zoo's folder holds: its name."""

_MOST_BYTES = 1 << 20


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
    size_before: int
    size_after: int
    speed: float | None = None
    speed_low: float | None = None
    speed_high: float | None = None
    metric: str | None = None
    score_before: float | None = None
    score_after: float | None = None
    sqnr_db: float | None = None
    cosine: float | None = None
    headline: str = ""

    @property
    def smaller(self) -> float:
        return self.size_before / self.size_after if self.size_after else 0.0


class JobResult(BaseModel):
    """key: what decided the run, see keys.py; a result under another key is not this job's any more.

    report, log: relative to the zoo's folder. seconds: on the clock; paused_seconds of them it stood still for others' timings.
    """

    model_config = ConfigDict(frozen=True)

    job: str
    model: str
    recipe: str
    why: str
    key: str
    outcome: Outcome
    message: str
    exit_code: int | None
    attempts: int
    started: float
    seconds: float
    paused_seconds: float
    peak_memory: int | None
    host: str
    log: str
    report: str | None
    figures: Figures | None
    command: tuple[str, ...]


def result_file(folder: Path, job_id: str) -> Path:
    return folder / "results" / f"{job_id}.json"


def write_result(folder: Path, result: JobResult) -> None:
    """Raises what write_whole does."""
    file = result_file(folder, result.job)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, [json.dumps(for_others(result.model_dump(mode="json")), indent=1).encode(), b"\n"])


def read_result(folder: Path, job_id: str) -> JobResult | None:
    """None where there is none, or none that can be read: the job is then run again."""
    try:
        return JobResult.model_validate_json(read_regular(result_file(folder, job_id), _MOST_BYTES))
    except (OSError, CompressctlError, ValidationError):
        return None


def all_results(folder: Path) -> Iterator[JobResult]:
    """One after the other, by name: as many as there are need not be in memory."""
    for file in sorted((folder / "results").glob("*.json")):
        found = read_result(folder, file.stem)
        if found is not None:
            yield found
