"""share.kmeans on networks and graphs: few values where they were asked for, kept by training, and files that are small for it."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from support.shell import Shell

from compressctl.core.errors import StageError, UsageError
from compressctl.core.events import Events
from compressctl.core.model import Form, Model, OnnxModel, Signature, TensorSpec
from compressctl.core.needs import Need
from compressctl.core.source import SplitSizes
from compressctl.core.target import Target
from compressctl.core.technique import ModelFacts, RunContext
from compressctl.graph.lower import lower
from compressctl.graph.pack_constants import Folds, pack_constants
from compressctl.numerics.codebook import shared as codebook_of
from compressctl.recipe.schema import DataSection
from compressctl.sources import builtin
from compressctl.sources.load import load_dataset
from compressctl.sources.params import BuiltinParams, DigitsParams
from compressctl.techniques.prune.params import UnstructuredParams
from compressctl.techniques.prune.unstructured import apply as prune
from compressctl.techniques.share._budget import Option, allocate
from compressctl.techniques.share._shared import Codebooks, share
from compressctl.techniques.share.kmeans import apply
from compressctl.techniques.share.params import KmeansParams

BRIEF = {"epochs": 1, "batch_size": 256}


@pytest.fixture(scope="module")
def network() -> Model:
    return builtin.load(BuiltinParams(name="digits-resnet"), Path(), 0)


@pytest.fixture(scope="module")
def graph(network: Model) -> Model:
    return lower(network)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    sizes = SplitSizes(calibration=96, validation=100)
    data = load_dataset(DataSection("digits", DigitsParams(), sizes), Path(), 0)
    return RunContext(0, Events(), tmp_path_factory.mktemp("run"), Target("onnxruntime"), data=data)


def _weights(model: Model) -> dict[str, np.ndarray]:
    if model.form is Form.TORCH:
        found = {name: parameter.detach().numpy() for name, parameter in model.body.named_parameters()}
    else:
        found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.body.graph.initializer}
    return {name: value for name, value in found.items() if value.ndim > 1 and value.dtype == np.float32}


def _accuracy(model: Model, run: RunContext) -> float:
    assert run.data is not None
    batch = next(run.data.split("test").batches(10_000))
    return float((_outputs(model, batch.inputs).argmax(axis=1) == batch.labels).mean() * 100)


def _distinct(values: np.ndarray) -> int:
    return len(np.unique(values))


# What is shared


@pytest.mark.parametrize("form", [Form.TORCH, Form.ONNX])
def test_a_tensor_has_as_many_values_as_clusters(network: Model, graph: Model, run: RunContext, form: Form) -> None:
    model = network if form is Form.TORCH else graph
    before = {name: value.copy() for name, value in _weights(model).items()}
    result = apply(model, KmeansParams(clusters=16, granularity="tensor"), run)
    after = _weights(result.model)
    assert {name: _distinct(value) for name, value in after.items()} == dict.fromkeys(after, 16)
    assert all(np.array_equal(value, before[name]) for name, value in _weights(model).items())
    assert _accuracy(result.model, run) >= 99.0
    layer = next(iter(result.facts["layers"].values()))
    assert 0 < layer["relative_error"] < 0.05
    assert 3 < result.facts["bits_per_weight"] < 4


@pytest.mark.parametrize(("granularity", "books"), [("channel", 32), ("group", 32 * 4)])
def test_channels_and_groups_have_codebooks_of_their_own(granularity: str, books: int, run: RunContext) -> None:
    weight = np.random.default_rng(0).normal(size=(32, 256)).astype(np.float32)
    found = _share(weight, granularity=granularity, clusters=4).reshape(books, -1)
    assert [_distinct(run) for run in found] == [4] * books


def test_finer_codebooks_lose_less() -> None:
    rng = np.random.default_rng(1)
    weight = (rng.normal(size=(24, 128)) * np.exp(rng.normal(size=(24, 1)))).astype(np.float32)
    errors = {
        granularity: float(((weight - _share(weight, granularity=granularity, clusters=8)) ** 2).sum())
        for granularity in ("tensor", "scaled", "channel", "group")
    }
    assert errors["group"] < errors["channel"] < errors["scaled"] < errors["tensor"]


def test_scales_and_entries_can_be_told_apart_after_a_norm_is_folded_in() -> None:
    """A product of three float32 numbers is rounded twice, unless the first product is exact."""
    rng = np.random.default_rng(2)
    weight = rng.normal(size=(64, 200)).astype(np.float32)
    found = share(weight, Codebooks(16, "scaled"), KmeansParams(), None, rng)
    assert found.scale is not None
    exact = found.codebook[0][found.codes].astype(np.float64) * found.scale
    assert np.array_equal(found.values(), exact)


def _share(weight: np.ndarray, importance: np.ndarray | None = None, **params: Any) -> np.ndarray:
    said = KmeansParams(**params)
    wanted = Codebooks(said.clusters, said.granularity)
    return share(weight, wanted, said, importance, np.random.default_rng(0)).values()


@pytest.mark.parametrize("granularity", ["tensor", "scaled", "channel"])
def test_zeros_stay_zero_and_are_one_entry(granularity: str) -> None:
    rng = np.random.default_rng(3)
    weight = (rng.normal(size=(16, 90)) * (rng.random((16, 90)) < 0.3)).astype(np.float32)
    found = _share(weight, granularity=granularity, clusters=4)
    assert np.array_equal(found == 0, weight == 0)
    rows = found.reshape(1, -1) if granularity == "tensor" else found
    assert max(_distinct(row) for row in rows) <= 4


def test_important_weights_are_hit_better() -> None:
    rng = np.random.default_rng(4)
    weight = rng.normal(size=(8, 400)).astype(np.float32)
    importance = np.where(weight > 1, 100.0, 1.0)
    plain, weighted = (_share(weight, heavy, granularity="tensor", clusters=4) for heavy in (None, importance))
    far = weight > 1
    assert ((weight - weighted)[far] ** 2).mean() < ((weight - plain)[far] ** 2).mean()
    assert (importance * (weight - weighted) ** 2).sum() < (importance * (weight - plain) ** 2).sum()


@pytest.mark.parametrize("importance", ["fisher", "activation"])
def test_importance_is_measured(network: Model, run: RunContext, importance: str) -> None:
    plain = apply(network, KmeansParams(clusters=4, granularity="tensor"), run)
    found = apply(network, KmeansParams(clusters=4, granularity="tensor", importance=importance), run)
    name = next(iter(plain.facts["layers"]))
    assert not np.array_equal(_weights(plain.model)[name], _weights(found.model)[name])
    assert _accuracy(found.model, run) >= 90.0


def test_fisher_is_the_squared_gradient(network: Model, run: RunContext) -> None:
    from compressctl.techniques.share._fisher import fisher
    from compressctl.training.data import tensor_batches

    assert run.data is not None
    split, name = run.data.split("calibration"), "classifier.weight"
    found = fisher(network.body, [name], split, network.signature, "classification")[name]
    total = np.zeros(found.shape)
    batches = list(tensor_batches(split, network.signature, 4))
    for batch in batches:
        network.body.zero_grad()
        torch.nn.functional.cross_entropy(network.body(*batch.inputs), batch.labels).backward()
        total += dict(network.body.named_parameters())[name].grad.double().numpy() ** 2
    network.body.zero_grad(set_to_none=True)
    assert found == pytest.approx(total / len(batches), rel=1e-4)


def test_rate_makes_what_an_entropy_coder_writes_smaller(graph: Model, run: RunContext) -> None:
    plain, priced = (
        apply(graph, KmeansParams(granularity="tensor", rate_weight=rate, bias_correction=False), run).facts
        for rate in (0.0, 0.05)
    )
    assert priced["bits_per_weight"] < 0.85 * plain["bits_per_weight"]
    name = next(iter(plain["layers"]))
    assert priced["layers"][name]["relative_error"] > plain["layers"][name]["relative_error"]


def test_bias_correction_keeps_the_mean_of_outputs(graph: Model, run: RunContext) -> None:
    def moved(correct: bool) -> float:
        shared = apply(graph, KmeansParams(clusters=4, granularity="tensor", bias_correction=correct), run).model
        assert run.data is not None
        batch = next(run.data.split("calibration").batches(96))
        outputs = [
            onnxruntime.InferenceSession(model.body.SerializeToString()).run(None, dict(batch.inputs))[0].mean(axis=0)
            for model in (graph, shared)
        ]
        return float(np.abs(outputs[0] - outputs[1]).mean())

    assert moved(True) < moved(False)


# Clusters under a budget


def test_bits_go_where_they_save_most_error() -> None:
    options = {
        "steep": [Option(2, 10, 100.0), Option(4, 20, 10.0), Option(8, 30, 5.0)],
        "flat": [Option(2, 10, 8.0), Option(4, 20, 7.0), Option(8, 30, 1.0)],
    }
    assert _clusters(allocate(options, 50)) == {"steep": 4, "flat": 8}
    assert _clusters(allocate(options, 20)) == {"steep": 2, "flat": 2}
    assert _clusters(allocate(options, 60)) == {"steep": 8, "flat": 8}
    assert allocate(options, 19) is None


def _clusters(picked: dict[str, Option] | None) -> dict[str, int] | None:
    return None if picked is None else {name: option.clusters for name, option in picked.items()}


@pytest.mark.parametrize("sensitivity", ["error", "outputs"])
def test_a_budget_is_kept(graph: Model, run: RunContext, sensitivity: str) -> None:
    params = KmeansParams(
        granularity="tensor",
        budget={"bits": 3.2, "choices": (4, 8, 16), "sensitivity": sensitivity},  # type: ignore[arg-type]
    )
    facts = apply(graph, params, run).facts
    assert 2.5 < facts["budget"]["bits"] <= 3.2
    assert len({layer["clusters"] for layer in facts["layers"].values()}) > 1


def test_a_budget_that_nothing_meets_is_said(graph: Model, run: RunContext) -> None:
    params = KmeansParams(budget={"bits": 0.5, "choices": (2, 4), "sensitivity": "error"})  # type: ignore[arg-type]
    with pytest.raises(StageError, match="cannot be met"):
        apply(graph, params, run)


# Training


@pytest.mark.parametrize("membership", ["fixed", "straight-through", "soft"])
@pytest.mark.parametrize("granularity", ["tensor", "scaled"])
def test_training_keeps_values_shared(network: Model, run: RunContext, membership: str, granularity: str) -> None:
    finetune = {**BRIEF, "assignment": membership, "checkpoint": "last", "learning_rate": 0.01}
    params = KmeansParams(clusters=8, granularity=granularity, finetune=finetune)  # type: ignore[arg-type]
    untrained = apply(network, replace_finetune(params), run).model
    result = apply(network, params, run)
    before, after = _weights(untrained), _weights(result.model)
    assert any(not np.array_equal(before[name], after[name]) for name in after)
    for value in after.values():
        rows = value.reshape(1, -1) if granularity == "tensor" else value.reshape(len(value), -1)
        assert max(_distinct(row) for row in rows) <= 8
    if membership == "fixed":
        name = max(after, key=lambda name: after[name].size)
        same = codebook_of(before[name], len(before[name])), codebook_of(after[name], len(after[name]))
        assert same[0] is not None
        assert same[1] is not None
        assert np.array_equal(same[0].indices, same[1].indices)
    assert _accuracy(result.model, run) >= 97.0


def replace_finetune(params: KmeansParams) -> KmeansParams:
    return params.model_copy(update={"finetune": None, "bias_correction": False})


def test_an_entrys_gradient_is_the_sum_over_its_weights() -> None:
    from compressctl.techniques.share._codebook_hooks import CodebookTraining, Layout
    from compressctl.training.hooks import StepInfo

    layer = torch.nn.Linear(3, 2, bias=False)
    index, held = torch.tensor([[0, 1, 1], [2, 1, 0]]), torch.tensor([True, False, False])
    layout = Layout(index, None, held, 3)
    layer.weight.data = layout.spread(torch.tensor([0.0, 0.5, -1.0]))
    layer.weight.grad = torch.tensor([[9.0, 1.0, 2.0], [4.0, 6.0, 9.0]])
    CodebookTraining({"weight": layout}, summed=True).before_step(layer, StepInfo(0, 1, 0))
    assert layer.weight.grad.tolist() == [[0, 9, 9], [4, 9, 0]]
    layer.weight.grad = torch.tensor([[9.0, 1.0, 2.0], [4.0, 6.0, 9.0]])
    CodebookTraining({"weight": layout}, summed=False).before_step(layer, StepInfo(0, 1, 0))
    assert layer.weight.grad.tolist() == [[0, 3, 3], [4, 3, 0]]


def test_soft_weights_become_hard_as_softness_falls() -> None:
    from compressctl.techniques.share._codebook_hooks import Layout
    from compressctl.techniques.share._soft import soften

    torch.manual_seed(0)
    weight = torch.randn(6, 20, requires_grad=True)
    layout = Layout(torch.bucketize(weight.detach(), torch.tensor([-0.5, 0.5])), None, torch.zeros(3, dtype=bool), 3)
    nearly_hard, soft = (soften(layout, weight, softness).detach().numpy().round(3) for softness in (1e-4, 0.3))
    assert _distinct(nearly_hard) <= 6
    assert _distinct(soft) > 60
    soften(layout, weight, 0.3).sum().backward()
    assert weight.grad is not None
    assert bool((weight.grad != 0).all())


def test_a_teacher_can_be_followed(network: Model, run: RunContext) -> None:
    taught = replace(run, original=lambda: replace(network, body=copy.deepcopy(network.body)))
    params = KmeansParams(clusters=8, finetune={**BRIEF, "teacher": "original"})  # type: ignore[arg-type]
    assert apply(network, params, taught).facts["finetune"]["epochs"] == 1


@pytest.mark.parametrize("embeddings", [True, False])
def test_tables_of_a_graph_share_values_unless_they_are_left_out(run: RunContext, embeddings: bool) -> None:
    table = np.random.default_rng(0).normal(size=(40, 32)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "x"], ["h"], "embed"),
        helper.make_node("MatMul", ["h", "other"], ["y"], "product"),
    ]
    body = helper.make_model(
        helper.make_graph(
            nodes,
            "words",
            [helper.make_tensor_value_info("x", onnx.TensorProto.INT64, ["batch"])],
            [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 32])],
            [numpy_helper.from_array(table, "table"), numpy_helper.from_array(table[:32], "other")],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    signature = Signature((TensorSpec("x", "int64", ("batch",)),), (TensorSpec("y", "float32", ("batch", 32)),))
    params = KmeansParams(granularity="tensor", clusters=8, embeddings=embeddings)
    shared = _weights(apply(OnnxModel(body, signature), params, replace(run, data=None)).model)
    assert _distinct(shared["table"]) == (8 if embeddings else table.size)
    assert _distinct(shared["other"]) == 8
    assert np.abs(shared["table"] - table).max() < 1.5


# With what comes before and after


def test_pruned_zeros_pass_through_sharing_and_training(network: Model, run: RunContext) -> None:
    pruned = prune(network, UnstructuredParams(sparsity=0.8), run).model
    zeros = {name: value == 0 for name, value in _weights(pruned).items()}
    params = KmeansParams(clusters=8, granularity="tensor", finetune=BRIEF)  # type: ignore[arg-type]
    shared = apply(pruned, params, run).model
    assert shared.sparse == pruned.sparse
    for name in pruned.sparse:
        assert np.array_equal(_weights(shared)[name] == 0, zeros[name])
    packed, ledger = pack_constants(lower(shared).body, Folds())
    assert packed.ByteSize() < 0.15 * lower(network).body.ByteSize()
    assert any(tensor.form.startswith("a mask") for tensor in ledger)


def test_scaled_codebooks_are_found_again_behind_batch_norm(network: Model, run: RunContext) -> None:
    shared = apply(network, KmeansParams(clusters=16), run).model
    _, ledger = pack_constants(lower(shared).body, Folds())
    large = [tensor.form for tensor in ledger if tensor.plain_bytes > 30_000]
    assert large
    assert set(large) == {"4-bit indices into 16 values times a scale per channel"}


def test_overrides_and_what_is_left(graph: Model, run: RunContext) -> None:
    name = "classifier.weight"
    overrides = ({"match": "classifier*", "clusters": 0},)
    result = apply(graph, KmeansParams(overrides=overrides), run)  # type: ignore[arg-type]
    assert result.facts["left"][name] == "override 'classifier*'"
    assert np.array_equal(_weights(result.model)[name], _weights(graph)[name])
    with pytest.raises(UsageError, match="matches no layer"):
        apply(graph, KmeansParams(overrides=({"match": "nothing", "clusters": 2},)), run)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("params", "path"),
    [
        ({"finetune": {}}, "finetune"),
        ({"importance": "fisher"}, "importance"),
        ({"rate_weight": 0.1, "granularity": "channel"}, "rate_weight"),
        ({"rate_weight": 0.1, "codebook": "uniform"}, "rate_weight"),
    ],
)
def test_what_cannot_be_is_said_before_anything_runs(params: dict[str, Any], path: str) -> None:
    facts = ModelFacts(Form.ONNX, Target("onnxruntime"))
    assert [problem.path for problem in KmeansParams(**params).problems(facts)] == [path]


def test_needs_follow_the_params() -> None:
    assert KmeansParams().needs().requires == frozenset()
    assert KmeansParams().needs().reads == {Need.CALIBRATION_DATA}
    assert KmeansParams(bias_correction=False).needs().all == frozenset()
    fisher = KmeansParams(importance="fisher").needs().requires
    assert fisher == {Need.CALIBRATION_DATA, Need.LABELS, Need.TASK_LOSS}
    trained = KmeansParams(finetune={})  # type: ignore[arg-type]
    assert trained.needs().requires == {Need.TRAINING_DATA, Need.LABELS, Need.TASK_LOSS}


# End to end


def test_the_report_tells_the_packed_files_accuracy_and_size(shell: Shell, tmp_path: Path) -> None:
    recipe = tmp_path / "share.yaml"
    recipe.write_text(
        "recipe: compressctl/v1\nname: share\ntask: classification\n"
        "model: {source: builtin, name: digits-depthwise}\ndata: {source: digits}\n"
        "target: {backend: onnxruntime, threads: 1}\n"
        "stages: [{use: share.kmeans, clusters: 8}]\n"
        "export: [{backend: onnxruntime, storage: compressed}]\n"
    )
    result = shell.run("apply", str(recipe), "--measure", "quick", "--output", str(tmp_path / "out"))
    assert result.code == 0, result.err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    after, before = report["backends"][0]["compressed"], report["backends"][0]["baseline"]
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / after["path"]))
    data = load_dataset(DataSection("digits", DigitsParams(), SplitSizes()), Path(), 0)
    batch = next(data.split("test").batches(10_000))
    score = float((session.run(None, dict(batch.inputs))[0].argmax(axis=1) == batch.labels).mean() * 100)
    assert after["score"]["value"] == pytest.approx(score)
    assert after["total_bytes"] < 0.3 * before["total_bytes"]
    assert after["load_ms"] > 0
    assert any(entry["dtype"] == "float32 (packed)" for entry in after["weights"])


@pytest.mark.parametrize("granularity", ["tensor", "scaled", "channel", "group"])
@pytest.mark.parametrize("groups", [1, 4])
def test_errors_are_made_good_by_later_weights(granularity: str, groups: int) -> None:
    from compressctl.techniques.share._compensate import compensate

    rng = np.random.default_rng(7)
    weight = rng.normal(size=(16, 128)).astype(np.float32) * (rng.random((16, 128)) < 0.8)
    mixed = rng.normal(size=(groups, 2000, 40)) @ rng.normal(size=(groups, 40, 128))
    inputs = mixed + 0.1 * rng.normal(size=mixed.shape)
    params = KmeansParams(clusters=8, granularity=granularity)  # type: ignore[arg-type]
    found = share(weight, Codebooks(8, granularity), params, None, rng)  # type: ignore[arg-type]
    better = compensate(weight, found, np.einsum("gnk,gnl->gkl", inputs, inputs))

    def error(values: np.ndarray) -> float:
        parts = np.split(weight - values, groups)
        return sum(float(((x @ part.T) ** 2).sum()) for x, part in zip(inputs, parts, strict=True))

    assert error(better.values()) < 0.6 * error(found.values())
    assert np.array_equal(better.values() == 0, weight == 0)
    assert np.array_equal(better.codebook, found.codebook)


@pytest.mark.parametrize("form", [Form.TORCH, Form.ONNX])
def test_compensation_sees_the_right_inputs(network: Model, graph: Model, run: RunContext, form: Form) -> None:
    """Columns in another order than the weight's would make outputs worse instead of better."""
    model = network if form is Form.TORCH else graph
    assert run.data is not None
    batch = next(run.data.split("test").batches(256))

    def moved(compensated: bool) -> float:
        params = KmeansParams(clusters=3, granularity="tensor", compensate=compensated)
        changed = _outputs(apply(model, params, run).model, batch.inputs)
        return float(((changed - _outputs(model, batch.inputs)) ** 2).mean())

    assert moved(True) < 0.7 * moved(False)


def _outputs(model: Model, inputs: Any) -> np.ndarray:
    if model.form is Form.TORCH:
        with torch.no_grad():
            return np.asarray(model.body(*(torch.from_numpy(value) for value in inputs.values())).numpy())
    session = onnxruntime.InferenceSession(model.body.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, dict(inputs))[0])
