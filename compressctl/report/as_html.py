"""The report as one HTML file that opens offline."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compressctl.report import tables
from compressctl.report.document import BackendPart, Report

_TEMPLATE = Path(__file__).with_name("report.html.jinja")


def render(report: Report) -> str:
    """Every user string is escaped by the template engine; nothing is fetched from anywhere."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    started = datetime.datetime.fromtimestamp(report.started, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return template.render(
        report=report,
        started=started,
        tables=tables,
        bars=[_bars(part) for part in report.backends],
        recipe=_as_yaml(report.recipe),
        compact=lambda value: json.dumps(value, default=str, ensure_ascii=False),
    )


def _bars(part: BackendPart) -> list[dict[str, Any]]:
    """Compressed as a share of float, for the bars: shorter is better in each."""
    before, after = part.baseline, part.compressed
    pairs: list[tuple[str, float, float, Callable[[float], str]]] = [
        ("file size", before.total_bytes, after.total_bytes, tables.size)
    ]
    if before.latency and after.latency:
        pairs.append(("latency", before.latency.p50_ms, after.latency.p50_ms, lambda value: f"{value:.3f} ms"))
    if before.memory and after.memory:
        pairs.append(("peak memory", before.memory.run_peak_bytes, after.memory.run_peak_bytes, tables.size))
    bars = []
    for label, whole, part_, show in pairs:
        largest = max(whole, part_) or 1
        bars.append(
            {
                "label": label,
                "before": show(whole),
                "after": show(part_),
                "before_share": 100 * whole / largest,
                "after_share": 100 * part_ / largest,
            }
        )
    return bars


def _as_yaml(recipe: dict[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))
