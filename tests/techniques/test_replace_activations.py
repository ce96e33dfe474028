"""Activations of a file become others, and what comes out holds the new ones alone."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from support.digit_runs import context
from torch import Tensor, nn

from compressctl.core.errors import NothingToCompressError, UsageError
from compressctl.core.model import Signature, TensorSpec, TorchModel
from compressctl.graph.execute import ActivationRecorder
from compressctl.graph.lower import lower
from compressctl.sources.onnx_file import load
from compressctl.sources.params import OnnxParams
from compressctl.techniques.replace.activations import apply
from compressctl.techniques.replace.params import ActivationsParams

SEED = np.random.default_rng(0)


def file_of(path: Path, opset: int = 14) -> onnx.ModelProto:
    """A HardSwish, a product with its own Sigmoid, and a product with one that others read too."""
    make, value = helper.make_node, helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            make("Conv", ["x", "w"], ["a"], "one", kernel_shape=[1, 1]),
            make("HardSwish", ["a"], ["b"], "hard"),
            make("Conv", ["b", "v"], ["c"], "two", kernel_shape=[1, 1]),
            make("Sigmoid", ["c"], ["gate"], "sigmoid"),
            make("Mul", ["gate", "c"], ["d"], "swish"),
            make("Sigmoid", ["d"], ["other"], "read_twice"),
            make("Mul", ["d", "other"], ["e"], "gated"),
            make("Add", ["e", "other"], ["y"], "add"),
        ],
        "net",
        [value("x", TensorProto.FLOAT, ["n", 3, 5, 5])],
        [value("y", TensorProto.FLOAT, ["n", 4, 5, 5])],
        [
            numpy_helper.from_array(SEED.normal(size=shape).astype(np.float32), name)
            for name, shape in (("w", (4, 3, 1, 1)), ("v", (4, 4, 1, 1)))
        ],
    )
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(whole, path)
    return whole


def test_activations_of_a_file_are_modules_that_can_be_replaced(tmp_path: Path) -> None:
    whole = file_of(tmp_path / "a.onnx")
    model = load(OnnxParams(path=str(tmp_path / "a.onnx"), trainable=True), Path(), 0)
    assert isinstance(model, TorchModel)
    inputs = {"x": SEED.normal(size=(3, 3, 5, 5)).astype(np.float32)}
    as_it_was = lower(model).body
    first, second = (ActivationRecorder(proto, ["y"]).run(inputs)["y"] for proto in (whole, as_it_was))
    assert np.allclose(first, second, atol=1e-5)
    assert sorted(node.op_type for node in as_it_was.graph.node).count("HardSwish") == 1

    result = apply(model, ActivationsParams(of=("hardswish", "silu")), context(tmp_path))
    assert isinstance(result.model, TorchModel)
    assert sorted(result.facts["replaced"].values()) == ["Hardswish", "SiLU", "SiLU"]
    ops = [node.op_type for node in lower(result.model).body.graph.node]
    assert ops.count("Relu") == 3
    assert "HardSwish" not in ops
    assert ops.count("Sigmoid") == 1  # which the sum reads
    # The model that it was given stays.
    with torch.no_grad():
        assert np.allclose(model.body(torch.from_numpy(inputs["x"]))["y"].numpy(), first, atol=1e-5)


def test_a_pattern_chooses_and_what_is_not_there_is_said(tmp_path: Path) -> None:
    signature = Signature(
        (TensorSpec("input", "float32", ("batch", 4)),), (TensorSpec("output", "float32", ("batch", 4)),)
    )
    model = TorchModel(nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4), nn.GELU()), signature)
    result = apply(model, ActivationsParams(match="1", by="relu6"), context(tmp_path))
    assert isinstance(result.model, TorchModel)
    assert [type(part).__name__ for part in result.model.body.children()] == ["Linear", "ReLU6", "Linear", "GELU"]
    with pytest.raises(UsageError, match="nowhere"):
        apply(model, ActivationsParams(match="nowhere"), context(tmp_path))
    with pytest.raises(NothingToCompressError, match="no module of silu"):
        apply(model, ActivationsParams(of=("silu",)), context(tmp_path))


class QuickGelu(nn.Module):
    """One of somebody's own, as networks of transformers have."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Shifted(QuickGelu):
    """No activation that is known."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0.1


def test_activations_of_somebodys_own_are_known_by_what_they_compute(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(8, 8), QuickGelu(), nn.Linear(8, 8), Shifted(), nn.GELU("tanh"), nn.Tanh())
    signature = Signature((TensorSpec("x", "float32", ("n", 8)),), (TensorSpec("y", "float32", ("n", 8)),))
    result = apply(TorchModel(network, signature), ActivationsParams(), context(tmp_path))
    assert result.facts["replaced"] == {"1": "QuickGelu", "4": "GELU"}
    assert isinstance(result.model, TorchModel)
    assert [type(module) for module in result.model.body] == [
        nn.Linear, nn.ReLU, nn.Linear, Shifted, nn.ReLU, nn.Tanh,
    ]  # fmt: skip
