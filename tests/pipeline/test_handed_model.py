"""A technique leaves the model that it is handed as it is."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from support.shell import Shell

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from compressctl.core.errors import StageError  # noqa: E402
from compressctl.core.model import OnnxModel, Signature, TorchModel  # noqa: E402
from compressctl.core.quant import QuantPlan, TensorQuant  # noqa: E402
from compressctl.pipeline.handed_model import model_digest, refuse_change  # noqa: E402


def _network() -> TorchModel:
    return TorchModel(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU()).eval(), Signature((), ()))


def _graph() -> OnnxModel:
    weight = numpy_helper.from_array(np.ones((3, 3), np.float32), "w")
    value = helper.make_tensor_value_info
    inputs, outputs = (value(name, TensorProto.FLOAT, [1, 3]) for name in "xy")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [inputs], [outputs], [weight])
    body: ModelProto = helper.make_model(graph)
    quant = TensorQuant("int8", np.ones(3, np.float32), np.zeros(3, np.int8), axis=1)
    return OnnxModel(body, Signature((), ()), QuantPlan(weights={"w": quant}))


def _zero_by_data(network: nn.Module) -> None:
    network[0].weight.data.zero_()


def _replace_a_layer(network: nn.Module) -> None:
    network[2] = nn.Identity()


def _forget_eval(network: nn.Module) -> None:
    network.train()


def _move_the_averages(network: nn.Module) -> None:
    network.train()(torch.ones(4, 3))
    network.eval()


@pytest.mark.parametrize("change", [_zero_by_data, _replace_a_layer, _forget_eval, _move_the_averages])
def test_a_network_that_is_changed_in_place_is_refused(change: Callable[[nn.Module], None]) -> None:
    model = _network()
    before = model_digest(model)
    change(model.body)
    with pytest.raises(StageError, match="changed the model that it was handed"):
        refuse_change(before, model)


def test_a_network_that_is_only_run_is_not_changed() -> None:
    model = _network()
    before = model_digest(model)
    model.body(torch.ones(4, 3)).sum().backward()
    refuse_change(before, model)


def _zero(model: OnnxModel) -> None:
    model.body.graph.initializer[0].raw_data = bytes(36)


def _drop_a_node(model: OnnxModel) -> None:
    del model.body.graph.node[0]


def _scale(model: OnnxModel) -> None:
    assert model.quant is not None
    model.quant.weights["w"].scale[0] = 2


@pytest.mark.parametrize("change", [_zero, _drop_a_node, _scale])
def test_a_graph_that_is_changed_in_place_is_refused(change: Callable[[OnnxModel], None]) -> None:
    model = _graph()
    before = model_digest(model)
    change(model)
    with pytest.raises(StageError, match="changed the model that it was handed"):
        refuse_change(before, model)


def test_a_copy_of_a_graph_may_be_changed() -> None:
    model = _graph()
    before = model_digest(model)
    body = ModelProto()
    body.CopyFrom(model.body)
    _zero(replace(model, body=body))
    refuse_change(before, model)


def test_a_stage_that_works_in_place_ends_the_run_instead_of_changing_the_baseline(shell: Shell) -> None:
    done = shell.run("apply", shell.recipe("place.yaml", "  - {use: example.in_place, id: here}"), "--output", "out")
    assert done.code == 4, done.err
    assert "stage here (example.in_place): the technique changed the model that it was handed" in done.err
    assert shell.report("out")["exit_code"] == 4
