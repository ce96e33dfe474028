"""What a search looks like: the same figures in every form, nothing that a name could smuggle in."""

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support.browser import BROWSER, answer_of, opened
from support.searching import figures, point

from compressctl.search import as_html, as_markdown, console, picture, words
from compressctl.search.document import Limit, NotTried, Point, Predicted, Search

POINTS = [
    point("float16", figures(2000, 1.0, 0.0), is_on_front=True),
    point("int8", figures(1100, 2.0, 0.56), is_on_front=True, holds=True),
    point("twin", figures(1100, 2.0, 0.56)),
    point("tiny", figures(300, 1.1, 9.0), is_on_front=True),
    point("broken", None, reason="it has nothing to round\nand more"),
]


def found(points: list[Point] | None = None, **more: object) -> Search:
    said = {
        "name": "net", "status": "met", "exit_code": 0, "summary": ["Found."], "level": None, "prefer": "balanced", "judged": "By labels.",
        "goal": (Limit(name="drop", asked=1.0, words="at most 1 point"), Limit(name="size", asked=1200, words="at most 1,200 bytes")),
        "chosen": "int8", "points": tuple(POINTS if points is None else points), "original_bytes": 4000, "seconds": 75.0,
        "not_tried": (NotTried(name="w4a8", family="int8", words="4 bits", reason="int8 lost too much"),),
    }  # fmt: skip
    return Search.model_validate({**said, **more})


def test_both_pages_hold_every_file_why_others_are_missing_and_the_verdict() -> None:
    for page in (as_html.render(found()), as_markdown.render(found())):
        for words_ in (
            "Found.",
            "float16",
            "int8 (chosen)",
            "twin",
            "tiny",
            "0.56 points",
            "it has nothing to round",
            "w4a8",
            "int8 lost too much",
        ):
            assert words_ in page.replace("\\", "")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"exit_code": 2, "error": "call 3 has another input"}, "failed when it was measured in full: call 3 has another input"),
        ({"exit_code": 1, "untried_for_time": 4}, "The time was over: 4 recipes were not tried"),
        ({"exit_code": 124, "chosen": None, "untried_for_time": 4}, "The time was over before any file was smaller"),
        ({"exit_code": 6, "chosen": None, "points": ()}, "Nothing that a search tries fits this model: the original stays. int8: int8 lost too much"),
        ({"exit_code": 6, "chosen": None, "points": (point("float16", figures(4700, 1.0, 0.0)),)}, "No file is smaller or faster"),
        ({"exit_code": 6, "chosen": None, "points": (point("int8", figures(700, 2.0, 9.0)),)}, "No file keeps the loss"),
        ({"exit_code": 6, "chosen": None, "points": (POINTS[-1],)}, "broken: it has nothing to round"),
    ],
)  # fmt: skip
def test_a_verdict_says_why_nothing_was_found(more: dict[str, Any], said: str) -> None:
    lines = words.summary(found(**{"status": "not met", **more}), ())
    assert lines[0].startswith("Not found")
    assert said in " ".join(lines)


def test_a_recipe_of_every_file_is_a_link_to_load() -> None:
    page = as_html.render(found([point("int8", figures(), recipe_file="recipes/int8.yaml")]))
    assert '<a href="recipes/int8.yaml" download>' in page


def test_names_and_reasons_are_text_whatever_they_hold() -> None:
    nasty = "<script>alert(1)</script>"
    page = as_html.render(
        found([point(nasty, figures(), is_on_front=True), point("b", None, reason=nasty)], name=nasty, notes=(nasty,))
    )
    assert nasty not in page
    assert "&lt;script&gt;alert(1)" in page


def test_rows_hold_the_front_first() -> None:
    assert [row[0] for row in words.rows(found())] == ["float16", "int8 (chosen)", "tiny", "twin"]


def test_pictures_name_the_chosen_file_and_mark_what_loses_too_much() -> None:
    speeds, losses = picture.pictures(found())
    for shown in (speeds, losses):
        dots = {dot.point.name: dot for dot in shown.dots}
        assert dots["int8"].label == "int8"
        assert dots["twin"].label == ""
        assert [name for name, dot in dots.items() if dot.is_over] == ["tiny"]
        assert all(0 <= dot.x <= picture.WIDTH and 0 <= dot.y <= picture.HEIGHT for dot in shown.dots)
    smaller = {dot.point.name: dot.x for dot in speeds.dots}
    assert smaller["float16"] < smaller["int8"] < smaller["tiny"]


def test_a_search_without_a_single_file_still_has_its_pages() -> None:
    empty = found([], chosen=None, status="not met")
    assert "Where the files lie" not in as_html.render(empty)
    assert "not met" in as_markdown.render(empty)


def test_unknown_losses_and_speeds_are_said_to_be_unknown() -> None:
    (row,) = words.rows(found([point("float16", figures(2000, None, None))], chosen=None))
    assert row[3:5] == ["not timed", "not judged"]


_ASK = """
const table = document.querySelector("table.sortable");
const heading = (name) => [...table.querySelectorAll("thead button")].find((button) => button.textContent === name);
heading("smaller").click(); heading("smaller").click();
document.title = JSON.stringify({
  first: table.tBodies[0].rows[0].cells[0].textContent,
  pictures: [...document.querySelectorAll("figure svg")].filter((svg) => svg.getBoundingClientRect().height > 50).length,
  wide: document.documentElement.scrollWidth > document.documentElement.clientWidth,
});
"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_the_page_works_in_a_browser(tmp_path: Path) -> None:
    page = tmp_path / "search.html"
    page.write_text(as_html.render(found()))
    _, log = opened(page, tmp_path)
    assert not re.search("CONSOLE", log), log
    assert answer_of(page, tmp_path, _ASK) == '{"first":"tiny","pictures":2,"wide":false}'


def test_what_was_foretold_is_held_against_what_came_by_ratios_not_by_bounds() -> None:
    """A wide interval's bound says how little is sure, not what was expected."""
    wide, sure = figures(speed=2.0), figures(speed=2.2)
    assert wide.speed is not None
    wide = wide.model_copy(update={"speed": wide.speed.model_copy(update={"low": 1.0, "high": 4.0})})
    told = Predicted(by="narrow40-untrained", total_bytes=wide.total_bytes, speed=wide.speed)
    one = point("narrow40", sure).model_copy(update={"predicted": told})
    search = found([one])
    assert words.prediction_error(search).endswith("median error of their size 0.0%, of their time 9.1%.")
    assert words.predicted_rows(search)[0][3] == "2.00x (1.00 to 4.00)"
    assert words.prediction_error(found([point("int8", sure)])) == ""


def test_the_terminal_names_what_was_not_tried_and_knows_no_negative_zero() -> None:
    shown = io.StringIO()
    gained = point("int8", figures(1100, 2.0, -0.001), is_on_front=True)
    Console(file=shown, width=80).print(console.render(found([gained])))
    assert "not tried, each for a reason in search.md: w4a8" in shown.getvalue()
    assert "-0.00" not in shown.getvalue()
    assert max(map(len, shown.getvalue().splitlines())) <= 80


def test_what_tables_foretold_is_held_against_what_came_with_the_order_of_the_losses() -> None:
    told = [(900, 2.0, 0.2, 0.3), (800, 2.2, 0.5, 0.4), (700, 2.0, 0.9, 2.0)]
    points = [
        point(f"layers1-{n}", figures(1000, 2.0, came), predicted=Predicted(by="tables", total_bytes=size, times_faster=faster, loss=said))
        for n, (size, faster, said, came) in enumerate(told)
    ]  # fmt: skip
    error = words.prediction_error(found(points))
    assert "3 files were foretold by the tables of single layers" in error
    assert "size 20.0%, of their time 0.0%, rank correlation of their losses 1.00" in error
    for page in (as_html.render(found(points)), as_markdown.render(found(points))):
        assert "2.20x" in page
        assert "0.90" in page
