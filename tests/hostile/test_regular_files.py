"""Pipes and devices in the place of files of every kind: each is refused at once, before it is opened."""

import os
from pathlib import Path

import numpy as np
import pytest
from hostile._case import Case
from hostile._models import network, written

_MODEL = "recipe: compressctl/v1\nmodel: {source: builtin, name: digits-resnet}\n"
_NETWORK = "def net():\n    from torch import nn\n    return nn.Linear(4, 2)\n"


def recipe(case: Case, data: str = "", model: str | None = None) -> None:
    head = _MODEL if model is None else f"recipe: compressctl/v1\nmodel: {model}\n"
    (case.folder / "recipe.yaml").write_text(head + (f"data: {data}\n" if data else ""))


def pipe(case: Case, name: str) -> None:
    (case.folder / name).parent.mkdir(exist_ok=True)
    os.mkfifo(case.folder / name)


@pytest.mark.parametrize("command", ["validate", "show", "plan", "apply", "migrate"])
def test_a_recipe(command: str, case: Case) -> None:
    pipe(case, "r.yaml")
    case.refuses(command, "r.yaml", code=2, says="r.yaml is a pipe, not a file", seconds=20)


def test_a_recipe_that_never_ends(case: Case) -> None:
    case.refuses("validate", "/dev/zero", code=2, says="/dev/zero is a device, not a file", seconds=20)


def test_what_a_recipe_extends(case: Case) -> None:
    (case.folder / "recipe.yaml").write_text(f"extends: base.yaml\n{_MODEL}")
    pipe(case, "base.yaml")
    case.refuses("validate", "recipe.yaml", code=2, says="base.yaml is a pipe, not a file", seconds=20)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("d.npz", "{source: npz, path: d.npz}"),
        ("d.csv", "{source: csv, path: d.csv, label: label}"),
        ("classes.txt", "{source: image_folder, path: images, classes: classes.txt}"),
        ("labels.csv", "{source: image_folder, path: images, labels: labels.csv}"),
        ("images/a/one.png", "{source: image_folder, path: images}"),
        ("images/a/one.png", "{source: mask_folder, path: images, masks: images}"),
        ("a.json", "{source: coco, path: images, annotations: a.json}"),
        ("d.yaml", "{source: yolo, path: d.yaml}"),
        ("images/a/one.png", "{source: yolo, path: images}"),
        ("calls/one.npz", "{source: requests, path: calls}"),
        ("sets/test_data_set_0/input_0.pb", "{source: onnx_test_data, path: sets}"),
        (
            "pairs.csv",
            "{source: sentence_pairs, path: pairs.csv, tokenizer: recipe.yaml, columns: {first: 0, second: 1, label: 2}}",
        ),
        (
            "tokenizer.json",
            "{source: sentence_pairs, path: recipe.yaml, tokenizer: tokenizer.json, columns: {first: 0, second: 1, label: 2}}",
        ),
        ("code.py", '{source: python, factory: "code.py:data"}'),
    ],
    ids=lambda value: value if "source" not in value else "",
)
def test_data(name: str, data: str, case: Case) -> None:
    recipe(case, data)
    (case.folder / "images/a").mkdir(parents=True)
    (case.folder / "images/a/two.png").write_bytes(b"")
    (case.folder / "images/a/two.txt").write_bytes(b"")
    (case.folder / "sets").mkdir()
    pipe(case, name)
    case.refuses("plan", "recipe.yaml", code=2, says=["is a pipe, not a file", Path(name).name], seconds=20)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("w.safetensors", '{source: python, factory: "net.py:net", input_shape: [4], weights: w.safetensors}'),
        ("w.pt", '{source: python, factory: "net.py:net", input_shape: [4], weights: w.pt}'),
        ("s.json", '{source: python, factory: "net.py:net", input_shape: [4], weights: n.safetensors, structure: s.json}'),
        ("other.py", '{source: python, factory: "other.py:net", input_shape: [4]}'),
        ("lib.so", "{source: onnx, path: good.onnx, custom_ops: [lib.so]}"),
    ],
    ids=lambda value: value if "source" not in value else "",
)  # fmt: skip
def test_what_a_model_is_made_of(name: str, model: str, case: Case) -> None:
    written(case, network())
    recipe(case, model=model)
    (case.folder / "net.py").write_text(_NETWORK)
    (case.folder / "n.safetensors").write_bytes(b"")
    pipe(case, name)
    case.refuses("apply", "recipe.yaml", "--output", "out", code=2, says=name, seconds=40)


@pytest.mark.parametrize(
    "command",
    [
        ["unpack", "m.cctl"],
        ["inspect", "m.cctl"],
        ["bench", "m.cctl", "m.cctl"],
        ["report", "run"],
        ["compare", "run", "run"],
        ["check", "run", "--budget", "accuracy_drop=1"],
        ["reproduce", "run"],
        ["bench", "m.xml", "m.xml"],
    ],
    ids=" ".join,
)
def test_files_that_were_written_before(command: list[str], case: Case) -> None:
    for name in ("m.cctl", "run/report.json", "run/recipe.lock.yaml", "m.xml"):
        pipe(case, name)
    (case.folder / "run/events.jsonl").write_text("")
    case.refuses(*command, code=2, says="is a pipe, not a file", seconds=20)


def test_a_list_of_runs_goes_on(case: Case) -> None:
    folder = case.folder / "runs/one/1"
    folder.mkdir(parents=True)
    (folder / "events.jsonl").write_text("")
    os.mkfifo(folder / "report.json")
    assert "a report that cannot be read" in case.ends("runs", code=0, seconds=20).out


def test_an_output_that_holds_a_pipe_for_a_run(case: Case) -> None:
    pipe(case, "out/events.jsonl")
    case.refuses("apply", "builtin:quickstart", "--output", "out", code=2, says="out", seconds=20)


def test_a_link_to_a_pipe(case: Case) -> None:
    pipe(case, "hidden")
    (case.folder / "r.yaml").symlink_to("hidden")
    case.refuses("validate", "r.yaml", code=2, says="is a pipe, not a file", seconds=20)


def test_samples_for_a_starter_recipe(case: Case) -> None:
    written(case, network())
    pipe(case, "samples.npz")
    case.refuses(
        "init", "model.onnx", "--data", "samples.npz", code=2, says="samples.npz is a pipe, not a file", seconds=20
    )


def test_a_regular_file_goes_on_as_ever(case: Case) -> None:
    np.savez(case.folder / "d.npz", inputs=np.zeros((20, 1, 8, 8), np.float32), labels=np.zeros(20, np.int64))
    recipe(case, "{source: npz, path: d.npz}")
    case.ends("plan", "recipe.yaml", code=0)
