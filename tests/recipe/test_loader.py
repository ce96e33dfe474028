"""The loader: YAML 1.2 values, parents, variables, overrides, and what never happens on any input."""

import json
import re
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from compressctl.cli.main import app
from compressctl.core.errors import RecipeError
from compressctl.core.technique import techniques
from compressctl.recipe.as_yaml import as_yaml
from compressctl.recipe.json_schema import schema
from compressctl.recipe.loader import load
from compressctl.recipe.schema import Recipe
from compressctl.tasks.judge import taught_by

BASE = """recipe: compressctl/v1
model: {source: builtin, name: digits-resnet}
data: {source: digits, calibration: 100}
stages:
  - {use: quantize.static, id: int8}
budget: {size: 1.5MiB, speedup: 1e+0}
"""


def _load(folder: Path, text: str = BASE, sets: tuple[str, ...] = (), unsets: tuple[str, ...] = ()) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return load(path, sets, unsets)


def test_defaults_are_filled_in(tmp_path: Path) -> None:
    recipe = _load(tmp_path)
    assert (recipe.name, recipe.task) == ("recipe", "classification")
    assert [entry.backend for entry in recipe.export] == ["onnxruntime"]
    assert recipe.stages[0].params.model_dump()["ranges"] == "auto"
    assert recipe.budget.size == 1_572_864
    assert recipe.budget.speedup == 1.0


def test_what_was_resolved_loads_to_the_same_recipe(tmp_path: Path) -> None:
    recipe = _load(tmp_path)
    again = _load(tmp_path, yaml.safe_dump(recipe.resolved, sort_keys=False))
    assert again.resolved == recipe.resolved
    assert (again.model, again.data, again.stages, again.budget) == (
        recipe.model,
        recipe.data,
        recipe.stages,
        recipe.budget,
    )


@pytest.mark.parametrize("name", ["cosent", "cosine"])
def test_a_loss_between_pairs_has_a_name(tmp_path: Path, name: str) -> None:
    recipe = _load(tmp_path, BASE + f"task: embedding\nloss: {name}\n")
    assert recipe.loss == name
    again = _load(tmp_path, yaml.safe_dump(recipe.resolved, sort_keys=False))
    assert again.loss == name
    assert taught_by(recipe) == [["embedding", name]] != taught_by(_load(tmp_path, BASE + "task: embedding\n"))
    assert name in schema()["properties"]["loss"]["anyOf"][0]["enum"]


def test_a_stage_without_id_is_named_by_its_technique(tmp_path: Path) -> None:
    text = BASE.replace(
        "  - {use: quantize.static, id: int8}", "  - {use: prune.unstructured}\n  - {use: prune.unstructured}"
    )
    assert [stage.id for stage in _load(tmp_path, text).stages] == ["prune.unstructured", "prune.unstructured-2"]


def test_a_child_wins_over_its_parents_and_stages_merge_by_id(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(BASE)
    text = "extends: base.yaml\nseed: 7\nbudget: {speedup: 2}\nstages:\n  - {id: int8, ranges: mse}\n"
    recipe = _load(tmp_path, text)
    assert recipe.seed == 7
    assert recipe.stages[0].params.model_dump()["ranges"] == "mse"
    assert (recipe.budget.speedup, recipe.budget.size) == (2, 1_572_864)


def test_the_later_of_two_parents_wins(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(BASE + "seed: 1\n")
    (tmp_path / "two.yaml").write_text("seed: 2\n")
    assert _load(tmp_path, "extends: [one.yaml, two.yaml]\n").seed == 2


def test_a_recipe_extends_one_that_comes_with_the_package(tmp_path: Path) -> None:
    recipe = _load(tmp_path, "extends: builtin:quickstart\nseed: 3\nmodel: {source: onnx, path: a.onnx}\n")
    assert (recipe.name, recipe.seed, recipe.stages[0].id, recipe.base) == ("quickstart", 3, "int8", tmp_path)


def test_another_source_does_not_inherit_the_parameters_of_the_first(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(BASE)
    recipe = _load(tmp_path, "extends: base.yaml\nmodel: {source: onnx, path: a.onnx}\n")
    assert recipe.model.params.model_dump(exclude_defaults=True) == {"path": "a.onnx"}


def test_a_variable_alone_keeps_its_type_and_inside_text_becomes_text(tmp_path: Path) -> None:
    text = BASE + 'vars: {n: 50, r: mse}\nname: "run-${n}-$${n}"\n'.replace("$${n}", "x") + "seed: ${n}\n"
    recipe = _load(tmp_path, text.replace("id: int8}", 'id: int8, ranges: "${r}"}'))
    assert (recipe.seed, recipe.name) == (50, "run-50-x")
    assert recipe.stages[0].params.model_dump()["ranges"] == "mse"


def test_an_environment_variable_is_put_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETWORK", "digits-depthwise")
    recipe = _load(tmp_path, BASE.replace("digits-resnet", "${env:NETWORK}".join('""')))
    assert recipe.model.params.name == "digits-depthwise"


@pytest.mark.parametrize(
    ("option", "path", "expected"),
    [
        ("stages.int8.ranges=mse", "stages.0.ranges", "mse"),
        ("stages[0].percentile=99.5", "stages.0.percentile", 99.5),
        ("target.threads=2", "target.threads", 2),
        ("budget={speedup: 3}", "budget.speedup", 3),
        ("data.calibration=0.2", "data.calibration", 0.2),
        ("name=other", "name", "other"),
    ],
)
def test_set_changes_a_value(tmp_path: Path, option: str, path: str, expected: object) -> None:
    found: object = _load(tmp_path, sets=(option,)).resolved
    for step in path.split("."):
        found = found[int(step)] if isinstance(found, list) else found[step]  # type: ignore[index]
    assert found == expected


def test_unset_removes_a_value(tmp_path: Path) -> None:
    assert _load(tmp_path, unsets=("budget.size",)).budget.size is None
    assert _load(tmp_path, unsets=("stages.int8",)).stages == ()


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("stages.int9.ranges=mse", "there is no stage 'int9'"),
        ("stages.int8.rangs=mse", "did you mean ranges"),
        ("trget.threads=1", "did you mean target"),
        ("target.threads", "write path=value"),
        ("target.threads=many", "not a whole number"),
        ("stages[4].ranges=mse", "there is no item 4"),
        ("name.x=1", "lies below a single value"),
    ],
)
def test_a_wrong_override_is_an_error_that_helps(tmp_path: Path, option: str, says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        _load(tmp_path, BASE + "name: n\n", sets=(option,))
    assert says in str(caught.value)


def test_a_wrong_unset_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is nothing"):
        _load(tmp_path, unsets=("budget.latency",))


@settings(max_examples=300)
@given(st.one_of(st.text(max_size=200), st.binary(max_size=200)))
def test_no_input_gives_anything_but_a_recipe_error(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "any.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    with pytest.raises(RecipeError):
        load(path)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 500)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = [
    "recipe",
    "name",
    "seed",
    "task",
    "metric",
    "model",
    "data",
    "target",
    "stages",
    "export",
    "budget",
    "vars",
    "extends",
]


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(KEYS), values, min_size=1))
def test_any_value_anywhere_is_a_recipe_or_a_recipe_error(tmp_path: Path, wrong: dict[str, object]) -> None:
    good = {"recipe": "compressctl/v1", "model": {"source": "builtin", "name": "digits-resnet"}}
    path = tmp_path / "any.yaml"
    path.write_text(json.dumps({**good, **wrong}))
    with suppress(RecipeError):
        assert isinstance(load(path), Recipe)


@pytest.mark.parametrize("name", ["a\0b.yaml", "x" * 300, "\ud800.yaml", ".", "loop.yaml"], ids=repr)
def test_a_file_that_cannot_be_extended_is_an_error_at_its_place(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps({"recipe": "compressctl/v1", "extends": [name]}))
    with pytest.raises(RecipeError) as raised:
        load(path)
    assert raised.value.problems[0].path.startswith("extends")
    assert raised.value.problems[0].origin.line == 1


def test_show_with_origin_says_where_each_value_came_from(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(BASE)
    shown = CliRunner().invoke(app, ["show", str(tmp_path / "recipe.yaml"), "--origin", "--set", "seed=3"]).stdout
    lines = {line.split(":")[0].strip(): line for line in shown.splitlines()}
    assert lines["calibration"].endswith("recipe.yaml:3:37")
    assert lines["seed"].endswith("# --set seed=3")
    assert lines["percentile"].endswith("# default")
    assert yaml.safe_load(shown)["seed"] == 3


def test_the_json_schema_knows_every_source_and_technique(tmp_path: Path) -> None:
    made = schema()
    names = [variant["properties"]["source"]["const"] for variant in made["properties"]["model"]["oneOf"]]
    assert names == ["builtin", "huggingface", "onnx", "python", "timm"]
    stages = {stage["properties"]["use"]["const"]: stage for stage in made["properties"]["stages"]["items"]["oneOf"]}
    assert set(stages) == set(techniques.names())
    stage = stages["quantize.static"]
    assert "description" in stage["properties"]["ranges"]
    assert stage["additionalProperties"] is False


@pytest.mark.parametrize("written", ["5MB", "1.5MiB", "54.3 KB", "17770B", "five", "5 miles", ""])
def test_the_json_schema_takes_sizes_as_the_loader_does(tmp_path: Path, written: str) -> None:
    _, text, _ = schema()["properties"]["budget"]["properties"]["size"]["anyOf"]
    try:
        _load(tmp_path, BASE.replace("1.5MiB", repr(written)))
    except RecipeError:
        assert re.search(text["pattern"], written) is None
    else:
        assert re.search(text["pattern"], written)


def test_deliverables_carry_what_is_said_about_them(tmp_path: Path) -> None:
    recipe = _load(tmp_path, BASE + "export: [onnxruntime, {backend: openvino, precision: bfloat16, streams: 2}]")
    assert [entry.backend for entry in recipe.export] == ["onnxruntime", "openvino"]
    assert recipe.export[1].params.model_dump()["streams"] == 2
    assert recipe.resolved["export"][1] == {"backend": "openvino", "precision": "bfloat16", "streams": 2}


@pytest.mark.parametrize(
    ("export", "says"),
    [
        ("[openvina]", "openvino"),
        ("[{backend: openvino, presicion: float32}]", "precision"),
        ("[{backend: openvino, streams: none}]", "export[0].streams"),
        ("[{streams: 2}]", "export names backends"),
        ("[openvino, openvino]", "exported twice"),
        ("[]", "list of backends"),
    ],
)
def test_a_wrong_deliverable_is_named_with_its_place(tmp_path: Path, export: str, says: str) -> None:
    with pytest.raises(RecipeError) as raised:
        _load(tmp_path, BASE + f"export: {export}")
    assert says in str(raised.value)


def test_what_stands_in_two_places_is_written_twice(tmp_path: Path) -> None:
    """YAML would write an anchor, which recipes do not take: every search that trained twice with one augmentation ended at it."""
    augment = {"crop_padding": 4, "horizontal_flip": True}
    text = as_yaml({"stages": [{"augment": augment}, {"augment": augment}], "lists": [[1, 2]] * 2})
    assert "&" not in text
    assert "*" not in text
    assert yaml.safe_load(text) == {"stages": [{"augment": augment}, {"augment": augment}], "lists": [[1, 2], [1, 2]]}
