"""A leaderboard as JUnit XML: a case for each job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from compressctl.report.as_junit import xml_text
from compressctl.zoo.results import Outcome

if TYPE_CHECKING:
    from compressctl.zoo.leaderboard import Row


def render(name: str, rows: Sequence[Row]) -> str:
    """Missed budgets are failures, everything else but a good file an error."""
    failures = sum(row.outcome == Outcome.MISSED for row in rows)
    errors = sum(row.outcome not in (Outcome.MISSED, Outcome.GOOD) for row in rows)
    seconds = f"{sum(row.seconds for row in rows):.3f}"
    suite = ElementTree.Element(
        "testsuite", name=xml_text(name), tests=str(len(rows)), failures=str(failures), errors=str(errors), time=seconds
    )
    for row in rows:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=xml_text(f"zoo.{row.recipe}"),
            name=xml_text(row.job),
            time=f"{row.seconds:.3f}",
        )
        if row.outcome != Outcome.GOOD:
            kind = "failure" if row.outcome == Outcome.MISSED else "error"
            words = xml_text(row.message)
            ElementTree.SubElement(case, kind, message=words, type=xml_text(row.outcome)).text = words
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
