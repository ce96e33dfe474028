"""compressctl schema: the JSON schemas of recipes, of zoos, of reports and of searches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from compressctl.core.whole_files import write_whole


def schema(
    output: Annotated[Path | None, typer.Option(help="File to write. [default: print it]", show_default=False)] = None,
    report: Annotated[
        bool, typer.Option("--report", help="The schema of report.json instead of the recipe's.")
    ] = False,
    zoo: Annotated[bool, typer.Option("--zoo", help="The schema of a zoo's manifest instead of the recipe's.")] = False,
    search: Annotated[
        bool, typer.Option("--search", help="The schema of search.json, which `auto` writes, instead of the recipe's.")
    ] = False,
    tables: Annotated[
        bool,
        typer.Option(
            "--tables", help="The schema of tables.json, what a search knows of layers, instead of the recipe's."
        ),
    ] = False,
    widths: Annotated[
        bool,
        typer.Option(
            "--widths",
            help="The schema of widths.json, what a search knows of channels and blocks, instead of the recipe's.",
        ),
    ] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="The recipe reference in Markdown instead: every key, as docs/recipe.md.")
    ] = False,
) -> None:
    """Write the recipe's JSON schema, or a zoo's, for completion and checks in an editor, or that of report.json or search.json, for programs.

    Put `# yaml-language-server: $schema=recipe.v1.json` on a recipe's first line.

    \b
    Examples:
      compressctl schema --output recipe.v1.json
      compressctl schema --zoo --output zoo.v1.json
      compressctl schema --report
    """
    from compressctl.cli.registries import REGISTRIES
    from compressctl.core.errors import UsageError

    if report + markdown + zoo + search + tables + widths > 1:
        raise UsageError("--report, --zoo, --search, --tables, --widths and --markdown exclude each other")
    if report:
        from compressctl.report.document import json_schema as make
    elif search:
        from compressctl.search.document import json_schema as make
    elif tables:
        from compressctl.search.tables import json_schema as make
    elif widths:
        from compressctl.search.width_tables import json_schema as make
    elif zoo:
        from compressctl.zoo.json_schema import json_schema as make
    else:
        from compressctl.recipe.json_schema import schema as make
    if markdown:
        from compressctl.recipe.reference import render

        text = render()
    else:
        text = json.dumps(make(), indent=1) + "\n"
    if not (report or zoo or search or tables or widths):
        for error in (error for registry in REGISTRIES.values() for error in registry.usable()[1]):
            typer.echo(f"left out: {error}", err=True)
    if output is None:
        print(text, end="")
        return
    write_whole(output, [text.encode()])
    print(output)
