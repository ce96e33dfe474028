"""Reports that no run wrote, and what `report`, `compare`, `check` and `runs` make of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hostile._case import is_legible
from hostile._in_process import ends, refuses
from hostile._reports import named
from support.shell import Finished
from typer.testing import CliRunner

from compressctl.cli.main import app
from compressctl.measure.results import Latency, Score, Speedup, WaterfallStep
from compressctl.report.charts import charts
from compressctl.report.document import Report

WHOLE = json.loads(named("x").model_dump_json())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one run that is whole, of an earlier recipe."""
    monkeypatch.chdir(tmp_path)
    a_run(tmp_path, "good", json.dumps(WHOLE).encode())
    return tmp_path


def a_run(folder: Path, name: str, report: bytes) -> Path:
    run = folder / "runs" / name / "20260101-000000-00000000"
    run.mkdir(parents=True)
    (run / "events.jsonl").touch()
    (run / "report.json").write_bytes(report)
    return run


BYTES: dict[str, bytes] = {
    "nothing": b"",
    "no text": b"\xff\xfe\0\0",
    "cut in half": json.dumps(WHOLE).encode()[:2000],
    "brackets": b"[" * 200_000,
    "a list": b"[1, 2]",
    "null": b"null",
    "a number of a million digits": b"9" * 1_000_000,
    "an empty mapping": b"{}",
    "a key that there is not": json.dumps({**WHOLE, "extra": 1}).encode(),
    "a key of a megabyte": json.dumps({**WHOLE, "x" * 1_000_000: 1}).encode(),
    "half of a surrogate pair": b'{"name": "\\ud800"}',
}


def put(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda report: {**report, **changes}


def everywhere(key: str, value: Any) -> Callable[[Any], Any]:
    """That value wherever the key stands."""

    def changed(node: Any) -> Any:
        if isinstance(node, dict):
            return {name: value if name == key else changed(below) for name, below in node.items()}
        return [changed(below) for below in node] if isinstance(node, list) else node

    return changed


WRONG_TYPES: dict[str, Callable[[Any], Any]] = {
    "a name that is a number": put(name=3),
    "a status that there is not": put(status="pwned"),
    "no start": put(started=None),
    "a start in words": put(started="yesterday"),
    "an exit code that is a list": put(exit_code=[0]),
    "backends that are a mapping": put(backends={}),
    "a backend of nothing": put(backends=[{}]),
    "stages of numbers": put(stages=[1, 2, 3]),
    "an environment of text": put(environment="x"),
    "a recipe that is a list": put(recipe=[]),
    "bytes that are text": everywhere("total_bytes", "many"),
    "a verdict that there is not": everywhere("verdict", "fast"),
    "a schema version of an object": put(schema_version={}),
}


KINDS = {**BYTES, **{kind: json.dumps(change(WHOLE)).encode() for kind, change in WRONG_TYPES.items()}}
BAD, GOOD = (f"runs/{name}/20260101-000000-00000000" for name in ("bad", "good"))
COMMANDS: dict[str, tuple[str, ...]] = {
    "report": ("report", BAD),
    "check": ("check", BAD, "--budget", "speedup=1"),
    "compare": ("compare", GOOD, BAD),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("content", KINDS.values(), ids=KINDS)
def test_a_file_that_is_no_report(content: bytes, command: tuple[str, ...], folder: Path) -> None:
    a_run(folder, "bad", content)
    refuses(folder, *command, says="is not a report that this version reads")


NO_RUN_WRITES: dict[str, Callable[[Any], Any]] = {
    "a speed-up of 0": everywhere("ratio", 0),
    "a negative speed-up": everywhere("ratio", -2),
    "a speed-up of no interval": everywhere("low", 0),
    "an accuracy of 65,535 %": everywhere("value", 65535),
    "a score of no samples": everywhere("samples", 0),
    "a size of 0 bytes": everywhere("total_bytes", 0),
    "a p-value above 1": everywhere("p_value", 7),
    "a negative share of integers": everywhere("integer_mac_share", -3),
    "a run of a negative time": put(seconds=-1e300),
    "an exit code of 30 digits": put(exit_code=10**30),
    "a picture that is none": everywhere("png", '"><script>alert(1)</script>'),
    "no class": everywhere("classes", []),
    "no backend": put(backends=[]),
    "the same backend three times": lambda report: {**report, "backends": report["backends"] * 3},
    "a stage of 10,000 facts": put(
        stages=[{**WHOLE["stages"][0], "facts": {str(number): number for number in range(10_000)}}]
    ),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("change", NO_RUN_WRITES.values(), ids=NO_RUN_WRITES)
def test_figures_that_no_run_writes(change: Callable[[Any], Any], command: tuple[str, ...], folder: Path) -> None:
    """Said of the report, shown as they are, or outside a budget: never a bug."""
    run = a_run(folder, "bad", json.dumps(change(WHOLE)).encode())
    done = CliRunner().invoke(app, list(command))
    assert done.exit_code in (0, 1, 2)
    assert "bug" not in done.stderr
    is_legible(Finished(0, done.stdout, done.stderr))
    assert "<script>alert" not in "".join(path.read_text() for path in run.glob("*.html"))


@pytest.mark.parametrize(
    "content",
    [
        *KINDS.values(),
        *(json.dumps({**WHOLE, "started": started}).encode() for started in (1e300, -1e300, 1e18, -1e12)),
    ],
    ids=[
        *KINDS,
        "started after all time",
        "started before all time",
        "started in a far year",
        "started in a year below 1",
    ],
)
def test_one_bad_report_breaks_no_list(content: bytes, folder: Path) -> None:
    a_run(folder, "bad", content)
    done = ends(folder, "runs")
    assert "runs/bad/20260101-000000-00000000  a report that cannot be read" in done.out
    assert "runs/good/20260101-000000-00000000  2023" in done.out


BUDGETS = {
    "infinity": "accuracy_drop=1e999",
    "infinity in words": "accuracy_drop=inf",
    "not a number": "accuracy_drop=nan",
    "not a number for outputs": "sqnr_db=nan",
    "infinity for one output": "sqnr_db.y=-inf",
    "a cosine of not a number": "cosine=nan",
    "more decibels than there are": "sqnr_db=1e300",
    "a size of infinity": "size=1e999GB",
    "a size of not a number": "size=nanMB",
    "a speed-up of infinity": "speedup=infinity",
    "a speed-up of 0": "speedup=0",
    "a negative drop": "worst_class_drop=-1",
    "a number of 100,000 digits": "accuracy_drop=" + "9" * 100_000,
    "words": "accuracy_drop=" + "x" * 100_000,
    "a limit of 100,000 letters": "x" * 100_000 + "=1",
    "no value": "accuracy_drop=",
    "no limit": "=3",
    "neither": "=",
    "an output of an output": "cosine.a.b=2",
    "one limit for all and for one": "accuracy_drop.y=1",
}


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS)
def test_a_budget_that_holds_nothing(budget: str, folder: Path) -> None:
    refuses(folder, "check", "runs/good/20260101-000000-00000000", "--budget", budget, says="--budget")


def test_clean_leaves_what_a_link_leads_to(folder: Path) -> None:
    elsewhere = folder / "elsewhere"
    (elsewhere / "20250101-000000-00000000").mkdir(parents=True)
    (elsewhere / "20250101-000000-00000000" / "events.jsonl").touch()
    (folder / "runs" / "link").symlink_to(elsewhere)
    (folder / "runs" / "good" / "20250101-000000-11111111").symlink_to(elsewhere / "20250101-000000-00000000")
    done = ends(folder, "runs", "clean", "--keep", "0", "--yes")
    assert done.out.count("left alone") == 2
    assert (elsewhere / "20250101-000000-00000000" / "events.jsonl").exists()
    assert not (folder / "runs" / "good" / "20260101-000000-00000000").exists()


@pytest.mark.parametrize("command", ["report", "compare", "check", "reproduce"])
def test_a_run_that_is_none(command: str, folder: Path) -> None:
    more = {"compare": ["nowhere"], "check": ["--budget", "speedup=1"]}.get(command, [])
    refuses(folder, command, "nowhere", *more, says="nowhere")


def test_a_backend_that_there_is_not(folder: Path) -> None:
    refuses(
        folder,
        "check",
        "runs/good/20260101-000000-00000000",
        "--budget",
        "speedup=1",
        "--backend",
        "x" * 5000,
        says="xxx",
    )


def with_stages(**changes: Any) -> Report:
    """Two files of a run, and what the second one's figures are instead."""
    report = named("x")
    part = report.backends[0]
    speed = Speedup(ratio=2.0, low=1.9, high=2.1, verdict="faster")
    figures = {"total_bytes": 1000, "transport_bytes": 900, "score": part.baseline.score, "drop": 0.0, "speed": speed}
    usual: dict[str, Any] = {**figures, "latency": timed(p50_ms=1.0), "step": None}
    steps = (WaterfallStep(id="float", **usual), WaterfallStep(id="second", **{**usual, **changes}))
    return report.model_copy(update={"backends": (part.model_copy(update={"waterfall": steps}),)})


def score_of(value: float) -> Score:
    return Score(metric="accuracy", value=value, samples=500, split="test", per_class=None)


def timed(p50_ms: float) -> Latency:
    return Latency(runs=9, batch=1, threads=1, p50_ms=p50_ms, p90_ms=0, p99_ms=None, mean_ms=0, samples_per_second=0)


FAR: dict[str, dict[str, Any]] = {
    "a size of 30 digits": {"total_bytes": 10**30},
    "a negative size": {"total_bytes": -(10**30)},
    "a score beyond all": {"score": score_of(1e308)},
    "a score below all": {"score": score_of(-1e308)},
    "a drop of 300 digits": {"drop": 1e308},
    "a speed-up of 300 digits": {"speed": Speedup(ratio=1e308, low=1e307, high=1e308, verdict="faster")},
    "latencies of 300 digits": {"latency": timed(p50_ms=1e308)},
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("changes", FAR.values(), ids=FAR)
def test_what_no_chart_has_room_for_is_said_in_its_place(changes: dict[str, Any]) -> None:
    report = with_stages(**changes)
    drawn = charts(report.backends[0], report)
    said = [chart for chart in drawn if chart.words == "Not drawn, since no axis has room for it: second."]
    assert said
    assert all(chart.svg == f"<p>{chart.words}</p>" for chart in said)


@pytest.mark.filterwarnings("error")
def test_files_that_take_no_time_are_drawn() -> None:
    none = timed(p50_ms=0.0)
    report = with_stages(latency=none)
    steps = tuple(step.model_copy(update={"latency": none}) for step in report.backends[0].waterfall)
    assert len(charts(report.backends[0].model_copy(update={"waterfall": steps}), report)) > 3


def test_a_latency_below_0(folder: Path) -> None:
    report = with_stages().model_dump_json().replace('"p50_ms":', '"p50_ms":-')
    a_run(folder, "bad", report.encode())
    refuses(folder, "report", BAD, says="latency.p50_ms: Input should be greater than or equal to 0")
