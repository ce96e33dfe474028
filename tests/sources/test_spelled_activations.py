"""An activation that a file spells out in several nodes is one module of the network that is trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

torch = pytest.importorskip("torch")
from support.spelled import ALL, GATE, SHAPE, SPELLINGS, Expression, model_of  # noqa: E402
from torch import nn  # noqa: E402

from compressctl.core.errors import UsageError  # noqa: E402
from compressctl.core.model import Signature, TensorSpec, TorchModel  # noqa: E402
from compressctl.graph.canonical import canonical  # noqa: E402
from compressctl.graph.execute import ActivationRecorder  # noqa: E402
from compressctl.graph.lower import lower  # noqa: E402
from compressctl.sources.graph_network.network import GraphNetwork  # noqa: E402
from compressctl.sources.graph_network.read import network_of  # noqa: E402
from compressctl.sources.onnx_file import load  # noqa: E402
from compressctl.sources.params import OnnxParams  # noqa: E402

MODULES = {
    "hard_sigmoid": nn.Hardsigmoid, "hard_swish": nn.Hardswish, "silu": nn.SiLU, "gelu": nn.GELU, "gelu_tanh": nn.GELU, "mish": nn.Mish,
}  # fmt: skip
X = torch.linspace(-9, 9, 24).reshape(SHAPE)
NODES = {"hard_sigmoid": ["HardSigmoid", "Add"], "hard_swish": ["HardSwish", "Add"], "mish": ["Mish", "Add"]}


def activations(network: GraphNetwork) -> list[nn.Module]:
    return [part for part in network.modules() if isinstance(part, tuple(MODULES.values()))]


def by_file(model: onnx.ModelProto, x: torch.Tensor) -> np.ndarray:
    return ActivationRecorder(model, ["sum"]).run({"x": x.numpy(), "y": x.numpy()})["sum"]


@pytest.mark.parametrize(("kind", "spelling"), ALL)
def test_one_module_computes_what_the_nodes_did(kind: str, spelling: Expression) -> None:
    model = model_of(spelling)
    network = network_of(model)
    assert [type(part) for part in activations(network)] == [MODULES[kind]]
    assert [step["op"] for step in network.steps] == ["layer", "Add"]
    np.testing.assert_allclose(network(X, X)["sum"].detach().numpy(), by_file(model, X), atol=1e-5)


@pytest.mark.parametrize("kind", NODES)
def test_it_is_exported_as_its_own_operator(kind: str) -> None:
    model = model_of(SPELLINGS[kind][0])
    values = tuple(TensorSpec(name, "float32", ("batch", *SHAPE[1:])) for name in ("x", "y"))
    signature = Signature(values, (TensorSpec("sum", "float32", ("batch", *SHAPE[1:])),))
    exported = lower(TorchModel(network_of(model), signature)).body
    assert [node.op_type for node in exported.graph.node] == NODES[kind]


def test_what_others_read_inside_is_computed_still() -> None:
    network = network_of(model_of(("Mul", "x", GATE[1]), outputs=["made_1"]))
    assert len(activations(network)) == 1
    found = network(X, X)
    np.testing.assert_allclose(found["made_1"].numpy(), np.clip(X.numpy() + 3, 0, 6), atol=1e-5)
    np.testing.assert_allclose(found["sum"].numpy(), nn.functional.hardswish(X).numpy() + X.numpy(), atol=1e-5)


def test_what_another_activation_reads_is_computed_still() -> None:
    gate: Expression = ("Sigmoid", "x")
    network = network_of(model_of(("Add", ("Mul", "x", gate), ("Mul", gate, ("Sigmoid", gate)))))
    assert len(activations(network)) == 2
    wanted = nn.functional.silu(X) + nn.functional.silu(torch.sigmoid(X)) + X
    np.testing.assert_allclose(network(X, X)["sum"].numpy(), wanted.numpy(), atol=1e-5)


def graph_of(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], wide: int) -> onnx.ModelProto:
    """Of rows of four numbers, as many outputs."""
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", wide])],
        [numpy_helper.from_array(np.asarray(values, np.float32), name) for name, values in constants.items()],
    )  # fmt: skip
    return canonical(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


ROWS = torch.linspace(-3, 3, 12).reshape(3, 4)
WEIGHT = np.arange(4, dtype=np.float32).reshape(4, 1) - 1


@pytest.mark.parametrize("three", [3.0, [3.0], [[3.0]]])
def test_the_sum_of_a_gate_is_no_bias_of_the_layer_before_it(three: object) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["l"], "l"),
        helper.make_node("Add", ["l", "three"], ["v"], "v"),
        helper.make_node("Clip", ["v", "zero", "six"], ["c"], "c"),
        helper.make_node("Div", ["c", "six"], ["y"], "y"),
    ]
    network = network_of(graph_of(nodes, {"w": WEIGHT, "three": np.asarray(three), "zero": 0.0, "six": 6.0}, 1))
    assert len(activations(network)) == 1
    wanted = nn.functional.hardsigmoid(ROWS @ torch.from_numpy(WEIGHT))
    np.testing.assert_allclose(network(ROWS)["y"].detach().numpy(), wanted.numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("names", "layer", "activation"),
    [
        (("/blk/Sigmoid", "/blk/Mul", "/blk/MatMul"), "blk", "blk_Mul"),
        (("net/conv/gate", "net/conv/act", "net/conv/MatMul"), "net.conv", "net.conv_act"),
        (("/last/Sigmoid", "/last/Mul", "/last/lin/MatMul"), "last_.lin", "last_.Mul"),
        (("training", "steps", "forward"), "forward_", "steps_"),
    ],
)
def test_layers_with_weights_are_called_first_and_no_name_is_the_networks_own(
    names: tuple[str, str, str], layer: str, activation: str
) -> None:
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["s"], names[0]),
        helper.make_node("Mul", ["x", "s"], ["m"], names[1]),
        helper.make_node("MatMul", ["m", "w"], ["y"], names[2]),
    ]
    network = network_of(graph_of(nodes, {"w": WEIGHT}, 1))
    assert isinstance(network.get_submodule(layer), nn.Linear)
    assert isinstance(network.get_submodule(activation), nn.SiLU)
    wanted = nn.functional.silu(ROWS) @ torch.from_numpy(WEIGHT)
    np.testing.assert_allclose(network(ROWS)["y"].detach().numpy(), wanted.numpy(), atol=1e-5)


def test_activations_of_sizes_are_computed() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"], "shape"),
        helper.make_node("Cast", ["shape"], ["f"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Gather", ["f", "first"], ["size"], "gather"),
        helper.make_node("Sigmoid", ["size"], ["gate"], "gate"),
        helper.make_node("Mul", ["size", "gate"], ["scale"], "silu"),
        helper.make_node("Mul", ["x", "scale"], ["y"], "y"),
    ]
    model = graph_of(nodes, {}, 4)
    model.graph.initializer.append(numpy_helper.from_array(np.array(0), "first"))
    wanted = ROWS * nn.functional.silu(torch.tensor(3.0))
    np.testing.assert_allclose(network_of(model)(ROWS)["y"].numpy(), wanted.numpy(), atol=1e-6)


def test_a_file_without_a_weight_that_can_be_trained_is_refused(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")], "g",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, ["n", 1])],
        [numpy_helper.from_array(WEIGHT.astype(np.float64), "w")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="no weight in float32"):
        load(OnnxParams(path="m.onnx", trainable=True), tmp_path, 0)
