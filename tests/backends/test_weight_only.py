"""Products with quantized weights alone: every form computes what the plan says, and the faster one is measured."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressctl.backends.dialects.weight_only import Form, dequantized, forms, weight_only_products
from compressctl.backends.onnx_file import to_onnx
from compressctl.backends.onnxruntime import BACKEND, choose, standing
from compressctl.backends.onnxruntime.choose import choose_forms
from compressctl.backends.params import OnnxRuntimeParams, OpenVinoParams
from compressctl.core.model import Model, OnnxModel, Signature, TensorSpec
from compressctl.core.quant import QuantPlan, TensorQuant
from compressctl.core.target import Target
from compressctl.graph.edit import GraphEditor
from compressctl.graph.import_qdq import absorb, is_quantized
from compressctl.graph.tensors import from_array

K, N = 160, 48
EXACT = (Form.NBITS, Form.QDQ, Form.AT_LOAD)
X = np.random.default_rng(5).normal(0, 1, (3, K)).astype(np.float32)


def _blocked(weight: np.ndarray, bits: int, block: int, *, asymmetric: bool) -> tuple[TensorQuant, np.ndarray]:
    """A plan entry for a (K, N) weight in blocks along K, and the weight's values under it, computed here in float64."""
    blocks = -(-weight.shape[0] // block)
    padded = np.zeros((blocks * block, weight.shape[1]))
    padded[: weight.shape[0]] = weight
    parts = padded.reshape(blocks, block, -1)
    if asymmetric:
        low, high = np.minimum(parts.min(1), 0), np.maximum(parts.max(1), 0)
        scale = ((high - low) / (2**bits - 1)).astype(np.float32)
        point, least, most = np.rint(-low / scale), 0, 2**bits - 1
    else:
        scale = (np.abs(parts).max(1) / max(2 ** (bits - 1) - 1, 1)).astype(np.float32)
        point, least, most = np.zeros(scale.shape), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    # Divided in float32, as the code does, so that halves round alike.
    codes = np.clip(np.rint(parts.astype(np.float32) / scale[:, None]) + point[:, None], least, most)
    values = ((codes - point[:, None]) * scale[:, None]).reshape(-1, weight.shape[1])[: weight.shape[0]]
    dtype = f"{'uint' if asymmetric else 'int'}{bits}"
    return TensorQuant(dtype, scale, point.astype(dtype), axis=0, block=block), values


def _model(quant: TensorQuant, weight: np.ndarray, op: str = "MatMul", bias: bool = False, opset: int = 17) -> Model:
    stored = weight.T if op == "Gemm" else weight
    if op == "Gemm":
        turned = {"scale": quant.scale.T, "zero_point": quant.zero_point.T, "axis": 1}
        quant = TensorQuant(**{**quant.__dict__, **turned})
    attributes = {"transB": 1} if op == "Gemm" else {}
    inputs = ["x", "w", "b"] if bias else ["x", "w"]
    tensors = {"w": stored, "b": np.linspace(-1, 1, N).astype(np.float32)}
    graph = helper.make_graph(
        [helper.make_node(op, inputs, ["p"], "product", **attributes), helper.make_node("Relu", ["p"], ["y"], "relu")],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", K])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", N])],
        [numpy_helper.from_array(np.ascontiguousarray(tensors[name]), name) for name in inputs[1:]],
    )
    body = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    signature = Signature((TensorSpec("x", "float32", ("batch", K)),), (TensorSpec("y", "float32", ("batch", N)),))
    return OnnxModel(body, signature, QuantPlan({}, {"w": quant}))


def _weight() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, (K, N)).astype(np.float32)


def _run(proto: onnx.ModelProto) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    # The runtime would round the activations of products behind a DequantizeLinear to 8 bits.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    return np.asarray(onnxruntime.InferenceSession(proto.SerializeToString(), options).run(None, {"x": X})[0])


@pytest.mark.parametrize("asymmetric", [True, False])
@pytest.mark.parametrize(
    ("bits", "block", "form"),
    # ONNX has no 2-bit tensors in the opset that we write.
    [
        *((2, 16, form) for form in (Form.NBITS, Form.AT_LOAD)),
        *((bits, block, form) for bits, block in ((4, 16), (4, 64), (8, 32)) for form in EXACT),
    ],
)
def test_each_form_computes_the_plans_numbers(bits: int, block: int, asymmetric: bool, form: Form) -> None:
    quant, values = _blocked(_weight(), bits, block, asymmetric=asymmetric)
    proto = to_onnx(_model(quant, _weight()), Target("onnxruntime"), {"product": form})
    onnx.checker.check_model(proto)
    kinds = [node.op_type for node in proto.graph.node]
    assert ("MatMulNBits" in kinds, "DequantizeLinear" in kinds) == (form is Form.NBITS, form is Form.QDQ)
    assert np.allclose(_run(proto), np.maximum(X.astype(np.float64) @ values, 0), atol=1e-4)
    stored = sum(len(tensor.raw_data) for tensor in proto.graph.initializer)
    assert stored < K * N * bits / 8 + 6 * N * -(-K // block) + N * block


@pytest.mark.parametrize("form", EXACT)
def test_a_transposed_gemm_keeps_its_bias(form: Form) -> None:
    quant, values = _blocked(_weight(), 4, 32, asymmetric=True)
    proto = to_onnx(_model(quant, _weight(), "Gemm", bias=True), Target("onnxruntime"), {"product": form})
    wanted = np.maximum(X.astype(np.float64) @ values + np.linspace(-1, 1, N), 0)
    assert np.allclose(_run(proto), wanted, atol=1e-4)


def test_scales_per_channel_are_packed_in_blocks_of_their_own_choice() -> None:
    weight = _weight()
    scale = (np.abs(weight).max(axis=0) / 127).astype(np.float32)
    quant = TensorQuant("int8", scale, np.zeros(N, np.int8), axis=1)
    wanted = np.maximum(X.astype(np.float64) @ (np.rint(weight / scale) * scale), 0)
    for form in EXACT:
        proto = to_onnx(_model(quant, weight), Target("onnxruntime"), {"product": form})
        assert np.allclose(_run(proto), wanted, atol=1e-4)


def test_what_a_form_cannot_hold_is_not_offered() -> None:
    def offered(bits: int, block: int) -> list[Form]:
        quant, _ = _blocked(_weight(), bits, block, asymmetric=False)
        model = _model(quant, _weight())
        return forms(weight_only_products(model.body.graph, model.quant)[0], K, Target("onnxruntime"))

    assert offered(2, 32) == [Form.NBITS, Form.NBITS_INT8, Form.AT_LOAD]
    assert offered(4, 32) == [Form.NBITS, Form.NBITS_INT8, Form.QDQ, Form.AT_LOAD]
    assert offered(4, 8) == offered(4, 24) == [Form.QDQ, Form.AT_LOAD]


def test_onnxruntime_multiplies_with_the_stored_codes_whatever_the_form(tmp_path: Path) -> None:
    """A DequantizeLinear in the layout that ONNX Runtime does not know is computed in float, without a word."""
    quant, _ = _blocked(_weight(), 4, 32, asymmetric=False)
    for form in ("matmul_nbits", "qdq"):
        (tmp_path / form).mkdir()
        target = Target("onnxruntime", options=OnnxRuntimeParams(weight_form=form).model_dump(mode="json"))
        artifact = BACKEND.build(_model(quant, _weight(), "Gemm", bias=True), target, tmp_path / form)
        nodes = {node.op: node for node in BACKEND.explain(artifact, target)}
        assert nodes["MatMulNBits"].macs == K * N
        assert nodes["MatMulNBits"].precision == "int8"
        assert not {"MatMul", "Gemm", "DequantizeLinear"} & set(nodes)
        assert BACKEND.weights(artifact)[0].elements == K * N


def test_what_shall_stay_small_is_not_unpacked_at_load_whatever_the_clock_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "_interleaved", lambda calls: [*[100.0] * (len(calls) - 1), 1.0])
    quant, _ = _blocked(_weight(), 4, 32, asymmetric=False)
    model = _model(quant, _weight())
    assert choose_forms(model, Target("onnxruntime"))[0] == {"product": Form.AT_LOAD}
    assert choose_forms(model, Target("onnxruntime"), stays_small=True)[0] != {"product": Form.AT_LOAD}


def test_the_form_is_chosen_by_measurement_and_said() -> None:
    quant, _ = _blocked(_weight(), 8, 32, asymmetric=False)
    rounded, notes = choose_forms(_model(quant, _weight()), Target("onnxruntime"))
    assert f"{K} x {N} int8 weights (MatMul, Relu) are" in notes[0]
    assert "the speed of float weights at 1 rows" in notes[0]
    assert rounded["product"] in Form
    exact = OnnxRuntimeParams(integer_activations=False).model_dump(mode="json")
    kept, notes = choose_forms(_model(quant, _weight()), Target("onnxruntime", options=exact))
    assert kept["product"] in (Form.NBITS, Form.AT_LOAD)
    assert "rounded" not in notes[0]


def test_forms_are_timed_with_what_the_runtime_fuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Gemm that a Relu follows becomes one node, behind which ONNX Runtime no longer sees a DequantizeLinear's product."""
    timed: list[list[str]] = []

    def recorded(calls: Sequence[Callable[[], object]]) -> list[float]:
        return [1.0] * len(calls)

    opened = choose.open_graph

    def opening(model: onnx.ModelProto, *rest: object) -> object:
        timed.append([node.op_type for node in model.graph.node])
        return opened(model, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(choose, "_interleaved", recorded)
    monkeypatch.setattr(choose, "open_graph", opening)
    quant, _ = _blocked(_weight(), 8, 32, asymmetric=False)
    _, [note] = choose_forms(_model(quant, _weight(), "Gemm", bias=True), Target("onnxruntime"))
    assert timed[0] == ["Gemm", "Relu"]
    assert timed[1] == timed[2] == ["MatMulNBits", "Add", "Relu"]
    assert timed[3] == ["DequantizeLinear", "Gemm", "Relu"]
    assert timed[4][-2:] == ["Gemm", "Relu"]
    assert f"{K} x {N} int8 weights (Gemm, Relu)" in note


@pytest.mark.parametrize(
    ("seconds", "form"),
    [
        ([1.0, 1.2, 1.3, 1.5, 1.0], Form.AT_LOAD),
        ([1.0, 1.2, 1.02, 1.5, 1.0], Form.NBITS_INT8),
        ([1.0, 1.2, 0.6, 0.5, 1.0], Form.QDQ),
    ],
)
def test_no_form_is_taken_that_is_slower_than_floats(
    monkeypatch: pytest.MonkeyPatch, seconds: list[float], form: Form
) -> None:
    """seconds: of floats, then of each form."""
    monkeypatch.setattr(choose, "_interleaved", lambda calls: seconds)
    quant, _ = _blocked(_weight(), 8, 32, asymmetric=False)
    chosen, _ = choose_forms(_model(quant, _weight()), Target("onnxruntime"))
    assert chosen == {"product": form}


@pytest.mark.parametrize("op", ["MatMul", "Gemm"])
@pytest.mark.parametrize("layout", ["blocks of inputs", "per output", "one scale", "per input"])
def test_of_a_very_large_product_the_first_outputs_are_timed(
    monkeypatch: pytest.MonkeyPatch, op: str, layout: str
) -> None:
    """With the numbers that they have in the whole one, bias and all."""
    wide, kept = 3 * 64, 64
    monkeypatch.setattr(standing, "TIMED_NUMBERS", K * (kept + 1))
    weight = np.random.default_rng(0).normal(0, 0.1, (K, wide)).astype(np.float32)
    spread = {"per output": 0, "one scale": None, "per input": 1}
    if layout == "blocks of inputs":
        quant, _ = _blocked(weight, 4, 32, asymmetric=True)
    else:
        scale = np.asarray(np.abs(weight).max(axis=spread[layout]) / 127, np.float32)
        axis = {"per output": 1, "one scale": None, "per input": 0}[layout]
        quant = TensorQuant("int8", scale, np.zeros(scale.shape, np.int8), axis=axis)
    stored, bias = weight, np.linspace(-1, 1, wide).astype(np.float32)
    if op == "Gemm":
        turned = 1 - quant.axis if quant.axis is not None else None
        stored, quant = (
            weight.T,
            TensorQuant(**{**quant.__dict__, "scale": quant.scale.T, "zero_point": quant.zero_point.T, "axis": turned}),
        )
    nodes = (
        helper.make_node(op, ["x", "w"], ["p"], "product", **({"transB": 1} if op == "Gemm" else {})),
        helper.make_node("Add", ["p", "b"], ["q"], "bias"),
        helper.make_node("Mul", ["q", "c"], ["y"], "scaled"),
    )
    tensors = {"w": np.ascontiguousarray(stored), "b": bias[None], "c": np.float32(2)}
    whole = standing.Standing(nodes, {name: from_array(one, name) for name, one in tensors.items()}, "w", quant)
    part = standing.timed_part(whole)
    assert (whole.shape, part.shape) == ((K, wide), (K, kept))
    target = Target("onnxruntime")
    first, second = (_run(to_onnx(replace(each.alone(target), quant=None), target)) for each in (whole, part))
    assert np.allclose(first[:, :kept], second, atol=1e-5)


def test_nothing_is_measured_where_nothing_is_to_choose() -> None:
    quant, _ = _blocked(_weight(), 4, 32, asymmetric=False)
    model = _model(quant, _weight())
    floats = OnnxModel(model.body, model.signature, QuantPlan({}, {"w": quant}, {"product": "asked"}))
    assert choose_forms(floats, Target("onnxruntime")) == ({}, ())
    assert [node.op_type for node in to_onnx(floats, Target("onnxruntime")).graph.node] == ["MatMul", "Relu"]


@pytest.mark.parametrize("form", [Form.NBITS, Form.QDQ])
@pytest.mark.parametrize(("bits", "asymmetric"), [(4, True), (4, False), (8, False)])
def test_each_form_is_read_back_as_the_plan(bits: int, asymmetric: bool, form: Form) -> None:
    quant, values = _blocked(_weight(), bits, 32, asymmetric=asymmetric)
    written = to_onnx(_model(quant, _weight(), "Gemm", bias=True), Target("onnxruntime"), {"product": form})
    assert is_quantized(written)
    found = absorb(written)
    assert found.ignored == ()
    assert not is_quantized(found.model)
    (back,) = found.plan.weights.values()
    assert (back.dtype, back.axis, back.block) == (quant.dtype, 0, 32)
    assert np.array_equal(back.scale, quant.scale)
    assert np.array_equal(back.zero_point.astype(int), quant.zero_point.astype(int))
    stored = max(found.model.graph.initializer, key=lambda tensor: np.prod(tensor.dims))
    assert np.allclose(numpy_helper.to_array(stored), values, atol=1e-6)
    assert np.allclose(_run(found.model), _run(written), atol=1e-4)


def test_onnxruntimes_own_four_bit_quantizer_is_understood(tmp_path: Path) -> None:
    matmul_nbits = pytest.importorskip("onnxruntime.quantization.matmul_nbits_quantizer")
    quant, _ = _blocked(_weight(), 4, 32, asymmetric=False)
    theirs = matmul_nbits.MatMulNBitsQuantizer(_model(quant, _weight()).body, block_size=32, is_symmetric=False)
    theirs.process()
    found = absorb(theirs.model.model)
    assert found.ignored == ()
    (back,) = found.plan.weights.values()
    assert (back.dtype, back.block) == ("uint4", 32)
    assert np.allclose(_run(found.model), _run(theirs.model.model), atol=1e-4)


@pytest.mark.parametrize(("bits", "dtype"), [(2, "uint2"), (4, "uint4"), (8, "int8")])
def test_openvino_keeps_the_weights_compressed(tmp_path: Path, bits: int, dtype: str) -> None:
    pytest.importorskip("openvino")
    from compressctl.backends.openvino import BACKEND as OPENVINO

    quant, values = _blocked(_weight(), bits, 32, asymmetric=bits == 4)
    target = Target("openvino", options=OpenVinoParams(integer_activations=False).model_dump(mode="json"))
    artifact = OPENVINO.build(_model(quant, _weight()), target, tmp_path)
    assert dtype in {entry.dtype for entry in OPENVINO.weights(artifact)}
    wanted = np.maximum(X.astype(np.float64) @ values, 0)
    assert np.allclose(OPENVINO.open(artifact, target).run({"x": X})["y"], wanted, atol=1e-4)
    product = next(node for node in OPENVINO.explain(artifact, target) if node.macs)
    assert (product.op, product.precision, product.rule) == ("FullyConnected", "float32", None)
    rounded = Target("openvino")
    assert next(node for node in OPENVINO.explain(artifact, rounded) if node.macs).precision == "int8"


@pytest.mark.parametrize("precision", ["float16", "float32"])
@pytest.mark.parametrize("op", ["MatMul", "Gemm"])
def test_tensorrt_gets_symmetric_blocks_of_a_size_that_it_takes(tmp_path: Path, op: str, precision: str) -> None:
    weight = np.random.default_rng(0).normal(0, 0.1, (192, N)).astype(np.float32)
    quant, values = _blocked(weight, 4, 64, asymmetric=False)
    proto, notes, found = _for_tensorrt(_wide(quant, weight, op), precision, tmp_path)
    assert len(notes) == 1
    dequantize = next(node for node in proto.graph.node if node.op_type == "DequantizeLinear")
    facts = {entry.name: entry.i for entry in dequantize.attribute}
    assert facts == {"axis": 1 if op == "Gemm" else 0, "block_size": 64}
    assert next(tensor for tensor in proto.graph.initializer if tensor.name == "w_codes").data_type == TensorProto.INT4
    wanted = np.maximum(_wide_inputs().astype(np.float64) @ values, 0)
    # A scale that float16 holds moves codes that stand at a half.
    assert np.sqrt(np.mean((found - wanted) ** 2)) < (0.02 if precision == "float16" else 1e-5)


def test_tensorrt_says_which_weights_were_rounded_again_or_left_in_float(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(0, 0.1, (192, N)).astype(np.float32)
    for bits, block, says in ((4, 32, "rounded again"), (8, 32, "stored in float"), (2, 32, "stored in float")):
        quant, values = _blocked(weight, bits, block, asymmetric=True)
        _, notes, found = _for_tensorrt(_wide(quant, weight, "Gemm"), "float32", tmp_path)
        assert says in notes[1]
        wanted = np.maximum(_wide_inputs().astype(np.float64) @ (values if bits == 4 else weight), 0)
        assert np.sqrt(np.mean((found - wanted) ** 2)) < 0.12 * np.sqrt(np.mean(wanted**2))


def _wide(quant: TensorQuant, weight: np.ndarray, op: str) -> Model:
    model = _model(quant, weight, op)
    model.body.graph.input[0].type.tensor_type.shape.dim[1].dim_value = len(weight)
    inputs = (TensorSpec("x", "float32", ("batch", len(weight))),)
    return OnnxModel(model.body, Signature(inputs, model.signature.outputs), model.quant)


def _wide_inputs() -> np.ndarray:
    return np.random.default_rng(6).normal(0, 1, (3, 192)).astype(np.float32)


def _for_tensorrt(model: Model, precision: str, folder: Path) -> tuple[onnx.ModelProto, tuple[str, ...], np.ndarray]:
    from compressctl.backends.tensorrt import BACKEND as TENSORRT
    from compressctl.backends.tensorrt.rules import lint

    target = Target("tensorrt", options={"precision": precision})
    artifact = TENSORRT.build(model, target, folder)
    proto = onnx.load(artifact.path)
    assert lint(proto) == []
    return proto, artifact.notes, TENSORRT.open(artifact, target).run({"x": _wide_inputs()})["y"]


@pytest.mark.parametrize(("bits", "is_kept"), [(4, False), (8, True)])
def test_zero_points_that_are_all_0_are_written_where_they_cost_nothing(bits: int, is_kept: bool) -> None:
    """ONNX Runtime's exact sums (`session.x64quantprecision`) need those of 8 bits, on processors without VNNI only: asked everywhere."""
    quant, _ = _blocked(np.ones((K, N)), bits, 32, asymmetric=False)
    node = dequantized(("w",), np.zeros((K, N), f"int{bits}"), quant, "y", GraphEditor(onnx.GraphProto()))
    assert (len(node.input) == 3) is is_kept


def _signed(weight: np.ndarray, bits: int, block: int) -> tuple[TensorQuant, np.ndarray]:
    """Blocks whose largest value stands on the lowest code, as ONNX Runtime's builder writes them, and the weight's values, in float64."""
    parts = weight.reshape(-1, block, weight.shape[1])
    low = -(1 << (bits - 1))
    extreme = np.take_along_axis(parts, np.abs(parts).argmax(1)[:, None], 1)[:, 0]
    scale = (extreme / low).astype(np.float32)
    codes = np.clip(np.rint(parts / scale[:, None]), low, -low - 1)
    values = (codes * scale[:, None].astype(np.float64)).reshape(weight.shape)
    assert 0.3 < np.mean(scale < 0) < 0.7
    return TensorQuant(f"int{bits}", scale, np.zeros(scale.shape, f"int{bits}"), axis=0, block=block), values


@pytest.mark.parametrize(
    ("bits", "form"), [(2, Form.NBITS), (2, Form.AT_LOAD), *((4, form) for form in (*EXACT, Form.NBITS_INT8))]
)
def test_every_form_takes_scales_below_zero(bits: int, form: Form) -> None:
    quant, values = _signed(_weight(), bits, 32)
    proto = to_onnx(_model(quant, _weight()), Target("onnxruntime"), {"product": form})
    wanted = np.maximum(X.astype(np.float64) @ values, 0)
    error = np.sqrt(np.mean((_run(proto) - wanted) ** 2) / np.mean(wanted**2))
    assert error < (0.02 if form is Form.NBITS_INT8 else 1e-5)


@pytest.mark.parametrize("form", [Form.NBITS, Form.QDQ])
def test_scales_below_zero_are_read_back(form: Form) -> None:
    quant, _ = _signed(_weight(), 4, 32)
    proto = to_onnx(_model(quant, _weight()), Target("onnxruntime"), {"product": form})
    (back,) = absorb(proto).plan.weights.values()
    scale = back.scale if back.axis == 0 else back.scale.T
    assert np.array_equal(scale, quant.scale)


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("integer_activations", [False, True])
def test_openvino_takes_scales_below_zero(tmp_path: Path, bits: int, integer_activations: bool) -> None:
    pytest.importorskip("openvino")
    from compressctl.backends.openvino import BACKEND as OPENVINO

    quant, values = _signed(_weight(), bits, 32)
    options = OpenVinoParams(integer_activations=integer_activations).model_dump(mode="json")
    target = Target("openvino", options=options)
    artifact = OPENVINO.build(_model(quant, _weight()), target, tmp_path)
    wanted = np.maximum(X.astype(np.float64) @ values, 0)
    found = OPENVINO.open(artifact, target).run({"x": X})["y"]
    error = np.sqrt(np.mean((found - wanted) ** 2) / np.mean(wanted**2))
    assert error < (0.02 if integer_activations else 1e-5)


@pytest.mark.parametrize("precision", ["float16", "float32"])
def test_tensorrt_gets_scales_above_zero_alone(tmp_path: Path, precision: str) -> None:
    weight = np.random.default_rng(0).normal(0, 0.1, (192, N)).astype(np.float32)
    quant, values = _signed(weight, 4, 64)
    proto, notes, found = _for_tensorrt(_wide(quant, weight, "MatMul"), precision, tmp_path)
    assert "with scales above zero" in notes[1]
    scale = next(tensor for tensor in proto.graph.initializer if tensor.name == "w_scale")
    assert np.all(numpy_helper.to_array(scale) > 0)
    wanted = np.maximum(_wide_inputs().astype(np.float64) @ values, 0)
    assert np.sqrt(np.mean((found - wanted) ** 2)) < 0.06 * np.sqrt(np.mean(wanted**2))
