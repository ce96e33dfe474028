"""compressctl diagnose: what it prints, writes and refuses."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from support import planted
from typer.testing import CliRunner

import compressctl
from compressctl.cli.main import app

RECIPE = """recipe: compressctl/v1
name: planted
task: custom
model: {source: onnx, path: net.onnx}
data: {source: npz, path: data.npz, inputs: x, labels: null, calibration: 32, validation: 16, test: 16}
stages: [{id: int8, use: quantize.static, keep_float: overrides, if_slower: keep}]
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a recipe and its run, in which one channel takes all codes."""
    folder = tmp_path_factory.mktemp("planted")
    planted.convolutions(folder, outlier=300.0)
    planted.images(folder)
    (folder / "recipe.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPRESSCTL_CACHE", str(tmp_path_factory.mktemp("cache")))
        compressctl.apply(folder / "recipe.yaml", output=folder / "run", measure="quick")
        yield folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of the run, for tests that change it."""
    return Path(shutil.copytree(made, tmp_path / "copy"))


def _diagnose(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["diagnose", *map(str, arguments)])


def test_without_tries_it_names_output_stage_layers_and_cause(made: Path) -> None:
    done = _diagnose(made / "run", "--no-try")
    assert done.exit_code == 0
    assert "stage that lost most: int8" in done.stdout
    assert "output that lost most: y" in done.stdout
    assert "cause: outliers in r0" in done.stdout
    assert "layers: c0_Conv, c1_Conv" in done.stdout
    assert "tried" not in done.stdout


def test_it_prints_everything_as_json_and_nothing_else(made: Path) -> None:
    found = json.loads(_diagnose(made / "run", "--no-try", "--json").stdout)
    assert (found["stage"], found["causes"][0]["name"], found["trials"]) == ("int8", "outliers", [])


def test_the_recipe_that_it_writes_gives_what_it_measured(made: Path) -> None:
    done = _diagnose(made / "run", "--write", made / "mended.yaml", "--json")
    assert done.exit_code == 0, done.output
    results = next(row for row in json.loads(done.stdout)["measured"] if row["label"] == "results")
    run = compressctl.apply(made / "mended.yaml", output=made / "mended", measure="quick")
    [output] = run.report.backends[0].compressed.fidelity.outputs  # type: ignore[union-attr]
    assert output.sqnr_db is not None
    assert output.sqnr_db > 25
    assert f"{output.sqnr_db:.1f} dB" in results["after"]
    refused = _diagnose(made / "run", "--write", made / "mended.yaml")
    assert (refused.exit_code, "is there already" in refused.stderr) == (2, True)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda folder: shutil.rmtree(folder / "run"), "is no folder"),
        (lambda folder: (folder / "run" / "report.json").unlink(), "holds no report.json"),
        (lambda folder: (folder / "run" / "recipe.lock.yaml").unlink(), "recipe.lock.yaml cannot be read"),
        (lambda folder: (folder / "net.onnx").unlink(), "net.onnx"),
        (lambda folder: (folder / "data.npz").unlink(), "data.npz"),
    ],
    ids=["no folder", "no report", "no lock", "no model", "no data"],
)
def test_a_run_that_cannot_be_looked_into_is_one_message(folder: Path, broken: object, words: str) -> None:
    lock = folder / "run" / "recipe.lock.yaml"
    lock.write_text(
        "\n".join(f"base: {folder}" if line.startswith("base:") else line for line in lock.read_text().splitlines())
    )
    broken(folder)  # type: ignore[operator]
    done = _diagnose(folder / "run")
    assert done.exit_code == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(("section", "words"), [("stages", "nothing was compressed"), ("data", "names no data")])
def test_a_recipe_without_stages_or_data_has_nothing_to_diagnose(folder: Path, section: str, words: str) -> None:
    import yaml

    file = folder / "run" / "recipe.lock.yaml"
    lock = yaml.safe_load(file.read_text())
    lock["recipe"][section] = [] if section == "stages" else None
    if section == "data":
        lock["recipe"]["stages"] = [{"use": "quantize.weights", "id": "small"}]
    file.write_text(yaml.safe_dump(lock))
    done = _diagnose(folder / "run")
    assert (done.exit_code, words in done.stderr) == (2, True)


def test_a_model_that_changed_since_is_said(folder: Path) -> None:
    lock = folder / "run" / "recipe.lock.yaml"
    lock.write_text(
        "\n".join(f"base: {folder}" if line.startswith("base:") else line for line in lock.read_text().splitlines())
    )
    planted.convolutions(folder, outlier=200.0)
    done = _diagnose(folder / "run", "--no-try")
    assert "note: the model's files are not those of the first run" in done.stdout


def test_nothing_is_written_where_nothing_is_tried(made: Path) -> None:
    done = _diagnose(made / "run", "--no-try", "--write", made / "never.yaml")
    assert (done.exit_code, "--no-try tries nothing" in done.stderr) == (2, True)


@pytest.mark.slow
def test_a_network_that_torch_trained_is_compared_as_a_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPRESSCTL_CACHE", str(tmp_path / "cache"))
    recipe = {
        "recipe": "compressctl/v1",
        "model": {"source": "builtin", "name": "digits-resnet"},
        "data": {"source": "digits", "test": 100, "calibration": 32, "validation": 50},
        "stages": [{"id": "zeros", "use": "prune.unstructured", "sparsity": 0.95, "recalibrate_bn": False}],
    }
    compressctl.apply(recipe, output=tmp_path / "run", measure="quick")
    found = json.loads(_diagnose(tmp_path / "run", "--no-try", "--json").stdout)
    assert found["stage"] == "zeros"
    assert {cause["name"] for cause in found["causes"]} <= {"changed weights", "dead channels"}
    assert found["causes"]
