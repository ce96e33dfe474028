"""compressctl validate: name everything wrong with a recipe."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer

from compressctl.cli.options import RecipePath, Sets, Unsets
from compressctl.core.errors import ExitCode, Problem, RecipeError
from compressctl.recipe.loader import load, read


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
        stages = len(load(recipe, sets or (), unsets or ()).stages)
        print(f"{recipe}: valid, {stages} stage{'' if stages == 1 else 's'}")
        return
    try:
        _, renamed = read(recipe, sets or (), unsets or ())
    except RecipeError as error:
        print(_RENDERERS[output_format]([_plain(problem, "error") for problem in error.problems]))
        raise typer.Exit(int(ExitCode.USAGE)) from None
    print(_RENDERERS[output_format]([_plain(one.problem, "warning") for one in renamed]))


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
        location: dict[str, Any] = {"artifactLocation": {"uri": found["file"] or ""}}
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
        text = f"{found['path']}: {found['message']}{hint}"
        for char, code in (("%", "%25"), ("\r", "%0D"), ("\n", "%0A")):
            text = text.replace(char, code)
        lines.append(
            f"::{found['level']} file={found['file']},line={found['line'] or 1},col={found['column'] or 1}::{text}"
        )
    return "\n".join(lines)


_RENDERERS = {Format.JSON: _as_json, Format.SARIF: _as_sarif, Format.GITHUB: _as_github}
