"""explain: the precision of what ONNX Runtime really executes, and the rule that a float island broke."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from compressctl.backends.onnxruntime import BACKEND
from compressctl.core.backend import ExecutedNode
from compressctl.core.model import OnnxModel, Signature, TensorSpec
from compressctl.core.quant import QuantPlan, TensorQuant
from compressctl.core.target import Target
from compressctl.graph.cost import costs
from compressctl.graph.sites import activations, find_sites
from compressctl.numerics.int8_weights import quantize_weight

TARGET = Target("onnxruntime")
SHAPE = ("batch", 8, 8, 8)


def _explained(
    nodes: list[onnx.NodeProto], folder: Path, floats: dict[str, str] | None = None
) -> dict[str, ExecutedNode]:
    """Quantize a small graph with one range everywhere, build it, and explain it; nodes by name."""
    rng = np.random.default_rng(0)
    used = {name for node in nodes for name in node.input}
    constants = {
        name: rng.normal(size=(8, 8, 1, 1), scale=0.3).astype(np.float32) for name in ("w1", "w2", "w3") if name in used
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, SHAPE)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    body = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    sites = find_sites(graph, floats or {})
    quant = TensorQuant("uint8", np.asarray(np.float32(0.05)), np.asarray(np.uint8(128)))
    plan = QuantPlan(
        activations=dict.fromkeys(activations(sites), quant),
        weights={
            s.weight: quantize_weight(constants[s.weight], 0, per_channel=True, guard="off") for s in sites if s.weight
        },
        float_nodes=floats or {},
    )
    signature = Signature((TensorSpec("x", "float32", SHAPE),), (TensorSpec("y", "float32", SHAPE),))
    artifact = BACKEND.build(OnnxModel(body, signature, plan), TARGET, folder)
    return {node.name: node for node in BACKEND.explain(artifact, TARGET)}


def _conv(source: str, target: str, number: int) -> onnx.NodeProto:
    return helper.make_node("Conv", [source, f"w{number}"], [target], f"conv{number}")


def test_a_chain_of_convolutions_runs_on_integers(tmp_path: Path) -> None:
    found = _explained([_conv("x", "a", 1), _conv("a", "y", 2)], tmp_path)
    assert found["conv1"].precision == found["conv2"].precision == "int8"
    assert found["conv1"].macs == 8 * 8 * 8 * 8
    assert all(node.rule is None for node in found.values())


def test_an_operator_without_integer_kernel_is_named(tmp_path: Path) -> None:
    nodes = [_conv("x", "a", 1), helper.make_node("Softplus", ["a"], ["b"], "soft"), _conv("b", "y", 2)]
    found = _explained(nodes, tmp_path)
    assert found["soft"].precision == "float32"
    assert found["conv2"].precision == "int8"


def test_a_layer_left_in_float_says_so_and_carries_its_macs(tmp_path: Path) -> None:
    found = _explained([_conv("x", "a", 1), _conv("a", "b", 2), _conv("b", "y", 3)], tmp_path, {"conv2": "asked"})
    assert found["conv2"].precision == "float32"
    assert found["conv2"].macs == 4096
    assert found["conv2"].rule == "its weight was left in float"
    assert found["conv1"].precision == found["conv3"].precision == "int8"


def test_an_addition_with_one_float_side_names_the_rule(tmp_path: Path) -> None:
    """Built by hand: one input of the addition does not pass through codes."""
    found = _explained([_conv("x", "a", 1), helper.make_node("Add", ["a", "x"], ["y"], "add")], tmp_path)
    assert found["add"].precision == "float32"
    assert found["add"].rule == "one of its inputs is not quantized, and the integer kernel needs all of them"


@pytest.mark.parametrize("quantized", [True, False])
def test_the_macs_are_those_of_the_float_graph(tmp_path: Path, quantized: bool) -> None:
    nodes = [_conv("x", "a", 1), helper.make_node("Relu", ["a"], ["r"], "relu"), _conv("r", "y", 2)]
    floats = {} if quantized else {"conv1": "asked", "conv2": "asked"}
    found = _explained(nodes, tmp_path, floats)
    assert sum(node.macs for node in found.values()) == 2 * 4096
    assert sum(cost.macs for cost in costs(onnx.load(tmp_path / "model.onnx"))) == 2 * 4096


def test_the_artifact_pins_opset_and_ir_version(tmp_path: Path) -> None:
    _explained([_conv("x", "y", 1)], tmp_path)
    model = onnx.load(tmp_path / "model.onnx")
    assert model.ir_version == 10
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [20]
    assert model.producer_name == "compressctl"


def test_what_float16_convolutions_cost_is_found_again(tmp_path: Path) -> None:
    """A processor without float16 kernels computes them in float32 behind casts, under other names."""
    rng = np.random.default_rng(0)
    constants = {f"w{number}": rng.normal(size=(8, 8, 1, 1)).astype(np.float16) for number in (1, 2)}
    graph = helper.make_graph(
        [_conv("x", "a", 1), helper.make_node("Relu", ["a"], ["b"], "relu"), _conv("b", "y", 2)],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT16, SHAPE)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT16, SHAPE)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    body = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    signature = Signature((TensorSpec("x", "float16", SHAPE),), (TensorSpec("y", "float16", SHAPE),))
    artifact = BACKEND.build(OnnxModel(body, signature), TARGET, tmp_path)
    found = {node.name: node.macs for node in BACKEND.explain(artifact, TARGET)}
    assert (found["conv1"], found["conv2"]) == (8 * 8 * 64, 8 * 8 * 64)
