"""quantize.static with weights of 4 bits, and with roundings that are learned, on a small real classifier."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from support.digit_network import (
    SIGNATURE,
    Digits,
    accuracy,
    as_model,
    context,
    digits,
    fitted_network,
    open_model,
)
from support.gates import drop_at_most

from compressctl.backends.dialects.cpu import emit
from compressctl.backends.onnxruntime import BACKEND as ONNXRUNTIME
from compressctl.core.model import Model
from compressctl.core.target import Target
from compressctl.core.technique import StageResult
from compressctl.graph.execute import ActivationRecorder
from compressctl.graph.index import index
from compressctl.numerics.adaround import Layer, nearest
from compressctl.pipeline.workspace import open_backend
from compressctl.techniques.quantize import _layerwise as layerwise
from compressctl.techniques.quantize.params import StaticOverride, StaticParams
from compressctl.techniques.quantize.static import apply

STEPS = 400


@pytest.fixture(scope="module")
def data() -> Digits:
    return digits()


@pytest.fixture(scope="module")
def model(data: Digits) -> Model:
    return fitted_network(data)


@pytest.fixture(scope="module")
def learned(data: Digits, model: Model) -> StageResult:
    params = StaticParams(weights="int4", rounding="adaround", rounding_steps=STEPS)
    return apply(model, params, context(data, model))


def codes_of(model: Model) -> dict[str, np.ndarray]:
    stored = emit(model, Target("onnxruntime", profile="x86-vnni")).graph.initializer
    return {
        tensor.name.removesuffix("_codes"): numpy_helper.to_array(tensor)
        for tensor in stored
        if tensor.name.endswith("weight_codes")
    }


def output_error(result: Model, original: Model, data: Digits) -> float:
    images = {"image": data.split("test").images}
    wanted = ActivationRecorder(original.body, ["logits"]).run(images)["logits"]
    return float(np.mean((open_model(result).run(images)["logits"] - wanted) ** 2))


def test_codes_in_the_file_have_4_bits_in_a_type_that_integer_kernels_read(learned: StageResult) -> None:
    codes = codes_of(learned.model)
    assert set(codes) == {"stem.weight", "body.weight", "head.weight"}
    assert all(part.dtype == np.int8 for part in codes.values())
    assert all(part.min() >= -8 and part.max() <= 7 for part in codes.values())
    assert max(part.max() for part in codes.values()) == 7


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_every_product_runs_in_integers(learned: StageResult, tmp_path: Path, name: str) -> None:
    if name == "openvino":
        pytest.importorskip("openvino")
    backend, target = open_backend(name), Target(name, profile="x86-vnni")
    nodes = backend.explain(backend.build(learned.model, target, tmp_path), target)
    precisions = [node.precision for node in nodes if node.macs]
    assert precisions == ["int8"] * 3


def test_packed_they_take_half_the_bytes_and_still_run_in_integers(learned: StageResult, tmp_path: Path) -> None:
    sizes = []
    for storage in ("plain", "compressed"):
        target = Target("onnxruntime", profile="x86-vnni", options={"storage": storage})
        (tmp_path / storage).mkdir()
        artifact = ONNXRUNTIME.build(learned.model, target, tmp_path / storage)
        nodes = ONNXRUNTIME.explain(artifact, target)
        assert [node.precision for node in nodes if node.macs] == ["int8"] * 3
        sizes.append(sum(entry.stored_bytes for entry in ONNXRUNTIME.weights(artifact) if entry.dtype != "int32"))
    assert sizes[1] < 0.6 * sizes[0]


def test_learned_roundings_reach_the_file(model: Model, learned: StageResult) -> None:
    """What was learned differs from the nearest code, by one at most, and is what the file holds."""
    assert learned.model.quant is not None
    found, codes = index(model.body.graph), codes_of(learned.model)
    moved = 0
    for name, quant in learned.model.quant.weights.items():
        values = found.array(name)
        assert values is not None
        ratio = np.clip(values / quant.scale.reshape(-1, *[1] * (values.ndim - 1)), -8, 7)
        assert np.abs(codes[name] - ratio).max() <= 1 + 1e-4
        moved += int((codes[name] != np.rint(ratio)).sum())
    assert moved > 100


def test_learning_pays_on_samples_that_it_did_not_see(data: Digits, model: Model, learned: StageResult) -> None:
    nearest = apply(model, StaticParams(weights="int4"), context(data, model)).model
    assert output_error(learned.model, model, data) < 0.8 * output_error(nearest, model, data)
    assert accuracy(learned.model, data.split("test")) > accuracy(model, data.split("test")) - 1.5


def test_the_report_says_what_learning_brought(learned: StageResult) -> None:
    assert learned.facts["weights_in_4_bits"] == 16 * 9 + 16 * 16 * 9 + 2560
    errors = learned.facts["relative_output_error"]
    assert set(errors) == {"stem", "body", "head"}
    assert all(error["adaround"] <= error["nearest"] for error in errors.values())


def test_the_same_seed_gives_the_same_file(data: Digits, model: Model, learned: StageResult) -> None:
    params = StaticParams(weights="int4", rounding="adaround", rounding_steps=STEPS)
    again = apply(model, params, context(data, model)).model
    assert all(np.array_equal(codes_of(again)[name], part) for name, part in codes_of(learned.model).items())


def test_an_override_gives_one_layer_another_width(data: Digits, model: Model) -> None:
    params = StaticParams(overrides=(StaticOverride(match="body", weights="int4"),))
    codes = codes_of(apply(model, params, context(data, model)).model)
    assert np.abs(codes["stem.weight"]).max() == 127
    assert codes["body.weight"].max() <= 7


def test_four_bits_and_learning_work_on_8_bit_layers_too_without_overflow(data: Digits, model: Model) -> None:
    """A learned code may be the next above: two neighbours still fit the 16 bits of a processor without VNNI."""
    params = StaticParams(rounding="adaround", rounding_steps=50, saturation_guard="pairs")
    result = apply(model, params, context(data, model, target=Target("onnxruntime", profile="x86-avx2")))
    for codes in codes_of(result.model).values():
        if codes.shape[1:2] == (1,):
            continue
        rows = np.moveaxis(codes, 1, -1).reshape(len(codes), -1).astype(int)
        assert np.abs(rows[:, :-1] + rows[:, 1:])[np.sign(rows[:, :-1]) == np.sign(rows[:, 1:])].max() <= 128


def test_a_layer_that_the_gate_gives_back_has_its_own_weights(data: Digits, model: Model) -> None:
    params = StaticParams(weights="int4", rounding="adaround", rounding_steps=20)
    before = accuracy(model, data.split("validation"))
    plain = accuracy(apply(model, params, context(data, model)).model, data.split("validation"))
    limit = max(0.0, (before - plain) / 2 - 1e-6)
    accept = drop_at_most(limit, lambda candidate: accuracy(candidate, data.split("validation")), model)
    held = apply(model, params, context(data, model, accept=accept))
    given_back = held.facts["left_in_float"]
    stored = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in emit(held.model, Target("onnxruntime")).graph.initializer
    }
    found = index(model.body.graph)
    for node in given_back:
        values = found.array(f"{node}.weight")
        if values is not None:
            assert np.array_equal(stored[f"{node}.weight_float"], values)
    assert given_back or plain >= before


def test_correcting_layer_by_layer_keeps_each_channels_mean_in_the_quantized_network(
    data: Digits, model: Model
) -> None:
    """Behind four bits in front: with the inputs that the quantized network has, not with the float network's."""
    images = {"image": data.split("calibration").images}
    wanted = ActivationRecorder(model.body, ["logits"]).run(images)["logits"].mean(axis=0)

    def shift(correction: object) -> float:
        params = StaticParams(weights="int4", bias_correction=correction)  # type: ignore[arg-type]
        made = apply(model, params, context(data, model)).model
        return float(np.abs(open_model(made).run(images)["logits"].mean(axis=0) - wanted).mean())

    assert shift("layerwise") < 0.5 * shift(True) < shift(False)


def test_what_is_kept_of_a_layers_inputs_does_not_grow_with_the_samples(
    data: Digits, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quarter of a megabyte, which the inputs of the second convolution alone would take thirty times."""
    kept: list[int] = []

    def learn(layer: Layer, inputs: np.ndarray, *rest: object) -> np.ndarray:
        kept.append(inputs.nbytes)
        return nearest(layer)

    monkeypatch.setattr(layerwise, "_ROWS_BYTES", 250_000)
    monkeypatch.setattr(layerwise, "adaround", learn)
    apply(model, StaticParams(weights="int4", rounding="adaround"), context(data, model))
    assert len(kept) == 3
    assert max(kept) < 2 * 250_000
    assert 15 * max(kept) < 4 * 200 * 64 * 144


def test_groups_and_matrix_products_are_learned_too(data: Digits) -> None:
    """A depthwise convolution and a MatMul whose weight lies the other way round."""
    rng = np.random.default_rng(3)
    weights = {
        "wide": rng.normal(size=(8, 1, 3, 3)),
        "depthwise": rng.normal(size=(8, 1, 3, 3), scale=0.3),
        "turned": rng.normal(size=(512, 10), scale=0.1),
    }
    nodes = [
        helper.make_node("Conv", ["image", "wide"], ["a"], "first", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "depthwise"], ["c"], "second", pads=[1] * 4, group=8),
        helper.make_node("Flatten", ["c"], ["d"], "flatten"),
        helper.make_node("MatMul", ["d", "turned"], ["logits"], "last"),
    ]
    graph = helper.make_graph(
        nodes,
        "mixed",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    network = replace(as_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)))
    assert network.signature == SIGNATURE
    params = StaticParams(weights="int4", rounding="adaround", rounding_steps=STEPS)
    made = apply(network, params, context(data, network))
    nearest = apply(network, StaticParams(weights="int4"), context(data, network))
    assert set(made.facts["relative_output_error"]) == {"first", "second", "last"}
    assert output_error(made.model, network, data) < 0.8 * output_error(nearest.model, network, data)
