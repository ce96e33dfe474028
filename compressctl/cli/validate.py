"""compressctl validate: name everything wrong with a recipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import quote

import typer

from compressctl.cli.options import RecipePath, Sets, Unsets
from compressctl.cli.streams import below
from compressctl.core.errors import ExitCode, Problem, RecipeError
from compressctl.core.legible import legible
from compressctl.recipe.image_steps import image_steps_in_words
from compressctl.recipe.loader import load, read
from compressctl.recipe.set_of_files import files_of


class Format(StrEnum):
    TEXT = "text"
    JSON = "json"
    SARIF = "sarif"
    GITHUB = "github"


def validate(
    recipe: RecipePath,
    sets: Sets = None,
    unsets: Unsets = None,
    output_format: Annotated[
        Format, typer.Option("--format", help="text to read, json, sarif for code scanning, github for annotations.")
    ] = Format.TEXT,
) -> None:
    """Check a recipe and name everything wrong with it, each with its line, column and a hint.

    The order of the stages and what each needs are checked too. Exit code 2 when there is a problem; an old name is a warning.
    Nothing is loaded.

    \b
    Examples:
      compressctl validate model.yaml
      compressctl validate model.yaml --format github
    """
    if output_format is Format.TEXT:
        loaded = [load(recipe, asked, unsets or ()) for asked in _each(recipe, sets, unsets)]
        stages = sum(len(one.stages) for one in loaded)
        what = "a search" if loaded[0].search else f"{stages} stage{'' if stages == 1 else 's'}"
        print(f"{recipe}: valid, {what}")
        for words in image_steps_in_words(loaded[0].image_steps) if loaded[0].image_steps is not None else ():
            print(words)
        return
    try:
        (*_, (_, renamed)) = [read(recipe, asked, unsets or ()) for asked in _each(recipe, sets, unsets)]
    except RecipeError as error:
        _print(output_format, [_plain(problem, "error") for problem in error.problems])
        raise typer.Exit(int(ExitCode.USAGE)) from None
    _print(output_format, [_plain(one.problem, "warning") for one in renamed])


def _each(recipe: RecipePath, sets: Sets, unsets: Unsets) -> list[list[str]]:
    """What is set for each file of a recipe for several, or for the only one."""
    given = list(sets or ())
    names = files_of(recipe, given, unsets or ())
    return [[*given, f"pipeline.role={json.dumps(name)}"] for name in names] or [given]


def _print(output_format: Format, findings: Sequence[dict[str, Any]]) -> None:
    # Workflow commands are what is meant here, and each format escapes what stands in them.
    print(_RENDERERS[output_format](findings), file=below(sys.stdout))


def _as_json(findings: Sequence[dict[str, Any]]) -> str:
    return json.dumps(findings, indent=1)


def _plain(problem: Problem, level: str) -> dict[str, Any]:
    origin = problem.origin
    return {
        "level": level,
        "file": origin.source if origin else None,
        "line": origin.line if origin else None,
        "column": origin.column if origin else None,
        "path": problem.path,
        "message": problem.message,
        "hint": problem.hint,
    }


def _as_sarif(findings: Sequence[dict[str, Any]]) -> str:
    """SARIF 2.1.0."""
    results = []
    for found in findings:
        location: dict[str, Any] = {"artifactLocation": {"uri": quote(found["file"] or "")}}
        if found["line"]:
            location["region"] = {"startLine": found["line"], "startColumn": found["column"] or 1}
        text = " ".join(part for part in (f"{found['path']}: {found['message']}", found["hint"]) if part)
        results.append(
            {
                "ruleId": "recipe",
                "level": found["level"],
                "message": {"text": text},
                "locations": [{"physicalLocation": location}],
            }
        )
    driver = {"name": "compressctl", "rules": [{"id": "recipe"}]}
    schema = "https://json.schemastore.org/sarif-2.1.0.json"
    return json.dumps(
        {"$schema": schema, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]}, indent=1
    )


def _as_github(findings: Sequence[dict[str, Any]]) -> str:
    """Workflow commands, which GitHub shows as annotations on the file."""
    lines = []
    for found in findings:
        hint = f" ({found['hint']})" if found["hint"] else ""
        text = _in_command(f"{found['path']}: {found['message']}{hint}")
        file = _in_command(found["file"] or "").replace(":", "%3A").replace(",", "%2C")
        lines.append(f"::{found['level']} file={file},line={found['line'] or 1},col={found['column'] or 1}::{text}")
    return "\n".join(lines)


def _in_command(text: str) -> str:
    """Source: actions/toolkit, packages/core/src/command.ts, escapeData; a property escapes `:` and `,` too."""
    return legible(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


_RENDERERS = {Format.JSON: _as_json, Format.SARIF: _as_sarif, Format.GITHUB: _as_github}
