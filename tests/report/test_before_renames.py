"""Runs of an earlier version, whose recipes use old names: they are read, shown and compared, in the new names.

The two runs were made by the code of commit a023e1a, before its recipes' keys were renamed; only their artifacts are left out.
"""

import shutil
import warnings
from pathlib import Path

import pytest
from typer.testing import CliRunner

import compressctl
from compressctl.cli.main import app
from compressctl.recipe.lock import load_lock


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    shutil.copytree(Path(__file__).parent / "before_renames", tmp_path / "runs" / "before-renames")
    return [tmp_path / "runs" / "before-renames" / name for name in ("run1", "run2")]


@pytest.fixture(autouse=True)
def _nothing_is_warned_of() -> None:
    """Nobody wrote these names by hand, and nobody should change them."""
    warnings.simplefilter("error")


def test_the_recipe_of_an_old_run_is_read_in_new_names(runs: list[Path]) -> None:
    stages = compressctl.open_run(runs[0]).report.recipe["stages"]
    assert stages[0]["regularization"]["ema_decay"] == 0.9
    assert "sparse" not in stages[0]
    assert stages[1]["gate"]["otherwise"] == "undo"


def test_the_lock_of_an_old_run_loads(runs: list[Path]) -> None:
    recipe, _ = load_lock(runs[0] / "recipe.lock.yaml")
    assert recipe.stages[0].params.model_dump()["bn_samples"] == 256
    assert recipe.target.batch_size == 2


def test_old_runs_are_compared_by_what_differs(runs: list[Path]) -> None:
    found = compressctl.compare(runs).differences
    assert [line for line in found if line.startswith("stages")] == ["stages[0].regularization.epochs: 1 | 2"]


def test_an_old_run_and_a_run_in_new_names_differ_in_nothing(runs: list[Path]) -> None:
    new = runs[1]
    for file in new.iterdir():
        file.unlink()
    old = compressctl.open_run(runs[0]).report
    (new / "report.json").write_text(old.model_dump_json())
    assert compressctl.compare(runs).differences == ()


@pytest.mark.parametrize("command", [["report"], ["runs", "show"]])
def test_commands_show_an_old_run(runs: list[Path], command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs[0].parents[2])
    done = CliRunner().invoke(app, [*command, str(runs[0])])
    assert done.exit_code == 0, done.output
    assert "accuracy" in done.output


def test_the_list_of_runs_has_old_ones(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs[0].parents[2])
    done = CliRunner().invoke(app, ["runs", "list"])
    assert done.exit_code == 0, done.output
    assert "before-renames" in done.output
