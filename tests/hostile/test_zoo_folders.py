"""Folders of zoos that somebody else wrote, and what `zoo apply`, `status`, `report` and `merge` read of them and write into them."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hostile import _kernel
from hostile._case import Case, names
from hostile._in_process import ends, refuses
from hostile._models import network

from compressctl.core.whole_files import lock
from compressctl.zoo.outcome import figures_of, outcome_of
from compressctl.zoo.results import Figures, JobResult, Outcome, all_results, read_result, write_mark, write_result

MANIFEST = "zoo: compressctl/v1\nname: z\ndefaults: {recipe: nowhere.yaml}\nmodels: [{path: m.onnx}, {id: good, path: m.onnx}, {id: bad, path: m.onnx}]\nbudget: {at_most_failed: 3}\n"
"""Whose jobs are rows at once: their recipe is not there."""


def result(job: str, **changes: Any) -> JobResult:
    figures = Figures(
        backend="onnxruntime", size_before=1000, size_after=250, speed=1.5, speed_low=1.4, speed_high=1.6, sqnr_db=30.0
    )
    values: dict[str, Any] = {
        "job": job, "model": job, "recipe": "int8", "why": "the default", "key": "k", "outcome": Outcome.GOOD, "message": "so it is",
        "exit_code": 0, "attempts": 1, "started": 0.0, "seconds": 3.0, "paused_seconds": 0.0, "peak_memory": 1, "host": "h",
        "log": f"logs/{job}.log", "report": f"runs/{job}/report.html", "figures": figures, "command": (),
    }  # fmt: skip
    return JobResult(**{**values, **changes})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A manifest, and in `z` its folder with one result that is whole."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zoo.yaml").write_text(MANIFEST)
    (tmp_path / "m.onnx").write_bytes(network().SerializeToString())
    (tmp_path / "z").mkdir()
    write_mark(tmp_path / "z", "z")
    write_result(tmp_path / "z", result("good"))
    return tmp_path


WHOLE = json.loads(result("bad").model_dump_json())


def changed(**changes: Any) -> bytes:
    return json.dumps({**WHOLE, **changes}).encode()


def measured(**changes: Any) -> bytes:
    return changed(figures={**WHOLE["figures"], **changes})


NO_RESULTS: dict[str, bytes] = {
    "nothing": b"",
    "brackets": b"[" * 200_000,
    "cut in half": changed()[:200],
    "no text": b"\xff\xfe\0\0",
    "half of a surrogate pair": b'{"job": "\\ud800"}',
    "two megabytes": changed(message="x" * 2_000_000),
    "an earlier version's": json.dumps({key: value for key, value in WHOLE.items() if key != "attempts"}).encode(),
    "another job's": changed(job="good"),
    "a job above the folder": changed(job="../../bad"),
    "a job of two lines": changed(job="bad\n"),
    "an outcome that there is not": changed(outcome="perfect"),
    "a report that is a script": changed(report="javascript:alert(1)//runs/bad/report.html/x"),
    "a report on another machine": changed(report="//evil.example/runs/bad/report.html"),
    "a report anywhere on this one": changed(report="/etc/passwd"),
    "another job's report": changed(report="runs/good/report.html"),
    "a size of 30 digits": measured(size_before=10**30),
    "a size below nothing": measured(size_after=-1),
    "a speed of not a number": measured(speed=float("nan")),
    "a speed of infinity": measured(speed_high=float("inf")),
    "a speed below nothing": measured(speed=-2.0),
    "decibels beyond all": measured(sqnr_db=1e308),
    "seconds below nothing": changed(seconds=-1.0),
    "started after all time": changed(started=1e300),
    "a billion billion billion attempts": changed(attempts=10**27),
}


@pytest.mark.parametrize("content", NO_RESULTS.values(), ids=NO_RESULTS)
def test_a_result_that_no_job_wrote_breaks_no_leaderboard(content: bytes, folder: Path) -> None:
    (folder / "z" / "results" / "bad.json").write_bytes(content)
    ends(folder, "zoo", "report", "zoo.yaml", "--output", "z")
    assert [json.loads(line)["job"] for line in (folder / "z" / "leaderboard.jsonl").read_text().splitlines()] == [
        "good"
    ]
    done = ends(folder, "zoo", "status", "zoo.yaml", "--output", "z")
    assert done.out.startswith("     1  good")


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def a_folder(path: Path) -> None:
    path.mkdir()


def a_gigabyte(path: Path) -> None:
    """Of holes."""
    with path.open("wb") as file:
        file.truncate(1 << 30)


def a_file_that_may_not_be_read(path: Path) -> None:
    path.write_bytes(changed())
    path.chmod(0)


STAND_INS = (a_pipe, a_link_to_a_device, a_link_to_itself, a_folder, a_gigabyte)


@pytest.mark.parametrize("place", STAND_INS, ids=lambda make: make.__name__)
def test_what_stands_where_a_result_was(place: Callable[[Path], None], folder: Path) -> None:
    place(folder / "z" / "results" / "bad.json")
    ends(folder, "zoo", "report", "zoo.yaml", "--output", "z")
    assert "good" in (folder / "z" / "leaderboard.csv").read_text()


def test_results_by_another_version_are_read_as_far_as_they_are_known(folder: Path) -> None:
    (folder / "z" / "results" / "bad.json").write_bytes(changed(carbon_grams=3, figures=None))
    assert [one.job for one in all_results(folder / "z")] == ["bad", "good"]


def test_texts_of_a_result_give_no_orders(folder: Path) -> None:
    evil = "\x1b[31m @bob\n::error::x ##vso[task] \u202e</td><script>alert(1)</script>|`=cmd()"
    for job, changes in {
        "m": {"message": evil},
        "bad": {"log": evil},
        "good": {"model": evil, "recipe": evil, "notes": (evil,)},
    }.items():
        write_result(folder / "z", result(job, outcome=Outcome.FAILED, figures=None, **changes))
    ends(folder, "zoo", "report", "zoo.yaml", "--output", "z")
    texts = {path.name: path.read_text() for path in (folder / "z").glob("leaderboard.*")}
    assert len(texts) == 5
    for text in texts.values():
        assert not {"\x1b", "\u202e"} & set(text)
        assert not [line for line in text.splitlines() if line.startswith("::")]
        assert "##vso[" not in text
    assert "<script>alert" not in texts["leaderboard.html"]
    assert "@bob" not in texts["leaderboard.md"]
    assert ElementTree.fromstring(texts["leaderboard.junit.xml"]).get("errors") == "3"


def test_a_message_of_half_a_megabyte(folder: Path) -> None:
    """Markdown is for comments, which have 65,536 letters."""
    write_result(folder / "z", result("long", outcome=Outcome.FAILED, message="x" * 500_000))
    ends(folder, "zoo", "report", "zoo.yaml", "--output", "z")
    assert (folder / "z" / "leaderboard.md").stat().st_size < 5000


def test_a_link_to_a_report_is_no_script(folder: Path) -> None:
    write_result(folder / "z", result("odd", report='javascript:alert(1)/"><b>/runs/odd/report.html'))
    ends(folder, "zoo", "report", "zoo.yaml", "--output", "z")
    page = (folder / "z" / "leaderboard.html").read_text()
    assert "javascript:" not in page
    assert "<b>" not in page


ROWS_BEFORE: dict[str, bytes] = {
    "no rows": b"[" * 200_000 + b"\n",
    "text for sizes": b'{"job": "good", "outcome": "good", "size_after": "x"}\n',
    "one line of two megabytes": b'{"job": "' + b"x" * 2_000_000 + b'"}\n',
}


@pytest.mark.parametrize("content", ROWS_BEFORE.values(), ids=ROWS_BEFORE)
def test_rows_of_before_that_are_none(content: bytes, folder: Path) -> None:
    (folder / "z" / "leaderboard.before.jsonl").write_bytes(content)
    ends(folder, "zoo", "report", "zoo.yaml", "--output", "z")


@pytest.mark.parametrize("key", ["size_after", "faster", "faster_low", "faster_high"])
@pytest.mark.parametrize("value", ['"fast"', "NaN", "-1", "1e999", "null", "9" * 400], ids=lambda value: value[:9])
def test_figures_of_before_that_are_none(key: str, value: str, folder: Path) -> None:
    ends(folder, "zoo", "report", "zoo.yaml", "--output", "z")
    row = json.loads((folder / "z" / "leaderboard.jsonl").read_text())
    before = json.dumps({**row, "faster_low": 9, "faster_high": 9, key: "HERE"}).replace('"HERE"', value)
    (folder / "z" / "leaderboard.before.jsonl").write_text(before)
    ends(folder, "zoo", "report", "zoo.yaml", "--output", "z")


@pytest.mark.parametrize("place", STAND_INS[:4], ids=lambda make: make.__name__)
def test_what_stands_where_rows_of_before_were(place: Callable[[Path], None], folder: Path) -> None:
    place(folder / "z" / "leaderboard.before.jsonl")
    ends(folder, "zoo", "report", "zoo.yaml", "--output", "z")
    assert (folder / "z" / "leaderboard.html").exists()


def test_rows_of_before_that_are_a_folder_with_something_in_it(folder: Path) -> None:
    (folder / "z" / "leaderboard.before.jsonl").mkdir()
    (folder / "z" / "leaderboard.before.jsonl" / "mine").touch()
    (folder / "z" / "leaderboard.jsonl").mkdir()
    refuses(folder, "zoo", "apply", "zoo.yaml", "--output", "z", says="leaderboard.jsonl")
    (folder / "z" / "leaderboard.jsonl").rmdir()
    (folder / "z" / "leaderboard.jsonl").touch()
    refuses(folder, "zoo", "apply", "zoo.yaml", "--output", "z", says="Is a directory")
    assert (folder / "z" / "leaderboard.before.jsonl" / "mine").exists()


def test_a_page_that_is_a_pipe(folder: Path) -> None:
    os.mkfifo(folder / "z" / "leaderboard.html")
    refuses(folder, "zoo", "report", "zoo.yaml", "--output", "z", says="leaderboard.html is a device or a pipe")


def test_a_page_that_is_a_link_is_replaced(folder: Path) -> None:
    (folder / "mine").write_text("mine")
    (folder / "z" / "leaderboard.md").symlink_to(folder / "mine")
    ends(folder, "zoo", "report", "zoo.yaml", "--output", "z")
    assert (folder / "mine").read_text() == "mine"
    assert not (folder / "z" / "leaderboard.md").is_symlink()


MARKS: dict[str, bytes] = {
    "nothing": b"",
    "brackets": b"[" * 60_000,
    "no name": b'{"zoo": "compressctl/v1"}',
    "a name above the folder": b'{"name": "../../z"}',
    "a name that is a command of a terminal": b'{"name": "\\u001b[31m"}',
    "a megabyte": b'{"name": "' + b"z" * (1 << 20) + b'"}',
}


@pytest.mark.parametrize("content", MARKS.values(), ids=MARKS)
def test_a_mark_of_no_zoo(content: bytes, folder: Path) -> None:
    (folder / "z" / "zoo.json").write_bytes(content)
    refuses(folder, "zoo", "apply", "zoo.yaml", "--output", "z", says="z/zoo.json is damaged")
    refuses(folder, "zoo", "merge", "z", "--output", "all", says="z holds no zoo")


@pytest.mark.parametrize("place", STAND_INS, ids=lambda make: make.__name__)
def test_what_stands_where_the_mark_was(place: Callable[[Path], None], folder: Path) -> None:
    (folder / "z" / "zoo.json").unlink()
    place(folder / "z" / "zoo.json")
    refuses(folder, "zoo", "apply", "zoo.yaml", "--output", "z", says="z/zoo.json")


def test_a_mark_that_is_a_link_to_another_zoos(folder: Path) -> None:
    (folder / "z" / "zoo.json").rename(folder / "elsewhere.json")
    (folder / "z" / "zoo.json").symlink_to(folder / "elsewhere.json")
    refuses(folder, "zoo", "apply", "zoo.yaml", "--output", "z", says="z/zoo.json is a link")


def test_a_folder_of_another_zoo(folder: Path) -> None:
    write_mark(folder / "z", "y")
    refuses(folder, "zoo", "apply", "zoo.yaml", "--output", "z", says="z holds the zoo y, and this one is z")


def test_a_folder_that_another_one_works_on(folder: Path) -> None:
    held = lock(folder / "z" / "zoo.json")
    assert held is not None
    refuses(folder, "zoo", "apply", "zoo.yaml", "--output", "z", says="another zoo apply works on z")
    os.close(held)


@pytest.mark.parametrize("name", ["results", "logs", "runs", "temporary"])
def test_a_folder_that_leads_elsewhere_is_not_written_to(name: str, folder: Path) -> None:
    """`temporary` is emptied for each job: its link to a home would cost a folder of the job's name there."""
    (folder / "elsewhere" / "m").mkdir(parents=True)
    (folder / "elsewhere" / "m" / "mine").touch()
    if name == "results":
        (folder / "z" / "results" / "good.json").unlink()
        (folder / "z" / "results").rmdir()
    (folder / "z" / name).symlink_to(folder / "elsewhere")
    refuses(folder, "zoo", "apply", "zoo.yaml", "--output", "z", says=f"z/{name} is a link")
    assert names(folder / "elsewhere") == {"m"}
    assert (folder / "elsewhere" / "m" / "mine").exists()


@pytest.mark.parametrize("place", STAND_INS[:4], ids=lambda make: make.__name__)
def test_what_stands_where_a_jobs_result_goes(place: Callable[[Path], None], folder: Path) -> None:
    """A file cannot replace a pipe or a folder; a link is replaced."""
    place(folder / "z" / "results" / "m.json")
    if place is not a_link_to_itself:
        refuses(folder, "zoo", "apply", "zoo.yaml", "--output", "z", says="m.json")
    else:
        ends(folder, "zoo", "apply", "zoo.yaml", "--output", "z")
        assert read_result(folder / "z", "m") is not None


def test_results_that_are_a_file(folder: Path) -> None:
    (folder / "z" / "results" / "good.json").unlink()
    (folder / "z" / "results").rmdir()
    (folder / "z" / "results").touch()
    refuses(folder, "zoo", "apply", "zoo.yaml", "--output", "z", says="z/results is a link, or a file")
    refuses(folder, "zoo", "report", "zoo.yaml", "--output", "z", says="z holds no results")
    assert "no results in z" in ends(folder, "zoo", "status", "zoo.yaml", "--output", "z").out


def test_a_zoo_that_may_only_be_read(case: Case) -> None:
    write(case)
    (case.folder / "z" / "results").chmod(0o555)
    (case.folder / "z").chmod(0o555)
    for command in ("apply", "report"):
        case.refuses("zoo", command, "zoo.yaml", "--output", "z", code=5, says="Permission denied: z/")
    case.ends("zoo", "status", "zoo.yaml", "--output", "z", code=0)
    assert names(case.folder / "z") == {"zoo.json", "results"}


def test_results_that_may_not_be_read_are_none(case: Case) -> None:
    write(case)
    (case.folder / "z" / "results" / "good.json").chmod(0)
    assert "no results in z" in case.ends("zoo", "status", "zoo.yaml", "--output", "z", code=0).out
    (case.folder / "z" / "results").chmod(0)
    assert "no results in z" in case.ends("zoo", "status", "zoo.yaml", "--output", "z", code=0).out


def write(case: Case) -> None:
    (case.folder / "zoo.yaml").write_text(MANIFEST)
    (case.folder / "z").mkdir()
    write_mark(case.folder / "z", "z")
    write_result(case.folder / "z", result("good"))


def test_a_leaderboard_that_a_disk_has_no_room_for(case: Case) -> None:
    """The smaller files are written; the page of before stays."""
    write(case)
    (case.folder / "z" / "leaderboard.html").write_text("before")
    case.refuses("zoo", "report", "zoo.yaml", "--output", "z", code=5, says="File too large", first=_two_kilobytes)
    assert (case.folder / "z" / "leaderboard.csv").exists()
    assert (case.folder / "z" / "leaderboard.html").read_text() == "before"


def test_a_first_result_that_a_disk_has_no_room_for(case: Case) -> None:
    write(case)
    case.refuses("zoo", "apply", "zoo.yaml", "--output", "z", code=5, says="File too large", first=_little_room)
    assert names(case.folder / "z" / "results") == {"good.json"}


def _two_kilobytes() -> None:
    _kernel.room_for(2000)


def _little_room() -> None:
    _kernel.room_for(300)


# zoo merge.


def shard(folder: Path, *results: JobResult, name: str = "z") -> str:
    folder.mkdir()
    write_mark(folder, name)
    for one in results:
        write_result(folder, one)
    return folder.name


def test_shards_whose_jobs_lie_above_them(folder: Path) -> None:
    """What a result calls itself names no file elsewhere."""
    one = shard(folder / "one", result("a"))
    (folder / "one" / "results" / "b.json").write_bytes(changed(job="../../../escaped"))
    (folder / "one" / "results" / "c.json").write_bytes(changed(job="a", started=9e9))
    (folder / "all").mkdir()
    write_mark(folder / "all", "z")
    assert ends(folder, "zoo", "merge", one, "--output", "all").out.startswith("1 jobs")
    assert names(folder / "all" / "results") == {"a.json"}
    assert not list(folder.parent.glob("escaped*"))


MERGED: dict[str, tuple[tuple[str, ...], str]] = {
    "a folder that there is not": (("nowhere",), "nowhere holds no zoo"),
    "a file": (("m.onnx",), "m.onnx holds no zoo"),
    "a pipe": (("pipe",), "pipe holds no zoo"),
    "a device": (("/dev/zero",), "/dev/zero holds no zoo"),
    "shards of two zoos": (("z", "other"), "these are different zoos: other, z"),
    "a shard without results": (("bare",), "there are no results to merge"),
    "no shard": ((), "FOLDER"),
}


@pytest.mark.parametrize(("shards", "says"), MERGED.values(), ids=MERGED)
def test_shards_that_are_none(shards: tuple[str, ...], says: str, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    shard(folder / "other", result("a"), name="other")
    shard(folder / "bare")
    refuses(folder, "zoo", "merge", *shards, "--output", "all", says=says)


def test_a_merge_into_what_is_no_zoo(folder: Path) -> None:
    (folder / "models").mkdir()
    (folder / "models" / "mine").touch()
    for output in ("models", "m.onnx", "/dev/null"):
        refuses(folder, "zoo", "merge", "z", "--output", output, says=f"{output} holds no zoo")
    assert names(folder / "models") == {"mine"}


def test_a_merge_into_a_folder_whose_results_lead_elsewhere(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    shard(folder / "all")
    (folder / "all" / "results").symlink_to(folder / "elsewhere")
    refuses(folder, "zoo", "merge", "z", "--output", "all", says="all/results is a link")
    assert not names(folder / "elsewhere")


def test_a_merge_of_a_zoo_into_itself(folder: Path) -> None:
    before = read_result(folder / "z", "good")
    ends(folder, "zoo", "merge", "z", "z", "--output", "z")
    assert read_result(folder / "z", "good") == before


def test_a_merge_into_a_folder_that_may_only_be_read(case: Case) -> None:
    write(case)
    (case.folder / "all").mkdir()
    write_mark(case.folder / "all", "z")
    (case.folder / "all").chmod(0o555)
    case.refuses("zoo", "merge", "z", "--output", "all", code=5, says="Permission denied: all/results")


# What a job leaves.


def test_a_report_of_a_job_that_means_no_good(tmp_path: Path) -> None:
    """A job's own code may write it."""
    from hostile._reports import named

    report = named("x", status="done", exit_code=0, error=None, summary=["y" * 2_000_000])
    text = report.model_dump_json()
    (tmp_path / "report.json").write_text(text)
    assert len(outcome_of(0, None, "", tmp_path / "report.json", tmp_path / "log")[1]) < 2000
    assert figures_of(tmp_path / "report.json") is not None
    for old, new in (('"total_bytes":1000', f'"total_bytes":-{"9" * 30}'), ('"ratio":2.0', '"ratio":-1e300')):
        assert old in text
        (tmp_path / "report.json").write_text(text.replace(old, new))
        assert figures_of(tmp_path / "report.json") is None


@pytest.mark.parametrize("place", STAND_INS[:4], ids=lambda make: make.__name__)
def test_what_stands_where_a_job_reports(place: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "log").write_text("error: no space left\n")
    place(tmp_path / "report.json")
    assert outcome_of(5, None, "", tmp_path / "report.json", tmp_path / "log") == (Outcome.MACHINE, "no space left")
    place(tmp_path / "other.log")
    assert outcome_of(5, None, "", tmp_path / "none.json", tmp_path / "other.log")[1] == "it said nothing"
