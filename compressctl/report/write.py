"""The report's files, each whole or not there, and the summary page of a CI job."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from compressctl.report import as_html, as_junit, as_markdown, as_sarif
from compressctl.report.document import Report


def write(report: Report, folder: Path) -> list[Path]:
    """report.json, .md, .junit.xml, .sarif and .html in folder; their paths in that order."""
    texts = {
        "report.json": report.model_dump_json(indent=1) + "\n",
        "report.md": as_markdown.render(report),
        "report.junit.xml": as_junit.render(report),
        "report.sarif": as_sarif.render(report),
        "report.html": as_html.render(report),
    }
    return [_write(folder / name, text) for name, text in texts.items()]


def add_to_job_summary(report: Report) -> None:
    """Append the Markdown to the file that GitHub Actions names in GITHUB_STEP_SUMMARY, where there is one."""
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        with Path(summary).open("a", encoding="utf-8", errors="replace") as stream:
            stream.write(as_markdown.render(report))


def _write(path: Path, text: str) -> Path:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as stream:
        stream.write(text)
    Path(temporary).replace(path)
    # mkstemp's mode is the owner's alone; a report is for everybody who may read the folder.
    path.chmod(0o644)
    return path
