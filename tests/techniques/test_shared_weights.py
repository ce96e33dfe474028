"""Weights that layers share and read in different ways, through every technique that changes weights, in every dialect."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.tied import Samples, Step, decibels, run, samples, steps, tied_model
from support.weights import context

from compressctl.backends.onnx_file import to_onnx
from compressctl.core.errors import CompressctlError
from compressctl.core.events import Events
from compressctl.core.registry import load
from compressctl.core.target import Target
from compressctl.core.technique import StageResult, techniques
from compressctl.graph.import_qdq import absorb
from compressctl.graph.own_copies import rejoined, with_own_copies
from compressctl.graph.requantize import fitted
from compressctl.graph.simplify import simplify

SQUARE = [Step("matmul", 0, relu=True), Step("gemm_transposed", 0)]
ALL = [Step("gather", 0), Step("gemm_transposed", 0), Step("matmul", 0), Step("plain", 0), Step("gemm", 0, scaled=True)]
CONVOLVED = [Step("conv_groups", 0), Step("conv_part", 0), Step("matmul", 0)]
STAGES = {
    "static": ("quantize.static", {}, 15),
    "static-int4": ("quantize.static", {"weights": "int4"}, 5),
    "adaround": ("quantize.static", {"rounding": "adaround", "rounding_steps": 50}, 15),
    "dynamic": ("quantize.dynamic", {}, 15),
    "weights-8": ("quantize.weights", {"bits": 8}, 25),
    "weights-4": ("quantize.weights", {"bits": 4, "group_size": 16}, 8),
    "weights-4-gptq": ("quantize.weights", {"bits": 4, "group_size": 16, "method": "gptq"}, 8),
    "weights-4-awq": ("quantize.weights", {"bits": 4, "group_size": 16, "method": "awq"}, 8),
    "mixed": ("quantize.mixed", {"size": 0.9, "sensitivity": "hessian", "probes": 1, "samples": 8}, 5),
    "kmeans": ("share.kmeans", {"clusters": 256}, 15),
    "kmeans-rows": ("share.kmeans", {"clusters": 16, "granularity": "channel"}, 12),
    "prune": ("prune.unstructured", {"sparsity": 0.1, "first_and_last": "prune"}, 10),
    "svd": ("factorize.svd", {"rank": 15}, 10),
    "half-stored": ("cast", {"scope": "weights"}, 50),
    "half": ("cast", {"scope": "all"}, 35),
}
TARGETS = {
    "onnxruntime": Target("onnxruntime", profile="x86-avx2"),
    "openvino": Target("openvino", profile="x86-avx2"),
    "tensorrt": Target("tensorrt", profile="nvidia-sm80"),
}


def _applied(layers: list[Step], stage: str, target: Target, folder: Path) -> tuple[StageResult | None, list[str]]:
    """None where the technique says that there is nothing for it to do."""
    use, params, _ = STAGES[stage]
    spec, model, said = techniques.get(use), tied_model(layers), []
    given_params = spec.params.model_validate(params)
    events = Events(lambda event: said.append(str(event.fields.get("message", ""))))
    run_context = replace(context(Samples(samples(model)), folder, target), events=events)
    try:
        return load(spec.implementation)(model, given_params, run_context), said
    except CompressctlError as error:
        if "nothing to" not in error.message and "no choice" not in error.message:
            raise
        return None, said


@pytest.mark.parametrize("stage", STAGES)
@settings(max_examples=12)
@given(layers=steps(), dialect=st.sampled_from(list(TARGETS)))
@example(layers=SQUARE, dialect="onnxruntime")
@example(layers=SQUARE, dialect="openvino")
@example(layers=SQUARE, dialect="tensorrt")
@example(layers=ALL, dialect="onnxruntime")
@example(layers=ALL, dialect="openvino")
@example(layers=CONVOLVED, dialect="onnxruntime")
@example(layers=CONVOLVED, dialect="tensorrt")
def test_the_file_computes_what_the_model_did(
    stage: str, layers: list[Step], dialect: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    target = TARGETS[dialect]
    result, _ = _applied(layers, stage, target, tmp_path_factory.mktemp("stage"))
    if result is None:
        return
    model = tied_model(layers)
    written = to_onnx(result.model, target)
    onnx.checker.check_model(written)
    inputs = samples(model, seed=2)
    assert decibels(run(model.body, inputs), run(written, inputs)) >= STAGES[stage][2]


@pytest.mark.parametrize("stage", ["static", "dynamic", "weights-8"])
@settings(max_examples=10)
@given(layers=steps(), first=st.sampled_from(list(TARGETS)), second=st.sampled_from(list(TARGETS)))
@example(layers=SQUARE, first="onnxruntime", second="openvino")
@example(layers=SQUARE, first="openvino", second="onnxruntime")
@example(layers=ALL, first="onnxruntime", second="tensorrt")
def test_the_file_read_back_serves_another_runtime(
    stage: str, layers: list[Step], first: str, second: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    result, _ = _applied(layers, stage, TARGETS[first], tmp_path_factory.mktemp("stage"))
    if result is None:
        return
    found = absorb(to_onnx(result.model, TARGETS[first]))
    moved, _ = fitted(replace(result.model, body=found.model, quant=found.plan), TARGETS[second])
    written = to_onnx(moved, TARGETS[second])
    onnx.checker.check_model(written)
    model, inputs = tied_model(layers), samples(tied_model(layers), seed=2)
    assert decibels(run(model.body, inputs), run(written, inputs)) >= 15


@pytest.mark.parametrize("stage", ["static", "dynamic", "weights-8", "weights-4"])
def test_what_is_stored_for_each_way_is_said_with_its_size(stage: str, tmp_path: Path) -> None:
    result, said = _applied(SQUARE, stage, TARGETS["onnxruntime"], tmp_path)
    assert result is not None
    (sentence,) = result.facts["read_in_several_ways"]
    assert sentence in said
    width = 16 * 16 * (4 if stage == "weights-4" else 8) // 8
    assert f"That takes {2 * width:,} bytes, {4 * 16 * 16:,} in float" in sentence
    assert result.model.quant is not None
    assert {quant.axis for quant in result.model.quant.weights.values()} == {0, 1}


@pytest.mark.parametrize("stage", ["static", "dynamic"])
def test_codes_beside_a_float_weight_are_said_to_make_the_file_larger(stage: str, tmp_path: Path) -> None:
    layers = [Step("matmul", 0, relu=True), Step("gather_columns", 0)]
    result, said = _applied(layers, stage, TARGETS["onnxruntime"], tmp_path)
    assert result is not None
    (sentence,) = result.facts["read_in_several_ways"]
    assert "gather_columns1 in float" in sentence
    assert f"That takes {5 * 16 * 16:,} bytes, {4 * 16 * 16:,} in float" in sentence
    assert sentence in said


def test_weights_that_something_else_reads_in_float_stay_float_with_the_reason(tmp_path: Path) -> None:
    layers = [Step("matmul", 0), Step("gather_columns", 0), Step("gemm", 1)]
    result, _ = _applied(layers, "weights-4", TARGETS["onnxruntime"], tmp_path)
    assert result is not None
    ((node, reason),) = result.facts["left_in_float"].items()
    assert node.startswith("matmul0")
    assert "codes would only add to the file" in reason
    assert result.model.quant is not None
    assert set(result.model.quant.weights) == {"w1"}


def test_layers_given_back_to_float_share_one_constant_again(tmp_path: Path) -> None:
    """A gate that gives both readers back must not leave two float copies of what was one weight."""
    model = tied_model(SQUARE)
    copied = with_own_copies(simplify(model.body), {"matmul0": 1, "gemm_transposed1": 0})
    assert len(copied.of) == 1
    stored = {tensor.name for tensor in copied.model.graph.initializer}
    assert stored == {"w0", "w0_copy"}
    for floats, left in (((), stored), (("matmul0",), stored), (("matmul0", "gemm_transposed1"), {"w0"})):
        back = rejoined(copied.model, copied, floats)
        assert {tensor.name for tensor in back.graph.initializer} == left
        assert np.array_equal(run(back, samples(model)), run(copied.model, samples(model)))


def test_names_of_copies_are_unused(tmp_path: Path) -> None:
    body = simplify(tied_model(SQUARE).body)
    body.graph.node[0].output[0] = "w0_copy"
    for node in body.graph.node[1:]:
        node.input[:] = ["w0_copy" if name == "t0" else name for name in node.input]
    copied = with_own_copies(body, {"matmul0": 1, "gemm_transposed1": 0})
    assert dict(copied.of) == {"w0_copy_2": "w0"}
    onnx.checker.check_model(copied.model)
