"""compressctl validate: name everything wrong with a recipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer

from compressctl.cli.options import RecipePath, Sets, Unsets
from compressctl.core.errors import ExitCode, Problem, RecipeError
from compressctl.recipe.loader import load


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

    The order of the stages and what each needs are checked too. Exit code 2 when there is a problem. Nothing is loaded.

    \b
    Examples:
      compressctl validate model.yaml
      compressctl validate model.yaml --format github
    """
    try:
        loaded = load(recipe, sets or (), unsets or ())
    except RecipeError as error:
        if output_format is Format.TEXT:
            raise
        print(_RENDERERS[output_format](error.problems))
        raise typer.Exit(int(ExitCode.USAGE)) from None
    if output_format is Format.TEXT:
        stages = len(loaded.stages)
        print(f"{recipe}: valid, {stages} stage{'' if stages == 1 else 's'}", file=sys.stdout)
    else:
        print(_RENDERERS[output_format](()))


def _as_json(problems: Sequence[Problem]) -> str:
    return json.dumps([_plain(problem) for problem in problems], indent=1)


def _plain(problem: Problem) -> dict[str, Any]:
    origin = problem.origin
    return {
        "file": origin.source if origin else None,
        "line": origin.line if origin else None,
        "column": origin.column if origin else None,
        "path": problem.path,
        "message": problem.message,
        "hint": problem.hint,
    }


def _as_sarif(problems: Sequence[Problem]) -> str:
    """SARIF 2.1.0."""
    results = []
    for problem in problems:
        found = _plain(problem)
        location: dict[str, Any] = {"artifactLocation": {"uri": found["file"] or ""}}
        if found["line"]:
            location["region"] = {"startLine": found["line"], "startColumn": found["column"] or 1}
        text = " ".join(part for part in (f"{problem.path}: {problem.message}", problem.hint) if part)
        results.append(
            {
                "ruleId": "recipe",
                "level": "error",
                "message": {"text": text},
                "locations": [{"physicalLocation": location}],
            }
        )
    driver = {"name": "compressctl", "rules": [{"id": "recipe"}]}
    schema = "https://json.schemastore.org/sarif-2.1.0.json"
    return json.dumps(
        {"$schema": schema, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]}, indent=1
    )


def _as_github(problems: Sequence[Problem]) -> str:
    """Workflow commands, which GitHub shows as annotations on the file."""
    lines = []
    for problem in problems:
        found = _plain(problem)
        text = f"{problem.path}: {problem.message}{f' ({problem.hint})' if problem.hint else ''}"
        for char, code in (("%", "%25"), ("\r", "%0D"), ("\n", "%0A")):
            text = text.replace(char, code)
        lines.append(f"::error file={found['file']},line={found['line'] or 1},col={found['column'] or 1}::{text}")
    return "\n".join(lines)


_RENDERERS = {Format.JSON: _as_json, Format.SARIF: _as_sarif, Format.GITHUB: _as_github}
