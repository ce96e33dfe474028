"""compressctl report: render a run's report again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(run: Annotated[Path, typer.Argument(help="A run's folder, or its report.json.", metavar="RUN")]) -> None:
    """Show a run's report, and write its files again from report.json (after an upgrade, say).

    \b
    Examples:
      compressctl report runs/model/20261126-131803-bce8143f
    """
    from compressctl.report.read import read_report, showing
    from compressctl.report.write import write

    with showing(run):
        written = write(read_report(run), run if run.is_dir() else run.parent)
    show(run)
    print(f"report: {written[-1]}")


def show(run: Path) -> None:
    """Print a run's report on the terminal."""
    from compressctl.cli.screen import Screen
    from compressctl.report import console
    from compressctl.report.read import read_report, showing

    with showing(run):
        Screen().print(console.render(read_report(run)))
