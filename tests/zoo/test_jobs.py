"""Which recipe a model gets, and why."""

import json
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from compressctl.core.errors import UsageError
from compressctl.zoo.facts import FactsReader, ModelFacts
from compressctl.zoo.facts_worker import facts_of
from compressctl.zoo.jobs import is_selected, jobs_of
from compressctl.zoo.load import load_manifest
from compressctl.zoo.models import models_of
from compressctl.zoo.schema import Manifest


class Known(FactsReader):
    """What is known of files, by name. Of files that no rule asks about nothing is read."""

    def __init__(self, **facts: ModelFacts) -> None:
        super().__init__()
        self.facts, self.asked = facts, []  # type: ignore[var-annotated]

    def read(self, path: Path) -> ModelFacts:
        self.asked.append(path.stem)
        return self.facts[path.stem]


def manifest(folder: Path, text: str) -> Manifest:
    (folder / "zoo.yaml").write_text(f"zoo: compressctl/v1\n{text}")
    return load_manifest(folder / "zoo.yaml")


MODELS = "models: [{path: a.onnx, tags: [small]}, {path: b.onnx, task: detection}, {path: c.onnx, recipe: own.yaml}]\n"
FACTS = {
    "a": ModelFacts(ops=("Conv", "Relu"), parameters=1000, inputs=1),
    "b": ModelFacts(ops=("LSTM",), parameters=10**8, inputs=2),
    "c": ModelFacts(problem="damaged"),
}


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("[{when: {ops: [LSTM, GRU]}, use: r.yaml}]", {"b": "r", "c": "own"}),
        ("[{when: {no_ops: [LSTM]}, use: r.yaml}]", {"a": "r", "c": "own"}),
        ("[{when: {parameters: '>50M'}, use: r.yaml}, {use: all.yaml}]", {"a": "all", "b": "r", "c": "own"}),
        ("[{when: {inputs: 2, ops: [LSTM]}, use: r.yaml, id: x}]", {"b": "x", "c": "own"}),
        ("[{when: {task: detection}, use: r.yaml}]", {"b": "r", "c": "own"}),
        ("[{when: {tags: [small]}, use: r.yaml}, {when: {id: 'b*'}, use: s.yaml}]", {"a": "r", "b": "s", "c": "own"}),
    ],
)
def test_the_first_rule_that_fits_chooses(rules: str, expected: dict[str, str], tmp_path: Path) -> None:
    jobs = list(jobs_of(manifest(tmp_path, f"{MODELS}recipes: {rules}"), tmp_path, Known(**FACTS)))
    assert {job.model: job.recipe_id for job in jobs if job.recipe is not None} == expected
    assert all(job.problem for job in jobs if job.recipe is None)


def test_all_rules_make_a_matrix(tmp_path: Path) -> None:
    text = f"{MODELS}match: all\nrecipes: [{{use: r.yaml}}, {{when: {{ops: [LSTM]}}, use: s.yaml}}]"
    jobs = list(jobs_of(manifest(tmp_path, text), tmp_path, Known(**FACTS)))
    assert [job.id for job in jobs] == ["a@r", "b@r", "b@s", "c@own"]


def test_files_are_looked_into_only_where_a_rule_asks(tmp_path: Path) -> None:
    known = Known(**FACTS)
    list(jobs_of(manifest(tmp_path, f"{MODELS}recipes: [{{when: {{id: a}}, use: r.yaml}}]"), tmp_path, known))
    assert known.asked == []


def test_what_is_nearest_to_the_model_counts(tmp_path: Path) -> None:
    text = """defaults: {set: {seed: 1, pack: true}, resources: {cores: 2, time: 90s}}
recipes: [{use: r.yaml, set: {seed: 2}, resources: {cores: 3}}]
models: [{path: a.onnx, set: {seed: 3, data.path: ./data}, budget: {speedup: 1.5}}]"""
    (job,) = jobs_of(manifest(tmp_path, text), tmp_path, Known(**FACTS))
    sets = dict(text.split("=", 1) for text in job.sets)
    assert {key: json.loads(value) for key, value in sets.items()} == {
        "model": {"source": "onnx", "path": str(tmp_path / "a.onnx")},
        "name": "a",
        "seed": 3,
        "pack": True,
        "data.path": str(tmp_path / "data"),
        "budget.speedup": 1.5,
    }
    assert (job.resources.cores, job.resources.time) == (3, 90)


def test_a_pattern_finds_files_by_their_place(tmp_path: Path) -> None:
    for name in ("m/x/one.onnx", "m/y/one.onnx", "m/two.onnx", "m/note.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = manifest(tmp_path, "models: [{glob: 'm/**/*.onnx'}]\nexclude: ['y-*']")
    assert [model.id for model in models_of(found, tmp_path)] == ["two", "x-one"]


def test_a_pattern_that_finds_a_whole_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compressctl.zoo.model_files.MOST_FILES", 3)
    for number in range(4):
        (tmp_path / f"{number}.onnx").touch()
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(UsageError, match="more than 3 files fit"):
        models_of(manifest(tmp_path, "models: [{glob: '**/*.onnx'}]"), tmp_path)
    (tmp_path / "3.onnx").unlink()
    assert len(models_of(manifest(tmp_path, "models: [{glob: '**/*.onnx'}]"), tmp_path)) == 3


def test_what_zoos_runs_and_searches_export_is_no_model_of_a_zoo(tmp_path: Path) -> None:
    """A manifest that lies beside its models, where `runs/` lies too once it was applied."""
    files = {
        "a.onnx": "", "runs/zoo-z/zoo.json": '{"name": "z"}', "runs/zoo-z/runs/a/artifacts/model.onnx": "", "runs/b.onnx": "",
        "run/events.jsonl": "", "run/recipe.lock.yaml": "", "run/artifacts/model.onnx": "", "found/search.json": "{}",
        "found/journal/1.json": "", "found/model.onnx": "", "mine/zoo.json": "an animal park", "mine/c.onnx": "",
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    def ids(pattern: str) -> list[str]:
        found = manifest(tmp_path, f"models: [{{glob: '{pattern}'}}]")
        return [model.id for model in models_of(found, tmp_path)]

    assert ids("**/*.onnx") == ["a", "mine-c", "runs-b"]
    assert ids("runs/zoo-z/runs/*/**/*.onnx") == ["a-artifacts-model"]


def test_a_folder_whose_name_looks_like_a_pattern(tmp_path: Path) -> None:
    folder = tmp_path / "models[v2]*"
    folder.mkdir()
    (folder / "a.onnx").touch()
    assert [model.id for model in models_of(manifest(folder, "models: [{glob: '**/*.onnx'}]"), folder)] == ["a"]


def test_ids_of_names_in_other_scripts_do_not_depend_on_other_files(tmp_path: Path) -> None:
    found = manifest(tmp_path, "models: [{glob: '*.onnx'}]")

    def ids() -> dict[str, str]:
        return {model.path.name: model.id for model in models_of(found, tmp_path) if model.path is not None}

    (tmp_path / "模型.onnx").touch()
    alone = ids()
    for name in ("数据.onnx", "модель 5.onnx", "a.onnx"):
        (tmp_path / name).touch()
    assert ids()["模型.onnx"] == alone["模型.onnx"]
    assert ids()["a.onnx"] == "a"
    assert ids()["модель 5.onnx"].startswith("5-")
    assert len(set(ids().values())) == 4


def test_patterns_that_choose_no_model_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").touch()
    with (
        pytest.warns(UserWarning, match="include: no model's id fits typo"),
        pytest.raises(UsageError, match="leave no model"),
    ):
        models_of(manifest(tmp_path, "models: [{glob: '*.onnx'}]\ninclude: ['typo*']"), tmp_path)
    with pytest.warns(UserWarning, match="exclude: no model's id fits typo"):
        assert len(models_of(manifest(tmp_path, "models: [{glob: '*.onnx'}]\nexclude: ['typo*']"), tmp_path)) == 1


@pytest.mark.parametrize(
    ("models", "says"),
    [("[{glob: 'm/*.onnx'}]", "no file fits"), ("[{path: a.onnx}, {path: b/a.onnx}]", "the id a is taken")],
)
def test_models_that_cannot_be_told_apart_or_found(models: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=says):
        models_of(manifest(tmp_path, f"models: {models}"), tmp_path)


@given(st.lists(st.text("abc", min_size=1, max_size=5), unique=True), st.integers(1, 7))
def test_shards_share_all_jobs(names: list[str], count: int) -> None:
    shards = [(index, count) for index in range(1, count + 1)]
    parts = [name for shard in shards for name in names if is_selected(name, name, shard=shard)]
    assert sorted(parts) == sorted(names)


def test_facts_of_a_file_and_of_what_is_none(tmp_path: Path) -> None:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [8, 4], [0.5] * 32)
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("x", 8), ("y", 4))]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", sides[:1], sides[1:], [weight])
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    (tmp_path / "cut.onnx").write_bytes((tmp_path / "m.onnx").read_bytes()[:-20])
    reader = FactsReader(tmp_path / "kept")
    try:
        facts, kept, damaged = (reader.read(tmp_path / name) for name in ("m.onnx", "m.onnx", "cut.onnx"))
    finally:
        reader.close()
    assert facts == kept == facts_of(tmp_path / "m.onnx")
    assert (facts.ops, facts.parameters, facts.inputs) == (("MatMul",), 32, 1)
    assert facts.size == (tmp_path / "m.onnx").stat().st_size
    assert (facts.open_axes, facts.quantized) == (False, False)
    assert damaged.problem is not None
    assert damaged.ops is None


def test_values_of_the_environment_stay_references_in_what_a_job_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process reads them again, and knows them for what they are."""
    monkeypatch.setenv("ROOT", str(tmp_path / "very-secret"))
    monkeypatch.setenv("SEED", "7")
    monkeypatch.setenv("TOKEN", "tok-12345")
    text = """vars: {where: "${env:ROOT}/data"}
defaults: {recipe: r.yaml}
models:
  - {path: "${env:ROOT}/a.onnx", set: {seed: "${env:SEED}", data.path: "${where}", name: "$${kept}"}, budget: {size: "${env:SEED}"}}
  - {id: b, model: {source: python, factory: "f.py:make", args: {token: "${env:TOKEN}"}}}
budget: {at_most_failed: 1}"""
    first, second = jobs_of(manifest(tmp_path, text), tmp_path, Known(**FACTS))
    sets = dict(text.split("=", 1) for text in first.sets)
    assert json.loads(sets["model"]) == {"source": "onnx", "path": "${env:ROOT}/a.onnx"}
    assert json.loads(sets["seed"]) == json.loads(sets["budget.size"]) == "${env:SEED}"
    assert json.loads(sets["data.path"]) == "${env:ROOT}/data"
    assert json.loads(sets["name"]) == "$${kept}"
    assert "tok-12345" not in "".join(second.sets)


def test_a_recipe_of_many_models_may_name_what_one_of_them_has_not(tmp_path: Path) -> None:
    """Unless it says itself what such a pattern is."""
    (tmp_path / "r.yaml").write_text("recipe: compressctl/v1\nstages: []\n")
    (tmp_path / "strict.yaml").write_text("recipe: compressctl/v1\nunmatched: error\nstages: []\n")
    models = "models: [{path: a.onnx, recipe: r.yaml}, {path: b.onnx, recipe: strict.yaml}, {path: c.onnx, recipe: r.yaml, set: {unmatched: error}}]"
    first, second, third = jobs_of(manifest(tmp_path, models), tmp_path, Known(**FACTS))
    assert 'unmatched="note"' in first.sets
    assert not any("unmatched" in text for text in second.sets)
    assert 'unmatched="error"' in third.sets
