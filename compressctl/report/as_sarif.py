"""The report as SARIF 2.1.0: one result per missed limit and per warning, for code scanning.

Every result stands at the first line of the recipe: GitHub refuses results without a place in the repository.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from compressctl import __version__
from compressctl.core.legible import on_one_line
from compressctl.report.document import Report
from compressctl.report.tables import budget_words

_RULES = {
    "budget": "A limit of the recipe's budget was missed.",
    "run": "The run did not finish.",
    "warning": "Something to read that did not stop the run.",
}


def render(report: Report) -> str:
    found = [("budget", "error", budget_words(check)) for check in report.budget if not check.holds]
    if report.status in ("failed", "interrupted", "time limit"):
        found.append(("run", "error", report.error or report.summary[0]))
    found += [("warning", "warning", message) for message in report.warnings]
    place = report.recipe_file or "recipe.lock.yaml"
    results = [_result(rule, level, text, place) for rule, level, text in found]
    rules = [{"id": name, "shortDescription": {"text": text}} for name, text in _RULES.items()]
    driver = {"name": "compressctl", "version": __version__, "rules": rules}
    document = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _result(rule: str, level: str, text: str, place: str) -> dict[str, Any]:
    location = {"physicalLocation": {"artifactLocation": {"uri": quote(place)}, "region": {"startLine": 1}}}
    return {
        "ruleId": rule,
        "level": level,
        "message": {"text": on_one_line(text).replace("](", "] (")},
        "locations": [location],
    }
