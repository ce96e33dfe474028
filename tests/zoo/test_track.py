"""Results in MLflow, through its own client and a store of files; what it does not take keeps no job from going on."""

from pathlib import Path

import pytest

from compressctl.core.errors import MissingDependencyError, UsageError
from compressctl.zoo.results import Figures, JobResult, Outcome
from compressctl.zoo.track import Tracker

try:
    from mlflow import MlflowClient
except ModuleNotFoundError:
    MlflowClient = None  # type: ignore[misc,assignment]

needs_mlflow = pytest.mark.skipif(MlflowClient is None, reason="mlflow is not installed: pip install '.[mlflow]'")


def result(outcome: Outcome, figures: Figures | None = None) -> JobResult:
    return JobResult(
        job="a", model="a", recipe="int8", why="the default", key="k", outcome=outcome, message="words", exit_code=0, attempts=1,
        started=1e9, seconds=3, paused_seconds=0, peak_memory=None, host="h", log="", report="runs/a/report.html", figures=figures,
        command=(),
    )  # fmt: skip


@needs_mlflow
def test_a_row_is_a_run_with_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "report.json").write_text("{}")
    tracker = Tracker("zoo", tmp_path, pytest.fail)
    tracker.log(result(Outcome.GOOD, Figures(backend="onnxruntime", size_before=4, size_after=2, speed=1.5)))
    tracker.log(result(Outcome.CRASHED))
    client = MlflowClient(store)
    (experiment,) = client.search_experiments(filter_string="name = 'zoo'")
    good, crashed = client.search_runs([experiment.experiment_id], order_by=["attributes.status"])[::-1]
    good, crashed = (good, crashed) if good.info.status == "FINISHED" else (crashed, good)
    assert good.data.metrics["smaller"] == 2
    assert good.data.metrics["speed"] == 1.5
    assert "sqnr_db" not in good.data.metrics
    assert good.data.params["recipe"] == "int8"
    assert [file.path for file in client.list_artifacts(good.info.run_id)] == ["report.json"]
    assert crashed.info.status == "FAILED"
    assert crashed.data.tags["outcome"] == "crashed"


@needs_mlflow
def test_a_server_that_is_not_there_is_said_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UsageError, match="MLflow cannot be told"):
        Tracker("zoo", tmp_path, pytest.fail)


@needs_mlflow
def test_a_server_that_goes_away_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    tracker = Tracker("zoo", tmp_path, said.append)
    assert tracker._client is not None
    monkeypatch.setattr(tracker._client, "create_run", lambda *_: 1 / 0)
    for _ in range(2):
        tracker.log(result(Outcome.GOOD))
    assert len(said) == 1
    assert "told nothing of a" in said[0]


@pytest.mark.skipif(MlflowClient is not None, reason="mlflow is installed")
def test_without_mlflow_the_command_that_mends_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(MissingDependencyError, match=r"compressctl\[mlflow\]"):
        Tracker("zoo", tmp_path, pytest.fail)
