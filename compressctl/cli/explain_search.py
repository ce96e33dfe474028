"""compressctl explain-search: what every option of every layer takes and loses, and which of them a file has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer


def explain_search(
    run: Annotated[Path, typer.Argument(help="A search's folder, which `compressctl auto` wrote.", metavar="RUN")],
    point: Annotated[
        str | None,
        typer.Option(
            help="The file whose choices are marked. [default: the one that was handed over, or the best that was planned]",
            show_default=False,
        ),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="Only these layers, as in 'layer3*' or Conv, by name or operator.",
            show_default=False,
        ),
    ] = None,
    widths: Annotated[
        bool,
        typer.Option(
            "--widths",
            help="Instead of layers: what fewer channels and blocks save and lose, of a network that can be trained.",
        ),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print the tables as JSON (`compressctl schema --tables`, or `--widths`)."),
    ] = False,
) -> None:
    """Show the tables that a search chose by: what each width and rank of each layer takes, adds and loses.

    A search with samples measures every layer alone, in place: 8 and 4 bits, float, two thinner layers. One exact program then
    chooses for all layers at once; where a network can be trained, for channels, blocks and bits too (`--widths`). What it foretold of each file stands beside what was measured in search.html.

    \b
    Examples:
      compressctl explain-search auto/model
      compressctl explain-search auto/model --layer 'Conv_1*' --point layers2-1
      compressctl explain-search auto/model --widths
      compressctl explain-search auto/model --json
    """
    if widths:
        from compressctl.search import explained_widths as channels

        found, looked = channels.read(run)
        marked = channels.trimmed(found, point)
        shown, lines = list(channels.rows(looked, marked, layer)), channels.said(looked, marked)
        head, text = list(channels.HEAD), looked.model_dump_json(indent=1)
    else:
        from compressctl.search import explained as layers

        found, tables = layers.read(run)
        marked = layers.point_of(found, point)
        shown, lines = list(layers.rows(tables, marked, layer)), layers.said(tables, found, marked)
        head, text = list(layers.HEAD), tables.model_dump_json(indent=1)
    if as_json:
        print(text)
        return
    _print(head, shown, lines)


def _print(head: Sequence[str], shown: Sequence[Sequence[str]], lines: Sequence[str]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from compressctl.cli.screen import Screen
    from compressctl.core.legible import legible

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in head:
        table.add_column(name, justify="right" if name in ("size", "adds", "saves", "far alone") else "left")
    for row in shown:
        table.add_row(*(Text(legible(cell)) for cell in row), style="bold" if row[-1] else None)
    console = Screen()
    console.print(table)
    for line in lines:
        console.print(Text(legible(line)))
