"""quantize.weights on layers whose weights are no plain matrix: recurrent, stacked products, transposed convolutions."""

from itertools import product
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from support.weights import context

from compressctl.backends.dialects.weight_only import Form
from compressctl.backends.onnx_file import to_onnx
from compressctl.backends.onnxruntime import choose
from compressctl.core.backend import backends
from compressctl.core.model import OnnxModel, Signature, TensorSpec
from compressctl.core.registry import load
from compressctl.core.target import Target
from compressctl.graph.import_qdq import absorb
from compressctl.graph.opset import converted
from compressctl.graph.quantized import already_quantized
from compressctl.graph.weight_nodes import WeightNode
from compressctl.techniques.quantize.dynamic import apply as dynamic
from compressctl.techniques.quantize.params import DynamicParams, WeightOverride, WeightsParams
from compressctl.techniques.quantize.weights import apply

RNG = np.random.default_rng(0)
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
INPUTS, HIDDEN = 40, 24
"""40 columns are no multiple of a group's 32."""


def _weight(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array((RNG.standard_normal(shape) * 0.2).astype(np.float32), name)


def _recurrent(op: str, direction: str) -> OnnxModel:
    count, rows = (2 if direction == "bidirectional" else 1), GATES[op] * HIDDEN
    weights = [_weight("w", count, rows, INPUTS), _weight("r", count, rows, HIDDEN), _weight("b", count, 2 * rows)]
    node = helper.make_node(op, ["x", "w", "r", "b"], ["y"], "layer", hidden_size=HIDDEN, direction=direction)
    return _model(node, weights, [3, "N", INPUTS], [3, count, "N", HIDDEN])


def _model(
    node: onnx.NodeProto, weights: list[onnx.TensorProto], taken: list[int | str], made: list[int | str]
) -> OnnxModel:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, taken)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, made)
    graph = helper.make_graph([node], "g", [x], [y], weights)
    body = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    specs = (TensorSpec("x", "float32", tuple(taken)),), (TensorSpec("y", "float32", tuple(made)),)
    return OnnxModel(body, Signature(*specs))


MODELS = {
    **{f"{op} {way}": _recurrent(op, way) for op, way in product(GATES, ("forward", "bidirectional"))},
    "stacked": _model(
        helper.make_node("MatMul", ["x", "w"], ["y"], "layer"), [_weight("w", 3, 40, 32)], [3, 5, 40], [3, 5, 32]
    ),
    "transposed": _model(
        helper.make_node("ConvTranspose", ["x", "w"], ["y"], "layer", group=2, strides=[2, 2]),
        [_weight("w", 16, 12, 3, 3)],
        ["N", 16, 5, 5],
        ["N", 24, 11, 11],
    ),
}
SIZES = {"N": 2}


def _run(proto: onnx.ModelProto) -> np.ndarray:
    [taken] = proto.graph.input
    shape = [dim.dim_value or SIZES["N"] for dim in taken.type.tensor_type.shape.dim]
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("bits", "granularity"), [(8, "channel"), (8, "tensor"), (4, "group"), (3, "group"), (2, "channel")]
)
@pytest.mark.parametrize("name", MODELS)
def test_the_file_holds_codes_and_computes_with_them(
    tmp_path: Path, name: str, bits: int, granularity: str, backend: str
) -> None:
    model = MODELS[name]
    params = WeightsParams(bits=bits, granularity=granularity)  # type: ignore[arg-type]
    result = apply(model, params, context(None, tmp_path))
    written = to_onnx(result.model, Target(backend))
    onnx.checker.check_model(written, full_check=True)
    assert np.allclose(_run(written), _run(result.model.body), atol=1e-4)
    noise = _run(written) - _run(model.body)
    assert np.mean(noise**2) < {8: 1e-3, 4: 0.1, 3: 0.3, 2: 1.5}[bits] * np.mean(_run(model.body) ** 2)
    floats = sum(np.prod(tensor.dims) for tensor in model.body.graph.initializer if tensor.name != "b")
    bias = sum(np.prod(tensor.dims) for tensor in model.body.graph.initializer if tensor.name == "b")
    # Codes, the last group of each row filled up, and what a row's or a group's scale and zero point take.
    assert written.ByteSize() < 4 * floats * (0.32 if bits < 8 else 0.4) + 4 * bias + 3000
    assert not result.facts["untouched"]["layers"]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("bits", [4, 2])
@pytest.mark.parametrize("name", MODELS)
def test_scales_below_zero_are_computed_with_as_planned(tmp_path: Path, name: str, bits: int, backend: str) -> None:
    pytest.importorskip(backend)
    model, target = MODELS[name], Target(backend)
    result = apply(model, WeightsParams(bits=bits, symmetric=True), context(None, tmp_path, target))  # type: ignore[arg-type]
    assert result.model.quant is not None
    assert any(np.any(quant.scale < 0) for quant in result.model.quant.weights.values())
    runtime = load(backends.get(backend).implementation)
    artifact = runtime.build(result.model, target, tmp_path)
    [spec] = model.signature.inputs
    x = np.random.default_rng(1).standard_normal([size if isinstance(size, int) else SIZES["N"] for size in spec.shape])
    [found] = runtime.open(artifact, target).run({"x": x.astype(np.float32)}).values()
    assert np.allclose(found, _run(result.model.body), atol=1e-4)


def test_a_layer_that_stays_in_float_keeps_both_weights(tmp_path: Path) -> None:
    model = MODELS["LSTM forward"]
    both = _model(
        helper.make_node("LSTM", ["x", "w", "r", "b"], ["y"], "layer", hidden_size=HIDDEN),
        list(model.body.graph.initializer),
        [3, "N", INPUTS],
        [3, 1, "N", HIDDEN],
    )
    second = helper.make_node("MatMul", ["y", "m"], ["z"], "head")
    both.body.graph.node.append(second)
    both.body.graph.initializer.append(_weight("m", HIDDEN, 8))
    both.body.graph.output[0].CopyFrom(helper.make_tensor_value_info("z", TensorProto.FLOAT, [3, 1, "N", 8]))
    params = WeightsParams(overrides=(WeightOverride(match="layer", bits="float"),))
    result = apply(both, params, context(None, tmp_path))
    assert set(result.facts["left_in_float"]) == {"layer"}
    written = {tensor.name: tensor for tensor in to_onnx(result.model, Target("onnxruntime")).graph.initializer}
    for name in ("w", "r"):
        before = next(tensor for tensor in both.body.graph.initializer if tensor.name == name)
        assert np.array_equal(numpy_helper.to_array(written[name]), numpy_helper.to_array(before))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("shape", [(24, 70, 3), (24, 1, 80)])
def test_an_override_splits_a_convolutions_kernels_into_groups(
    tmp_path: Path, shape: tuple[int, ...], backend: str
) -> None:
    """Inputs of very different sizes: a scale for a whole kernel leaves nothing of the small ones."""
    node = helper.make_node("Conv", ["x", "w"], ["y"], "layer", pads=[1, 1])
    model = _model(node, [_weight("w", *shape)], ["N", shape[1], 90], ["N", 24, 92 - shape[2] + 1])
    [stored] = model.body.graph.initializer
    sizes = np.logspace(-3, 0, max(shape[1:])).astype(np.float32)
    values = numpy_helper.to_array(stored) * (sizes[:, None] if shape[1] > 1 else sizes)
    stored.CopyFrom(numpy_helper.from_array(values, "w"))
    found = {}
    for granularity in ("channel", "group"):
        override = WeightOverride(match="layer", granularity=granularity, group_size=32)  # type: ignore[arg-type]
        result = apply(model, WeightsParams(bits=8, overrides=(override,)), context(None, tmp_path))
        written = to_onnx(result.model, Target(backend))
        assert np.allclose(_run(written), _run(result.model.body), atol=1e-5)
        rounded = next(tensor for tensor in result.model.body.graph.initializer if tensor.name == "w")
        small = np.abs(numpy_helper.to_array(rounded) - values)[..., :8, :] if shape[1] > 1 else None
        small = np.abs(numpy_helper.to_array(rounded) - values)[..., :8] if small is None else small
        found[granularity] = float(small.max()), written.ByteSize()
    assert found["group"][0] < 0.1 * found["channel"][0]
    assert found["group"][1] < 0.4 * 4 * values.size + 2000


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("name", [name for name in MODELS if name.split()[0] in GATES])
@pytest.mark.parametrize("form", [Form.DYNAMIC, Form.AT_LOAD])
def test_dynamic_quantization_runs_an_lstm_on_integers(
    tmp_path: Path, name: str, per_channel: bool, form: Form
) -> None:
    model = MODELS[name]
    result = dynamic(model, DynamicParams(per_channel=per_channel), context(None, tmp_path))
    assert set(result.facts["recurrent_layers"]) == {"layer"}
    assert not result.facts["untouched"]["layers"]
    written = to_onnx(result.model, Target("onnxruntime"), {"layer": form})
    is_integer = name.startswith("LSTM") and form is Form.DYNAMIC
    assert ("DynamicQuantizeLSTM" in {node.op_type for node in written.graph.node}) == is_integer
    noise = _run(written) - _run(model.body)
    assert 0 < np.mean(noise**2) < 1e-3 * np.mean(_run(model.body) ** 2)
    assert written.ByteSize() < 0.4 * model.body.ByteSize() + 1000
    elsewhere = to_onnx(result.model, Target("openvino"))
    assert all(node.domain == "" for node in elsewhere.graph.node)
    assert np.allclose(_run(elsewhere), _run(to_onnx(result.model, Target("onnxruntime"), {"layer": Form.AT_LOAD})))


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_an_lstm_on_integers_is_read_back_as_the_plan(tmp_path: Path, direction: str) -> None:
    model = _recurrent("LSTM", direction)
    result = dynamic(model, DynamicParams(), context(None, tmp_path))
    written = converted(to_onnx(result.model, Target("onnxruntime"), {"layer": Form.DYNAMIC}), 21)
    assert {part.what for part in already_quantized(written)} == {"weight", "activation"}
    found = absorb(written)
    assert found.ignored == ()
    assert found.plan.dynamic == {"layer"}
    again = to_onnx(OnnxModel(found.model, model.signature, found.plan), Target("onnxruntime"), {})
    assert "DynamicQuantizeLSTM" in {node.op_type for node in again.graph.node}
    assert np.array_equal(_run(again), _run(written))


def test_an_lstm_runs_on_integers_only_where_that_is_not_slower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = dynamic(_recurrent("LSTM", "forward"), DynamicParams(), context(None, tmp_path))
    for seconds, form in (([1.0, 0.5, 1.0], Form.DYNAMIC), ([1.0, 1.2, 1.0], Form.AT_LOAD)):
        monkeypatch.setattr(choose, "_interleaved", lambda calls, seconds=seconds: seconds)
        forms, [words] = choose.choose_forms(result.model, Target("onnxruntime"))
        assert forms == {"layer": form}
        assert ("DynamicQuantizeLSTM" in words) == (form is Form.DYNAMIC)
    forms, [words] = choose.choose_forms(
        dynamic(_recurrent("GRU", "forward"), DynamicParams(), context(None, tmp_path)).model, Target("onnxruntime")
    )
    assert forms == {"layer": Form.AT_LOAD}
    assert "no integer kernel for GRU" in words


@given(
    shape=st.lists(st.integers(1, 4), min_size=2, max_size=5),
    transposed=st.booleans(),
    data=st.data(),
)
def test_a_weight_as_a_matrix_and_back(shape: list[int], transposed: bool, data: st.DataObject) -> None:
    stacked = data.draw(st.integers(0, len(shape) - 2))
    node = WeightNode("n", "Op", "w", "x", transposed, stacked=stacked)
    values = np.arange(np.prod(shape)).reshape(shape)
    matrix = node.matrix(values)
    assert matrix.shape[0] == np.prod(shape[:stacked]) * shape[node.row_axis]
    assert np.array_equal(node.stored(matrix, shape), values)
    row = [0] * stacked
    first = values[(*row, slice(None), 0)] if transposed else values[(*row, 0)]
    if len(shape) == stacked + 2:
        assert np.array_equal(matrix[0], first)
