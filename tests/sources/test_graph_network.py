"""ONNX graphs as PyTorch networks: every operator against ONNX Runtime, random graphs, real pipelines from a file back to a file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from onnx import TensorProto, helper, numpy_helper

torch = pytest.importorskip("torch")
from support.digit_network import digits, fitted_network  # noqa: E402
from support.random_graphs import Drawn, graphs  # noqa: E402
from support.shell import Shell  # noqa: E402

from compressctl.core.errors import UsageError  # noqa: E402
from compressctl.core.model import TensorSpec, TorchModel  # noqa: E402
from compressctl.graph.canonical import canonical  # noqa: E402
from compressctl.graph.execute import ActivationRecorder  # noqa: E402
from compressctl.graph.float16 import half_io, to_half  # noqa: E402
from compressctl.graph.lower import lower  # noqa: E402
from compressctl.graph.torch_outputs import traced_sizes  # noqa: E402
from compressctl.sources.graph_network.prove import first_apart, proven  # noqa: E402
from compressctl.sources.graph_network.read import network_of  # noqa: E402
from compressctl.sources.onnx_file import load  # noqa: E402
from compressctl.sources.params import OnnxParams  # noqa: E402

UNKNOWN = ("If", "Loop", "Scan", "RNN")
EXAMPLES = int(os.environ.get("COMPRESSCTL_RANDOM_GRAPHS", "200"))
RNG = np.random.default_rng(0)
IMAGE = RNG.normal(0, 1, (2, 4, 6, 8)).astype(np.float32)
MATRIX = RNG.normal(0, 1, (3, 5)).astype(np.float32)
POSITIVE = np.abs(MATRIX) + np.float32(0.1)
WHOLE = np.array([[3, -1, 2], [0, 5, 4]])
KERNEL = RNG.normal(0, 1, (6, 4, 3, 3)).astype(np.float32)


def one(*shape: int) -> np.ndarray:
    return RNG.normal(0, 1, shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


Case = tuple[str, Sequence[np.ndarray], Sequence[np.ndarray | None], Mapping[str, Any]]
"""Operator, inputs, constants behind them (None: left out), attributes."""

UNARY = (
    "Relu", "Sigmoid", "Tanh", "Exp", "Abs", "Neg", "Floor", "Ceil", "Round", "Erf", "Sin", "Cos", "Tan", "Atan", "Sinh", "Cosh", "Reciprocal", "Sign",
    "Identity", "LeakyRelu", "Elu", "Celu", "Selu", "Softplus", "Softsign", "HardSigmoid", "HardSwish", "Mish", "Gelu", "Softmax", "LogSoftmax", "Flatten",
    "Transpose", "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp",
    "ArgMax", "ArgMin", "Shape", "Size", "GlobalAveragePool", "GlobalMaxPool", "LpNormalization", "IsNaN", "Dropout",
)  # fmt: skip

CASES: list[Case] = [
    *((op, [IMAGE], [], {}) for op in UNARY),
    *((op, [POSITIVE], [], {}) for op in ("Log", "Sqrt")),
    *((op, [np.tanh(MATRIX)], [], {}) for op in ("Asin", "Acos")),
    *((op, [MATRIX], [POSITIVE], {}) for op in ("Add", "Sub", "Mul", "Div", "Min", "Max", "Sum", "Mean", "Greater", "Less", "GreaterOrEqual")),
    *((op, [WHOLE], [ints(2)], {}) for op in ("Add", "Div", "Mod", "Equal", "LessOrEqual")),
    ("Pow", [POSITIVE], [np.float32(1.7)], {}),
    ("Mod", [MATRIX], [POSITIVE], {"fmod": 1}),
    *((op, [MATRIX > 0, POSITIVE > 1], [], {}) for op in ("And", "Or", "Xor")),
    ("Not", [MATRIX > 0], [], {}),
    ("Where", [MATRIX > 0, MATRIX, POSITIVE], [], {}),
    ("Clip", [MATRIX], [np.float32(-0.5), np.float32(0.7)], {}),
    ("Clip", [MATRIX], [None, np.float32(0.7)], {}),
    ("Cast", [MATRIX], [], {"to": TensorProto.INT64}),
    ("Cast", [WHOLE], [], {"to": TensorProto.FLOAT}),
    ("PRelu", [IMAGE], [one(4, 1, 1)], {}),
    ("PRelu", [IMAGE], [one(1, 4, 1, 1)], {}),
    ("PRelu", [IMAGE], [one(1, 1, 1, 8)], {}),
    ("PRelu", [MATRIX], [one(1)], {}),
    ("Gelu", [MATRIX], [], {"approximate": "tanh"}),
    ("ReduceMean", [IMAGE], [ints(1, 3)], {"keepdims": 0}),
    ("ReduceSum", [IMAGE], [None], {"noop_with_empty_axes": 1}),
    ("ArgMax", [IMAGE], [], {"axis": -1, "keepdims": 0}),
    ("CumSum", [MATRIX], [ints(1)], {}),
    ("CumSum", [MATRIX], [ints(1)], {"exclusive": 1, "reverse": 1}),
    ("TopK", [MATRIX], [ints(2)], {"axis": 1}),
    ("TopK", [MATRIX], [ints(2)], {"axis": 1, "largest": 0}),
    ("Reshape", [IMAGE], [ints(0, -1, 8)], {}),
    ("Reshape", [IMAGE], [ints(-1, 24)], {}),
    *(("Flatten", [IMAGE], [], {"axis": axis}) for axis in (0, 2, 4, -1)),
    ("Transpose", [IMAGE], [], {"perm": [0, 2, 3, 1]}),
    ("Squeeze", [IMAGE[:, :1]], [ints(1)], {}),
    ("Unsqueeze", [IMAGE], [ints(0, -1)], {}),
    ("Concat", [IMAGE, IMAGE], [], {"axis": 1}),
    ("Concat", [IMAGE], [one(2, 4, 6, 3)], {"axis": -1}),
    ("Split", [IMAGE], [ints(1, 3)], {"axis": 1}),
    ("Slice", [IMAGE], [ints(1, 0), ints(-1, 6), ints(1, 3), ints(1, 2)], {}),
    ("Slice", [IMAGE], [ints(-1), ints(-100), ints(3), ints(-2)], {}),
    ("Slice", [IMAGE], [ints(5), ints(1), ints(2), ints(-1)], {}),
    ("Gather", [IMAGE], [ints(2, -1, 0)], {"axis": 1}),
    ("Gather", [IMAGE], [np.array(2)], {"axis": 1}),
    ("Gather", [WHOLE % 3], [], {"table": one(3, 5)}),
    ("GatherElements", [MATRIX, np.abs(WHOLE) % 3], [], {"axis": 0}),
    ("GatherND", [IMAGE], [np.array([[0, 1], [1, -1]])], {}),
    ("GatherND", [IMAGE], [np.array([[0, 1], [1, -1]])], {"batch_dims": 1}),
    ("Expand", [MATRIX], [ints(2, 1, 5)], {}),
    ("Tile", [MATRIX], [ints(2, 3)], {}),
    ("ConstantOfShape", [], [ints(2, 3)], {"value": helper.make_tensor("v", TensorProto.FLOAT, [1], [1.5])}),
    ("Range", [], [np.array(1), np.array(9), np.array(3)], {}),
    ("Trilu", [MATRIX], [np.array(1)], {}),
    ("Trilu", [MATRIX], [], {"upper": 0}),
    ("Pad", [IMAGE], [ints(0, 0, 1, 2, 0, 0, 3, 0)], {}),
    ("Pad", [IMAGE], [ints(0, 1, 0, 0, 0, 2, 0, -1), np.float32(2.5)], {}),
    ("Pad", [IMAGE], [ints(0, 0, 1, 2, 0, 0, 1, 3)], {"mode": "reflect"}),
    ("Pad", [IMAGE], [ints(0, 0, 1, 2, 0, 0, 1, 3)], {"mode": "edge"}),
    ("DepthToSpace", [IMAGE], [], {"blocksize": 2}),
    ("DepthToSpace", [IMAGE], [], {"blocksize": 2, "mode": "CRD"}),
    ("SpaceToDepth", [IMAGE], [], {"blocksize": 2}),
    ("Conv", [IMAGE], [KERNEL], {}),
    ("Conv", [IMAGE], [KERNEL, one(6)], {"pads": [1, 1, 1, 1], "strides": [2, 1]}),
    ("Conv", [IMAGE], [KERNEL, one(6)], {"pads": [0, 1, 1, 0]}),
    ("Conv", [IMAGE], [KERNEL], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("Conv", [IMAGE], [KERNEL], {"auto_pad": "SAME_LOWER", "strides": [2, 3]}),
    ("Conv", [IMAGE], [one(8, 1, 3, 3)], {"group": 4, "dilations": [2, 1]}),
    ("Conv", [IMAGE[:, :, 0]], [one(6, 4, 3)], {"pads": [1, 1]}),
    ("Conv", [IMAGE, KERNEL], [], {"pads": [1, 0, 1, 0]}),
    ("ConvTranspose", [IMAGE], [one(4, 3, 2, 2)], {"strides": [2, 2]}),
    ("ConvTranspose", [IMAGE], [one(4, 3, 3, 3), one(3)], {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}),
    ("ConvTranspose", [IMAGE], [one(4, 2, 3, 3)], {"group": 2, "dilations": [2, 2]}),
    ("ConvTranspose", [IMAGE, one(4, 3, 2, 2)], [one(3)], {"strides": [2, 2]}),
    ("ConvTranspose", [IMAGE], [one(4, 3, 3, 2), one(3)], {"strides": [2, 3], "pads": [0, 1, 1, 0], "output_padding": [1, 2]}),
    ("ConvTranspose", [IMAGE], [one(4, 3, 3, 3), one(3)], {"strides": [2, 2], "output_shape": [12, 16]}),
    ("ConvTranspose", [IMAGE], [one(4, 3, 4, 3)], {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ("ConvTranspose", [IMAGE], [one(4, 3, 4, 3)], {"strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    ("ConvTranspose", [IMAGE], [one(4, 3, 4, 3)], {"strides": [3, 2], "auto_pad": "VALID"}),
    ("ConvTranspose", [IMAGE[:, :, 0]], [one(4, 2, 3)], {"strides": [2], "pads": [0, 1], "group": 2}),
    ("MatMul", [MATRIX], [one(5, 4)], {}),
    ("MatMul", [IMAGE], [one(8, 4)], {}),
    ("MatMul", [IMAGE, one(2, 4, 8, 3)], [], {}),
    ("Gemm", [MATRIX], [one(5, 4), one(4)], {}),
    ("Gemm", [MATRIX], [one(4, 5), one(1, 4)], {"transB": 1}),
    ("Gemm", [MATRIX], [one(4, 5), one(4)], {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("Gemm", [MATRIX.T.copy()], [one(5, 4)], {"transA": 1}),
    ("LSTM", [one(5, 2, 4)], [one(1, 12, 4), one(1, 12, 3), one(1, 24)], {"hidden_size": 3}),
    ("LSTM", [one(5, 2, 4)], [one(2, 12, 4), one(2, 12, 3)], {"hidden_size": 3, "direction": "bidirectional"}),
    ("LSTM", [one(5, 2, 4)], [one(1, 12, 4), one(1, 12, 3), one(1, 24), None, one(1, 2, 3), one(1, 2, 3)], {"hidden_size": 3}),
    ("GRU", [one(5, 2, 4)], [one(2, 9, 4), one(2, 9, 3), one(2, 18)], {"hidden_size": 3, "direction": "bidirectional", "linear_before_reset": 1}),
    ("Einsum", [MATRIX, one(5, 2)], [], {"equation": "ij,jk->ik"}),
    *((op, [IMAGE], [], {"axis": 1}) for op in ("Softmax", "LogSoftmax")),
    ("BatchNormalization", [IMAGE], [one(4), one(4), one(4), np.abs(one(4)) + 0.1], {"epsilon": 1e-3}),
    ("BatchNormalization", [MATRIX], [one(5), one(5), one(5), np.abs(one(5)) + 0.1], {}),
    ("InstanceNormalization", [IMAGE], [one(4), one(4)], {}),
    ("LayerNormalization", [IMAGE], [one(8), one(8)], {}),
    ("LayerNormalization", [IMAGE], [one(6, 8)], {"axis": 2}),
    ("LayerNormalization", [IMAGE], [one(8)], {"axis": -1, "epsilon": 0.1}),
    ("LRN", [IMAGE], [], {"size": 3}),
    ("MaxPool", [IMAGE], [], {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 0]}),
    ("MaxPool", [IMAGE], [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]}),
    ("MaxPool", [IMAGE], [], {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("MaxPool", [IMAGE], [], {"kernel_shape": [2, 3], "strides": [2, 2], "ceil_mode": 1}),
    ("AveragePool", [IMAGE], [], {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 0]}),
    ("AveragePool", [IMAGE], [], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("AveragePool", [IMAGE], [], {"kernel_shape": [3, 3], "pads": [0, 0, 1, 1]}),
    ("AveragePool", [IMAGE], [], {"kernel_shape": [3, 3], "auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    ("Resize", [IMAGE], [None, np.array([1, 1, 2, 2], np.float32)], {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
    ("Resize", [IMAGE], [None, np.array([1, 1, 2, 3], np.float32)], {"mode": "nearest"}),
    ("Resize", [IMAGE], [None, None, ints(2, 4, 9, 5)], {"mode": "linear"}),
    ("Resize", [IMAGE], [None, None, ints(2, 4, 9, 5)], {"mode": "linear", "coordinate_transformation_mode": "align_corners"}),
    ("Resize", [IMAGE], [None, None, ints(2, 4, 12, 16)], {"mode": "cubic"}),
]  # fmt: skip


def _model(case: Case, opset: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    op, inputs, constants, attributes = case
    attributes = dict(attributes)
    table = attributes.pop("table", None)
    feeds = {f"x{number}": np.asarray(value) for number, value in enumerate(inputs)}
    stored = {f"c{number}": value for number, value in enumerate(constants) if value is not None}
    reads = [*feeds, *("" if value is None else f"c{number}" for number, value in enumerate(constants))]
    if table is not None:
        stored, reads = {"t": table}, ["t", *feeds]
    outputs = {"Split": ["y", "z"], "TopK": ["y", "z"], "LSTM": ["y", "h", "c"], "GRU": ["y", "h"]}.get(op, ["y"])
    node = helper.make_node(op, reads, outputs, "node", **attributes)
    given = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in feeds.items()
    ]
    made = [helper.make_empty_tensor_value_info(name) for name in outputs]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()]
    graph = helper.make_graph([node], "one", given, made, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model), feeds


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{len(case[1])}-{len(case[2])}-{sorted(case[3])}")
def test_every_operator_computes_what_onnx_runtime_does(case: Case) -> None:
    model, feeds = _model(case, 20)
    network = network_of(canonical(onnx.ModelProto.FromString(model.SerializeToString())))
    wanted = ActivationRecorder(model, [output.name for output in model.graph.output]).run(feeds)
    found = network(*(torch.from_numpy(feeds[name]) for name in network.inputs))
    assert list(found) == [output.name for output in model.graph.output]
    for name, value in wanted.items():
        given = found[name].detach().numpy()
        assert given.shape == value.shape
        assert given.dtype == value.dtype
        assert np.allclose(given, value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opset", [9, 11, 12])
@pytest.mark.parametrize(
    "case",
    [
        ("Softmax", [IMAGE], [], {"axis": 2}),
        ("Squeeze", [IMAGE[:, :1]], [], {"axes": [1]}),
        ("Unsqueeze", [IMAGE], [], {"axes": [0, 3]}),
        ("ReduceSum", [IMAGE], [], {"axes": [1], "keepdims": 0}),
        ("Split", [IMAGE], [], {"axis": 1, "split": [1, 3]}),
        ("Split", [IMAGE], [], {"axis": 1}),
    ],
    ids=str,
)
def test_earlier_opsets_mean_what_they_did(case: Case, opset: int) -> None:
    model, feeds = _model(case, opset)
    assert first_apart(network_of(canonical(model)), model, feeds) is None


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(graphs())
def test_a_random_graph_computes_the_same_or_is_refused_in_words(drawn: Drawn) -> None:
    model = canonical(onnx.ModelProto.FromString(drawn.model.SerializeToString()))
    ops = {node.op_type for node in model.graph.node}
    if ops & {*UNKNOWN, "LSTM", "GRU"}:
        try:
            network = network_of(model)
        except UsageError as error:
            refused = f"{error}"
            assert "no counterpart in torch for" in refused
            return
        assert not ops & set(UNKNOWN)
    else:
        network = network_of(model)
    proven(network, model, drawn.feeds)
    wanted = ActivationRecorder(model, list(network.outputs)).run(drawn.feeds)
    with torch.no_grad():
        found = network(*(torch.from_numpy(np.array(drawn.feeds[name])) for name in network.inputs))
    for name, value in wanted.items():
        assert found[name].shape == value.shape
        assert str(found[name].dtype).removeprefix("torch.") == str(value.dtype)


def test_a_file_becomes_layers_and_the_same_file_again(tmp_path: Path) -> None:
    model = fitted_network(digits())
    onnx.save(model.body, tmp_path / "net.onnx")
    made = load(OnnxParams(path=str(tmp_path / "net.onnx"), trainable=True), Path(), 0)
    assert isinstance(made, TorchModel)
    kinds = [type(module).__name__ for module in made.body.modules()]
    assert kinds.count("Conv2d") >= 2
    assert "Linear" in kinds
    again = lower(made)
    assert [value.name for value in again.body.graph.input] == [value.name for value in model.body.graph.input]
    assert [value.name for value in again.body.graph.output] == [value.name for value in model.body.graph.output]
    inputs = {spec.name: one(3, *spec.shape[1:]) for spec in made.signature.inputs}
    names = [spec.name for spec in made.signature.outputs]
    first, second = (ActivationRecorder(proto, names).run(inputs) for proto in (model.body, again.body))
    assert all(np.allclose(first[name], second[name], atol=1e-5) for name in names)


def test_operators_without_a_counterpart_are_all_named(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Det", ["x"], ["d"], "one"), helper.make_node("NonZero", ["d"], ["y"], "two")],
        "net",
        [value("x", TensorProto.FLOAT, ["n", 3, 3])],
        [value("y", TensorProto.INT64, [1, None])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "a.onnx")
    with pytest.raises(UsageError, match="no counterpart in torch for Det, NonZero"):
        network_of(canonical(onnx.load(tmp_path / "a.onnx")))


def test_streaming_models_and_libraries_of_operators_stay_graphs() -> None:
    with pytest.raises(ValueError, match="trainable does not go with states"):
        OnnxParams(path="a.onnx", trainable=True, states="auto")


@pytest.mark.parametrize(
    ("shapes", "inputs", "outputs"),
    [
        ({"x.2": 8}, ("batch", 1, 8, "w"), ("batch", 2, "y.2", "w")),
        ({"w": 6}, ("batch", 1, "x.2", 6), ("batch", 2, "y.2", 6)),
        ({"x.3": 6, "x.2": 8}, ("batch", 1, 8, 6), ("batch", 2, "y.2", 6)),
    ],
)
def test_open_axes_of_one_size_can_be_fixed(
    shapes: dict[str, int], inputs: tuple[int | str, ...], outputs: tuple[int | str, ...], tmp_path: Path
) -> None:
    """Of one name everywhere; of an axis without a name there alone."""
    path = tmp_path / "a.onnx"
    weight = numpy_helper.from_array(np.ones((2, 1, 3, 3), np.float32), "w0")
    node = helper.make_node("Conv", ["x", "w0"], ["y"], pads=[1, 1, 1, 1])
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "net",
        [value("x", TensorProto.FLOAT, ["n", 1, None, "w"])],
        [value("y", TensorProto.FLOAT, ["n", 2, None, "w"])],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    model = load(OnnxParams(path=str(path), trainable=True, shapes=shapes), Path(), 0)
    assert (model.signature.inputs[0].shape, model.signature.outputs[0].shape) == (inputs, outputs)
    for wrong in ("height", "?", "x.1", "x.0"):
        with pytest.raises(UsageError, match=rf"shapes: {re.escape(wrong)} is no open axis"):
            load(OnnxParams(path=str(path), trainable=True, shapes={wrong: 8}), Path(), 0)
    with pytest.raises(ValueError, match="shapes goes with trainable"):
        OnnxParams(path=str(path), shapes=shapes)


def test_a_file_of_one_sample_is_refused(tmp_path: Path) -> None:
    model, _ = _model(("Softmax", [one(1, 4)], [], {}), 20)
    fixed = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])
    del model.graph.output[:]
    model.graph.output.append(fixed)
    model.graph.node[0].attribute.append(helper.make_attribute("axis", 0))
    onnx.save(model, tmp_path / "one.onnx")
    with pytest.raises(UsageError, match=r"the first axis of its input x0 \[1, 4\] does not count samples"):
        load(OnnxParams(path=str(tmp_path / "one.onnx"), trainable=True), Path(), 0)


def test_a_step_that_computes_something_else_is_named() -> None:
    model, feeds = _model(("Conv", [IMAGE], [KERNEL], {}), 20)
    network = network_of(canonical(onnx.ModelProto.FromString(model.SerializeToString())))
    with torch.no_grad():
        next(network.parameters()).mul_(1.1)
    with pytest.raises(UsageError, match=r"node node \(Conv\) computes something else \(by 10\.0% of its size\)"):
        proven(network, model, feeds)


RECIPE = """recipe: compressctl/v1
name: from-a-file
task: classification
model: {source: onnx, path: net.onnx, trainable: true}
data: {source: digits, calibration: 100}
target: {backend: onnxruntime, threads: 1}
stages:
  - {use: prune.channels, keep: 0.5, of: macs}
  - {use: distill.logits, teacher: original, epochs: 2}
  - {use: quantize.static}
export: [onnxruntime]
"""


@pytest.mark.slow
def test_a_file_is_pruned_taught_by_itself_and_quantized(shell: Shell) -> None:
    onnx.save(fitted_network(digits()).body, shell.folder / "net.onnx")
    (shell.folder / "recipe.yaml").write_text(RECIPE)
    done = shell.run("apply", "recipe.yaml", "--output", "out", "--measure", "quick")
    assert done.code == 0, done.err
    report = shell.report("out")
    [part] = report["backends"]
    baseline = shell.folder / "out" / "artifacts" / "onnxruntime" / "baseline" / "model.onnx"
    first, second = onnx.load(shell.folder / "net.onnx"), onnx.load(baseline)
    assert [node.op_type for node in first.graph.node] == [node.op_type for node in second.graph.node]
    assert part["compressed"]["macs"] < 0.6 * part["baseline"]["macs"]
    assert part["compressed"]["total_bytes"] < 0.5 * part["baseline"]["total_bytes"]
    [parity] = report["parity"][:1]
    assert max(parity["max_abs_difference"].values()) < 1e-4
    exported = onnx.load(shell.folder / "out" / "artifacts" / "onnxruntime" / "model.onnx")
    assert [value.name for value in exported.graph.input] == [value.name for value in first.graph.input]
    assert [value.name for value in exported.graph.output] == [value.name for value in first.graph.output]


def test_images_of_any_size_are_traced_at_sizes_that_can_be_halved() -> None:
    """At 12 pixels the pooling of a published file had nothing left; texts stay shorter than a table of positions."""
    image = TensorSpec("x", "float32", ("batch", 3, "height", "width"))
    text = TensorSpec("ids", "int64", ("batch", "tokens"))
    sizes = traced_sizes([image, text])
    assert [sizes["height"] % 32, sizes["width"] % 32] == [0, 0]
    assert len(set(sizes.values())) == 3
    assert sizes["tokens"] < 64


def test_a_file_in_half_precision_trains_in_float32_and_keeps_its_types(tmp_path: Path) -> None:
    model = fitted_network(digits())
    half = half_io(to_half(model.body)[0])
    onnx.save(half, tmp_path / "half.onnx")
    params = OnnxParams(path=str(tmp_path / "half.onnx"), trainable=True)
    made = load(params, Path(), 0)
    assert isinstance(made, TorchModel)
    assert {value.dtype for value in made.body.parameters()} == {torch.float32}
    assert "Conv2d" in {type(module).__name__ for module in made.body.modules()}
    inputs = {spec.name: one(3, *spec.shape[1:]).astype(np.float16) for spec in made.signature.inputs}
    again = lower(made)
    for there, value in zip(again.body.graph.output, half.graph.output, strict=True):
        assert there.type.tensor_type.elem_type == value.type.tensor_type.elem_type == TensorProto.FLOAT16
    names = [spec.name for spec in made.signature.outputs]
    first, second = (ActivationRecorder(proto, names).run(inputs) for proto in (half, again.body))
    assert all(np.allclose(first[name], second[name], rtol=0.02, atol=0.01) for name in names)


KEPT: list[tuple[str, dict[str, Any], int]] = [
    ("HardSwish", {}, 14),
    ("HardSigmoid", {"alpha": 0.1666, "beta": 0.5}, 11),
    ("HardSigmoid", {}, 11),
    ("GlobalAveragePool", {}, 11),
    ("GlobalMaxPool", {}, 11),
    ("AveragePool", {"kernel_shape": [3, 3], "pads": [0, 1, 1, 0], "strides": [2, 2]}, 11),
    ("AveragePool", {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "count_include_pad": 1}, 11),
    ("MaxPool", {"kernel_shape": [3, 2], "pads": [0, 1, 1, 0], "strides": [2, 1]}, 11),
    ("Elu", {"alpha": 0.7}, 11),
    ("Celu", {"alpha": 0.7}, 12),
    ("Selu", {}, 11),
    ("Mish", {}, 18),
    ("Softplus", {}, 11),
    ("Softsign", {}, 11),
    ("LeakyRelu", {"alpha": 0.3}, 11),
    ("LRN", {"size": 3, "alpha": 0.01}, 11),
    ("LpNormalization", {"axis": 1, "p": 2}, 11),
    ("DepthToSpace", {"blocksize": 2, "mode": "CRD"}, 11),
    ("SpaceToDepth", {"blocksize": 2}, 11),
]

RESIZED: list[tuple[list[np.ndarray | None], dict[str, Any], int]] = [
    ([np.array([1, 1, 2, 3], np.float32)], {"mode": "nearest"}, 10),
    (
        [np.zeros(0, np.float32), np.array([1, 1, 2, 2], np.float32)],
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
        11,
    ),
    (
        [None, np.array([1, 1, 1.5, 2], np.float32)],
        {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
        13,
    ),
    ([None, None, np.array([3, 4, 9, 5])], {"mode": "linear", "coordinate_transformation_mode": "align_corners"}, 13),
    ([None, np.array([1, 1, 2, 2], np.float32)], {"mode": "cubic"}, 19),
]


@pytest.mark.parametrize(("op", "attributes", "opset"), KEPT, ids=lambda value: str(value))
def test_what_runtimes_have_in_one_piece_is_exported_in_one_piece(
    op: str, attributes: dict[str, Any], opset: int, tmp_path: Path
) -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], "conv", kernel_shape=[1, 1]),
            helper.make_node(op, ["c"], ["y"], "it", **attributes),
        ],
        "net",
        [value("x", TensorProto.FLOAT, ["n", 4, 6, 8])],
        [value("y", TensorProto.FLOAT, ["n", None, None, None])],
        [numpy_helper.from_array(one(4, 4, 1, 1), "w")],
    )
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(onnx.shape_inference.infer_shapes(whole), tmp_path / "a.onnx")
    made = load(OnnxParams(path=str(tmp_path / "a.onnx"), trainable=True), Path(), 0)
    assert isinstance(made, TorchModel)
    again = lower(made).body
    assert [node.op_type for node in again.graph.node] == ["Conv", op]
    inputs = {"x": one(3, 4, 6, 8)}
    first, second = (ActivationRecorder(proto, ["y"]).run(inputs)["y"] for proto in (whole, again))
    assert first.shape == second.shape
    assert np.allclose(first, second, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("read", "attributes", "opset"), RESIZED, ids=lambda value: str(value))
def test_a_resize_is_exported_as_one_for_any_size(
    read: list[np.ndarray | None], attributes: dict[str, Any], opset: int, tmp_path: Path
) -> None:
    value = helper.make_tensor_value_info
    names = ["" if array is None else f"r{place}" for place, array in enumerate(read)]
    has_sizes = len(read) == 3
    sizes = ["n", 4, 6, 8] if has_sizes else ["n", 4, "height", "width"]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], "conv", kernel_shape=[1, 1]),
            helper.make_node("Resize", ["c", *names], ["y"], "it", **attributes),
        ],
        "net",
        [value("x", TensorProto.FLOAT, sizes)],
        [value("y", TensorProto.FLOAT, [3 if has_sizes else "n", 4, None, None])],
        [
            numpy_helper.from_array(one(4, 4, 1, 1), "w"),
            *(
                numpy_helper.from_array(array, name)
                for name, array in zip(names, read, strict=True)
                if array is not None
            ),
        ],
    )
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    if has_sizes:  # the number of samples is one of the sizes
        network = network_of(canonical(whole))
        with torch.no_grad():
            found = network(torch.from_numpy(x := one(3, 4, 6, 8)))["y"].numpy()
        assert np.allclose(found, ActivationRecorder(whole, ["y"]).run({"x": x})["y"], atol=1e-5)
        return
    onnx.save(onnx.shape_inference.infer_shapes(whole), tmp_path / "a.onnx")
    made = load(OnnxParams(path=str(tmp_path / "a.onnx"), trainable=True), Path(), 0)
    assert isinstance(made, TorchModel)
    again = lower(made).body
    assert [node.op_type for node in again.graph.node] == ["Conv", "Resize"]
    for shape in ((3, 4, 6, 8), (1, 4, 10, 14)):
        inputs = {"x": one(*shape)}
        first, second = (ActivationRecorder(proto, ["y"]).run(inputs)["y"] for proto in (whole, again))
        assert first.shape == second.shape
        assert np.allclose(first, second, rtol=1e-4, atol=1e-5)


def test_a_grid_over_an_open_size_stays_open(tmp_path: Path) -> None:
    """As detectors make one: Range of a size that was cast to a float."""
    value, floating = helper.make_tensor_value_info, TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], "conv", kernel_shape=[1, 1]),
            helper.make_node("Shape", ["c"], ["s"], "shape"),
            helper.make_node("Gather", ["s", "three"], ["size"], "width"),
            helper.make_node("Cast", ["size"], ["limit"], "cast", to=floating),
            helper.make_node("Range", ["zero", "limit", "one"], ["grid"], "range"),
            helper.make_node("Add", ["c", "grid"], ["y"], "add"),
        ],
        "net",
        [value("x", floating, ["n", 4, 6, "width"])],
        [value("y", floating, ["n", 4, 6, "width"])],
        [
            numpy_helper.from_array(one(4, 4, 1, 1), "w"),
            numpy_helper.from_array(np.array(3), "three"),
            numpy_helper.from_array(np.float32(0), "zero"),
            numpy_helper.from_array(np.float32(1), "one"),
        ],
    )
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(whole, tmp_path / "a.onnx")
    made = load(OnnxParams(path=str(tmp_path / "a.onnx"), trainable=True), Path(), 0)
    assert isinstance(made, TorchModel)
    again = lower(made).body
    for width in (8, 13):
        inputs = {"x": one(2, 4, 6, width)}
        first, second = (ActivationRecorder(proto, ["y"]).run(inputs)["y"] for proto in (whole, again))
        assert np.allclose(first, second, atol=1e-5)


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (4, 1, 1), (4,)])
def test_a_vector_that_is_added_to_a_convolution_is_its_bias(op: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    """So that it is cut with its channels."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node(op, ["x", "w"], ["c"], "conv", kernel_shape=[1, 1]),
            *([helper.make_node("Reshape", ["b", "as"], ["r"], "view")] if len(shape) == 1 else []),
            helper.make_node("Add", ["r" if len(shape) == 1 else "b", "c"], ["d"], "add"),
            helper.make_node("Relu", ["d"], ["y"], "relu"),
        ],
        "net",
        [value("x", TensorProto.FLOAT, ["n", 4, 6, 4])],
        [value("y", TensorProto.FLOAT, ["n", 4, 6, 4])],
        [
            numpy_helper.from_array(one(4, 4, 1, 1), "w"),
            numpy_helper.from_array(one(*shape), "b"),
            numpy_helper.from_array(ints(1, -1, 1, 1), "as"),
        ],
    )
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    network = network_of(canonical(onnx.ModelProto.FromString(whole.SerializeToString())))
    assert sorted(dict(network.named_parameters())) == ["conv.bias", "conv.weight"]
    x = one(2, 4, 6, 4)
    with torch.no_grad():
        found = network(torch.from_numpy(x))["y"].numpy()
    assert np.allclose(found, ActivationRecorder(whole, ["y"]).run({"x": x})["y"], atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "slopes"), [((4, 1, 1), 4), ((1, 4, 1, 1), 4), ((1,), 1), ((), 1), ((4,), None), ((1, 1, 1, 4), None)]
)
def test_slopes_along_the_channels_are_a_layer_that_is_cut_with_them(
    shape: tuple[int, ...], slopes: int | None
) -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], "conv", kernel_shape=[1, 1]),
            helper.make_node("PRelu", ["c", "s"], ["y"], "prelu"),
        ],
        "net",
        [value("x", TensorProto.FLOAT, ["n", 4, 4, 4])],
        [value("y", TensorProto.FLOAT, ["n", 4, 4, 4])],
        [numpy_helper.from_array(one(4, 4, 1, 1), "w"), numpy_helper.from_array(one(*shape), "s")],
    )
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    network = network_of(canonical(onnx.ModelProto.FromString(whole.SerializeToString())))
    found = [module.num_parameters for module in network.modules() if isinstance(module, torch.nn.PReLU)]
    assert found == ([] if slopes is None else [slopes])
    x = one(2, 4, 4, 4)
    with torch.no_grad():
        given = network(torch.from_numpy(x))["y"].numpy()
    assert np.allclose(given, ActivationRecorder(whole, ["y"]).run({"x": x})["y"], atol=1e-5)


def test_a_vector_along_another_axis_is_no_bias(tmp_path: Path) -> None:
    """Four numbers along the last axis, which has as many places as there are channels."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], "conv", kernel_shape=[1, 1]),
            helper.make_node("Add", ["c", "b"], ["y"], "add"),
        ],
        "net",
        [value("x", TensorProto.FLOAT, ["n", 4, 4, 4])],
        [value("y", TensorProto.FLOAT, ["n", 4, 4, 4])],
        [numpy_helper.from_array(one(4, 4, 1, 1), "w"), numpy_helper.from_array(one(4), "b")],
    )
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    network = network_of(canonical(onnx.ModelProto.FromString(whole.SerializeToString())))
    assert "conv.bias" not in dict(network.named_parameters())
    x = one(2, 4, 4, 4)
    with torch.no_grad():
        found = network(torch.from_numpy(x))["y"].numpy()
    assert np.allclose(found, ActivationRecorder(whole, ["y"]).run({"x": x})["y"], atol=1e-5)


@pytest.mark.parametrize("name", ["lambda", "block/class/Conv", "None"])
def test_words_of_python_are_names_too(name: str, tmp_path: Path) -> None:
    """torch writes the names of modules into code when it traces them."""
    sides = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *IMAGE.shape[1:]]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", *"chw"]),
    ]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], name)],
        "g",
        sides[:1],
        sides[1:],
        [numpy_helper.from_array(KERNEL, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    made = load(OnnxParams(path="m.onnx", trainable=True), tmp_path, 0)
    assert isinstance(made, TorchModel)
    again = lower(made)
    wanted, found = (
        ActivationRecorder(model, ["y"]).run({"x": IMAGE})["y"]
        for model in (onnx.load(tmp_path / "m.onnx"), again.body)
    )
    assert np.allclose(wanted, found, atol=1e-5)
