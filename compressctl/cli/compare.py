"""compressctl compare: runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two or more run folders.", metavar="RUN RUN...")],
    backend: Annotated[str | None, typer.Option(help="Which backend's numbers. [default: each run's first]")] = None,
) -> None:
    """Show runs side by side: size, score, latency, speed-up with its interval, and what their recipes differ in.

    A speed-up is against each run's own float model on the same runtime. Each further run is held against the first, with 95 %
    intervals.

    \b
    Examples:
      compressctl compare runs/minmax runs/mse
    """
    from rich.table import Table
    from rich.text import Text

    from compressctl import api
    from compressctl.cli.screen import Screen
    from compressctl.report.read import showing

    with showing(runs[0]):
        found = api.compare(runs, backend=backend)
    table = Table()
    table.add_column("")
    for name in found.names:
        table.add_column(Text(name), justify="right")
    for label, cells in found.rows:
        table.add_row(label, *(Text(cell) for cell in cells))
    screen = Screen()
    screen.print(table)
    if found.differences:
        screen.print("\nThey differ in:")
    for line in found.differences:
        screen.print(line, markup=False)
