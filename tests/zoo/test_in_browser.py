"""The leaderboard in a real browser: 5,000 rows that sort and filter, failures by cause, a picture. Skipped without Chromium."""

import json
from pathlib import Path

import pytest
from support.browser import BROWSER, answer_of, opened

from compressctl.zoo import as_html
from compressctl.zoo.leaderboard import Leaderboard, Row

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")

ROWS = 5000

_ASK = """
const table = document.getElementById("jobs");
const heading = (name) => [...table.querySelectorAll("thead button")].find((button) => button.textContent === name);
heading("faster").click(); heading("faster").click();
const sorted = table.tBodies[0].rows[0].cells[0].textContent;
const filter = document.querySelector("input[data-filters]");
filter.value = "model-0042"; filter.dispatchEvent(new Event("input"));
document.title = JSON.stringify({
  sorted,
  shown: [...table.tBodies[0].rows].filter((row) => !row.hidden).length,
  said: document.querySelector("output").textContent,
  pictures: [...document.querySelectorAll("figure svg")].filter((svg) => svg.getBoundingClientRect().height > 50).length,
  causes: [...document.querySelectorAll("details.cause summary")].map((one) => one.textContent),
  wide: document.documentElement.scrollWidth > document.documentElement.clientWidth,
});
"""


def row(number: int) -> Row:
    outcome = "crashed" if number % 100 == 7 else "out of time" if number % 100 == 8 else "good"
    good = outcome == "good"
    return Row(
        job=f"model-{number:04}", model=f"model-{number:04}", recipe="int8", outcome=outcome,
        smaller=3.5 if good else None, faster=1 + number / ROWS if good else None, faster_low=0.9 if good else None,
        faster_high=2.2 if good else None, metric=None, score_before=None, score_after=None,
        sqnr_db=60 - 40 * number / ROWS if good else None, cosine=None, size_before=4000, size_after=1000, seconds=12.0,
        message="fine" if good else f"model-{number:04}: it {outcome}", report=None, log=f"logs/{number}.log",
    )  # fmt: skip


def test_five_thousand_rows_sort_and_filter_and_failures_stand_by_cause(tmp_path: Path) -> None:
    board = Leaderboard("all", [row(number) for number in range(ROWS)], ["model-0001: new, good"])
    page = tmp_path / "leaderboard.html"
    page.write_text(as_html.render(board.name, board.rows, board.causes, board.changes))
    _, log = opened(page, tmp_path)
    assert "CONSOLE" not in log, log
    answer = json.loads(answer_of(page, tmp_path, _ASK))
    assert answer["sorted"] == "model-4999"
    assert answer["shown"] == 1
    assert answer["said"] == f"1 of {ROWS}"
    assert answer["pictures"] == 1
    assert answer["causes"] == [
        "50 crashed: native code ended the process",
        "50 out of time: more time than they may take",
    ]
    assert answer["wide"] is False
