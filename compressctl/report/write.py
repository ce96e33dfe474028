"""The report's files, each whole or not there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from compressctl.report import as_html, as_markdown
from compressctl.report.document import Report


def write(report: Report, folder: Path) -> list[Path]:
    """report.json, report.md and report.html in folder; their paths in that order."""
    texts = {
        "report.json": report.model_dump_json(indent=1) + "\n",
        "report.md": as_markdown.render(report),
        "report.html": as_html.render(report),
    }
    return [_write(folder / name, text) for name, text in texts.items()]


def _write(path: Path, text: str) -> Path:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as stream:
        stream.write(text)
    Path(temporary).replace(path)
    # mkstemp's mode is the owner's alone; a report is for everybody who may read the folder.
    path.chmod(0o644)
    return path
