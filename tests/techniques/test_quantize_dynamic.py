"""quantize.dynamic end to end: the file against the same arithmetic by hand, and how ONNX Runtime runs it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper
from support.recipes import recipe_of
from support.weights import context, language_model, sentences

from compressctl.backends.dialects import lookup
from compressctl.backends.onnx_file import to_onnx
from compressctl.backends.onnxruntime import BACKEND
from compressctl.core.errors import NothingToCompressError, UsageError
from compressctl.core.model import Model
from compressctl.core.target import Target
from compressctl.measure.score import scoring_batch
from compressctl.pipeline.serialization import read_model, write_model
from compressctl.techniques.quantize.dynamic import apply
from compressctl.techniques.quantize.params import DynamicOverride, DynamicParams

IDS = sentences(40, seed=9).ids
ORT = Target("onnxruntime")


def _run(proto: onnx.ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"ids": IDS})[0])


def _applied(tmp_path: Path, model: Model | None = None, **params: object) -> tuple[Model, dict[str, object]]:
    result = apply(model or language_model(), DynamicParams(**params), context(None, tmp_path))  # type: ignore[arg-type]
    return result.model, dict(result.facts)


def _constant(model: Model, name: str) -> np.ndarray:
    return numpy_helper.to_array(next(t for t in model.body.graph.initializer if t.name == name)).astype(np.float64)


def _product_by_hand(x: np.ndarray, weight: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Activations in uint8 over the batch's range, weights (K, N) in int8, the sum exact."""
    low, high = min(x.min(), 0.0), max(x.max(), 0.0)
    step = np.float32((high - low) / 255)
    point = np.rint(-low / step)
    codes = np.clip(np.rint(x / step) + point, 0, 255) - point
    return codes @ np.clip(np.rint(weight / scale), -127, 127) * step * scale


@pytest.mark.parametrize("guard", ["off", "reduce_range", "pairs"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_the_file_computes_the_arithmetic_done_by_hand(tmp_path: Path, per_channel: bool, guard: str) -> None:
    model, facts = _applied(
        tmp_path, language_model(tied="no"), per_channel=per_channel, saturation_guard=guard, embeddings="float"
    )
    assert facts["saturation_guard"] == guard
    plan = model.quant
    assert plan is not None
    words = _constant(model, "table")[IDS]
    normed = (words - words.mean(axis=-1, keepdims=True)) / np.sqrt(words.var(axis=-1, keepdims=True) + 1e-5)
    x = normed * _constant(model, "norm.scale") + _constant(model, "norm.bias")
    for weight, bias in (("up.weight", "up.bias"), ("down.weight", None)):
        scale = np.asarray(plan.weights[weight].scale, np.float64)
        x = _product_by_hand(x, _constant(model, weight), scale)
        x = np.maximum(x + _constant(model, bias), 0) if bias else x
    pooled = (x + words).mean(axis=1)
    scale = np.asarray(plan.weights["head.weight"].scale, np.float64)
    wanted = _product_by_hand(pooled, _constant(model, "head.weight"), scale)
    found = _run(to_onnx(model, ORT))
    if guard == "off":
        # On a processor without VNNI pairs of products saturate; that is what the guards are for.
        assert np.corrcoef(found.reshape(-1), wanted.reshape(-1))[0, 1] > 0.9
    else:
        # A code may fall to either side of a half where float32 and float64 differ.
        assert np.abs(found - wanted).mean() < 0.01 * np.abs(wanted).mean()


def test_the_file_is_near_the_float_model_and_a_quarter_of_its_size(tmp_path: Path) -> None:
    original = language_model(tied="no")
    model, facts = _applied(tmp_path, original)
    written = to_onnx(model, ORT)
    onnx.checker.check_model(written)
    difference = _run(written) - _run(original.body)
    assert np.sqrt(np.mean(difference**2) / np.mean(_run(original.body) ** 2)) < 0.25
    sizes = [sum(len(t.raw_data) for t in proto.graph.initializer) for proto in (original.body, written)]
    assert sizes[1] < 0.3 * sizes[0]
    assert (facts["quantized_nodes"], facts["embeddings"], facts["left_in_float"]) == (4, 1, {})


def test_onnxruntime_fuses_every_product_into_an_integer_kernel(tmp_path: Path) -> None:
    model, _ = _applied(tmp_path)
    artifact = BACKEND.build(model, ORT, tmp_path)
    nodes = {node.name: node for node in BACKEND.explain(artifact, ORT) if node.macs}
    assert {node.precision for node in nodes.values()} == {"int8"}
    assert {node.op for node in nodes.values()} <= {"DynamicQuantizeMatMul", "MatMulIntegerToFloat"}
    assert sum(node.macs for node in nodes.values()) == 6 * 2 * 64 * 128 + 64 * 96
    assert artifact.notes == ()


def test_products_of_one_tensor_share_its_quantization(tmp_path: Path) -> None:
    model = language_model(tied="no")
    body = onnx.ModelProto()
    body.CopyFrom(model.body)
    body.graph.node.insert(3, onnx.helper.make_node("MatMul", ["normed", "twin.weight"], ["twin"], "twin"))
    twin = -_constant(model, "up.weight").astype(np.float32)
    body.graph.initializer.append(numpy_helper.from_array(twin, "twin.weight"))
    body.graph.node[4].input[0] = "both"
    body.graph.node.insert(4, onnx.helper.make_node("Add", ["u", "twin"], ["both"], "both"))
    written = to_onnx(_applied(tmp_path, replace(model, body=body))[0], ORT)
    made = [node for node in written.graph.node if node.op_type == "DynamicQuantizeLinear"]
    assert [node.input[0] for node in made].count("normed") == 1
    assert len([node for node in written.graph.node if node.op_type == "MatMulInteger"]) == 4


def test_openvino_quantizes_inputs_on_its_own(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    from compressctl.backends.openvino import BACKEND as OPENVINO

    model, _ = _applied(tmp_path)
    target = Target("openvino")
    artifact = OPENVINO.build(model, target, tmp_path)
    found = OPENVINO.open(artifact, target).run({"ids": IDS})["scores"]
    wanted = _run(language_model().body)
    assert np.sqrt(np.mean((found - wanted) ** 2) / np.mean(wanted**2)) < 0.25
    assert {node.precision for node in OPENVINO.explain(artifact, target) if node.macs} == {"int8"}


def test_a_table_that_the_head_reads_too_has_the_heads_codes(tmp_path: Path) -> None:
    model, facts = _applied(tmp_path, language_model(tied="gemm"))
    assert model.quant is not None
    assert set(model.quant.weights) == {"table", "up.weight", "down.weight"}
    assert model.quant.weights["table"].dtype == "int8"
    assert facts["embeddings"] == 1


@pytest.mark.parametrize("guard", ["off", "reduce_range"])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("tied", ["gemm", "matmul"])
def test_a_table_that_the_head_reads_too_is_stored_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tied: str, per_channel: bool, guard: str
) -> None:
    model, _ = _applied(tmp_path, language_model(tied=tied), per_channel=per_channel, saturation_guard=guard)
    once = to_onnx(model, ORT)
    size = _constant(language_model(), "table").size
    stored = [tensor for tensor in once.graph.initializer if int(np.prod(tensor.dims)) == size]
    assert [tensor.data_type for tensor in stored] == [TensorProto.UINT8]
    monkeypatch.setattr(lookup, "share_turned", lambda emitted: None)
    twice = to_onnx(model, ORT)
    assert sum(int(np.prod(tensor.dims)) == size for tensor in twice.graph.initializer) == 2
    assert np.array_equal(_run(once), _run(twice))


def test_a_head_with_numbers_of_its_own_shares_no_table(tmp_path: Path) -> None:
    model, _ = _applied(tmp_path, language_model(tied="no"))
    written = to_onnx(model, ORT)
    size = _constant(language_model(), "table").size
    assert sum(int(np.prod(tensor.dims)) == size for tensor in written.graph.initializer) == 2


def test_overrides_keep_layers_in_float(tmp_path: Path) -> None:
    model, facts = _applied(tmp_path, overrides=(DynamicOverride(match="down*", weights="float"),))
    assert facts["left_in_float"] == {"down": "override 'down*'"}
    kinds = {node.name: node.op_type for node in to_onnx(model, ORT).graph.node}
    assert (kinds["down"], kinds["up"]) == ("MatMul", "MatMulInteger")


def test_a_pattern_that_matches_nothing_names_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'decoder' matches no node") as caught:
        _applied(tmp_path, overrides=(DynamicOverride(match="decoder", weights="float"),))
    assert "up.weight" in str(caught.value)


def test_without_products_the_hint_names_the_other_technique(tmp_path: Path) -> None:
    with pytest.raises(NothingToCompressError, match="nothing to quantize"):
        _applied(tmp_path, overrides=(DynamicOverride(match="*", weights="float"),))


def test_a_plan_survives_the_cache(tmp_path: Path) -> None:
    model, _ = _applied(tmp_path, embeddings="int4")
    write_model(model, tmp_path, None)
    again = read_model(tmp_path, lambda: model, recipe_of(tmp_path))
    assert again.quant is not None
    assert model.quant is not None
    assert again.quant.dynamic == model.quant.dynamic
    assert to_onnx(again, ORT).SerializeToString() == to_onnx(model, ORT).SerializeToString()


def test_a_score_is_that_of_the_batches_that_are_served(tmp_path: Path) -> None:
    """One text among sixty-four shares their range, so that its outputs would not be those that its user sees."""
    model, _ = _applied(tmp_path)
    assert scoring_batch(model, Target("onnxruntime", batch_size=1)) == 1
    assert scoring_batch(language_model(), Target("onnxruntime", batch_size=1)) == 64
