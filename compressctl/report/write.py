"""The report's files, each whole or not there, and the summary page of a CI job."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic_core import PydanticSerializationError

from compressctl.core.legible import legible, without_commands
from compressctl.core.whole_files import write_whole
from compressctl.report import as_html, as_junit, as_markdown, as_sarif
from compressctl.report.document import Report


def write(report: Report, folder: Path) -> list[Path]:
    """report.json, .md, .junit.xml, .sarif and .html in folder; their paths in that order.

    Where one cannot be written the others are, before its error is raised.
    """
    report = _in_text(report)
    paths, errors = [], []
    for name, render in _RENDERED.items():
        try:
            # The folder may be gone: somebody removed it while the run worked in it.
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / name, [without_commands(legible(render(report))).encode(errors="replace")])
            paths.append(folder / name)
        except Exception as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return paths


def written_in(folder: Path) -> list[str]:
    """The names of the files of a report that are there."""
    return [name for name in _RENDERED if (folder / name).is_file()]


def _in_text(report: Report) -> Report:
    """Names of files need not be text: bytes that are none are spelled out, as `\\xff`."""
    try:
        report.model_dump_json()
    except PydanticSerializationError:
        return Report.model_validate(_as_text(report.model_dump()))
    return report


def _as_text(value: Any) -> Any:
    if isinstance(value, str):
        return os.fsencode(value).decode(errors="backslashreplace")
    if isinstance(value, dict):
        return {_as_text(key): _as_text(inner) for key, inner in value.items()}
    return type(value)(map(_as_text, value)) if isinstance(value, list | tuple) else value


_RENDERED: Mapping[str, Callable[[Report], str]] = {
    "report.json": lambda report: report.model_dump_json(indent=1) + "\n",
    "report.md": as_markdown.render,
    "report.junit.xml": as_junit.render,
    "report.sarif": as_sarif.render,
    "report.html": as_html.render,
}


def add_to_job_summary(report: Report) -> None:
    """Append the Markdown to the file that GitHub Actions names in GITHUB_STEP_SUMMARY, where there is one."""
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        with Path(summary).open("a", encoding="utf-8", errors="replace") as stream:
            stream.write(as_markdown.render(report))
