"""The report as one HTML file that opens offline."""

from __future__ import annotations

import base64
import datetime
import hashlib
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressctl.core.backend import ExecutedNode
from compressctl.core.legible import legible, shortened
from compressctl.measure.results import ErrorGroups, Example, Groups
from compressctl.recipe.as_yaml import as_yaml
from compressctl.report import bundles, decoded, fidelity, paths, sentences, tables
from compressctl.report.charts import charts
from compressctl.report.document import Report

if TYPE_CHECKING:
    from jinja2 import Template

_FOLDER = Path(__file__).parent
_MOST_ROWS = 2400
_MOST_PICTURES = 800_000
_LONGEST_NAME = 160
_LONGEST_FACT = 5000
"""Rows of all long tables, base64 of all samples' pictures, letters of one name and of what a stage found: together they
keep the page under 2 MB, which a browser opens at once and a mail takes. What is left out is in report.json.
"""


def render(report: Report) -> str:
    """Every user string is escaped by the template engine or by matplotlib; nothing is fetched from anywhere."""
    script = page_part("report.js")
    started = datetime.datetime.fromtimestamp(report.started, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return page_template("report.html.jinja").render(
        report=report,
        started=started,
        tables=tables,
        sentences=sentences,
        decoded=decoded,
        fidelity=fidelity,
        paths=paths,
        bundles=bundles,
        pictures=[charts(part, report) for part in report.backends],
        sheets=_sheets(report),
        nodes=_nodes,
        group_rows=_group_rows,
        error_rows=_error_rows,
        most_rows=_MOST_ROWS // (2 * max(1, len(report.backends))),
        name=lambda text: shortened(text, _LONGEST_NAME),
        recipe=as_yaml(report.recipe),
        compact=partial(tables.compact, longest=_LONGEST_FACT),
        style=page_part("report.css"),
        script=script,
        script_hash=script_hash(script),
    )


def script_hash(script: str) -> str:
    """As a content security policy names a script that may run."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def legible_values(value: Any) -> Any:
    """Every string that the template prints, apart from its own markup."""
    return legible(value) if type(value) is str else value


@cache
def page_template(name: str, folder: Path = _FOLDER) -> Template:
    """Of a page of ours. The engine escapes every string; nothing is fetched from anywhere."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=legible_values
    )
    return environment.from_string(page_part(name, folder))


def page_part(name: str, folder: Path = _FOLDER) -> str:
    """A file of the package: what pages are made of."""
    return (folder / name).read_text(encoding="utf-8")


def _sheets(report: Report) -> list[list[Example]]:
    """By backend, its examples: with pictures until the page has enough of them."""
    left, sheets = _MOST_PICTURES, []
    for part in report.backends:
        sheet = []
        for example in part.compressed.behaviour.examples if part.compressed.behaviour else ():
            left -= len(example.png or "")
            sheet.append(example if left >= 0 else example.model_copy(update={"png": None}))
        sheets.append(sheet)
    return sheets


def _nodes(nodes: Sequence[ExecutedNode], most: int) -> list[tuple[int, ExecutedNode]]:
    """With their places in the order of execution; of too many, those in float for a reason and the most expensive."""
    numbered = list(enumerate(nodes, 1))
    chosen = sorted(numbered, key=lambda entry: (entry[1].rule is None, -(entry[1].macs or 0), entry[0]))[:most]
    return sorted(chosen, key=lambda entry: entry[0])


def _group_rows(groups: Groups) -> list[list[Any]]:
    return [
        [
            shortened(entry.name, _LONGEST_NAME),
            f"{entry.samples:,}",
            f"{entry.before:.2f} %",
            f"{entry.after:.2f} %",
            entry.right_to_wrong,
            entry.wrong_to_right,
        ]
        for entry in groups.groups
    ]


def _error_rows(groups: ErrorGroups) -> list[list[Any]]:
    return [
        [shortened(entry.name, _LONGEST_NAME), f"{entry.samples:,}", f"{entry.before:.4g}", f"{entry.after:.4g}"]
        for entry in groups.groups
    ]
