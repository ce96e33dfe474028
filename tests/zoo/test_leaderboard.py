"""What came of a zoo: rows, files of them, and what is another than the last time."""

import csv
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from compressctl.core.errors import ExitCode
from compressctl.core.secrets import keep_secret
from compressctl.zoo.as_html import points
from compressctl.zoo.drive import whole
from compressctl.zoo.leaderboard import begin_anew, leaderboard, write
from compressctl.zoo.results import Figures, JobResult, Outcome, all_results, read_result, result_file, write_result
from compressctl.zoo.schema import ZooBudget


def result(
    job: str, outcome: Outcome = Outcome.GOOD, *, speed: float = 1.5, size: int = 250, **changes: Any
) -> JobResult:
    figures = Figures(
        backend="onnxruntime", size_before=1000, size_after=size, speed=speed, speed_low=speed * 0.95,
        speed_high=speed * 1.05, sqnr_db=30.0, cosine=0.99, headline="smaller",
    )  # fmt: skip
    values: dict[str, Any] = {
        "job": job, "model": job, "recipe": "int8", "why": "the default", "key": "k", "outcome": outcome, "message": "so it is",
        "exit_code": 0, "attempts": 1, "started": 0.0, "seconds": 3.0, "paused_seconds": 0.0, "peak_memory": 1, "host": "h",
        "log": f"logs/{job}.log", "report": None, "figures": figures if outcome is Outcome.GOOD else None, "command": (),
    }  # fmt: skip
    return JobResult(**{**values, **changes})


def test_results_are_read_as_they_were_written_and_damaged_ones_are_none(tmp_path: Path) -> None:
    write_result(tmp_path, result("a"))
    write_result(tmp_path, result("b"))
    result_file(tmp_path, "b").write_text("{")
    assert read_result(tmp_path, "a") == result("a")
    assert [one.job for one in all_results(tmp_path)] == ["a"]


@pytest.mark.parametrize(
    ("budget", "code"),
    [
        ({}, ExitCode.BUDGET_MISSED),
        ({"at_most_failed": 2, "at_most_missed": 1}, ExitCode.DONE),
        ({"at_most_failed": "50 %", "at_most_missed": "25 %"}, ExitCode.DONE),
        ({"at_most_failed": "49 %", "at_most_missed": "25 %"}, ExitCode.BUDGET_MISSED),
        ({"at_most_failed": 2, "at_most_missed": 0}, ExitCode.BUDGET_MISSED),
        ({"at_most_failed": 2, "at_most_missed": 1, "total_size": 249}, ExitCode.BUDGET_MISSED),
        ({"at_most_failed": 2, "at_most_missed": 1, "total_size": 250}, ExitCode.DONE),
    ],
)
def test_the_whole_is_held_to_its_budget(budget: dict[str, Any], code: ExitCode, tmp_path: Path) -> None:
    for job, outcome in {"a": Outcome.GOOD, "b": Outcome.MISSED, "c": Outcome.CRASHED, "d": Outcome.NOTHING}.items():
        write_result(tmp_path, result(job, outcome))
    assert whole(tmp_path, ZooBudget(**budget)).exit_code is code


def test_the_files_tell_the_same_of_hostile_names(tmp_path: Path) -> None:
    for job, message in {
        "a": "=cmd()",
        "b": "</td><script>alert(1)</script>",
        "c": "@bob | x\n::error::y \x1b[31m",
    }.items():
        write_result(tmp_path, result(job, Outcome.FAILED, message=message))
    write_result(tmp_path, result("good"))
    texts = {path.name: path.read_text() for path in write(leaderboard("z", tmp_path), tmp_path)}
    rows = list(csv.DictReader(texts["leaderboard.csv"].splitlines()))
    assert [row["job"] for row in rows] == ["a", "b", "c", "good"]
    assert rows[0]["message"] == "'=cmd()"
    assert [json.loads(line)["outcome"] for line in texts["leaderboard.jsonl"].splitlines()] == ["failed"] * 3 + [
        "good"
    ]
    suite = ElementTree.fromstring(texts["leaderboard.junit.xml"])
    assert (suite.get("tests"), suite.get("errors"), suite.get("failures")) == ("4", "3", "0")
    assert "<script>alert" not in texts["leaderboard.html"]
    assert "@bob" not in texts["leaderboard.md"]
    assert all("\x1b" not in text and not re.search("^::", text, re.MULTILINE) for text in texts.values())


def test_what_changed_since_the_last_run_is_told(tmp_path: Path) -> None:
    for one in (result("a"), result("b"), result("c"), result("d", speed=1.50), result("gone")):
        write_result(tmp_path, one)
    write(leaderboard("z", tmp_path), tmp_path)
    begin_anew(tmp_path)
    assert leaderboard("z", tmp_path).changes == []
    for one in (
        result("a", Outcome.TIME),
        result("b", size=200),
        result("c", speed=2.0),
        result("d", speed=1.51),
        result("e"),
    ):
        write_result(tmp_path, one)
    result_file(tmp_path, "gone").unlink()
    assert leaderboard("z", tmp_path).changes == [
        "a: good before, out of time now",
        "b: 250 bytes before, 200 now",
        "c: 1.50x as fast before, 2.00x now",
        "e: new, good",
        "gone: gone",
    ]


def test_the_picture_marks_what_nothing_beats(tmp_path: Path) -> None:
    figures = [("slow", 1.1, 50.0), ("worse", 1.1, 20.0), ("fast", 3.0, 25.0), ("beaten", 2.0, 24.0)]
    for job, speed, decibels in figures:
        one = result(job, speed=speed)
        assert one.figures is not None
        write_result(tmp_path, one.model_copy(update={"figures": one.figures.model_copy(update={"sqnr_db": decibels})}))
    found = points(leaderboard("z", tmp_path).rows)
    assert {point.row.job for point in found if point.is_best} == {"slow", "fast"}
    assert all(0 < point.x < 640 and 0 < point.y < 340 for point in found)


def test_results_tell_no_secrets_and_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    keep_secret("tok-12345", "${env:TOKEN}")
    write_result(
        tmp_path, result("a", message=f"tok-12345 in {tmp_path / 'home' / 'm.onnx'}", command=("x", "tok-12345"))
    )
    written = result_file(tmp_path, "a").read_text()
    assert "tok-12345" not in written
    assert "${env:TOKEN} in ~/m.onnx" in written


def test_a_comment_of_a_pull_request_has_room_for_it(tmp_path: Path) -> None:
    """65,536 letters, whatever jobs say."""
    for number in range(450):
        outcome = Outcome.FAILED if number % 2 else Outcome.GOOD
        write_result(tmp_path, result(f"{'n' * 60}-{number}", outcome, message="<|>" * 200, notes=("note " * 40,)))
    text = "".join(one.read_text() for one in write(leaderboard("z", tmp_path), tmp_path) if one.suffix == ".md")
    assert 20_000 < len(text) < 65_536
    assert re.search(r"225 not good, \d+ shown", text)
    assert re.search(r"225 good, \d+ shown", text)


def test_notes_and_found_recipes_stand_in_the_row(tmp_path: Path) -> None:
    note = "eight: Conv fit nothing in this model, and were left out"
    write_result(tmp_path, result("a", notes=(note,), found_recipe="runs/a/recipe.yaml"))
    paths = {path.suffix: path.read_text() for path in write(leaderboard("z", tmp_path), tmp_path)}
    assert note in paths[".html"]
    assert '<a href="runs/a/recipe.yaml">int8</a>' in paths[".html"]
    assert all(note in paths[suffix] for suffix in (".csv", ".jsonl", ".md"))
    with pytest.raises(ValueError, match="not a file of this job"):
        result("a", found_recipe="../../etc/runs/b/recipe.yaml")
