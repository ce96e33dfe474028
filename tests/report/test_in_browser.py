"""The HTML report in a real browser: no errors, pictures there, tables that sort and filter. Skipped without Chromium."""

from pathlib import Path

import pytest
from support.browser import BROWSER, answer_of, opened
from support.reports import file_measurement

from compressctl.core.backend import ExecutedNode
from compressctl.measure.results import BackendResult, Latency, Speedup, WaterfallStep
from compressctl.report import as_html
from compressctl.report.document import Report

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")

_ASK = """
const table = document.getElementById("nodes-1");
const macs = [...table.querySelectorAll("thead button")].find((button) => button.textContent === "MACs");
macs.click(); macs.click();
const filter = document.querySelector("input[data-filters]");
filter.value = "conv2"; filter.dispatchEvent(new Event("input"));
const answer = {
  first: table.tBodies[0].rows[0].cells[1].textContent, sorted: macs.parentElement.getAttribute("aria-sort"),
  shown: [...table.tBodies[0].rows].filter((row) => !row.hidden).length,
  pictures: [...document.querySelectorAll("figure svg")].filter((svg) => svg.getBoundingClientRect().height > 50).length,
  wide: document.documentElement.scrollWidth > document.documentElement.clientWidth,
  colour: getComputedStyle(document.querySelector("figure svg text")).fill,
};
document.title = JSON.stringify(answer);
"""


def _report() -> Report:
    nodes = [ExecutedNode(name=f"conv{n}", op="Conv", precision="int8", macs=n * 100, rule=None) for n in (1, 2, 9, 10)]
    latency = Latency(
        runs=100, batch=1, threads=1, p50_ms=1, p90_ms=1.2, p99_ms=None, mean_ms=1, samples_per_second=1000,
        percentiles_ms=[0.9 + 0.003 * percent for percent in range(101)],
    )  # fmt: skip
    speed = Speedup(ratio=1.6, low=1.5, high=1.7, verdict="faster")
    before = file_measurement(4000).model_copy(update={"latency": latency})
    after = file_measurement(1000, ratio=1.6, drop=0.5).model_copy(update={"latency": latency, "nodes": nodes})
    points = [
        WaterfallStep(
            id=name, total_bytes=total, transport_bytes=total, score=None, drop=None, latency=latency,
            speed=speed, step=speed,
        )
        for name, total in (("float", 4000), ("slim", 2000), ("int8", 1000))
    ]  # fmt: skip
    part = BackendResult(
        backend="onnxruntime", version="1", baseline=before, compressed=after, smaller=4, waterfall=points
    )
    return Report(
        name="browser", status="done", exit_code=0, error=None, summary=["smaller"], started=0.0, seconds=2.0,
        metric=None, metric_unit="", backends=[part], budget=[], stages=[], parity=[], warnings=[], environment={},
        recipe={},
    )  # fmt: skip


def test_the_page_has_no_errors_and_its_tables_sort_and_filter(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(as_html.render(_report()))
    _, log = opened(page, tmp_path)
    assert "CONSOLE" not in log
    answer = answer_of(page, tmp_path, _ASK)
    assert '"first":"conv10"' in answer
    assert '"sorted":"descending"' in answer
    assert '"shown":1' in answer
    assert '"pictures":4' in answer
    assert '"wide":false' in answer
    assert "rgb(27, 31, 36)" in answer or "rgb(89, 99, 110)" in answer
