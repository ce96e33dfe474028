"""The report as one HTML file that opens offline."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
from pathlib import Path
from typing import Any

from compressctl.report import sentences, tables
from compressctl.report.charts import charts
from compressctl.report.document import GroupsPart, Report

_FOLDER = Path(__file__).parent
_MOST_ROWS = 2000
"""Rows of one table: a report stays a file that a browser opens at once."""


def render(report: Report) -> str:
    """Every user string is escaped by the template engine or by matplotlib; nothing is fetched from anywhere."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_read("report.html.jinja"))
    script = _read("report.js")
    started = datetime.datetime.fromtimestamp(report.started, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return template.render(
        report=report,
        started=started,
        tables=tables,
        sentences=sentences,
        pictures=[charts(part, report) for part in report.backends],
        group_rows=_group_rows,
        most_rows=_MOST_ROWS,
        recipe=_as_yaml(report.recipe),
        compact=lambda value: json.dumps(value, default=str, ensure_ascii=False),
        style=_read("report.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _group_rows(groups: GroupsPart) -> list[list[Any]]:
    return [
        [
            entry.name,
            f"{entry.samples:,}",
            f"{entry.before:.2f} %",
            f"{entry.after:.2f} %",
            entry.right_to_wrong,
            entry.wrong_to_right,
        ]
        for entry in groups.groups
    ]


def _as_yaml(recipe: dict[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))
