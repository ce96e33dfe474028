"""What is named on the command line, as a recipe without stages."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.digit_network import digits, fitted_network

from compressctl.cli.auto import _section
from compressctl.core.errors import UsageError
from compressctl.pipeline.plan import make_plan
from compressctl.recipe.loader import load
from compressctl.search.paths import moved
from compressctl.search.recipes import _readable, write_point
from compressctl.search.space import Candidate
from compressctl.search.subject import Asked, sizes_to_choose_by, subject_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, recorded calls of it, and a recipe that names both."""
    place = tmp_path_factory.mktemp("named")
    model = fitted_network(digits())
    onnx.save(model.body, place / "net.onnx")
    name, (_, *shape) = model.signature.inputs[0].name, model.signature.inputs[0].shape
    (place / "recorded").mkdir()
    for number in range(10):
        call: Any = {name: np.random.default_rng(number).random((1, *map(int, shape))).astype(np.float32)}
        np.savez(place / "recorded" / f"{number}.npz", **call)
    (place / "net.yaml").write_text(
        "recipe: compressctl/v1\nname: mine\ntask: custom\nmodel: {source: onnx, path: net.onnx}\n"
        "data: {source: requests, path: recorded, validation: 3}\nstages: [{use: cast}]\nbudget: {size: 1MB}\n"
    )
    (place / "data.yaml").write_text("data: {source: requests, path: ./recorded}\ntask: custom\n")
    return place


@pytest.mark.parametrize(
    ("model", "data"),
    [("net.onnx", "recorded"), ("net.yaml", None), ("net.onnx", "data.yaml"), ("net.yaml", "data.yaml")],
)
def test_a_file_and_a_recipe_that_name_the_same_are_the_same(
    folder: Path, model: str, data: str | None, tmp_path: Path
) -> None:
    subject = subject_of(Asked(str(folder / model), None if data is None else str(folder / data)), tmp_path)
    made = subject.recipe()
    assert make_plan(made, None).steps
    assert (tmp_path / subject.content["model"]["path"]).resolve() == folder / "net.onnx"
    assert subject.content["data"]["source"] == "requests"
    assert (tmp_path / subject.content["data"]["path"]).resolve() == folder / "recorded"
    assert subject.deals_samples == (model == "net.onnx" or data == "data.yaml")


def test_what_of_a_recipe_is_not_used_is_said(folder: Path, tmp_path: Path) -> None:
    subject = subject_of(Asked(str(folder / "net.yaml")), tmp_path)
    assert subject.content["name"] == "mine"
    assert any("stages, budget not used" in note for note in subject.notes)
    assert not {"stages", "budget", "export"} & set(subject.content)


@pytest.mark.parametrize("model", ["net.txt", "net.py:make", "missing.onnx", "builtin:nothing", "missing.yaml"])
def test_what_is_no_model_is_refused(model: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        subject_of(Asked(model), tmp_path)


def test_a_recipe_in_json_is_a_recipe_as_it_is_elsewhere(folder: Path, tmp_path: Path) -> None:
    recipe = folder / "net.json"
    recipe.write_text('{"recipe": "compressctl/v1", "model": {"source": "onnx", "path": "net.onnx"}, "stages": []}')
    assert subject_of(Asked(str(recipe)), tmp_path).content["model"]["source"] == "onnx"


def test_what_a_recipe_in_json_asks_of_a_search_is_taken(folder: Path) -> None:
    recipe = folder / "net.json"
    recipe.write_text(
        '{"recipe": "compressctl/v1", "model": {"source": "onnx", "path": "net.onnx"}, "search": {"drop": 2}}'
    )
    assert _section(str(recipe), ("search.smaller=3",), ()).model_dump(exclude_defaults=True) == {
        "drop": 2.0,
        "smaller": 3.0,
    }


@pytest.mark.parametrize("entry", ["search.drop=9", "stages=[]", "stages.int8.ranges=mse", " budget.size = 1MB"])
def test_a_value_that_auto_makes_itself_is_refused(folder: Path, tmp_path: Path, entry: str) -> None:
    with pytest.raises(UsageError, match="auto makes its own"):
        subject_of(Asked(str(folder / "net.onnx"), sets=(entry,)), tmp_path)


def test_a_points_recipe_gives_what_the_search_measured(folder: Path, tmp_path: Path) -> None:
    subject = subject_of(Asked(str(folder / "net.onnx"), str(folder / "recorded")), tmp_path).dealt(4, 4)
    one = Candidate(
        "int8", "int8", "8 bits", "calibrated", ({"id": "int8", "use": "quantize.static"},), compressed=True
    )
    written = load(tmp_path / write_point(tmp_path, subject, one))
    measured = subject.recipe(one.stages, export=[{"backend": "onnxruntime", "storage": "compressed"}])
    assert make_plan(written, None).steps[1].stage == make_plan(measured, None).steps[1].stage
    assert written.export == measured.export
    assert written.data is not None
    assert measured.data is not None
    assert written.data.sizes.validation == measured.data.sizes.validation == 4


@pytest.mark.parametrize("compressed", [False, True])
def test_short_names_are_said_in_what_is_measured_and_in_the_recipe(
    folder: Path, tmp_path: Path, compressed: bool
) -> None:
    subject = replace(subject_of(Asked(str(folder / "net.onnx")), tmp_path), short_names=True)
    one = Candidate("float16", "float16", "", "plain", ({"use": "cast"},), compressed=compressed)
    written = load(tmp_path / write_point(tmp_path, subject, one))
    measured = subject.recipe(one.stages, export=[subject.export(compressed=compressed)])
    assert written.export == measured.export
    assert written.resolved["export"][0]["names"] == "short"
    elsewhere = replace(subject, content={**subject.content, "target": {"backend": "openvino"}})
    assert elsewhere.export() == {"backend": "openvino"}


def test_a_readable_recipe_says_nothing_that_is_a_default(folder: Path, tmp_path: Path) -> None:
    subject = subject_of(Asked(str(folder / "net.onnx"), str(folder / "recorded")), tmp_path)
    content = _readable(subject, Candidate("float16", "float16", "", "plain", ({"use": "cast"},)), {"size": 10})
    assert content["target"] == {"backend": "onnxruntime"}
    assert content["budget"] == {"size": 10}
    assert content["stages"] == [{"use": "cast"}]
    assert not {"metric", "pack"} & set(content)


def test_half_of_what_nothing_trains_on_chooses() -> None:
    assert sizes_to_choose_by({"train": 14, "validation": 4, "calibration": 14, "test": 8}) == (16, 16)
    assert sizes_to_choose_by({"train": 9000, "validation": 1000, "calibration": 300, "test": 2500}) == (1000, 300)


def test_paths_start_from_the_new_folder_and_other_words_stay(folder: Path, tmp_path: Path) -> None:
    section = {
        "path": "net.onnx",
        "labels": "recorded",
        "factory": "net.py:make",
        "at": "s3://bucket/net.onnx",
        "inputs": ["net.onnx"],
    }
    found = moved(section, folder, folder / "inner")
    assert found == {
        "path": "../net.onnx",
        "labels": "recorded",
        "factory": "net.py:make",
        "at": "s3://bucket/net.onnx",
        "inputs": ["../net.onnx"],
    }
