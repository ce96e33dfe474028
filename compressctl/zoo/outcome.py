"""What a process that has ended says of its job: one of a few causes, a message, and the figures of its report."""

from __future__ import annotations

import math
import signal
from pathlib import Path

from pydantic import ValidationError

from compressctl.core.errors import LONGEST_MESSAGE, CompressctlError, ExitCode
from compressctl.core.failures import MEMORY_HINT
from compressctl.core.regular_files import open_regular
from compressctl.measure.results import Score
from compressctl.report.document import Report
from compressctl.report.read import read_report
from compressctl.zoo.results import Figures, Outcome

BY_CODE = {
    ExitCode.DONE: Outcome.GOOD,
    ExitCode.BUDGET_MISSED: Outcome.MISSED,
    ExitCode.USAGE: Outcome.INVALID,
    ExitCode.MISSING_DEPENDENCY: Outcome.MISSING,
    ExitCode.STAGE_FAILED: Outcome.FAILED,
    ExitCode.MACHINE: Outcome.MACHINE,
    ExitCode.NOTHING_TO_COMPRESS: Outcome.NOTHING,
    ExitCode.BUG: Outcome.BUG,
    ExitCode.TIME_LIMIT: Outcome.TIME,
    ExitCode.INTERRUPTED: Outcome.INTERRUPTED,
}
_TAIL = 4000
_CRASHED = ("crashed (SIG", "the process was killed (SIGKILL)")
"""How a run says that a process of its own was ended by native code; see measure/child_process.py."""


def outcome_of(code: int | None, broken: Outcome | None, words: str, report: Path, log: Path) -> tuple[Outcome, str]:
    """code: of the process, negative for a signal. broken, words: the limit for which it was stopped."""
    if broken is not None:
        return broken, words
    said = _message(report, log)
    if code is None or code < 0:
        name = signal.Signals(-code).name if code else "an unknown signal"
        what = (
            "the system killed it (SIGKILL), most likely for want of memory"
            if name == "SIGKILL"
            else f"it crashed ({name})"
        )
        return (Outcome.MEMORY if name == "SIGKILL" else Outcome.CRASHED), what
    try:
        outcome = BY_CODE[ExitCode(code)]
    except ValueError:
        return Outcome.BUG, f"exit code {code}: {said}"
    if outcome is Outcome.MACHINE and MEMORY_HINT in _whole(report, log):
        return Outcome.MEMORY, said
    if outcome is Outcome.FAILED and any(words in said for words in _CRASHED):
        return Outcome.CRASHED, said
    return outcome, said


def figures_of(report: Path) -> Figures | None:
    """Of the first deliverable that was measured; None, too, where they are none that a run measures."""
    found = _read(report)
    if found is None or not found.backends:
        return None
    backend = found.backends[0]
    before, after = backend.baseline, backend.compressed
    speed = after.speed
    outputs = after.fidelity.outputs if after.fidelity is not None else ()
    compared = [one for one in outputs if one.sqnr_db is not None]
    worst = min(compared, key=lambda one: one.sqnr_db or 0.0, default=None)
    try:
        return Figures(
            backend=backend.backend,
            size_before=before.total_bytes,
            size_after=after.total_bytes,
            speed=speed.ratio if speed is not None else None,
            speed_low=speed.low if speed is not None else None,
            speed_high=speed.high if speed is not None else None,
            metric=after.score.metric if after.score is not None else None,
            score_before=_finite(before.score),
            score_after=_finite(after.score),
            sqnr_db=worst.sqnr_db if worst is not None else None,
            cosine=worst.cosine if worst is not None else None,
            headline=found.summary[0][:LONGEST_MESSAGE] if found.summary else "",
        )
    except ValidationError:
        return None


def notes_of(report: Path) -> tuple[str, ...]:
    """What the row of a job says beside its figures."""
    found = _read(report)
    return tuple(
        f"{stage.id}: {', '.join(map(str, left_out))} fit nothing in this model, and were left out"[:LONGEST_MESSAGE]
        for stage in (found.stages if found is not None else ())
        if isinstance(left_out := stage.facts.get("unmatched"), list) and left_out
    )


def _whole(report: Path, log: Path) -> str:
    """Message and hint: names of files stand in messages, and may be any words."""
    found = _read(report)
    return (found.error or "") if found is not None else _tail(log)


def _finite(score: Score | None) -> float | None:
    """A perplexity may be infinite."""
    return score.value if score is not None and math.isfinite(score.value) else None


def _message(report: Path, log: Path) -> str:
    """What the report says stopped the run or came out, else what was printed last; as much as a result has room for."""
    found = _read(report)
    if found is not None:
        missed = [check.explanation or check.name for check in found.budget if not check.holds]
        said = found.error.splitlines()[0] if found.error else "; ".join(missed) or next(iter(found.summary), "")
        return said[:LONGEST_MESSAGE]
    lines = [line for line in _tail(log).splitlines() if line.strip() == line != ""]
    return lines[-1].removeprefix("error: ") if lines else "it said nothing"


def _read(report: Path) -> Report | None:
    try:
        return read_report(report.parent)
    except CompressctlError:
        return None


def _tail(log: Path) -> str:
    try:
        with open_regular(log) as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL))
            return file.read().decode(errors="replace")
    except (OSError, CompressctlError):
        return ""
