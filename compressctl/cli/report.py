"""compressctl report: render a run's report again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(run: Annotated[Path, typer.Argument(help="A run's folder, or its report.json.", metavar="RUN")]) -> None:
    """Show a run's report, and write its files again from report.json (after an upgrade, say)."""
    from rich.console import Console

    from compressctl.report import console
    from compressctl.report.read import read_report
    from compressctl.report.write import write

    found = read_report(run)
    written = write(found, run if run.is_dir() else run.parent)
    screen = Console()
    screen.print(console.render(found))
    screen.print(f"report: {written[-1]}", markup=False, soft_wrap=True)
