"""Reports of earlier runs, read back."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from compressctl.core.errors import CompressctlError, UsageError, in_short
from compressctl.core.regular_files import read_regular
from compressctl.measure.budget import check
from compressctl.measure.results import BackendResult, BudgetCheck
from compressctl.recipe.renames import plain_with_new_names
from compressctl.recipe.schema import BudgetSection
from compressctl.report.document import Report

_MAX_BYTES = 1 << 26
"""Of a report: 20,000 nodes on three backends take a third of it."""


def read_report(run: Path) -> Report:
    """The report of a run folder, or of a report.json itself. Raises UsageError when there is none that can be read."""
    file = run / "report.json" if run.is_dir() else run
    try:
        report = Report.model_validate_json(read_regular(file, _MAX_BYTES))
    except FileNotFoundError:
        raise UsageError(f"{run} holds no report.json", hint="name a folder that `compressctl apply` wrote") from None
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(step) for step in problem["loc"])
        raise UsageError(
            f"{file} is not a report that this version reads: {where}: {problem['msg']}",
            hint="run the recipe again with this version",
        ) from error
    return report.model_copy(update={"recipe": plain_with_new_names(report.recipe)})


@contextmanager
def showing(run: Path) -> Iterator[None]:
    """Whatever a report's own figures break in here is said of the report, which is a file of somebody's.

    Its types were checked when it was read, and not whether a time is one, or a share less than all. Raises UsageError."""
    try:
        yield
    except (CompressctlError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno != errno.EOVERFLOW:  # what times say that no calendar has
            raise
        raise UsageError(
            f"{run}: the report holds what no run writes: {in_short(error)}",
            hint="run the recipe again with this version",
        ) from error


def check_report(part: BackendResult, metric: str | None, budget: BudgetSection) -> tuple[BudgetCheck, ...]:
    """The budget against one backend's numbers, without measuring again."""
    after = part.compressed
    if budget.limits_fidelity and after.fidelity is not None and after.fidelity.is_random:
        raise UsageError(
            "the outputs were compared on random values, which nothing can be gated on",
            hint="run the recipe on samples of your own",
        )
    return check(budget, after, metric or "accuracy", part.bundle)


def backend_part(report: Report, backend: str | None) -> BackendResult:
    """The named backend's numbers, or the first's, which a recipe's budget is held against. Raises UsageError."""
    found = [part for part in report.backends if backend in (None, part.backend)]
    if not found:
        raise UsageError(f"{report.name} has no numbers for {backend or 'any backend'} ({report.status})")
    return found[0]
