"""Which jobs of a zoo are done, which are to run, and which results are the manifest's."""

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner

from compressctl.cli.main import app
from compressctl.core.errors import UsageError
from compressctl.zoo.drive import Choice, Standing, carry_out, own_jobs, standings
from compressctl.zoo.jobs import Job
from compressctl.zoo.keys import Planned
from compressctl.zoo.load import load_manifest
from compressctl.zoo.results import JobResult, Outcome, result_file, write_mark, write_result
from compressctl.zoo.schema import Manifest, Resources

MANIFEST = "zoo: compressctl/v1\nname: z\ndefaults: {recipe: r.yaml}\nmodels: [{glob: '*.onnx'}]\n"
RECIPE = "recipe: compressctl/v1\ntask: custom\nstages: [{use: quantize.weights, bits: 8}]\n"


def result(job: str, outcome: Outcome = Outcome.GOOD, key: str = "key", **changes: Any) -> JobResult:
    values: dict[str, Any] = {
        "job": job, "model": job.partition("@")[0], "recipe": "r", "why": "", "key": key, "outcome": outcome, "message": "so it is", "exit_code": 0,
        "attempts": 1, "started": 1.0, "seconds": 1.0, "paused_seconds": 0.0, "peak_memory": None, "host": "h", "log": "", "report": None,
        "figures": None, "command": (),
    }  # fmt: skip
    return JobResult(**{**values, **changes})


def is_done(found: JobResult, **resources: int) -> bool:
    job = Job("a", "a", "r.yaml", "r", (), Resources(**resources), "")
    return Standing(Planned(job, "key"), found).is_done


@pytest.mark.parametrize(
    ("outcome", "allowed", "resources", "expected"),
    [
        (Outcome.MEMORY, 100, {"memory": 100}, True),
        (Outcome.MEMORY, 100, {"memory": 200}, False),
        (Outcome.MEMORY, 100, {"memory": 50}, True),
        (Outcome.MEMORY, 100, {}, False),
        (Outcome.MEMORY, None, {}, True),
        (Outcome.MEMORY, None, {"memory": 100}, False),
        (Outcome.TIME, 10, {"time": 60, "memory": 5}, False),
        (Outcome.TIME, 10, {"time": 10, "memory": 5}, True),
        (Outcome.DISK, 10, {"disk": 20}, False),
        (Outcome.FAILED, None, {"memory": 200, "time": 9}, True),
        (Outcome.GOOD, None, {"memory": 200, "time": 9}, True),
    ],
)
def test_what_took_too_much_runs_again_once_it_may_take_more(
    outcome: Outcome, allowed: int | None, resources: dict[str, int], expected: bool
) -> None:
    assert is_done(result("a", outcome, allowed=allowed), **resources) is expected


@pytest.mark.parametrize("outcome", [Outcome.MISSING, Outcome.MACHINE, Outcome.INTERRUPTED])
def test_what_may_end_otherwise_though_nothing_of_the_job_changed_runs_again(outcome: Outcome) -> None:
    """What was not installed may be now."""
    assert not is_done(result("a", outcome))


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    monkeypatch.chdir(tmp_path)
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", sides[:1], sides[1:])
    for name in "abcd":
        onnx.save(helper.make_model(graph), f"{name}.onnx")
    Path("r.yaml").write_text(RECIPE)
    Path("zoo.yaml").write_text(MANIFEST)
    return load_manifest(Path("zoo.yaml"))


def found(manifest: Manifest, *only: str, limit: int | None = None) -> list[Standing]:
    return list(standings(manifest, Path(), Path("out"), Choice(only, None, limit), None))


def waiting(manifest: Manifest, *only: str, limit: int | None = None) -> list[str]:
    return [one.planned.job.id for one in found(manifest, *only, limit=limit) if one.is_waiting]


def test_a_limit_counts_what_is_to_run(zoo: Manifest) -> None:
    """The same command again goes on with the next ones."""
    assert waiting(zoo, limit=2) == ["a", "b"]
    for one in found(zoo, limit=2):
        write_result(Path("out"), result(one.planned.job.id, key=one.planned.key))
    assert waiting(zoo, limit=1) == ["c"]
    assert waiting(zoo, limit=9) == ["c", "d"]


def test_a_name_that_no_job_has_is_refused(zoo: Manifest) -> None:
    assert waiting(zoo, "[ab]") == ["a", "b"]
    with pytest.raises(UsageError, match="no job fits 'typo"):
        found(zoo, "a", "typo*")
    assert waiting(zoo, "failed") == []
    code, printed = zoo_command("publish", "zoo.yaml", "--owner", "me", "--only", "typo")
    assert (code, "no job fits 'typo'" in printed) == (2, True)


def test_where_rules_all_count_jobs_are_named_by_model_or_with_their_rule(zoo: Manifest) -> None:
    several = zoo.model_copy(
        update={"match": "all", "recipes": load_manifest(Path("zoo.yaml"), ["recipes=[{use: r.yaml, id: x}]"]).recipes}
    )
    assert waiting(several, "a@x") == ["a@x"]
    assert waiting(several, "b") == ["b@x"]
    with pytest.raises(UsageError, match="no job fits 'a@y'"):
        found(several, "a@y")


def write_results() -> None:
    write_mark(Path("out"), "z")
    write_result(Path("out"), result("a"))
    write_result(Path("out"), result("gone", Outcome.CRASHED))


def zoo_command(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["zoo", *arguments, "--output", "out"])
    return done.exit_code, done.output


def test_results_of_models_that_the_manifest_has_no_more_do_not_count(zoo: Manifest) -> None:
    Path("out").mkdir()
    write_results()
    code, printed = zoo_command("report", "zoo.yaml", "--check")
    assert code == 0, printed
    assert "gone" not in Path("out/leaderboard.jsonl").read_text()
    assert [line.split() for line in zoo_command("status", "zoo.yaml")[1].splitlines()[:2]] == [
        ["1", "good:", "inside", "their", "budgets"],
        ["3", "not", "run", "yet"],
    ]


def test_where_the_models_are_not_here_all_results_count(zoo: Manifest) -> None:
    """Shards' results on a machine that holds no models."""
    Path("out").mkdir()
    write_results()
    for file in Path().glob("*.onnx"):
        file.unlink()
    with pytest.warns(UserWarning, match="all results in the folder count"):
        assert own_jobs(zoo, Path()) is None


def test_a_result_that_cannot_be_read_is_told_and_is_not_good(zoo: Manifest) -> None:
    Path("out").mkdir()
    write_results()
    later = result("b").model_dump_json().replace('"good"', '"an outcome to come"')
    result_file(Path("out"), "b").write_text(later)
    code, printed = zoo_command("report", "zoo.yaml", "--check")
    assert code == 1
    assert "1  cannot be read, and run again with the next `zoo apply`: b" in printed
    assert "1 of 2 jobs failed, 0 may" in printed
    assert zoo_command("report", "zoo.yaml")[0] == 0


def test_temporary_files_of_a_driver_that_was_killed_go(zoo: Manifest) -> None:
    """Also those of jobs that the manifest has no more."""
    Path("out").mkdir()
    write_mark(Path("out"), "z")
    Path("out/temporary/gone").mkdir(parents=True)
    Path("out/temporary/gone/file").touch()
    carry_out(
        zoo,
        Path(),
        Path("out"),
        Choice(),
        execute=lambda jobs, around, keep: None,
        cache=None,
        store=None,
        tell=lambda result: None,
    )
    assert not Path("out/temporary").exists()
