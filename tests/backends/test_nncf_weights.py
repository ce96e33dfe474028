"""Weights that NNCF compresses for OpenVINO, and what happens without NNCF."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from pydantic import ValidationError

from compressctl.backends.openvino import BACKEND
from compressctl.backends.params import NncfWeights, OpenVinoParams
from compressctl.backends.specs import OPENVINO
from compressctl.core.errors import MissingDependencyError
from compressctl.core.model import Model, OnnxModel, Signature, TensorSpec
from compressctl.core.target import Target
from compressctl.pipeline.run import check_extras

pytest.importorskip("openvino")

WEIGHTS = {
    name: np.random.default_rng(seed).normal(0, 0.1, shape).astype(np.float32)
    for seed, (name, shape) in enumerate({"up": (192, 256), "down": (256, 96)}.items())
}
X = np.random.default_rng(7).normal(0, 1, (3, 192)).astype(np.float32)


def _model() -> Model:
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("MatMul", ["x", "up"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("MatMul", ["b", "down"], ["y"], "second"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [value("x", TensorProto.FLOAT, ["batch", 192])],
        [value("y", TensorProto.FLOAT, ["batch", 96])],
        [numpy_helper.from_array(array, name) for name, array in WEIGHTS.items()],
    )
    body = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    signature = Signature((TensorSpec("x", "float32", ("batch", 192)),), (TensorSpec("y", "float32", ("batch", 96)),))
    return OnnxModel(body, signature)


def _target(**options: Any) -> Target:
    return Target("openvino", options=OpenVinoParams(**options).model_dump(mode="json"))


@pytest.mark.parametrize(
    ("options", "dtype", "loses"),
    [
        ({"mode": "nf4"}, "nf4", 0.15),
        ({"mode": "int4_sym"}, "int4", 0.15),
        ({"mode": "int4_sym", "awq": True}, "int4", 0.15),
        ({"mode": "int4_asym", "group_size": None}, "uint4", 0.25),
        # 96 divides neither: the group is made smaller instead of the run failing.
        ({"mode": "int4_sym", "group_size": 128}, "int4", 0.2),
        ({"mode": "int8_sym"}, "int8", 0.01),
    ],
)
def test_weights_are_stored_in_the_type_that_was_asked_for(
    tmp_path: Path, options: dict[str, Any], dtype: str, loses: float
) -> None:
    pytest.importorskip("nncf")
    target = _target(weights=NncfWeights(**options), integer_activations=False)
    artifact = BACKEND.build(_model(), target, tmp_path)
    stored = {entry.dtype: entry.elements for entry in BACKEND.weights(artifact)}
    assert stored[dtype] >= 192 * 256 + 256 * 96
    wanted = np.maximum(X @ WEIGHTS["up"], 0) @ WEIGHTS["down"]
    found = BACKEND.open(artifact, target).run({"x": X})["y"]
    assert np.sqrt(np.mean((found - wanted) ** 2)) < loses * np.sqrt(np.mean(wanted**2))
    products = [node for node in BACKEND.explain(artifact, target) if node.macs]
    assert [(node.name, node.precision, node.rule) for node in products] == [
        ("first", "float32", None),
        ("second", "float32", None),
    ]
    assert any("compressed by NNCF" in note for note in artifact.notes)


def test_without_nncf_a_recipe_learns_so_before_any_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("compressctl.pipeline.run.find_spec", lambda name: None)
    options = _target(weights=NncfWeights()).options
    with pytest.raises(MissingDependencyError, match=r"compressctl\[nncf\]"):
        check_extras(OPENVINO, options)
    check_extras(OPENVINO, _target().options)
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(MissingDependencyError, match="nncf"):
        BACKEND.build(_model(), _target(weights=NncfWeights()), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_options_that_exclude_each_other_are_refused_with_the_recipe() -> None:
    with pytest.raises(ValidationError, match="awq is for 4 bits"):
        NncfWeights(mode="int8_sym", awq=True)


def test_the_float_model_that_is_compared_with_keeps_its_weights() -> None:
    from compressctl.pipeline.workspace import in_float32

    assert in_float32(_target(weights=NncfWeights()).options)["weights"] is None
