"""Shards of a zoo on machines of their own, and a manifest to begin with."""

import json
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner

from compressctl.cli.main import app
from compressctl.core.errors import UsageError
from compressctl.zoo.leaderboard import leaderboard
from compressctl.zoo.merge import merge, shards_of
from compressctl.zoo.results import JobResult, Outcome, all_results, write_result


def result(job: str, started: float) -> JobResult:
    return JobResult(
        job=job, model=job, recipe="r", why="", key="k", outcome=Outcome.FAILED, message=str(started), exit_code=4, attempts=1,
        started=started, seconds=1, paused_seconds=0, peak_memory=None, host="h", log=f"logs/{job}.log",
        report=f"runs/{job}/report.html", figures=None, command=(),
    )  # fmt: skip


def shard(folder: Path, name: str, *results: JobResult) -> Path:
    folder.mkdir()
    (folder / "zoo.json").write_text(json.dumps({"name": name}))
    for one in results:
        write_result(folder, one)
    return folder


def test_results_of_shards_come_together_and_lead_to_their_reports(tmp_path: Path) -> None:
    one = shard(tmp_path / "one", "z", result("a", 1), result("b", 5))
    two = shard(tmp_path / "two", "z", result("b", 2), result("c", 1))
    assert merge([one, two], tmp_path / "all") == ("z", 3)
    found = {one.job: (one.message, one.report) for one in all_results(tmp_path / "all")}
    assert found == {
        "a": ("1", "../one/runs/a/report.html"),
        "b": ("5", "../one/runs/b/report.html"),
        "c": ("1", "../two/runs/c/report.html"),
    }
    assert merge([one, two], tmp_path / "all") == ("z", 3)
    assert len(leaderboard("z", tmp_path / "all").rows) == 3


def test_other_zoos_and_other_folders_are_refused(tmp_path: Path) -> None:
    one, two = shard(tmp_path / "one", "z", result("a", 1)), shard(tmp_path / "two", "y", result("a", 1))
    with pytest.raises(UsageError, match="different zoos: y, z"):
        merge([one, two], tmp_path / "all")
    with pytest.raises(UsageError, match="holds no zoo"):
        merge([one, tmp_path], tmp_path / "all")


@pytest.mark.parametrize(("jobs", "each", "count"), [(0, 10, 1), (10, 10, 1), (11, 10, 2), (100_000, 10, 256)])
def test_a_matrix_has_no_more_shards_than_it_may(jobs: int, each: int, count: int) -> None:
    found = list(shards_of(jobs, each))
    assert (len(found), found[0], found[-1]) == (count, f"1/{count}", f"{count}/{count}")


def test_a_first_manifest_plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [output])
    Path("models/more").mkdir(parents=True)
    onnx.save(helper.make_model(graph), "models/a.onnx")
    onnx.save(helper.make_model(graph), "models/more/b.onnx")
    assert CliRunner().invoke(app, ["zoo", "init", "models"]).exit_code == 0
    planned = CliRunner().invoke(app, ["zoo", "plan", "models/zoo.yaml"])
    assert planned.exit_code == 0, planned.stderr
    assert "more-b  zoo-recipe (the default)" in planned.stdout
    assert "2 jobs, 0 done" in planned.stdout
    assert json.loads(CliRunner().invoke(app, ["zoo", "matrix", "models/zoo.yaml", "--each", "1"]).stdout) == {
        "shard": ["1/2", "2/2"]
    }
    again = CliRunner().invoke(app, ["zoo", "init", "models"])
    assert (again.exit_code, "--force" in again.stderr) == (2, True)
