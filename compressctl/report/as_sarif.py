"""The report as SARIF 2.1.0: one result per missed limit and per warning, for code scanning."""

from __future__ import annotations

import json
from typing import Any

from compressctl import __version__
from compressctl.report.document import Report
from compressctl.report.tables import budget_words

_RULES = {
    "budget": "A limit of the recipe's budget was missed.",
    "run": "The run did not finish.",
    "warning": "Something to read that did not stop the run.",
}


def render(report: Report) -> str:
    results = [_result("budget", "error", budget_words(check)) for check in report.budget if not check.holds]
    if report.status in ("failed", "interrupted"):
        results.append(_result("run", "error", report.error or report.summary[0]))
    results += [_result("warning", "warning", message) for message in report.warnings]
    rules = [{"id": name, "shortDescription": {"text": text}} for name, text in _RULES.items()]
    driver = {"name": "compressctl", "version": __version__, "rules": rules}
    document = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _result(rule: str, level: str, text: str) -> dict[str, Any]:
    return {"ruleId": rule, "level": level, "message": {"text": text}}
