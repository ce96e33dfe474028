"""The Python API: what the command line does, as functions."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import compressctl

ROOT = Path(__file__).parent.parent
DIGITS: dict[str, Any] = {
    "recipe": "compressctl/v1",
    "name": "digits",
    "model": {"source": "builtin", "name": "digits-resnet"},
    "data": {"source": "digits", "test": 100, "calibration": 32},
    "stages": [{"id": "small", "use": "quantize.weights", "bits": 8}],
}


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The network is exported once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPRESSCTL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[compressctl.Run, list[str]]:
    """A run, and the kinds of events that it told; copy its folder before you write into it."""
    kinds: list[str] = []
    folder = tmp_path_factory.mktemp("runs") / "one"
    return compressctl.apply(
        DIGITS, output=folder, measure="quick", progress=lambda event: kinds.append(event.kind)
    ), kinds


def test_a_recipe_is_a_mapping_or_a_file_and_overrides_change_either(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(json.dumps(DIGITS))
    for given in (DIGITS, tmp_path / "r.yaml", str(tmp_path / "r.yaml")):
        recipe = compressctl.load_recipe(given, overrides={"stages.small.bits": 4})
        assert (recipe.stages[0].params.bits, recipe.seed) == (4, 0)
    with pytest.raises(compressctl.CompressctlError, match="when it is read"):
        compressctl.load_recipe(recipe, overrides={"seed": 1})


def test_everything_wrong_with_a_mapping_is_raised_at_once() -> None:
    with pytest.raises(compressctl.RecipeError) as caught:
        compressctl.load_recipe({**DIGITS, "seed": "x", "stages": [{"use": "quantize.statc"}]})
    assert "quantize.static" in str(caught.value)
    assert "seed" in str(caught.value)
    with pytest.raises(compressctl.CompressctlError, match="a recipe holds"):
        compressctl.load_recipe({**DIGITS, "seed": object()})


def test_a_run_gives_its_report_files_and_events_and_is_compared(ended: tuple[compressctl.Run, list[str]]) -> None:
    run, kinds = ended
    assert run.holds
    assert {"run.started", "step.finished", "run.finished"} <= set(kinds)
    assert run.files["onnxruntime"].stat().st_size == run.report.backends[0].compressed.total_bytes
    again = compressctl.open_run(run.folder)
    assert again.report.backends[0].compressed.score == run.report.backends[0].compressed.score
    found = compressctl.compare([run, run.folder])
    assert found.names == ("one", "one")
    assert found.differences == ()
    rows = dict(found.rows)
    assert rows["file size"][0] == rows["file size"][1]
    assert all(" dB, cosine " in cell for cell in rows["outputs"])
    with pytest.raises(compressctl.CompressctlError, match="two runs or more"):
        compressctl.compare([run])


def test_a_missed_budget_is_no_exception_and_a_failed_run_is_one(tmp_path: Path) -> None:
    missed = compressctl.apply({**DIGITS, "budget": {"size": "1KB"}}, output=tmp_path / "missed", measure="quick")
    assert not missed.holds
    assert [line.name for line in missed.report.budget if not line.holds] == ["size"]
    stage = {"use": "quantize.weights", "bits": 2, "gate": {"sqnr_db": 90, "otherwise": "stop"}}
    with pytest.raises(compressctl.CompressctlError, match="sqnr_db") as caught:
        compressctl.apply({**DIGITS, "stages": [stage]}, output=tmp_path / "failed", measure="quick")
    assert str(tmp_path / "failed") in caught.value.__notes__[0]
    assert compressctl.open_run(tmp_path / "failed").report.status == "failed"


def test_a_folder_is_taken_by_one_recipe_and_never_read_while_it_is_written(
    ended: tuple[compressctl.Run, list[str]], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(ended[0].folder, run)
    (run / "mine.txt").write_text("mine")
    with pytest.raises(compressctl.CompressctlError, match="holds a run of the recipe digits"):
        compressctl.apply({**DIGITS, "name": "other"}, output=run, measure="quick")
    assert compressctl.apply(DIGITS, output=run, measure="quick").holds
    assert compressctl.open_run(run).report.name == "digits"
    assert (run / "mine.txt").read_text() == "mine"
    (run / "recipe.pinned.yaml").write_text(json.dumps(DIGITS))
    with pytest.raises(compressctl.CompressctlError, match="belongs to the run in this folder"):
        compressctl.apply(run / "recipe.pinned.yaml", output=run, measure="quick")
    assert compressctl.apply(DIGITS, output=run, measure="quick").holds
    pinned = run / "recipe.pinned.yaml"
    assert not pinned.exists() or pinned.read_text() != json.dumps(DIGITS), (
        "what an earlier run chose is not this one's"
    )
    file = run / "artifacts" / "onnxruntime" / "model.onnx"
    model = {"source": "onnx", "path": file}
    with pytest.raises(compressctl.CompressctlError, match="lies in the folder of this run"):
        compressctl.apply({**DIGITS, "model": model, "task": "custom"}, output=run, measure="quick")
    assert file.is_file()


def test_a_folder_may_be_called_like_its_recipe(
    ended: tuple[compressctl.Run, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ended[0].folder, "digits")
    assert compressctl.apply(DIGITS, output=DIGITS["name"], measure="quick").holds


@pytest.mark.parametrize("kind", ["run.started", "step.finished"])
def test_what_a_callback_raises_stops_the_run_and_leaves_a_report(tmp_path: Path, kind: str) -> None:
    def progress(event: compressctl.Event) -> None:
        if event.kind == kind:
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError) as caught:
        compressctl.apply(DIGITS, output=tmp_path / "run", measure="quick", progress=progress)
    assert "report.html" in caught.value.__notes__[0]
    assert compressctl.open_run(tmp_path / "run").report.status == "failed"


@pytest.mark.parametrize(
    "call",
    [
        lambda: compressctl.apply(DIGITS, measure="slow"),  # type: ignore[arg-type]
        lambda: compressctl.load_recipe(3),  # type: ignore[arg-type]
        lambda: compressctl.compare("runs"),
    ],
)
def test_what_is_no_call_of_the_api_is_said(call: Any) -> None:
    with pytest.raises(compressctl.CompressctlError):
        call()


def test_the_api_is_imported_when_it_is_used_and_brings_no_framework() -> None:
    code = (
        "import sys, compressctl; early = set(sys.modules); compressctl.load_recipe('builtin:quickstart');"
        "print('compressctl.api' in early, sorted({'torch', 'onnx', 'onnxruntime', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split(maxsplit=1) == ["False", "[]\n"]
    assert set(compressctl.__all__) <= set(dir(compressctl))
    with pytest.raises(AttributeError):
        compressctl.nothing  # noqa: B018


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    notebook = json.loads((ROOT / "examples" / "api.ipynb").read_text())
    code = "\n".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code")
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
