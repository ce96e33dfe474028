"""quantize.weights end to end: what the file computes in plain ONNX Runtime is what the plan says, and how large it is."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from support.gates import drop_at_most
from support.graphs import residual_model
from support.weights import WIDTH, WORDS, context, language_model, sentences, text

from compressctl.backends.onnx_file import to_onnx
from compressctl.core.backend import backends
from compressctl.core.errors import NothingToCompressError, UsageError
from compressctl.core.events import Events
from compressctl.core.model import Model
from compressctl.core.registry import load
from compressctl.core.target import Target
from compressctl.graph.import_qdq import absorb
from compressctl.graph.scale_inputs import scale_inputs
from compressctl.graph.weight_nodes import find_weighted
from compressctl.numerics.second_moments import SecondMoments
from compressctl.tasks.metric_specs import ACCURACY
from compressctl.techniques.quantize._moments import Walk
from compressctl.techniques.quantize.params import WeightOverride, WeightsParams
from compressctl.techniques.quantize.weights import apply

IDS = sentences(40, seed=9).ids
ORT = Target("onnxruntime")


def _run(proto: onnx.ModelProto, name: str = "ids", values: np.ndarray = IDS) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # The runtime would round the activations of products behind a DequantizeLinear to 8 bits.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {name: values})[0])


def _error(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.sqrt(np.mean((found - wanted) ** 2) / np.mean(wanted**2)))


def _applied(tmp_path: Path, model: Model | None = None, **params: object) -> tuple[Model, dict[str, object]]:
    result = apply(model or language_model(), WeightsParams(**params), context(text(), tmp_path))  # type: ignore[arg-type]
    return result.model, dict(result.facts)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_the_file_computes_with_the_rounded_weights(
    tmp_path: Path, bits: int, granularity: str, symmetric: bool
) -> None:
    model, facts = _applied(tmp_path, bits=bits, granularity=granularity, symmetric=symmetric)
    written = to_onnx(model, ORT)
    onnx.checker.check_model(written)
    kinds = [node.op_type for node in written.graph.node]
    assert "GatherBlockQuantized" in kinds
    assert "Gather" not in kinds
    assert np.allclose(_run(written), _run(model.body), atol=1e-4)
    limit = {8: 0.25, 4: 0.9, 3: 1.5, 2: 2.5}[bits]
    assert _error(_run(written), _run(language_model().body)) < limit
    assert set(facts["layers"]) == {"lookup, head", "up", "down"}  # type: ignore[call-overload]


@pytest.mark.parametrize("method", ["rtn", "gptq", "awq", "hqq"])
def test_every_method_gives_a_file_that_computes_what_it_planned(tmp_path: Path, method: str) -> None:
    model, facts = _applied(tmp_path, bits=3, method=method)
    assert np.allclose(_run(to_onnx(model, ORT)), _run(model.body), atol=1e-4)
    layers = facts["layers"]
    assert layers["up"]["method"] == method  # type: ignore[index]
    assert "3-bit" in str(facts["stored_wider"])


def test_methods_that_look_at_data_lose_less_of_the_outputs(tmp_path: Path) -> None:
    wanted = _run(language_model().body)
    errors = {}
    for method in ("rtn", "gptq", "awq"):
        table = (WeightOverride(match="lookup", bits="float"), WeightOverride(match="head", bits="float"))
        model, _ = _applied(tmp_path, bits=3, method=method, clip_search=False, overrides=table)
        errors[method] = _error(_run(to_onnx(model, ORT)), wanted)
    assert errors["gptq"] < 0.85 * errors["rtn"]
    assert errors["awq"] < 0.95 * errors["rtn"]


def test_propagating_calibrates_behind_the_rounded_layers(tmp_path: Path) -> None:
    plain, _ = _applied(tmp_path, bits=2, method="gptq")
    behind, _ = _applied(tmp_path, bits=2, method="gptq", propagate_error=True)
    assert plain.quant is not None
    values = [
        numpy_helper.to_array(next(t for t in model.body.graph.initializer if t.name == "down.weight"))
        for model in (plain, behind)
    ]
    assert not np.array_equal(*values)
    wanted = _run(language_model().body)
    assert _error(_run(behind.body), wanted) < 1.05 * _error(_run(plain.body), wanted)


@pytest.mark.parametrize("tied", ["gemm", "matmul"])
@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_a_table_that_is_the_head_too_is_stored_once(tmp_path: Path, tied: str, method: str) -> None:
    model, facts = _applied(tmp_path, language_model(tied=tied), bits=4, method=method)
    forms = {node.node: _packed() for node in find_weighted(model.body.graph) if node.op != "Gather"}
    written = to_onnx(model, ORT, forms)
    stored = sum(len(tensor.raw_data) for tensor in written.graph.initializer)
    apart, _ = _applied(tmp_path, language_model(tied="no"), bits=4, method=method)
    twice = sum(len(tensor.raw_data) for tensor in to_onnx(apart, ORT, forms).graph.initializer)
    assert twice - stored >= WORDS * WIDTH / 2
    assert np.allclose(_run(written), _run(model.body), atol=1e-4)
    assert "table" in facts["shared"]  # type: ignore[operator]


def _packed() -> object:
    from compressctl.backends.dialects.weight_only import Form

    return Form.NBITS


def test_sizes_are_what_the_bits_promise(tmp_path: Path) -> None:
    sizes = {}
    for bits in (8, 4, 2):
        model, facts = _applied(tmp_path, bits=bits, symmetric=True, group_size=64)
        forms = {node.node: _packed() for node in find_weighted(model.body.graph) if node.op != "Gather"}
        sizes[bits] = sum(len(tensor.raw_data) for tensor in to_onnx(model, ORT, forms).graph.initializer)
        assert facts["bits_per_weight"] == pytest.approx(bits + 32 / 64, abs=0.1)
    floats = sum(len(tensor.raw_data) for tensor in language_model().body.graph.initializer)
    assert sizes[8] < 0.31 * floats
    assert sizes[4] < 0.18 * floats
    assert sizes[2] < 0.12 * floats


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_a_file_is_read_back_as_the_plan(tmp_path: Path, bits: int) -> None:
    model, _ = _applied(tmp_path, bits=bits, group_size=16)
    written = to_onnx(model, ORT)
    found = absorb(written)
    assert found.ignored == ()
    assert model.quant is not None
    assert found.plan.weights["table"].dtype == model.quant.weights["table"].dtype
    assert np.allclose(_run(found.model), _run(written), atol=1e-4)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_convolutions_are_small_in_the_file_and_floats_when_loaded(tmp_path: Path, bits: int, backend: str) -> None:
    original = replace(residual_model(), quant=None)
    result = apply(original, WeightsParams(bits=bits), context(None, tmp_path))  # type: ignore[arg-type]
    written = to_onnx(result.model, Target(backend))
    x = np.random.default_rng(3).normal(0, 1, (2, 8, 6, 6)).astype(np.float32)
    assert np.allclose(_run(written, "x", x), _run(result.model.body, "x", x), atol=1e-4)
    stored = {tensor.name: len(tensor.raw_data) for tensor in written.graph.initializer}
    width = {8: 1.0, 4: 0.5, 3: 0.5, 2: 0.25}[bits]
    weight = max(size for name, size in stored.items() if name.startswith("w1"))
    assert weight == 8 * 8 * 9 * width


def test_an_embeddings_table_stays_packed_in_openvino(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    from compressctl.backends.openvino import BACKEND
    from compressctl.backends.params import OpenVinoParams

    target = Target("openvino", options=OpenVinoParams(integer_activations=False).model_dump(mode="json"))
    for bits in (8, 4, 2):
        model, _ = _applied(tmp_path, bits=bits)
        folder = tmp_path / str(bits)
        folder.mkdir()
        artifact = BACKEND.build(model, target, folder)
        found = BACKEND.open(artifact, target).run({"ids": IDS})["scores"]
        assert np.allclose(found, _run(model.body), atol=1e-3)
        floats = sum(len(tensor.raw_data) for tensor in language_model().body.graph.initializer)
        assert sum(path.stat().st_size for path in artifact.files if path.suffix == ".bin") < 0.5 * floats


def test_awq_folds_into_the_norm_where_it_alone_feeds_the_product(tmp_path: Path) -> None:
    model, facts = _applied(tmp_path, bits=3, method="awq")
    assert facts["scales_divided_in"]["normed"] == "norm"  # type: ignore[index]
    assert "Mul" not in [node.op_type for node in model.body.graph.node]


@pytest.mark.parametrize("tensor", ["normed", "r", "words"])
def test_moving_scale_changes_nothing_in_float(tensor: str) -> None:
    body = language_model(tied="no").body
    nodes = find_weighted(body.graph)
    size = {"normed": 64, "r": 128, "words": 64}[tensor]
    scale = np.exp(np.random.default_rng(2).normal(0, 1, size)).astype(np.float32)
    changed, places = scale_inputs(body, {tensor: scale}, nodes)
    assert np.allclose(_run(changed), _run(body), atol=1e-4)
    assert places.get(tensor) == {"normed": "norm", "r": "up", "words": None}[tensor]


def test_what_something_else_reads_gets_a_division_of_its_own() -> None:
    body = language_model(tied="no").body
    body.graph.node[6].input[1] = "normed"
    nodes = find_weighted(body.graph)
    scale = np.exp(np.random.default_rng(2).normal(0, 1, 64)).astype(np.float32)
    changed, places = scale_inputs(body, {"normed": scale}, nodes)
    assert places == {"normed": "normed_divided"}
    assert np.allclose(_run(changed), _run(body), atol=1e-4)


def test_moments_are_those_of_the_inputs(tmp_path: Path) -> None:
    model, data = language_model(), text()
    nodes = [node for node in find_weighted(model.body.graph) if node.node == "up"]
    found = Walk(model.signature, data.split("calibration"), Events()).moments(model.body, nodes)["up"]  # type: ignore[arg-type]
    table, scale, bias = (
        numpy_helper.to_array(next(t for t in model.body.graph.initializer if t.name == name)).astype(np.float64)
        for name in ("table", "norm.scale", "norm.bias")
    )
    words = table[data.split("calibration").ids.reshape(-1)]
    normed = (words - words.mean(axis=1, keepdims=True)) / np.sqrt(words.var(axis=1, keepdims=True) + 1e-5)
    inputs = normed * scale + bias
    assert found.rows == len(inputs)
    # Each text is one sample, however many tokens it has.
    texts, tokens = data.split("calibration").ids.shape
    wanted = SecondMoments(inputs.shape[1])
    wanted.add(inputs, np.repeat(np.arange(texts), tokens))
    assert np.allclose(found.second, wanted.matrices()[0], rtol=1e-2, atol=1e-3)
    assert np.allclose(found.magnitude, np.abs(inputs).mean(axis=0), rtol=1e-4)


def test_a_convolutions_moments_predict_its_output_error_on_other_images(tmp_path: Path) -> None:
    """tr(D H D^T) is the mean square of what a change D of the weight does to the outputs, padding included."""
    model = replace(residual_model(), quant=None)
    nodes = [node for node in find_weighted(model.body.graph) if node.node == "conv1"]
    x = np.random.default_rng(3).normal(0, 1, (16, 8, 6, 6)).astype(np.float32)
    moments = Walk(model.signature, _Images(x), Events()).moments(model.body, nodes)["conv1"]  # type: ignore[arg-type]
    change = np.random.default_rng(4).normal(0, 1, (8, 8, 3, 3)).astype(np.float32)
    predicted = np.einsum("rk,kl,rl->", change.reshape(8, -1), moments.second, change.reshape(8, -1), optimize=True)
    others = np.random.default_rng(5).normal(0, 1, (256, 8, 6, 6)).astype(np.float32)
    padded = np.pad(others, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    outputs = np.einsum("bchwij,mcij->bmhw", windows, change, optimize=True)
    assert predicted == pytest.approx(np.sum(outputs**2) / (256 * 36), rel=0.1)


class _Images:
    def __init__(self, x: np.ndarray) -> None:
        self._x = x

    def __len__(self) -> int:
        return len(self._x)

    def batches(self, size: int, *, shuffle_seed: int | None = None):  # type: ignore[no-untyped-def]
        from compressctl.core.data import Batch

        for start in range(0, len(self._x), size):
            part = self._x[start : start + size]
            yield Batch({"x": part}, None, np.arange(start, start + len(part)))


def test_overrides_give_weights_widths_of_their_own(tmp_path: Path) -> None:
    overrides = (
        WeightOverride(match="Gather", bits=8, granularity="channel"),
        WeightOverride(match="down*", bits="float"),
        WeightOverride(match="up", bits=2, group_size=16, symmetric=True),
    )
    model, facts = _applied(tmp_path, bits=4, overrides=overrides)
    assert model.quant is not None
    assert model.quant.weights["table"].dtype == "uint8"
    assert model.quant.weights["up.weight"].dtype == "int2"
    assert model.quant.weights["up.weight"].block == 16
    assert facts["left_in_float"] == {"down": "override 'down*'"}
    assert np.allclose(_run(to_onnx(model, ORT)), _run(model.body), atol=1e-4)


def test_a_pattern_that_matches_nothing_names_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'decoder' matches no node") as caught:
        _applied(tmp_path, overrides=(WeightOverride(match="decoder", bits=8),))
    assert "up.weight" in str(caught.value)


def test_methods_that_need_data_say_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the recipe has no data"):
        apply(language_model(), WeightsParams(method="gptq"), context(None, tmp_path))


def test_a_graph_without_weights_says_that_there_is_nothing_to_do(tmp_path: Path) -> None:
    with pytest.raises(NothingToCompressError, match="nothing to quantize"):
        _applied(tmp_path, overrides=(WeightOverride(match="*", bits="float"),))


def test_a_group_size_that_no_kernel_has_is_refused() -> None:
    with pytest.raises(ValueError, match="48 is not a power of two"):
        WeightsParams(group_size=48)


def test_a_gate_gives_back_the_weights_that_cost_most(tmp_path: Path) -> None:
    """The labels are what the float model says, and two bits ruin `down` alone."""
    model, data = language_model(tied="no"), text()
    labelled = replace(
        data,
        splits={
            name: replace(part, labels=_run(model.body, values=part.ids).argmax(axis=1))
            for name, part in data.splits.items()
        },
    )
    run = context(labelled, tmp_path)

    def score(candidate: Model, split: str) -> float:
        part = labelled.split(split)
        return float((_run(to_onnx(candidate, ORT), values=part.ids).argmax(axis=1) == part.labels).mean() * 100)

    run = replace(
        run,
        score=score,
        baseline_score=lambda: score(model, "validation"),
        open=lambda candidate: _Opened(to_onnx(candidate, ORT)),
        metric=ACCURACY,
        accept=drop_at_most(12.0, lambda candidate: score(candidate, "validation"), model),
    )
    params = WeightsParams(bits=8, overrides=(WeightOverride(match="down", bits=2, granularity="tensor"),))
    result = apply(model, params, run)
    assert set(result.facts["left_in_float"]) == {"down"}
    assert result.facts["validation_drop"] <= 12.0 < result.facts["validation_drop_all_int8"]
    before = numpy_helper.to_array(next(t for t in model.body.graph.initializer if t.name == "down.weight"))
    after = next(t for t in to_onnx(result.model, ORT).graph.initializer if t.name.startswith("down.weight"))
    assert np.array_equal(numpy_helper.to_array(after), before)


class _Opened:
    def __init__(self, proto: onnx.ModelProto) -> None:
        self._proto = proto

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"scores": _run(self._proto, values=inputs["ids"])}


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_symmetric_codes_of_every_layer_may_have_scales_below_zero(tmp_path: Path, backend: str) -> None:
    """The embedding's table included, through the runtime itself."""
    pytest.importorskip(backend)
    options = {"integer_activations": False}
    target = Target(backend, options=options)
    run = context(text(), tmp_path, target)
    model = apply(language_model(tied="no"), WeightsParams(bits=4, symmetric=True), run).model
    assert model.quant is not None
    assert all(np.any(quant.scale < 0) for quant in model.quant.weights.values())
    runtime = load(backends.get(backend).implementation)
    artifact = runtime.build(model, target, tmp_path)
    assert np.allclose(runtime.open(artifact, target).run({"ids": IDS})["scores"], _run(model.body), atol=1e-4)


def test_scales_are_above_zero_where_the_target_is_tensorrt(tmp_path: Path) -> None:
    run = context(text(), tmp_path, Target("tensorrt"))
    model = apply(language_model(), WeightsParams(bits=4, symmetric=True), run).model
    assert model.quant is not None
    assert all(np.all(quant.scale > 0) for quant in model.quant.weights.values())


def test_scales_of_8_bits_are_above_zero(tmp_path: Path) -> None:
    """Integer kernels may read them later."""
    model, _ = _applied(tmp_path, bits=8, symmetric=True)
    assert model.quant is not None
    assert all(np.all(quant.scale > 0) for quant in model.quant.weights.values())


@pytest.mark.parametrize("tied", ["gemm", "matmul"])
@pytest.mark.parametrize("params", [{"bits": 4, "symmetric": True}, {"bits": 4}, {"bits": 8, "group_size": 64}])
def test_openvino_holds_a_table_that_is_the_head_too_once(tmp_path: Path, params: dict[str, object], tied: str) -> None:
    pytest.importorskip("openvino")
    target = Target("openvino", options={"integer_activations": False})
    model, _ = _applied(tmp_path, language_model(tied=tied), **params)
    kinds = [node.op_type for node in to_onnx(model, target).graph.node]
    assert (kinds.count("DequantizeLinear"), kinds.count("Transpose")) == (3, 1)
    runtime = load(backends.get("openvino").implementation)
    artifact = runtime.build(model, target, tmp_path)
    assert np.allclose(runtime.open(artifact, target).run({"ids": IDS})["scores"], _run(model.body), atol=1e-4)
    head = next(node for node in runtime.explain(artifact, target) if node.name == "head")
    assert head.op == "FullyConnected"


def test_a_head_that_is_no_table_keeps_codes_of_its_own_in_openvino(tmp_path: Path) -> None:
    model, _ = _applied(tmp_path, language_model(tied="no"), bits=4)
    kinds = [node.op_type for node in to_onnx(model, Target("openvino")).graph.node]
    assert (kinds.count("DequantizeLinear"), kinds.count("Transpose")) == (4, 0)
