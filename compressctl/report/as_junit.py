"""The report as JUnit XML: one test per limit of the budget, which CI systems show without being taught."""

from __future__ import annotations

from xml.etree import ElementTree

from compressctl.core.legible import legible
from compressctl.report.document import Report
from compressctl.report.tables import budget_words


def render(report: Report) -> str:
    """Stages that failed and runs that were interrupted are errors, missed limits failures."""
    broken = report.status in ("failed", "interrupted", "time limit")
    failures = sum(not check.holds for check in report.budget)
    seconds = f"{max(report.seconds, 0):.3f}"
    suite = ElementTree.Element(
        "testsuite",
        name=xml_text(report.name),
        tests=str(len(report.budget) + 1),
        failures=str(failures),
        errors=str(int(broken)),
        time=seconds,
    )
    run = ElementTree.SubElement(suite, "testcase", classname="compressctl", name="run", time=seconds)
    if broken:
        ElementTree.SubElement(run, "error", message=report.status).text = xml_text(report.error or report.summary[0])
    for check in report.budget:
        case = ElementTree.SubElement(suite, "testcase", classname="compressctl.budget", name=check.name)
        if not check.holds:
            words = xml_text(budget_words(check))
            ElementTree.SubElement(case, "failure", message=words).text = words
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def xml_text(value: str) -> str:
    """Two code points that XML 1.0 cannot hold become question marks; the others that it cannot are none that `legible` leaves."""
    return legible(value).translate({0xFFFE: "?", 0xFFFF: "?"})
