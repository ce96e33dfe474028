"""An activation that a file spells out in several nodes is one module of the network that is trained."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")
from support.spelled import ALL, GATE, SHAPE, SPELLINGS, Expression, model_of  # noqa: E402
from torch import nn  # noqa: E402

from compressctl.core.model import Signature, TensorSpec, TorchModel  # noqa: E402
from compressctl.graph.execute import ActivationRecorder  # noqa: E402
from compressctl.graph.lower import lower  # noqa: E402
from compressctl.sources.graph_network.network import GraphNetwork  # noqa: E402
from compressctl.sources.graph_network.read import network_of  # noqa: E402

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
