"""Which of a recipe's values run code: those documented to, which `plan` lists without running any."""

import ast
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from typer.testing import CliRunner

import compressctl
from compressctl.cli.main import app
from compressctl.core.author_code import RunsCode, author_code
from compressctl.core.backend import backends
from compressctl.core.errors import CompressctlError
from compressctl.core.registry import Registry
from compressctl.core.source import SplitSizes, datasets, model_sources
from compressctl.core.technique import techniques
from compressctl.recipe.describe import models_in, type_name
from compressctl.recipe.schema import DataSection, ModelSection
from compressctl.sources.load import load_dataset, load_model

CODE = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\ndef make(): return None\n"
RECIPE = """recipe: compressctl/v1
model: {source: python, factory: "net.py:make", input_shape: [4]}
data: {source: python, factory: "data.py:make"}
stages:
  - {use: finetune, id: off, enabled: false}
  - {use: distill.logits, teacher: {factory: "big.py:make"}, student: {factory: "small.py:make"}}
  - {use: prune.channels, finetune: {epochs: 1, teacher: {factory: "big.py:make"}}}
"""
NAMED = [
    ("model.factory", "net.py:make"),
    ("data.factory", "data.py:make"),
    ("stages[1].teacher.factory", "big.py:make"),
    ("stages[1].student.factory", "small.py:make"),
    ("stages[2].finetune.teacher.factory", "big.py:make"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("net", "data", "big", "small"):
        (tmp_path / f"{name}.py").write_text(CODE)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def test_plan_lists_what_would_run_and_runs_none_of_it(folder: Path) -> None:
    assert list(compressctl.plan(folder / "recipe.yaml").code) == NAMED
    shown = CliRunner().invoke(app, ["plan", str(folder / "recipe.yaml")])
    assert [line for line in shown.stdout.splitlines() if line.startswith("runs code")] == [
        f"runs code: {path}: {names}" for path, names in NAMED
    ]
    assert not (folder / "ran").exists()


def test_plan_says_so_to_programs_too(folder: Path) -> None:
    found = json.loads(CliRunner().invoke(app, ["plan", str(folder / "recipe.yaml"), "--json"]).stdout)
    assert [(entry["path"], entry["names"]) for entry in found["code"]] == NAMED


def test_libraries_of_operators_are_listed(tmp_path: Path) -> None:
    params = model_sources.get("onnx").params(path="m.onnx", custom_ops=["a.so", "onnxruntime-extensions"])
    assert [names for _, names in author_code(params, "model")] == ["a.so", "onnxruntime-extensions"]


def _fields(model: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    for name, info in model.model_fields.items():
        yield name, info
        for inner in models_in(info.annotation):
            yield from _fields(inner)


def _is_marked(info: Any) -> bool:
    return "RunsCode" in str(info.annotation) or any(isinstance(mark, RunsCode) for mark in info.metadata)


@pytest.mark.parametrize("registry", [model_sources, datasets, techniques, backends], ids=lambda one: str(one.kind))
def test_a_key_is_documented_to_run_code_exactly_where_it_does(registry: Registry[Any]) -> None:
    for name in registry.names():
        for key, info in _fields(registry.get(name).params):
            is_said = "file.py:name" in (info.description or "") or "run as code" in (info.description or "")
            assert is_said == _is_marked(info), f"{name}: {key}"


def _texts(registry: Registry[Any]) -> Iterator[tuple[str, str]]:
    """Every key of a source that takes text and is not documented to run code."""
    for name in registry.names():
        for key, info in registry.get(name).params.model_fields.items():
            if "str" in type_name(info.annotation) and not _is_marked(info):
                yield name, key


REQUIRED = {
    "columns": {"first": "a", "second": "b", "label": "c"},
    "inputs": [{"name": "x", "shape": [3]}],
    "name": "digits-resnet",
}


def _params(registry: Registry[Any], name: str, key: str) -> BaseModel:
    """The source's params with a file of code in that key, and in every other that needs some text."""
    kind = registry.get(name).params
    needed = [field for field, info in kind.model_fields.items() if info.is_required()]
    given: dict[str, Any] = {field: REQUIRED.get(field, "evil.py:make") for field in needed}
    factory = {"factory": "plain.py:make"} if "factory" in kind.model_fields else {}
    made: BaseModel = kind.model_construct(**{**given, key: "evil.py:make", **factory})
    return made


@pytest.mark.parametrize(("name", "key"), sorted(_texts(datasets)))
def test_no_other_key_of_a_dataset_runs_code(tmp_path: Path, name: str, key: str) -> None:
    (tmp_path / "evil.py").write_text(CODE)
    (tmp_path / "plain.py").write_text("def make(): return None\n")
    section = DataSection(name, _params(datasets, name, key), SplitSizes())
    with suppress(CompressctlError, AttributeError, TypeError):
        data = load_dataset(section, tmp_path, 0)
        next(iter(data.split("calibration").batches(4)))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("name", "key"), sorted(_texts(model_sources)))
def test_no_other_key_of_a_model_runs_code(tmp_path: Path, name: str, key: str) -> None:
    (tmp_path / "evil.py").write_text(CODE)
    (tmp_path / "plain.py").write_text("def make(): return None\n")
    with suppress(CompressctlError, AttributeError, TypeError):
        load_model(ModelSection(name, _params(model_sources, name, key)), tmp_path, 0)
    assert not (tmp_path / "ran").exists()


EXECUTES = {
    "exec",
    "eval",
    "compile",
    "exec_module",
    "import_module",
    "__import__",
    "register_custom_ops_library",
    "CDLL",
}
ALLOWED = {
    "__init__.py": "names of the package itself",
    "sources/python_code.py": "what this test is about",
    "core/custom_ops.py": "what this test is about",
    "core/freed_memory.py": "the C library",
    "zoo/_limited.py": "the C library",
    "core/registry.py": "entry points and names of the package itself",
    "cli/main.py": "commands of the package itself",
    "measure/latency_worker.py": "the runtime's module, which its backend names",
}


def test_nothing_else_executes_code() -> None:
    package = Path(compressctl.__file__).parent
    for path in package.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        names = {call.id for call in calls if isinstance(call, ast.Name)}
        names |= {
            call.attr for call in calls if isinstance(call, ast.Attribute) and call.attr not in ("compile", "eval")
        }
        where = path.relative_to(package).as_posix()
        assert not names & EXECUTES or where in ALLOWED, f"{where} calls {', '.join(sorted(names & EXECUTES))}"


def test_functions_of_recipes_are_called_with_a_factory_alone() -> None:
    package = Path(compressctl.__file__).parent
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "call_factory":
                assert "factory" in ast.unparse(node.args[0]), f"{path.name}: {ast.unparse(node)}"
