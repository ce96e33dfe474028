"""Folders of searches that no search wrote, or that changed since, and what `explain-search` makes of them."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from hostile._in_process import ends, refuses
from hostile._models import network
from search.test_explained import TABLES, written

from compressctl.search.kept_tables import read_table


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    written(tmp_path / "run")
    return tmp_path


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_folder(path: Path) -> None:
    path.mkdir()


def a_text(text: str | bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(text if isinstance(text, bytes) else text.encode())


DAMAGE: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: None,
    "a pipe": a_pipe,
    "a device": a_device,
    "a folder": a_folder,
    "an empty file": a_text(""),
    "bytes": a_text(bytes(range(256))),
    "brackets in brackets": a_text("[" * 200_000),
    "a list": a_text("[]"),
    "a number of 100,000 digits": a_text('{"schema_version": "1.1", "seconds": ' + "9" * 100_000 + "}"),
    "half of it": a_text(TABLES.model_dump_json()[:400]),
    "a version to come": a_text(TABLES.model_dump_json().replace(f'"{TABLES.schema_version}"', '"9.0"', 1)),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize(
    ("name", "absent"), [("search.json", "run holds no search"), ("tables.json", "run has no tables.json")]
)
def test_a_search_or_tables_that_are_none(
    name: str, absent: str, damage: Callable[[Path], object], folder: Path
) -> None:
    (folder / "run" / name).unlink()
    damage(folder / "run" / name)
    says = f"run/{name} is damaged" if (folder / "run" / name).is_file() else absent
    refuses(folder, "explain-search", "run", says=says)


def of_tables(path: tuple[str | int, ...], value: Any) -> str:
    found = json.loads(TABLES.model_dump_json())
    inner = found
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return json.dumps(found)


TARGET = {"backend": "onnxruntime", "device": "cpu", "profile": "arm64", "threads": 4, "batch_size": 1, "shapes": {}}
OPTION = ("layers", 0, "options", 0)
WRONG: dict[str, tuple[tuple[str | int, ...], Any]] = {
    "a layer without options": (("layers", 0, "options"), []),
    "a layer without nodes": (("layers", 0, "nodes"), []),
    "bytes below nothing": ((*OPTION, "bytes"), -1),
    "a time that is no number": ((*OPTION, "adds_ms"), float("nan")),
    "a distance without an end": ((*OPTION, "distance"), {"int8": float("inf")}),
    "a technique that there is not": ((*OPTION, "distance"), {"magic": 1.0}),
    "a call that takes no time": (("integer_ms",), 0.0),
    "a call that takes for ever": (("float_ms",), 1e300),
    "times that do not add up": ((*OPTION, "adds_ms"), -1e308),
    "more bytes than there are": ((*OPTION, "bytes"), 10**30),
    "a target that is a word": (("target",), "this one"),
    "a backend of any length": (("target",), {**TARGET, "backend": "x" * 100_000}),
    "a processor that there is not": (("target",), {**TARGET, "profile": "z80"}),
    "shapes of words": (("target",), {**TARGET, "shapes": {"x": ["a"]}}),
}


@pytest.mark.parametrize(("path", "value"), WRONG.values(), ids=WRONG)
def test_tables_that_could_not_have_been_measured(path: tuple[str | int, ...], value: Any, folder: Path) -> None:
    (folder / "run/tables.json").write_text(of_tables(path, value))
    assert read_table(folder / "run" / "tables.json") is None
    refuses(folder, "explain-search", "run", says="run/tables.json is damaged")


@pytest.mark.parametrize("name", ["\x1b[31mred", "a\nb", "::error::x", "\u202eevil", "x" * 100_000, "*", "[a"])
def test_layers_of_any_name(name: str, folder: Path) -> None:
    (folder / "run/tables.json").write_text(of_tables(("layers", 0, "name"), name))
    done = ends(folder, "explain-search", "run")
    assert "int8" in done.out


@pytest.mark.parametrize(
    "stages",
    [
        "x",
        [1, None, "y"],
        [{"use": ["quantize.static"], "overrides": {"match": "a"}}],
        [{"use": "quantize.static", "overrides": [[], {"match": ["a"], "weights": {}}, {"weights": "int8"}]}],
        [{"use": "factorize.svd", "overrides": [{"match": "conv0", "rank": 1e300, "conv": []}]}],
    ],
)
def test_recipes_of_any_form(stages: Any, folder: Path) -> None:
    found = json.loads((folder / "run/search.json").read_text())
    for point in found["points"]:
        point["recipe"] = {"stages": stages}
    (folder / "run/search.json").write_text(json.dumps(found))
    assert "chosen" not in ends(folder, "explain-search", "run").out


@pytest.mark.parametrize("pattern", ["[", "a" * 2000, "?" * 999])
def test_patterns_of_any_form(pattern: str, folder: Path) -> None:
    refuses(folder, "explain-search", "run", "--layer", pattern, says="")


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_costs_that_are_none(damage: Callable[[Path], object], folder: Path) -> None:
    damage(folder / "costs.json")
    refuses(folder, "auto", "builtin:digits-resnet", "--costs", "costs.json", says="costs.json")


@pytest.mark.parametrize(("path", "value"), WRONG.values(), ids=WRONG)
def test_costs_that_could_not_have_been_measured(path: tuple[str | int, ...], value: Any, folder: Path) -> None:
    (folder / "costs.json").write_text(of_tables(path, value))
    refuses(folder, "auto", "builtin:digits-resnet", "--costs", "costs.json", says="no table of layers")


@pytest.mark.parametrize("name", ["\x1b[31mred", "a\nb", "::error::x", "\u202eevil", "x" * 100_000])
def test_costs_of_layers_that_this_model_does_not_have(name: str, folder: Path) -> None:
    found = json.loads(of_tables(("target",), {**TARGET, "threads": 1}))
    found["layers"][0]["name"] = name
    (folder / "costs.json").write_text(json.dumps(found))
    onnx.save(network(), folder / "model.onnx")
    refuses(folder, "auto", "model.onnx", "--costs", "costs.json", says="measured of another model")


def test_costs_of_other_threads(folder: Path) -> None:
    (folder / "costs.json").write_text(of_tables(("target",), TARGET))
    refuses(folder, "auto", "builtin:digits-resnet", "--costs", "costs.json", says="measured for threads 4")


def test_tables_are_not_written_over_what_is_there(folder: Path) -> None:
    (folder / "kept.json").write_text("kept")
    refuses(
        folder, "tables", "measure", "builtin:digits-resnet", "--output", "kept.json", says="kept.json is there already"
    )
    assert (folder / "kept.json").read_text() == "kept"


@pytest.mark.parametrize("model", ["nothing.onnx", "folder.onnx", "empty.onnx", "text.txt", "builtin:nothing"])
def test_tables_of_what_is_no_model(model: str, folder: Path) -> None:
    (folder / "folder.onnx").mkdir()
    (folder / "empty.onnx").write_bytes(b"")
    (folder / "text.txt").write_text("x")
    refuses(folder, "tables", "measure", model, says=model.removeprefix("builtin:"))
    assert not (folder / "tables.json").exists()
