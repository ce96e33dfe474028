"""NaN weights, inputs that are no numbers, and labels that are no classes: named and refused before any work."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from compressctl.core.errors import UsageError
from compressctl.core.model import Model, OnnxModel, Signature, TensorSpec, TorchModel
from compressctl.core.objects import as_objects
from compressctl.core.tasks import Task
from compressctl.sources.dataset import SplitDataset
from compressctl.sources.sanity import CheckedDataset, check_weights, look_through
from compressctl.sources.splits import Splits

SIGNATURE = Signature((TensorSpec("x", "float32", ("batch", 4)),), (TensorSpec("y", "float32", ("batch", 3)),))


def _graph(**constants: np.ndarray) -> onnx.ModelProto:
    given_ = {"w": np.ones((4, 3), np.float32), "mask": np.zeros(3, np.float32), **constants}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "product"),
        helper.make_node("Add", ["a", "mask"], ["y"], "masked"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "net",
        [value("x", TensorProto.FLOAT, ["batch", 4])],
        [value("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(array, name) for name, array in given_.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _model(body: Any) -> Model:
    return (OnnxModel if isinstance(body, onnx.ModelProto) else TorchModel)(body, SIGNATURE)


@settings(max_examples=60)
@given(
    position=st.integers(0, 11),
    value=st.sampled_from([np.nan, np.inf, -np.inf]),
    dtype=st.sampled_from([np.float32, np.float64, np.float16]),
    torch_form=st.booleans(),
)
def test_one_bad_weight_is_found_wherever_it_is(position: int, value: float, dtype: Any, torch_form: bool) -> None:
    weight = np.random.default_rng(0).standard_normal((4, 3)).astype(dtype)
    body: Any = _graph(w=weight)
    network = nn.Sequential(nn.Linear(4, 3))
    check_weights(_model(network if torch_form else body), "the model")
    weight.flat[position] = value
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor(weight.T.astype(np.float32)))
    name = "0.weight" if torch_form else "w"
    with pytest.raises(UsageError, match=f"the model: weights are not finite numbers: {name} holds (NaN|infinity)"):
        check_weights(_model(network if torch_form else _graph(w=weight)), "the model")


def test_infinity_in_masks_and_bounds_is_meant() -> None:
    check_weights(_model(_graph(mask=np.array([0, -np.inf, 0], np.float32))), "the model")
    network = nn.Linear(4, 3)
    network.register_buffer("mask", torch.full((3,), -torch.inf))
    check_weights(_model(network), "the model")
    with pytest.raises(UsageError, match="mask holds NaN"):
        check_weights(_model(_graph(mask=np.full(3, np.nan, np.float32))), "the model")


def test_bfloat16_and_constants_of_nodes_are_looked_at() -> None:
    import ml_dtypes

    bad = np.full((4, 3), np.nan)
    with pytest.raises(UsageError, match="w holds NaN"):
        check_weights(_model(_graph(w=bad.astype(ml_dtypes.bfloat16))), "the model")
    body = _graph()
    constant = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(bad.astype(np.float32), "v"))
    nodes = [constant, *body.graph.node]
    del body.graph.node[:]
    body.graph.node.extend(nodes)
    del body.graph.initializer[0]
    with pytest.raises(UsageError, match="w holds NaN"):
        check_weights(_model(body), "the model")


def _dataset(
    x: np.ndarray, labels: np.ndarray | None, task: Task = "classification", outputs: int | None = 3, **more: Any
) -> CheckedDataset:
    def read(positions: np.ndarray) -> tuple[Mapping[str, np.ndarray], np.ndarray | None]:
        return {"x": x[positions]}, None if labels is None else labels[positions]

    quarters = np.array_split(np.arange(len(x)), 4)
    own = SplitDataset(None, Splits(*quarters), read, **more)
    return CheckedDataset(own, task, lambda: outputs)


GOOD = np.random.default_rng(1).standard_normal((40, 4)).astype(np.float32)
CLASSES = np.arange(40) % 3


@settings(max_examples=60)
@given(sample=st.integers(0, 39), column=st.integers(0, 3), value=st.sampled_from([np.nan, np.inf, -np.inf]))
def test_an_input_that_is_no_number_is_named_with_its_sample(sample: int, column: int, value: float) -> None:
    look_through(_dataset(GOOD, CLASSES))
    x = GOOD.copy()
    x[sample, column] = value
    kind = "NaN" if np.isnan(value) else "infinity"
    split = ("train", "validation", "calibration", "test")[sample // 10]
    with pytest.raises(
        UsageError, match=rf"array 'x' of the data, sample {sample} \({split} split\), holds 1 times {kind}"
    ):
        look_through(_dataset(x, CLASSES))


def test_inputs_that_hold_nothing_else_are_called_so() -> None:
    with pytest.raises(UsageError, match=r"sample 0 \(train split\), holds nothing but NaN"):
        look_through(_dataset(np.full((40, 4), np.nan, np.float32), CLASSES))


@pytest.mark.parametrize(
    ("value", "task", "message"),
    [
        (10**12, "classification", r"label 1000000000000 of sample 7 \(train split\) is no class: the model tells 3"),
        (3, "classification", "label 3 of sample 7"),
        (-1, "classification", "label -1 of sample 7 .* is no class"),
        (np.nan, "regression", "label nan of sample 7 .* is no number"),
        (np.inf, "regression", "label inf of sample 7 .* is no number"),
        (0.5, "classification", "label 0.5 of sample 7 .* is no class"),
        (10**12, "regression", None),
        (-3, "regression", None),
        (2, "classification", None),
    ],
)
def test_labels_that_cannot_be_meant(value: float, task: Task, message: str | None) -> None:
    labels = CLASSES.astype(np.int64 if isinstance(value, int) else np.float32)
    labels[7] = value
    if message is None:
        look_through(_dataset(GOOD, labels, task))
        return
    with pytest.raises(UsageError, match=message):
        look_through(_dataset(GOOD, labels, task))


def test_what_is_too_large_to_look_through_is_refused_when_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compressctl.sources.sanity._READ_EARLY_BYTES", 0)
    monkeypatch.setattr("compressctl.sources.sanity._LOOKED_AT", 2)
    x = GOOD.copy()
    x[9] = np.nan
    data = _dataset(x, CLASSES)
    look_through(data)
    with pytest.raises(UsageError, match="sample 9"):
        list(data.split("train").batches(4))


def test_a_split_that_passed_once_is_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    data = _dataset(GOOD, CLASSES)
    look_through(data)
    monkeypatch.setattr("compressctl.sources.sanity._check_inputs", lambda *_: pytest.fail("looked at again"))
    assert sum(len(batch.indices) for batch in data.split("train").batches(3)) == 10


@pytest.mark.parametrize("task", ["segmentation", "token-classification", "frame-classification"])
@pytest.mark.parametrize(("value", "is_class"), [(2, True), (-100, True), (3, False), (1 << 60, False), (-1, False)])
def test_a_label_of_a_pixel_token_or_frame_is_a_class(task: Task, value: int, is_class: bool) -> None:
    labels = np.zeros((40, 5), np.int64)
    labels[7, 3] = value
    if is_class:
        look_through(_dataset(GOOD, labels, task))
        return
    with pytest.raises(UsageError, match=rf"label {value} in sample 7 \(train split\) is no class: the model tells 3"):
        look_through(_dataset(GOOD, labels, task))
    with pytest.raises(UsageError, match=f"label {value} in sample 7"):
        look_through(_dataset(GOOD, as_objects(list(labels)), task))


def test_pixels_of_255_do_not_count_and_tokens_of_255_are_of_that_class() -> None:
    labels = np.full((40, 2, 2), 255)
    look_through(_dataset(GOOD, labels, "segmentation"))
    look_through(_dataset(GOOD, labels, "token-classification", outputs=None))
    with pytest.raises(UsageError, match="label 255 in sample"):
        look_through(_dataset(GOOD, labels, "token-classification"))


@pytest.mark.parametrize("case", ["weights", "inputs", "labels", "huge labels"])
def test_the_command_line_refuses_with_one_message(tmp_path: Path, case: str) -> None:
    body = _graph(w=np.full((4, 3), np.nan, np.float32)) if case == "weights" else _graph()
    onnx.save(body, tmp_path / "m.onnx")
    x, labels = GOOD.copy(), CLASSES.astype(np.float64 if case == "labels" else np.int64)
    if case == "inputs":
        x[:] = np.nan
    labels[::2] = {"labels": np.nan, "huge labels": 10**12}.get(case, labels[::2])
    np.savez(tmp_path / "d.npz", inputs=x, labels=labels)
    recipe = {
        "recipe": "compressctl/v1",
        "task": "classification",
        "model": {"source": "onnx", "path": "m.onnx"},
        "data": {"source": "npz", "path": "d.npz", "input_name": "x", "calibration": 8},
        "stages": [{"use": "quantize.static"}],
        "export": ["onnxruntime"],
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-m", "compressctl.cli.main", "apply", "r.yaml", "--measure", "quick"]
    environment = {**os.environ, "COMPRESSCTL_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    said = {
        "weights": "w holds NaN",
        "inputs": "array 'x' of the data, sample ",
        "labels": "labels that are not finite numbers",
        "huge labels": "label 1000000000000 of sample ",
    }[case]
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def boxes(*rows: list[float]) -> np.ndarray:
    """Labels of forty samples; the eighth has these boxes, and the rest one that is good."""
    good = np.array([[1, 2, 5, 6, 2]], np.float32)
    return as_objects([np.array(rows, np.float32) if sample == 7 else good for sample in range(40)])


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ([1, 2, 5, 6, 3], "class 3 of a box in sample 7 .train split. is no class: the model tells 3 classes apart"),
        ([1, 2, 5, 6, -1], "class -1 of a box in sample 7"),
        ([1, 2, 5, 6, 0.5], "class 0.5 of a box"),
        ([5, 2, 1, 6, 0], "ends before it begins"),
        ([1, np.nan, 5, 6, 0], "not finite"),
    ],
)
def test_boxes_that_cannot_be_meant_are_refused_before_they_make_a_score(row: list[float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        look_through(_dataset(GOOD, boxes([0, 0, 1, 1, 0], row), "detection"))


def test_boxes_of_any_class_are_taken_where_nobody_knows_how_many_there_are() -> None:
    look_through(_dataset(GOOD, boxes([1, 2, 5, 6, 99], [1, 2, 1, 2, 0]), "detection", outputs=None))
