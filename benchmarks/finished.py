"""Whether a run in a folder came to its end: one that was stopped has a report too, and goes on when it is started again."""

import json
from pathlib import Path


def is_finished(run: Path) -> bool:
    report = run / "report.json"
    return report.is_file() and json.loads(report.read_text())["status"] in ("done", "budget missed")
