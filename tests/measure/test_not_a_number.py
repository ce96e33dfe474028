"""A model that computes NaN, and labels that do not vary: said, and never a figure."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from compressctl.backends.onnxruntime import BACKEND
from compressctl.core.backend import Artifact
from compressctl.core.events import Event, Events
from compressctl.core.model import OnnxModel, Signature, TensorSpec
from compressctl.core.source import metrics
from compressctl.core.target import Target
from compressctl.core.tasks import Judge
from compressctl.measure.artifact import MeasurementConfig, Subject, _scored, _size
from compressctl.measure.samples import Samples
from compressctl.sources.dataset import PositionSplit


class _Data:
    """Positions -10 to 9 and labels of the same, or all alike."""

    classes = None

    def __init__(self, labels: np.ndarray) -> None:
        self._labels = labels

    def split(self, name: str) -> PositionSplit:
        return PositionSplit(
            np.arange(20), lambda at: ({"x": (at[:, None] - 10).astype(np.float32)}, self._labels[at]), None
        )


def _subject(folder: Path, op: str) -> Subject:
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node(op, ["x"], ["y"], "node")], "g", values[:1], values[1:])
    path = folder / f"{op}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    signature = Signature((TensorSpec("x", "float32", ("batch", 1)),), (TensorSpec("y", "float32", ("batch", 1)),))
    return Subject(op, Artifact("onnxruntime", path, (path,)), OnnxModel(onnx.load(path), signature))


@pytest.mark.parametrize(
    ("ops", "labels", "scores", "says"),
    [
        (("Identity", "Sqrt"), np.arange(20.0), (True, False), "Sqrt.onnx gives NaN or infinity for 10 of 20 test samples"),
        (("Sqrt", "Identity"), np.arange(20.0), (False, True), "the float model gives NaN or infinity for 10 of 20"),
        (("Identity", "Neg"), np.ones(20), (False, False), "r2 is not a number: labels that do not vary"),
    ],
)  # fmt: skip
def test_what_is_no_number_is_left_out_and_said(
    tmp_path: Path, ops: tuple[str, str], labels: np.ndarray, scores: tuple[bool, bool], says: str
) -> None:
    subjects = [_subject(tmp_path, op) for op in ops]
    heard: list[Event] = []
    data: Any = _Data(labels)
    samples = Samples(subjects[0].model.signature, data)
    by = MeasurementConfig(BACKEND, Target("onnxruntime"), Judge("regression", metrics.get("r2")), samples, data)
    before, after = _scored(subjects, [_size(subject, by) for subject in subjects], by, Events(heard.append))
    assert (before.score is not None, after.score is not None) == scores
    assert after.change is None
    assert (after.drift is None) == ("Sqrt" in ops)
    assert any(says in event.fields["message"] for event in heard if event.kind == "warning")
