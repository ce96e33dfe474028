"""Files whose weights are integers already: seen, said, and never rounded again without a word."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static
from support.tied import WIDTH, Samples, Step, decibels, run, samples, tied_model
from support.weights import context

from compressctl.backends.dialects.weight_only import Form as WeightForm
from compressctl.backends.onnx_file import to_onnx
from compressctl.core.errors import StageError
from compressctl.core.events import Events
from compressctl.core.model import Model
from compressctl.core.registry import load
from compressctl.core.target import Target
from compressctl.core.technique import StageResult, techniques
from compressctl.graph.cast_weights import as_dequantized, cast_weights
from compressctl.graph.codes import weight_codes
from compressctl.graph.quantized import already_quantized
from compressctl.graph.simplify import simplify

VNNI = Target("onnxruntime", profile="x86-vnni")
FLOAT = [Step("matmul", 0, relu=True), Step("gemm", 1, bias=True), Step("conv_groups", 0)]
STAGES = {
    "quantize.static": {},
    "quantize.dynamic": {},
    "quantize.weights": {"bits": 8},
    "quantize.mixed": {"size": 0.9, "sensitivity": "hessian", "probes": 1, "samples": 8},
    "share.kmeans": {"clusters": 256},
    "prune.unstructured": {"sparsity": 0.05, "first_and_last": "prune"},
    "factorize.svd": {"rank": 15},
    "cast": {"scope": "weights"},
}


def _applied(use: str, model: Model, folder: Path, target: Target = VNNI) -> tuple[StageResult, list[str]]:
    spec, said = techniques.get(use), []
    events = Events(lambda event: said.append(str(event.fields.get("message", ""))))
    run_context = replace(context(Samples(samples(model)), folder, target), events=events)
    return load(spec.implementation)(model, spec.params.model_validate(STAGES[use]), run_context), said


def _constants(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def _with_integers(model: Model, weight: str, how: Callable[[str, np.ndarray], tuple[list, dict]]) -> Model:
    """One weight of a float model as integers. how: gives the nodes and constants that make it of them."""
    body = onnx.ModelProto()
    body.CopyFrom(model.body)
    values = _constants(body)[weight]
    nodes, constants = how(weight, values)
    kept = [tensor for tensor in body.graph.initializer if tensor.name != weight]
    old = list(body.graph.node)
    del body.graph.initializer[:], body.graph.node[:]
    body.graph.node.extend([*nodes, *old])
    body.graph.initializer.extend([*kept, *(numpy_helper.from_array(value, name) for name, value in constants.items())])
    body.opset_import[0].version = 21
    body.ir_version = 10
    onnx.checker.check_model(body, full_check=True)
    return replace(model, body=body)


def _cast(dtype: str, axis: int | None, point: int, *, swapped: bool = False) -> Callable[[str, np.ndarray], tuple]:
    """(codes - point) * scale in plain operators."""

    def made(name: str, values: np.ndarray) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
        others = tuple(other for other in range(values.ndim) if other != axis)
        scale = np.abs(values).max(axis=others if axis is not None else None, keepdims=True) / 100
        scale = np.maximum(scale, 1e-6).astype(np.float32)
        codes = np.rint(values / scale).astype(np.int32) + point
        factors = ["c_s", "c_f"] if point else ["c_s", "c_c"]
        nodes = [helper.make_node("Cast", ["c_q"], ["c_c"], "cast", to=TensorProto.FLOAT)]
        constants = {"c_q": codes.astype(dtype), "c_s": scale}
        if point:
            nodes.append(helper.make_node("Sub", ["c_c", "c_z"], ["c_f"], "sub"))
            constants["c_z"] = np.asarray(point, np.float32)
        nodes.append(helper.make_node("Mul", factors if swapped else factors[::-1], [name], "mul"))
        return nodes, constants

    return made


def _dequantized(dtype: str, axis: int) -> Callable[[str, np.ndarray], tuple]:
    def made(name: str, values: np.ndarray) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
        largest = 7 if dtype == "int4" else 127
        others = tuple(other for other in range(values.ndim) if other != axis)
        scale = (np.abs(values).max(axis=others) / largest).astype(np.float32)
        shape = [-1 if other == axis else 1 for other in range(values.ndim)]
        stored = helper.tensor_dtype_to_np_dtype(TensorProto.DataType.Value(dtype.upper()))
        codes = np.rint(values / scale.reshape(shape)).astype(stored)
        node = helper.make_node("DequantizeLinear", ["c_q", "c_s"], [name], "dequantize", axis=axis)
        return [node], {"c_q": codes, "c_s": scale}

    return made


WEIGHTS_ALONE = {
    "cast": ("w0", _cast("int8", 1, 0)),
    "cast-swapped": ("w0", _cast("int8", None, 0, swapped=True)),
    "cast-sub": ("w0", _cast("uint8", 1, 128)),
    "cast-convolution": ("k0", _cast("int8", 0, 0)),
    "int8": ("w0", _dequantized("int8", 1)),
    "int8-inputs": ("w0", _dequantized("int8", 0)),
    "int4": ("w0", _dequantized("int4", 1)),
    "int8-convolution": ("k0", _dequantized("int8", 0)),
}


@pytest.mark.parametrize("use", [use for use in STAGES if use != "quantize.mixed"])
@pytest.mark.parametrize("kind", WEIGHTS_ALONE)
def test_weights_that_are_integers_keep_their_codes(use: str, kind: str, tmp_path: Path) -> None:
    weight, how = WEIGHTS_ALONE[kind]
    model = _with_integers(tied_model(FLOAT), weight, how)
    codes = _constants(model.body)["c_q"].astype(np.int32)
    assert "c_q" in " ".join(map(str, already_quantized(model.body)))
    result, said = _applied(use, model, tmp_path)
    assert any(text.startswith("already quantized: 1 weight in") and "c_q" in text for text in said)
    assert any("c_q" in text for text in result.facts["already_quantized"])
    assert "rounded_again" not in result.facts
    written = to_onnx(result.model, VNNI)
    onnx.checker.check_model(written)
    inputs = samples(model, seed=2)
    assert decibels(run(model.body, inputs), run(written, inputs)) >= (10 if use == "prune.unstructured" else 20)
    found = [value.astype(np.int32) for value in _constants(written).values() if value.shape == codes.shape]
    point = 128 if kind == "cast-sub" else 0
    assert any(np.array_equal(value, codes) or np.array_equal(value, codes - point) for value in found)


def test_codes_that_overflow_without_vnni_are_rounded_again_with_the_reason(tmp_path: Path) -> None:
    model = _with_integers(tied_model(FLOAT), "w0", _dequantized("int8", 1))
    for use in ("quantize.static", "quantize.dynamic"):
        result, said = _applied(use, model, tmp_path, Target("onnxruntime", profile="x86-avx2"))
        assert result.facts["rounded_again"] == {"w0": "so that no two products overflow without VNNI"}
        assert "w0 was quantized before and is rounded again, so that no two products overflow without VNNI" in said


def test_scales_that_move_into_a_quantized_weight_are_said_to_round_it_again(tmp_path: Path) -> None:
    steps = [Step("conv_groups", 0), Step("gemm", 0, relu=True), Step("gemm", 1)]
    model = _with_integers(tied_model(steps), "w1", _dequantized("int8", 1))
    spec = techniques.get("quantize.static")
    run_context = context(Samples(samples(model)), tmp_path, VNNI)
    result = load(spec.implementation)(model, spec.params.model_validate({"equalize": True}), run_context)
    assert result.facts["rounded_again"] == {"w1": "since equalize or smooth moved scales into it"}


def test_mixed_widths_need_float_weights(tmp_path: Path) -> None:
    model = _with_integers(tied_model(FLOAT), "w0", _dequantized("int8", 1))
    with pytest.raises(StageError, match="w0: quantized before"):
        _applied("quantize.mixed", model, tmp_path)


@pytest.mark.parametrize("use", STAGES)
@pytest.mark.parametrize("first", ["quantize.static", "quantize.dynamic"])
def test_a_second_stage_after_one_that_quantized_activations_is_refused(use: str, first: str, tmp_path: Path) -> None:
    """Recipes are refused before that; this is for whoever calls techniques himself."""
    if use == "cast":
        return  # the cast is of what is stored, whatever is planned for it
    once, _ = _applied(first, tied_model(FLOAT), tmp_path)
    with pytest.raises(StageError, match="already quantized"):
        _applied(use, once.model, tmp_path)


def test_weights_rounded_by_an_earlier_stage_serve_the_next(tmp_path: Path) -> None:
    spec, model = techniques.get("quantize.weights"), tied_model(FLOAT[:2])
    params = spec.params.model_validate({"bits": 8, "granularity": "channel"})
    once = load(spec.implementation)(model, params, context(None, tmp_path, VNNI))
    twice, said = _applied("quantize.static", once.model, tmp_path)
    assert any("by an earlier stage" in text and "keep their codes" in text for text in said)
    assert once.model.quant is not None
    assert twice.model.quant is not None
    for name, quant in once.model.quant.weights.items():
        assert np.array_equal(twice.model.quant.weights[name].scale, quant.scale)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(
    ("use", "weight"),
    [
        *(("quantize.static", weight) for weight in ("w0", "w1", "k0")),
        ("quantize.dynamic", "w0"),
        ("quantize.dynamic", "w1"),
    ],
)
def test_a_layer_that_a_later_stage_leaves_in_float_keeps_the_codes_of_an_earlier_one(
    use: str, weight: str, bits: int, tmp_path: Path
) -> None:
    """It was stored in float, and a layer by itself in 8 bits of weights alone took four times what it was foretold to."""
    model, spec = tied_model(FLOAT), techniques.get("quantize.weights")
    node = next(one.name for one in model.body.graph.node if weight in one.input)
    rounding = {"bits": bits, "granularity": "channel" if bits == 8 else "group", "group_size": 16}
    alone = [{"match": "*", "bits": "float"}, {"match": node, "bits": bits}]
    once = load(spec.implementation)(
        model, spec.params.model_validate({**rounding, "overrides": alone}), context(None, tmp_path, VNNI)
    )
    assert once.model.quant is not None
    codes = weight_codes(_constants(once.model.body)[weight], once.model.quant.weights[weight]).astype(np.int32)

    second = techniques.get(use)
    params = second.params.model_validate({**STAGES[use], "overrides": [{"match": node, "weights": "float"}]})
    twice = load(second.implementation)(once.model, params, context(Samples(samples(model)), tmp_path, VNNI))
    assert twice.model.quant is not None
    assert node in twice.model.quant.float_nodes
    assert node in twice.model.quant.weights_alone
    for target in (VNNI, Target("openvino")):
        written = to_onnx(twice.model, target)
        assert weight not in _constants(written)
        onnx.checker.check_model(written)
        same = [
            value for value in _constants(written).values() if value.astype(np.int32).reshape(-1).size == codes.size
        ]
        assert any(
            np.array_equal(np.sort(value.astype(np.int32).reshape(-1)), np.sort(codes.reshape(-1))) for value in same
        )
    inputs = samples(model, seed=2)
    assert decibels(run(twice.model.body, inputs), run(to_onnx(twice.model, VNNI), inputs)) >= 20


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, inputs: dict[str, np.ndarray]) -> None:
        self._left = [inputs]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self._left.pop() if self._left else None


def _by_onnxruntime(folder: Path, model: Model, how: str) -> Model:
    source, made = folder / "float.onnx", folder / "quantized.onnx"
    onnx.save(model.body, source)
    if how == "dynamic":
        quantize_dynamic(source, made)
    else:
        form = QuantFormat.QDQ if how == "qdq" else QuantFormat.QOperator
        quantize_static(source, made, _Reader(samples(model)), quant_format=form, per_channel=True)
    return replace(model, body=onnx.load(made))


def _packed(folder: Path, model: Model, how: str) -> Model:
    rounded, _ = _applied("quantize.weights", model, folder)
    forms = {node.name: WeightForm.NBITS for node in rounded.model.body.graph.node}
    return replace(model, body=to_onnx(rounded.model, VNNI, forms))


QUANTIZED = {
    "qdq": (_by_onnxruntime, "DequantizeLinear"),
    "qoperator": (_by_onnxruntime, "QLinear"),
    "dynamic": (_by_onnxruntime, "MatMulInteger"),
    "packed": (_packed, "MatMulNBits"),
}


@pytest.mark.parametrize("use", STAGES)
@pytest.mark.parametrize("how", QUANTIZED)
def test_files_of_other_quantizers_are_named_and_left_alone(use: str, how: str, tmp_path: Path) -> None:
    make, operator = QUANTIZED[how]
    model = make(tmp_path, tied_model(FLOAT[:2]), how)
    assert operator in " ".join(map(str, already_quantized(model.body)))
    before = _constants(model.body)
    try:
        result, said = _applied(use, model, tmp_path)
    except StageError as error:
        assert "already quantized" in f"{error.message} {error.hint}"  # noqa: PT017
        return
    assert any(text.startswith("already quantized") for text in said)
    written = to_onnx(result.model, VNNI)
    onnx.checker.check_model(written)
    inputs = samples(model, seed=2)
    assert decibels(run(model.body, inputs), run(written, inputs)) >= 30
    after = [value.astype(np.int32) for value in _constants(written).values() if value.dtype.kind in "iu"]
    for name, value in before.items():
        if value.dtype in (np.int8, np.uint8) and value.size >= WIDTH * WIDTH:
            assert any(np.array_equal(value.astype(np.int32), other) for other in after), name


@settings(max_examples=60)
@given(
    dtype=st.sampled_from(["int8", "uint8"]),
    axis=st.sampled_from([None, 0, 1]),
    offset=st.integers(0, 20),
    swapped=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_one_node_says_what_cast_sub_and_mul_say_bit_for_bit(
    dtype: str, axis: int | None, offset: int, swapped: bool, seed: int
) -> None:
    point = 118 + offset if dtype == "uint8" else offset
    how = _cast(dtype, axis, point, swapped=swapped)
    model = _with_integers(tied_model([Step("matmul", 0)], seed), "w0", how)
    said = as_dequantized(model.body)
    assert [node.op_type for node in said.graph.node][:1] == ["DequantizeLinear"]
    assert not cast_weights(said.graph)
    inputs = samples(model, seed)
    assert np.array_equal(run(said, inputs), run(model.body, inputs))
    assert "c_q" in _constants(simplify(model.body))


def test_what_has_no_plain_meaning_stays_as_it_is() -> None:
    """A zero point between two codes, scales along two axes, an old opset: named, and not changed."""

    def odd(name: str, values: np.ndarray) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
        nodes, constants = _cast("uint8", 1, 128)(name, values)
        return nodes, {**constants, "c_z": np.asarray(127.5, np.float32)}

    def two(name: str, values: np.ndarray) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
        nodes, constants = _cast("int8", 1, 0)(name, values)
        return nodes, {**constants, "c_s": np.full(values.shape, 0.01, np.float32)}

    for how in (odd, two):
        model = _with_integers(tied_model([Step("matmul", 0)]), "w0", how)
        assert as_dequantized(model.body) is model.body
        assert "c_q" in " ".join(map(str, already_quantized(model.body)))
    old = _with_integers(tied_model([Step("matmul", 0)]), "w0", _cast("int8", 1, 0))
    old.body.opset_import[0].version = 12
    assert as_dequantized(old.body) is old.body


def test_folded_codes_are_said_to_be_open_to_rounding(tmp_path: Path) -> None:
    def odd(name: str, values: np.ndarray) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
        nodes, constants = _cast("uint8", 1, 128)(name, values)
        return nodes, {**constants, "c_z": np.asarray(127.5, np.float32)}

    model = _with_integers(tied_model(FLOAT), "w0", odd)
    _, said = _applied("quantize.weights", model, tmp_path)
    assert any("c_q: folded into floats" in text for text in said)


def test_a_float_graph_is_not_called_quantized() -> None:
    assert already_quantized(tied_model(FLOAT).body) == ()


def test_branches_are_looked_into() -> None:
    inner = _with_integers(tied_model([Step("matmul", 0)]), "w0", _dequantized("int8", 1)).body
    branch = helper.make_graph(
        list(inner.graph.node), "branch", [], list(inner.graph.output), list(inner.graph.initializer)
    )
    outer = helper.make_model(
        helper.make_graph(
            [helper.make_node("If", ["flag"], ["y"], then_branch=branch, else_branch=branch)],
            "outer",
            [helper.make_tensor_value_info("flag", TensorProto.BOOL, []), *inner.graph.input],
            list(inner.graph.output),
        )
    )
    (found,) = already_quantized(outer)
    assert (found.what, found.dtype, found.names) == ("weight", "int8", ("c_q",))
