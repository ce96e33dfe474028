"""What programs read: JUnit XML, SARIF, the job summary, and the commands that work on kept reports."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from support.reports import file_measurement
from typer.testing import CliRunner

from compressctl.cli.main import app
from compressctl.measure.results import BackendResult, BudgetCheck, Fidelity, OutputFidelity, Score
from compressctl.report import as_junit, as_sarif
from compressctl.report.document import Report, json_schema
from compressctl.report.write import add_to_job_summary, write

HOSTILE = "</failure><script> \x00 \U0001f600"


def _report(**changes: Any) -> Report:
    part = BackendResult(
        backend="onnxruntime",
        version="1",
        baseline=file_measurement(4000),
        compressed=file_measurement(1000, ratio=1.6, drop=0.5),
        smaller=4,
    )
    missed = BudgetCheck(name="size", limit=500, actual=1000, holds=False, explanation=HOSTILE)
    held = BudgetCheck(name="speedup", limit=1.5, actual=1.6, holds=True, explanation="times as fast")
    values: dict[str, Any] = {
        "name": HOSTILE,
        "status": "budget missed",
        "exit_code": 1,
        "error": None,
        "summary": ["smaller"],
        "started": 0.0,
        "seconds": 2.0,
        "metric": "accuracy",
        "metric_unit": "%",
        "backends": [part],
        "budget": [missed, held],
        "stages": [],
        "parity": [],
        "warnings": ["noisy"],
        "environment": {},
        "recipe": {"name": "x", "seed": 1},
        "recipe_file": "recipes/my net.yaml",
    }
    return Report(**{**values, **changes})


def test_junit_has_one_case_per_limit_and_survives_hostile_text() -> None:
    suite = ElementTree.fromstring(as_junit.render(_report()))
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "1", "0")
    failed = [case.get("name") for case in suite if case.find("failure") is not None]
    assert failed == ["size"]


def test_junit_calls_a_broken_run_an_error() -> None:
    suite = ElementTree.fromstring(as_junit.render(_report(status="failed", error="it broke", budget=[])))
    assert suite.get("errors") == "1"
    error = suite.find("testcase/error")
    assert error is not None
    assert error.text == "it broke"


def test_sarif_has_one_result_per_missed_limit_and_warning() -> None:
    (run,) = json.loads(as_sarif.render(_report()))["runs"]
    assert [(found["ruleId"], found["level"]) for found in run["results"]] == [
        ("budget", "error"),
        ("warning", "warning"),
    ]
    # GitHub's code scanning refuses results that have no place.
    places = [found["locations"][0]["physicalLocation"] for found in run["results"]]
    assert {place["artifactLocation"]["uri"] for place in places} == {"recipes/my%20net.yaml"}
    assert all(place["region"]["startLine"] == 1 for place in places)
    rules = {rule["id"] for rule in run["tool"]["driver"]["rules"]}
    assert {found["ruleId"] for found in run["results"]} <= rules


def test_the_job_summary_is_appended_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    add_to_job_summary(_report())
    assert summary.read_text().startswith("before\n## ")


def test_without_a_job_there_is_no_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    monkeypatch.chdir(tmp_path)
    add_to_job_summary(_report())
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    write(_report(name="kept"), tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (["speedup=1.5"], 0),
        (["size=1KB", "accuracy_drop=0.5"], 0),
        (["speedup=1.7"], 1),
        (["worst_class_drop=0.9"], 1),
        (["sped=1"], 2),
        (["speedup"], 2),
        (["size=big"], 2),
    ],
)
def test_check_gates_a_kept_run(run: Path, limits: list[str], code: int) -> None:
    options = [part for limit in limits for part in ("--budget", limit)]
    assert CliRunner().invoke(app, ["check", str(run), *options]).exit_code == code


def test_check_gates_no_outputs_of_random_values(tmp_path: Path) -> None:
    (part,) = _report().backends
    output = OutputFidelity(name="y", samples=8, identical=False, sqnr_db=30.0, cosine=0.999, largest_difference=0.1)
    for is_random, code in ((False, 0), (True, 2)):
        found = Fidelity(outputs=[output], split="test", samples=8, is_random=is_random)
        held = part.compressed.model_copy(update={"fidelity": found})
        write(_report(name="kept", backends=[part.model_copy(update={"compressed": held})]), tmp_path)
        assert CliRunner().invoke(app, ["check", str(tmp_path), "--budget", "cosine=0.9"]).exit_code == code


def test_check_holds_the_first_file_or_the_named_one(tmp_path: Path) -> None:
    (part,) = _report().backends
    other = part.model_copy(update={"backend": "openvino", "compressed": file_measurement(2000, ratio=1.6, drop=0.5)})
    write(_report(name="kept", backends=[part, other]), tmp_path)
    limit = ["check", str(tmp_path), "--budget", "size=1KB"]
    first = CliRunner().invoke(app, limit)
    assert (first.exit_code, first.stdout.splitlines()[0]) == (0, "onnxruntime:")
    assert CliRunner().invoke(app, [*limit, "--backend", "openvino"]).exit_code == 1
    assert CliRunner().invoke(app, [*limit, "--backend", "tensorrt"]).exit_code == 2


def test_scores_on_other_data_are_not_compared(run: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (part,) = _report().backends
    scored = part.compressed.model_copy(
        update={"score": Score(metric="accuracy", value=90, samples=50, split="test", per_class=None)}
    )
    backends = [part.model_copy(update={"compressed": scored})]
    for path, data in ((run, {"source": "digits"}), (tmp_path / "other", {"source": "npz"})):
        write(_report(backends=backends, recipe={"data": data}), path)
    shown = CliRunner().invoke(app, ["compare", str(run), str(tmp_path / "other")]).stdout
    assert "other data" in shown
    assert "accuracy 90.00 %" in shown
    shown = CliRunner().invoke(app, ["compare", str(run), str(run)]).stdout
    assert "no measurable change" in shown


def test_report_writes_the_files_again(run: Path) -> None:
    (run / "report.html").unlink()
    done = CliRunner().invoke(app, ["report", str(run)])
    assert done.exit_code == 0
    assert (run / "report.html").exists()


def test_compare_shows_runs_and_what_they_differ_in(run: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    write(_report(name="kept", recipe={"name": "x", "seed": 2}), tmp_path / "other")
    done = CliRunner().invoke(app, ["compare", str(run), str(tmp_path / "other")])
    assert done.exit_code == 0
    assert "1.60x faster" in done.stdout
    assert "1.50 to 1.70" in done.stdout
    assert "seed: 1 | 2" in done.stdout


@pytest.mark.parametrize("text", ["", "{}", "[1]", "not json"])
def test_a_report_that_is_none_is_one_message(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text)
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert done.exit_code == 2
    assert "not a report that this version reads" in done.stderr


def test_the_published_schema_is_that_of_this_version() -> None:
    published = json.loads((Path(__file__).parents[2] / "docs" / "report.v1.schema.json").read_text())
    assert published == json_schema(), "run: compressctl schema --report --output docs/report.v1.schema.json"


def test_a_speed_that_was_written_before_verdicts_knew_noise_is_read_and_told_as_one_of_today(run: Path) -> None:
    """1.4 called 0.5 to 3 "no measurable change" and gave 35.35x for 1.79 to 696."""
    old = json.loads(_report().model_dump_json())
    speed = old["backends"][0]["compressed"]["speed"]
    for values, words in (
        ({"ratio": 35.35, "low": 1.79, "high": 696.0, "verdict": "faster"}, "at least 1.79x faster"),
        ({"ratio": 1.2, "low": 0.5, "high": 3.0, "verdict": "no measurable change"}, "too noisy to say"),
    ):
        speed.clear()
        speed.update(values)
        (run / "report.json").write_text(json.dumps({**old, "schema_version": "1.4"}))
        shown = CliRunner().invoke(app, ["compare", str(run), str(run)])
        assert shown.exit_code == 0
        assert words in shown.stdout
        assert "35.35" not in shown.stdout


def test_a_report_of_the_first_schema_is_still_read() -> None:
    """Fields are only ever added: what 1.0 did not have yet may be missing."""
    old = json.loads(_report().model_dump_json())
    for part in old["backends"]:
        for name in ("noise", "waterfall"):
            del part[name]
        for file in (part["baseline"], part["compressed"]):
            for name in ("bit_operations", "weights", "behaviour", "drift", "tokens", "energy", "points"):
                del file[name]
    assert Report.model_validate(old) == _report()


@pytest.mark.parametrize(
    ("calibration", "digest", "compared"), [(100, "aa", True), (100, "bb", False), (200, "bb", True)]
)
def test_changed_files_are_other_data_and_another_calibration_set_is_not(
    tmp_path: Path, calibration: int, digest: str, compared: bool
) -> None:
    (part,) = _report().backends
    score = Score(metric="accuracy", value=90, samples=50, split="test", per_class=None)
    backends = [part.model_copy(update={"compressed": part.compressed.model_copy(update={"score": score})})]
    paths = []
    for name, size, found in (("one", 100, "aa"), ("two", calibration, digest)):
        recipe = {
            "recipe": "compressctl/v1",
            "model": {"source": "builtin", "name": "digits-resnet"},
            "data": {"source": "digits", "calibration": size},
        }
        (tmp_path / name).mkdir()
        write(_report(backends=backends, recipe=recipe), tmp_path / name)
        lock = {"recipe": recipe, "base": str(tmp_path), "data_sha256": found}
        (tmp_path / name / "recipe.lock.yaml").write_text(yaml.safe_dump(lock))
        paths.append(str(tmp_path / name))
    shown = CliRunner().invoke(app, ["compare", *paths]).stdout
    assert ("other data" not in shown) is compared
