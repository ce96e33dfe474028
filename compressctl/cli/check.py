"""compressctl check: a gate over a run that ended."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def check(
    run: Annotated[Path, typer.Argument(help="A run's folder, or its report.json.", metavar="RUN")],
    budget: Annotated[
        list[str], typer.Option("--budget", metavar="LIMIT=VALUE", help="As in speedup=1.5, size=5MB. Repeatable.")
    ],
    backend: Annotated[
        str | None, typer.Option(help="Which backend's file, where a run made several. [default: the first]")
    ] = None,
) -> None:
    """Hold a budget against a run's report without running anything again.

    Like a recipe's own budget it is held against the first exported file, unless --backend names another.
    Exit code 0 when every limit holds, 1 when one is missed. Limits: accuracy_drop, size, packed_size, speedup, worst_class_drop,
    agreement, cosine, sqnr_db (of all outputs, or of one as in cosine.boxes=0.99), kept, added.

    \b
    Examples:
      compressctl check runs/model/20261126-131803-bce8143f --budget accuracy_drop=0.5 --budget size=250KB
    """
    from compressctl.cli.limits import parse_budget
    from compressctl.core.errors import ExitCode, UsageError
    from compressctl.report.read import backend_part, check_report, read_report, showing
    from compressctl.report.tables import budget_words

    limits = parse_budget(budget)
    report = read_report(run)
    if not report.backends:
        raise UsageError(f"{run} ended before anything was measured ({report.status})")
    with showing(run):
        part = backend_part(report, backend)
        lines = check_report(part, report.metric, limits)
        if len(report.backends) > 1:
            print(f"{part.backend}:")
        for line in lines:
            print(f"{'ok    ' if line.holds else 'MISSED'}  {budget_words(line)}")
    if not all(line.holds for line in lines):
        raise typer.Exit(int(ExitCode.BUDGET_MISSED))
