"""Manifests: what is wrong is said with its place, all at once."""

from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from compressctl.core.errors import RecipeError
from compressctl.zoo.json_schema import json_schema
from compressctl.zoo.load import load_manifest
from compressctl.zoo.schema import Manifest, holds

GOOD = """zoo: compressctl/v1
vars: {memory: 2GiB}
defaults: {recipe: int8.yaml, resources: {memory: "${memory}", time: 30m, cores: 2}}
recipes:
  - {when: {ops: [LSTM], parameters: ">50M"}, use: recurrent.yaml}
models:
  - {id: a, path: a.onnx, budget: {speedup: 1.2}, tags: [vision]}
  - {glob: "zoo/*.onnx"}
budget: {at_most_failed: 2 %}
"""


def read(folder: Path, text: str, *sets: str) -> Manifest:
    (folder / "all.yaml").write_text(text)
    return load_manifest(folder / "all.yaml", sets)


def test_a_manifest_is_read_with_its_units(tmp_path: Path) -> None:
    found = read(tmp_path, GOOD, "models[0].id=b")
    assert found.name == "all"
    assert found.defaults.resources.memory == 2 << 30
    assert found.defaults.resources.time == 1800
    assert found.budget.at_most_failed == "2 %"
    assert found.models[0].id == "b"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("zoo: compressctl/v1", "zoo: 7", "all.yaml:1:6  zoo: not a version"),
        ("zoo: compressctl/v1", "recipe: compressctl/v1", "this is a recipe"),
        ("ops: [LSTM]", "op: [LSTM]", "recipes[0].when.op: unknown key"),
        (">50M", "~50M", "not a limit"),
        ("30m", "soon", "not a duration"),
        ("2GiB", "much", "not a size"),
        ("path: a.onnx", "path: a.onnx, glob: b", "one of `path`, `glob` and `model`"),
        ("2 %", "200 %", "not a share"),
        ("id: a", "id: ../a", "models[0].id: a name has letters"),
        ("cores: 2", "cores: 0", "is less than 1"),
        ("cores: 2", "ray: {memory: 5}", "`cores` and `memory`"),
        ("cores: 2", "ray: {timing: 1.5}", "whole ones, or a part of one"),
        ("cores: 2", "ray: {timing: .inf}", "resources.ray.timing"),
        ("use: recurrent.yaml", "when2: 1", "`use` is missing"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(old: str, new: str, says: str, tmp_path: Path) -> None:
    assert old in GOOD
    with pytest.raises(RecipeError) as refused:
        read(tmp_path, GOOD.replace(old, new))
    assert says in str(refused.value)
    assert "all.yaml:" in str(refused.value)


def test_what_is_wrong_with_the_only_model_is_all_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as refused:
        read(tmp_path, "zoo: compressctl/v1\nmodels: [{path: a.onnx, id: a/b}]\n")
    assert [problem.path for problem in refused.value.problems] == ["models[0].id"]


def test_everything_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as refused:
        read(tmp_path, GOOD.replace("30m", "soon").replace(">50M", "x").replace("id: a", "id: 'a b'"))
    assert len(refused.value.problems) == 3


@given(
    st.floats(0, 1e12),
    st.sampled_from(["<", "<=", ">", ">=", "="]),
    st.integers(0, 999),
    st.sampled_from(["", "K", "M", "G"]),
)
def test_limits_compare_as_they_are_written(value: float, sign: str, number: int, unit: str) -> None:
    limit = number * {"": 1, "K": 1e3, "M": 1e6, "G": 1e9}[unit]
    expected = {"<": value < limit, "<=": value <= limit, ">": value > limit, ">=": value >= limit, "=": value == limit}
    assert holds(f"{sign}{number}{unit}", value) is expected[sign]


def test_two_limits_are_both_held() -> None:
    assert [holds(">1M <10M", value) for value in (1e6, 5e6, 1e7)] == [False, True, False]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("op", "op"),
        ("ops: [LSTM]", "op: [LSTM]"),
        ("path: a.onnx", "path: a.onnx, glob: b"),
        ("zoo: compressctl/v1", "zoo: 7"),
        ("cores: 2", "cores: 0"),
        ("use: recurrent.yaml", "set: {}"),
        ("speedup: 1.2", "speedup: ~"),
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(old: str, new: str, tmp_path: Path) -> None:
    text = GOOD.replace(old, new).replace("${memory}", "2GiB")
    problems = list(jsonschema.Draft202012Validator(json_schema()).iter_errors(yaml.safe_load(text)))
    try:
        read(tmp_path, text)
    except RecipeError:
        assert problems
    else:
        assert not problems
