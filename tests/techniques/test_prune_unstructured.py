"""prune.unstructured on networks and graphs: exact zeros where they belong, held by everything that comes after."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from support.shell import Shell
from torch import nn
from torch.nn import functional

from compressctl.backends.dialects.cpu import emit
from compressctl.backends.tensorrt.rules import Graph, two_of_four
from compressctl.core.data import Batch
from compressctl.core.errors import NothingToCompressError, UsageError
from compressctl.core.events import Events
from compressctl.core.model import Form, Model, OnnxModel, Signature, TensorSpec, TorchModel
from compressctl.core.needs import Need
from compressctl.core.quant import QuantPlan
from compressctl.core.source import SplitSizes
from compressctl.core.target import Target
from compressctl.core.technique import ModelFacts, RunContext
from compressctl.graph.lower import lower
from compressctl.layers.torch_network import TorchNetwork
from compressctl.recipe.loader import load
from compressctl.recipe.schema import DataSection, ModelSection
from compressctl.sources.load import load_dataset, load_model
from compressctl.sources.params import BuiltinParams, DigitsParams
from compressctl.techniques.finetune.finetune import apply as finetune
from compressctl.techniques.finetune.params import FinetuneParams
from compressctl.techniques.prune import _masking
from compressctl.techniques.prune.params import UnstructuredParams
from compressctl.techniques.prune.unstructured import apply
from compressctl.techniques.quantize.params import StaticParams
from compressctl.techniques.quantize.static import apply as quantize

BRIEF = {"epochs": 2, "batch_size": 256, "learning_rate": 0.02}
BLOCK = "block2.body.0.conv.weight"


@dataclass(frozen=True)
class Samples:
    """Random inputs of a shape, without labels."""

    inputs: np.ndarray

    def __len__(self) -> int:
        return len(self.inputs)

    def batches(self, size: int, *, shuffle_seed: int | None = None) -> Iterator[Batch]:
        for start in range(0, len(self), size):
            part = self.inputs[start : start + size]
            yield Batch({"x": part}, None, np.arange(start, start + len(part)))


@dataclass(frozen=True)
class Data:
    samples: Samples
    classes: None = None

    def split(self, name: str) -> Samples:
        return self.samples


@pytest.fixture(scope="module")
def digits() -> Model:
    return load_model(ModelSection("builtin", BuiltinParams(name="digits-resnet")), Path(), 0)


@pytest.fixture(scope="module")
def lowered(digits: Model) -> Model:
    return lower(digits)


@pytest.fixture(scope="module")
def digits_2_4(digits: Model, run: RunContext) -> tuple[Model, Model]:
    """Pruned in the first form, and lowered."""
    pruned = apply(digits, UnstructuredParams(method="sparsegpt", pattern="2:4", first_and_last="prune"), run).model
    return pruned, lower(pruned)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    sizes = SplitSizes(calibration=96, validation=100)
    data = load_dataset(DataSection("digits", DigitsParams(), sizes), Path(), 0)
    return RunContext(0, Events(), tmp_path_factory.mktemp("run"), Target("onnxruntime"), data=data)


def _network(body: nn.Module, *shape: int, dtype: str = "float32") -> Model:
    inputs, outputs = TensorSpec("x", dtype, ("batch", *shape)), TensorSpec("output", "float32", ("batch", 4))
    return TorchModel(body.eval(), Signature((inputs,), (outputs,)))


def _seen(run: RunContext, *shape: int) -> RunContext:
    """Inputs that are mixtures of few sources, and some louder than others."""
    rng = np.random.default_rng(3)
    size = int(np.prod(shape))
    mixed = rng.normal(size=(64, max(size // 3, 1))) @ rng.normal(size=(max(size // 3, 1), size))
    inputs = (mixed * np.exp(rng.normal(size=size))).reshape(64, *shape).astype(np.float32)
    return replace(run, data=Data(Samples(inputs)))


def _weights(model: Model) -> dict[str, np.ndarray]:
    if model.form is Form.TORCH:
        return {name: parameter.detach().numpy() for name, parameter in model.body.named_parameters()}
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.body.graph.initializer}


def _zeros(weight: np.ndarray) -> int:
    return weight.size - int(np.count_nonzero(weight))


def _channels_last_groups(weight: np.ndarray, m: int) -> np.ndarray:
    """(out, in, *kernel) as groups of m input channels at one kernel position, along the last axis."""
    by_position = np.moveaxis(weight.reshape(*weight.shape[:2], -1), 1, 2)
    return by_position[..., : by_position.shape[-1] // m * m].reshape(-1, m)


# What becomes zero


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
@pytest.mark.parametrize("form", [Form.TORCH, Form.ONNX])
def test_each_layer_loses_its_share_and_the_small_ends_stay(
    digits: Model, lowered: Model, run: RunContext, method: str, form: Form
) -> None:
    model = digits if form is Form.TORCH else lowered
    before = {name: weight.copy() for name, weight in _weights(model).items()}
    result = apply(model, UnstructuredParams(method=method, sparsity=0.75), run)
    after = _weights(result.model)
    pruned = [name for name in after if name.endswith("conv.weight") and not name.startswith("stem")]
    assert set(result.facts["layers"]) == set(pruned)
    assert form is Form.ONNX or set(result.model.sparse) == set(pruned)
    for name in pruned:
        assert abs(_zeros(after[name]) - 0.75 * after[name].size) <= len(after[name]) / 2  # a row may round
    for name in ("stem.conv.weight", "classifier.weight"):
        assert np.array_equal(after[name], before[name])
        assert "layer, 0." in result.facts["dense"][name]
    prunable = [*pruned, "stem.conv.weight", "classifier.weight"]
    zero, total = sum(_zeros(after[name]) for name in prunable), sum(after[name].size for name in prunable)
    assert (result.facts["zeros"]["zero"], result.facts["zeros"]["weights"]) == (zero, total)
    assert all(np.array_equal(weight, before[name]) for name, weight in _weights(model).items()), "given model changed"


def test_magnitude_drops_exactly_the_smallest(digits: Model, run: RunContext) -> None:
    weight = _weights(digits)[BLOCK]
    after = _weights(apply(digits, UnstructuredParams(sparsity=0.9), run).model)[BLOCK]
    smallest = np.sort(np.abs(weight).reshape(-1))[: round(0.9 * weight.size)]
    assert _zeros(after) == len(smallest)
    assert np.abs(weight[after == 0]).max() == smallest[-1]
    assert np.array_equal(after[after != 0], weight[after != 0])


@pytest.mark.parametrize("params", [{"scope": "global"}, {"method": "lamp"}], ids=["global", "lamp"])
def test_a_common_share_holds_for_all_layers_together(digits: Model, run: RunContext, params: dict[str, Any]) -> None:
    model = apply(digits, UnstructuredParams(sparsity=0.8, **params), run).model
    after = [_weights(model)[name] for name in model.sparse]
    assert sum(map(_zeros, after)) == round(0.8 * sum(weight.size for weight in after))
    assert max(_zeros(weight) / weight.size for weight in after) > 0.85


@pytest.mark.parametrize(
    ("method", "pattern", "n", "m"),
    [
        ("magnitude", "1:4", 1, 4),
        ("magnitude", "4:8", 4, 8),
        ("wanda", "2:4", 2, 4),
        ("sparsegpt", "2:4", 2, 4),
    ],
)
def test_n_of_m_holds_along_input_channels(
    digits: Model, run: RunContext, method: str, pattern: str, n: int, m: int
) -> None:
    model = apply(digits, UnstructuredParams(method=method, pattern=pattern), run).model
    for name in model.sparse:
        groups = _channels_last_groups(_weights(model)[name], m)
        assert (np.count_nonzero(groups, axis=1) == n).all()


def test_a_round_takes_no_more_layers_than_their_matrices_have_memory(
    digits: Model, run: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if there were as many rounds as layers."""
    wanted = _weights(apply(digits, UnstructuredParams(method="sparsegpt", rounds=1000), run).model)
    together = _weights(apply(digits, UnstructuredParams(method="sparsegpt", rounds=1), run).model)
    monkeypatch.setattr(_masking, "_GRAM_BYTES", 0)
    found = _weights(apply(digits, UnstructuredParams(method="sparsegpt", rounds=1), run).model)
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    assert any(not np.array_equal(found[name], together[name]) for name in wanted)


@pytest.mark.parametrize(
    ("method", "block"), [("magnitude", (4, 1)), ("magnitude", (2, 8)), ("lamp", (1, 4)), ("sparsegpt", (4, 1))]
)
def test_blocks_of_outputs_and_inputs_are_zero_whole(
    digits: Model, run: RunContext, method: str, block: tuple[int, int]
) -> None:
    model = apply(digits, UnstructuredParams(method=method, pattern=block), run).model
    total = 0
    for name in model.sparse:
        weight = _weights(model)[name]
        for position in np.moveaxis(weight.reshape(*weight.shape[:2], -1), 2, 0):
            tiles = position.reshape(len(position) // block[0], block[0], -1, block[1])
            live = np.count_nonzero(tiles, axis=(1, 3))
            assert set(np.unique(live)) <= {0, block[0] * block[1]}
            total += np.count_nonzero(live == 0) * block[0] * block[1]
    assert total == pytest.approx(0.5 * sum(_weights(model)[name].size for name in model.sparse), rel=0.01)


def test_an_override_has_its_own_share_or_pattern_or_stays_dense(digits: Model, run: RunContext) -> None:
    overrides = [
        {"match": "block1*", "sparsity": 0},
        {"match": "block2.body.0.conv", "sparsity": 0.25},
        {"match": "*shortcut*", "pattern": "1:4"},
        {"match": "classifier.weight", "sparsity": 0.5},
    ]
    params = UnstructuredParams(method="lamp", sparsity=0.9, overrides=overrides)
    result = apply(digits, params, run)
    after = _weights(result.model)
    assert _zeros(after["block1.body.0.conv.weight"]) == 0
    assert result.facts["dense"]["block1.body.0.conv.weight"] == "override 'block1*'"
    assert _zeros(after[BLOCK]) == round(0.25 * after[BLOCK].size)
    assert (np.count_nonzero(_channels_last_groups(after["block3.shortcut.conv.weight"], 4), axis=1) == 1).all()
    assert _zeros(after["classifier.weight"]) == 320
    others = [after[f"block{n}.body.{k}.conv.weight"] for n, k in [(2, 1), (3, 0), (3, 1), (4, 0), (4, 1)]]
    assert sum(map(_zeros, others)) == round(0.9 * sum(weight.size for weight in others))


def test_a_pattern_that_matches_nothing_is_an_error(digits: Model, run: RunContext) -> None:
    params = UnstructuredParams(overrides=[{"match": "blok*", "sparsity": 0}])
    with pytest.raises(UsageError, match=r"'blok\*' matches no layer\n   there are: stem.conv.weight, block1"):
        apply(digits, params, run)


def test_ends_can_be_pruned_or_kept_and_a_large_first_layer_is_no_end(run: RunContext) -> None:
    wide = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4))
    model = _network(wide, 1, 8, 8)
    assert list(apply(model, UnstructuredParams(), run).facts["dense"]) == ["5.weight"]
    assert apply(model, UnstructuredParams(first_and_last="prune"), run).facts["dense"] == {}
    assert list(apply(model, UnstructuredParams(first_and_last="keep"), run).facts["dense"]) == ["1.weight", "5.weight"]


def test_nothing_to_prune_is_said_with_reasons(run: RunContext) -> None:
    model = _network(nn.Sequential(nn.Flatten(), nn.Linear(3, 4)), 3)
    with pytest.raises(NothingToCompressError, match=r"nothing to prune.*2:4 needs 4 input channels, it has 3"):
        apply(model, UnstructuredParams(pattern="2:4"), run)


# Layers of all kinds


class Mixed(nn.Module):
    """What a network may hold beside plain layers: tables, tied weights, attention, groups, three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(12, 8)
        self.position = nn.Parameter(torch.randn(1, 6, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.grouped = nn.Conv1d(8, 16, 3, padding="same", groups=2)
        self.volume = nn.Conv3d(1, 8, 2)
        self.spread = nn.ConvTranspose1d(4, 4, 2)
        self.back = nn.Linear(8, 12, bias=False)
        self.back.weight = self.table.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.table(x) + self.position
        hidden = hidden + self.attention(hidden, hidden, hidden)[0]
        hidden = hidden + self.grouped(hidden.transpose(1, 2)).transpose(1, 2)[..., :8]
        volume = self.volume(hidden.reshape(len(x), 1, 4, 4, 3)).mean(dim=(2, 3))
        return self.back(hidden.mean(dim=1) + self.spread(volume[:, :4]).sum(dim=(1, 2))[:, None])


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
def test_layers_of_many_kinds_are_pruned_and_the_others_named(run: RunContext, method: str) -> None:
    torch.manual_seed(0)
    tokens = np.random.default_rng(0).integers(0, 12, (64, 6))
    given = replace(run, data=Data(Samples(tokens)))
    result = apply(
        _network(Mixed(), 6, dtype="int64"), UnstructuredParams(method=method, first_and_last="prune"), given
    )
    assert list(result.model.sparse) == [
        "attention.in_proj_weight",
        "grouped.weight",
        "volume.weight",
        "spread.weight",
        "attention.out_proj.weight",
    ]
    after = _weights(result.model)
    assert all(_zeros(after[name]) == after[name].size // 2 for name in result.model.sparse)
    assert result.facts["dense"] == {
        "position": "Mixed is none of torch's own layers, so that the order of its weights is not known",
        "table.weight": "an embedding table; `embeddings: true` takes it too",
    }
    # torch computes attention's output product without calling its module; what enters a transposed convolution is not watched.
    unseen = [] if method == "magnitude" else ["spread.weight", "attention.out_proj.weight"]
    assert result.facts.get("by_magnitude", []) == unseen


def test_embeddings_are_pruned_when_asked_for(run: RunContext) -> None:
    given = replace(run, data=Data(Samples(np.zeros((8, 6), np.int64))))
    params = UnstructuredParams(embeddings=True, first_and_last="prune", sparsity=0.25)
    model = apply(_network(Mixed(), 6, dtype="int64"), params, given).model
    assert _zeros(_weights(model)["table.weight"]) == 24
    assert model.body.back.weight is model.body.table.weight


def _tied(rng: np.random.Generator) -> Model:
    """A table of 12 tokens, whose transpose is the last layer; and one of which columns are taken."""
    table, columns = (rng.normal(size=shape).astype(np.float32) for shape in ((12, 8), (8, 16)))
    nodes = [
        helper.make_node("Gather", ["table", "x"], ["h"], "embed"),
        helper.make_node("Gather", ["columns", "chosen"], ["c"], "columns", axis=1),
        helper.make_node("MatMul", ["h", "c"], ["m"], "product"),
        helper.make_node("Gemm", ["m", "table"], ["y"], "back", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tied",
        [helper.make_tensor_value_info("x", onnx.TensorProto.INT64, ["batch"])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 12])],
        [
            numpy_helper.from_array(table, "table"),
            numpy_helper.from_array(columns, "columns"),
            numpy_helper.from_array(np.arange(8), "chosen"),
        ],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    signature = Signature((TensorSpec("x", "int64", ("batch",)),), (TensorSpec("y", "float32", ("batch", 12)),))
    return OnnxModel(proto, signature)


@pytest.mark.parametrize("method", ["magnitude", "wanda"])
def test_tables_of_graphs_are_pruned_when_asked_for(run: RunContext, method: str) -> None:
    model = _tied(np.random.default_rng(0))
    given = replace(run, data=Data(Samples(np.arange(12))))
    params = UnstructuredParams(embeddings=True, first_and_last="prune", sparsity=0.25, method=method)
    result = apply(model, params, given)
    assert _zeros(_weights(result.model)["table"]) == 24
    assert result.facts.get("by_magnitude", []) == ([] if method == "magnitude" else ["table"])
    outputs = [
        onnxruntime.InferenceSession(body.SerializeToString()).run(None, {"x": np.arange(12)})[0]
        for body in (model.body, result.model.body)
    ]
    table = numpy_helper.to_array(model.body.graph.initializer[0])
    kept = np.where(_weights(result.model)["table"] == 0, 0, table)
    (columns,) = (
        value for value in _weights(result.model).values() if value.shape == (8, 8)
    )  # folded: they are constant
    np.testing.assert_allclose(outputs[1], kept @ columns @ kept.T, rtol=1e-4, atol=1e-5)
    assert not np.allclose(*outputs)


def test_tables_of_graphs_stay_whole_unless_they_are_meant(run: RunContext) -> None:
    model = _tied(np.random.default_rng(0))
    model.body.graph.node[2].input[1] = "other"
    model.body.graph.initializer.append(numpy_helper.from_array(np.ones((8, 8), np.float32), "other"))
    result = apply(model, UnstructuredParams(first_and_last="prune"), run)
    assert list(result.facts["layers"]) == ["other"]
    assert result.facts["dense"]["table"] == "an embedding table; `embeddings: true` takes it too"


def test_graphs_of_other_exporters_are_pruned_along_their_own_axes(run: RunContext) -> None:
    """Weights as (in, out), in float16, behind automatic padding, and for a fixed batch."""
    rng = np.random.default_rng(0)
    conv = rng.normal(size=(8, 4, 3, 3)).astype(np.float16)
    product, gemm = rng.normal(size=(8, 16)).astype(np.float16), rng.normal(size=(16, 4)).astype(np.float16)
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], "cast", to=onnx.TensorProto.FLOAT16),
        helper.make_node("Conv", ["h", "conv"], ["c"], "conv", auto_pad="SAME_UPPER", strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("MatMul", ["f", "product"], ["m"], "product"),
        helper.make_node("Gemm", ["m", "gemm"], ["g"], "gemm"),
        helper.make_node("Cast", ["g"], ["y"], "back", to=onnx.TensorProto.FLOAT),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "net", [value("x", 1, [4, 4, 7, 7])], [value("y", 1, [4, 4])],
        [numpy_helper.from_array(array, name) for name, array in (("conv", conv), ("product", product), ("gemm", gemm))],
    )  # fmt: skip
    body = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    signature = Signature((TensorSpec("x", "float32", (4, 4, 7, 7)),), (TensorSpec("y", "float32", (4, 4)),))
    given = _seen(run, 4, 7, 7)
    for method in ("magnitude", "wanda", "sparsegpt"):
        params = UnstructuredParams(method=method, pattern="2:4", first_and_last="prune")
        after = _weights(apply(OnnxModel(body, signature), params, given).model)
        assert after["conv"].dtype == np.float16
        for weight in (after["conv"], after["product"].T, after["gemm"].T):
            assert (np.count_nonzero(_channels_last_groups(weight, 4), axis=1) == 2).all()


# Calibrated methods against independent computations


def _two_layers(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(4, 16, 3, padding=1, stride=2, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 16, 12)
    )


@pytest.mark.parametrize("form", [Form.TORCH, Form.ONNX])
def test_wanda_weighs_each_weight_by_the_norm_of_its_input(run: RunContext, form: Form) -> None:
    network, given = _two_layers(), _seen(run, 4, 8, 8)
    inputs = torch.tensor(given.data.samples.inputs)  # type: ignore[union-attr]
    unfolded = functional.unfold(inputs, 3, padding=1, stride=2)  # (n, 4 * 9, positions)
    norms = unfolded.square().sum(dim=(0, 2)).sqrt().reshape(2, 1, 2, 3, 3)
    scores = (network[0].weight.detach().abs().reshape(2, 8, 2, 3, 3) * norms).reshape(16, -1)
    expected = scores.numpy() > np.sort(scores.numpy(), axis=1)[:, [8]]  # 9 of 18 go
    model = _network(network, 4, 8, 8)
    if form is Form.ONNX:
        model = lower(model)
    after = _weights(apply(model, UnstructuredParams(method="wanda", first_and_last="prune"), given).model)["0.weight"]
    assert np.array_equal(after.reshape(16, -1) != 0, expected)


@pytest.mark.parametrize("form", [Form.TORCH, Form.ONNX])
def test_sparsegpt_moves_the_output_less_than_the_others(run: RunContext, form: Form) -> None:
    network, given = _two_layers(), _seen(run, 4, 8, 8)
    model = _network(network, 4, 8, 8)
    model = lower(model) if form is Form.ONNX else model
    inputs = given.data.samples.inputs  # type: ignore[union-attr]

    def outputs(found: Model) -> np.ndarray:
        if found.form is Form.TORCH:
            with torch.no_grad():
                return np.asarray(found.body(torch.tensor(inputs)).numpy())
        session = onnxruntime.InferenceSession(found.body.SerializeToString(), providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, {"x": inputs})[0])

    errors = {
        method: np.square(
            outputs(apply(model, UnstructuredParams(method=method, sparsity=0.6, first_and_last="prune"), given).model)
            - outputs(model)
        ).sum()
        for method in ("magnitude", "wanda", "sparsegpt")
    }
    assert errors["sparsegpt"] < 0.5 * errors["magnitude"]
    assert errors["sparsegpt"] < errors["wanda"]


@pytest.mark.parametrize("form", [Form.TORCH, Form.ONNX])
def test_biases_make_up_for_the_mean_of_what_is_lost(run: RunContext, form: Form) -> None:
    network = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.Flatten(), nn.Linear(8 * 36, 12))
    given = _seen(run, 4, 8, 8)
    inputs = torch.tensor(given.data.samples.inputs) + 0.7  # type: ignore[union-attr]
    given = replace(given, data=Data(Samples(inputs.numpy())))
    model = _network(network, 4, 8, 8)
    model = lower(model) if form is Form.ONNX else model
    means = {}
    for corrected in (False, True):
        params = UnstructuredParams(method="wanda", sparsity=0.5, first_and_last="prune", bias_correction=corrected)
        after = _weights(apply(model, params, given).model)
        weight = torch.tensor(after["0.weight"])
        bias = torch.tensor(after.get("0.weight.shifted_bias", after.get("0.bias")))
        means[corrected] = functional.conv2d(inputs, weight, bias, groups=2).mean(dim=(0, 2, 3))
    wanted = network[0](inputs).mean(dim=(0, 2, 3)).detach()
    assert (means[True] - wanted).abs().max() < 1e-4
    assert (means[False] - wanted).abs().max() > 0.05


def test_fresh_norms_recover_what_a_cut_shifts(digits: Model, run: RunContext) -> None:
    assert run.data is not None
    batch = next(run.data.split("test").batches(1000))
    images, labels = torch.tensor(next(iter(batch.inputs.values()))), torch.tensor(batch.labels)

    def accuracy(**more: Any) -> float:
        model = apply(digits, UnstructuredParams(method="wanda", sparsity=0.8, **more), run).model
        with torch.no_grad():
            return float((model.body(images).argmax(dim=1) == labels).float().mean())

    assert accuracy() > accuracy(recalibrate_bn=False) + 0.2


# While training


@pytest.mark.parametrize(
    ("params", "cuts"),
    [
        ({"method": "magnitude", "schedule": "gradual"}, None),
        ({"method": "lamp", "schedule": "gradual", "every": 3, "begin": 0.2, "end": 0.6}, 2),
        ({"method": "movement", "schedule": "gradual", "scope": "global"}, None),
        ({"method": "magnitude", "schedule": "gradual", "pattern": "2:4", "sparsity": None}, None),
        ({"method": "magnitude", "schedule": "iterative", "iterations": 2}, 2),
        ({"method": "sparsegpt", "schedule": "one-shot"}, None),
        ({"method": "magnitude", "schedule": "gradual", "train": {"ema_decay": 0.9}}, None),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_every_schedule_ends_with_exactly_its_zeros(
    digits: Model, run: RunContext, params: dict[str, Any], cuts: int | None
) -> None:
    given = {"sparsity": 0.8, **params}
    settings = UnstructuredParams(finetune=BRIEF | given.pop("train", {}), **given)
    result = apply(digits, settings, run)
    after = [_weights(result.model)[name] for name in result.model.sparse]
    total = sum(weight.size for weight in after)
    assert sum(map(_zeros, after)) == pytest.approx(settings.share * total, abs=len(after))
    if settings.pattern == "2:4":
        assert all((np.count_nonzero(_channels_last_groups(weight, 4), axis=1) <= 2).all() for weight in after)
    if cuts is not None:
        found = result.facts["cuts"]
        assert (len(found) if isinstance(found, list) else found["number"]) == cuts
    assert not any(module.training for module in result.model.body.modules())


def test_cuts_come_at_the_steps_that_the_params_say(digits: Model, run: RunContext) -> None:
    """2 epochs of 5 steps (1,242 digits in batches of 256): from step 2 to step 7, every 3 steps, and at the end."""
    params = UnstructuredParams(schedule="gradual", finetune=BRIEF, begin=0.2, end=0.67, every=3)
    facts = apply(digits, params, run).facts
    assert run.data is not None
    steps = 2 * -(-len(run.data.split("train")) // 256)
    start, stop = int(0.2 * steps), round(0.67 * steps)
    wanted = [*range(start + 3, stop, 3), stop]
    assert facts["cuts"] == {"number": len(wanted), "first_step": wanted[0], "last_step": stop}


@pytest.mark.parametrize("method", ["magnitude", "movement"])
def test_a_killed_gradual_training_goes_on_to_the_same_bits(
    digits: Model, run: RunContext, tmp_path: Path, method: str
) -> None:
    params = UnstructuredParams(method=method, schedule="gradual", finetune=BRIEF | {"checkpoint": "last"})
    whole = apply(digits, params, run).model
    told: list[int] = []

    def stop_in_the_second_epoch(event: Any) -> None:
        if event.kind == "step.progress" and "epoch 2" in event.fields["what"]:
            told.append(1)
            raise KeyboardInterrupt

    stopping = replace(run, checkpoint=tmp_path, events=Events(stop_in_the_second_epoch))
    with pytest.raises(KeyboardInterrupt):
        apply(digits, params, stopping)
    resumed = apply(digits, params, replace(run, checkpoint=tmp_path))
    assert told
    assert resumed.facts["finetune"]["resumed_at_step"] > 0
    for name, weight in _weights(whole).items():
        assert np.array_equal(_weights(resumed.model)[name], weight), name


def test_movement_brings_back_what_turns_out_to_matter() -> None:
    """A weight near zero whose gradient pushes it away from zero stays; a larger one that shrinks goes."""
    from compressctl.techniques.prune._sparse_training import gradual
    from compressctl.techniques.prune._sparsity import sparsities
    from compressctl.training.hooks import StepInfo

    body = nn.Linear(2, 1, bias=False)
    body.weight.data = torch.tensor([[0.1, 1.0]])
    signature = Signature((TensorSpec("x", "float32", ("batch", 2)),), (TensorSpec("y", "float32", ("batch", 1)),))
    layers = TorchNetwork(TorchModel(body, signature))
    network = layers.body
    params = UnstructuredParams(method="movement", schedule="gradual", finetune=BRIEF, sparsity=0.5, end=1.0)
    hook = gradual(layers, sparsities(layers.layers(), params), params)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for step in range(4):
        network.weight.grad = torch.tensor([[-1.0, 1.0]])
        hook.before_step(network, StepInfo(step, 4, 0))
        optimizer.step()
        hook.after_step(network, StepInfo(step, 4, 0))
    assert network.weight.tolist() == [[pytest.approx(0.5), 0.0]]


def test_the_same_seed_gives_the_same_weights(digits: Model, run: RunContext) -> None:
    params = UnstructuredParams(method="movement", schedule="gradual", finetune=BRIEF | {"epochs": 1})
    one, two = (_weights(apply(digits, params, run).model) for _ in range(2))
    assert all(np.array_equal(one[name], two[name]) for name in one)


# What comes after


def test_zeros_stay_zero_through_training_lowering_and_quantization(digits: Model, run: RunContext) -> None:
    pruned = apply(digits, UnstructuredParams(sparsity=0.7), run).model
    trained = finetune(pruned, FinetuneParams(epochs=1, learning_rate=0.05), run).model
    lowered = lower(trained)  # BatchNorm is scaled into the weights, channel by channel
    quantized = quantize(lowered, StaticParams(), run).model
    codes = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in emit(quantized, Target("onnxruntime")).graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8
    }
    for name in pruned.sparse:
        zero = _weights(pruned)[name] == 0
        assert not _weights(trained)[name][zero].any()
        assert _weights(trained)[name][~zero].any()
        assert not _weights(lowered)[name][zero].any()
        (stored,) = (array for key, array in codes.items() if key.startswith(name) and array.shape == zero.shape)
        assert not stored[zero].any()


def test_a_second_cut_keeps_the_first_one_s_zeros(digits: Model, run: RunContext) -> None:
    once = apply(digits, UnstructuredParams(sparsity=0.5), run).model
    twice = apply(once, UnstructuredParams(sparsity=0.8, schedule="gradual", finetune=BRIEF), run).model
    assert set(twice.sparse) == set(once.sparse)
    for name in once.sparse:
        assert not _weights(twice)[name][_weights(once)[name] == 0].any()


@pytest.mark.parametrize("int8", [False, True], ids=["float", "int8"])
def test_two_of_four_holds_in_the_file_for_tensorrt(
    digits_2_4: tuple[Model, Model], run: RunContext, tmp_path: Path, *, int8: bool
) -> None:
    from compressctl.backends.params import TensorRtParams
    from compressctl.backends.tensorrt import BACKEND

    pruned, model = digits_2_4
    model = quantize(model, StaticParams(), run).model if int8 else model
    target = Target("tensorrt", profile="nvidia-sm80", options=TensorRtParams().model_dump(mode="json"))
    artifact = BACKEND.build(model, target, tmp_path)
    holding = two_of_four(Graph.of(onnx.load(artifact.path), sparse=True))
    layers = {name.removesuffix(".weight") for name in pruned.sparse}
    assert {name for name in holding if not name.startswith("stem")} == layers
    assert "classifier" in layers
    assert "'sparse': True" in (tmp_path / "build_engine.py").read_text()


def test_a_quantized_model_is_refused(lowered: Model, run: RunContext) -> None:
    with pytest.raises(NothingToCompressError, match="already quantized"):
        apply(replace(lowered, quant=QuantPlan(dynamic=frozenset({"classifier"}))), UnstructuredParams(), run)


# Recipes


@pytest.mark.parametrize(
    ("params", "form", "path", "message"),
    [
        ({"pattern": "2:4", "sparsity": 0.9}, Form.TORCH, "sparsity", "2:4 makes a share of 0.5 zero, not 0.9"),
        ({"pattern": "2:4", "scope": "global"}, Form.TORCH, "scope", "fixes the share of each layer"),
        ({"pattern": "2:4", "method": "lamp"}, Form.TORCH, "method", "fixes the share of each layer"),
        ({"method": "wanda", "scope": "global"}, Form.TORCH, "scope", "cannot be compared between layers"),
        ({"method": "lamp", "scope": "local"}, Form.TORCH, "scope", "spreads the share over layers"),
        ({"schedule": "gradual"}, Form.TORCH, "schedule", "there is no `finetune`"),
        ({"schedule": "iterative", "finetune": {"epochs": 0}}, Form.TORCH, "finetune.epochs", "needs epochs"),
        ({"schedule": "gradual", "method": "wanda", "finetune": {}}, Form.TORCH, "schedule", "calibration data"),
        ({"method": "movement", "finetune": {}}, Form.TORCH, "schedule", "prunes gradually"),
        ({"schedule": "gradual", "finetune": {}, "begin": 0.8}, Form.TORCH, "begin", "begins at 0.8 and ends at 0.75"),
        ({"overrides": [{"match": "a"}]}, Form.TORCH, "overrides[0]", "changes nothing"),
        ({"finetune": {}}, Form.ONNX, "finetune", "needs a torch model"),
    ],
)
def test_what_does_not_fit_together_is_said_before_anything_is_loaded(
    params: dict[str, Any], form: Form, path: str, message: str
) -> None:
    (problem,) = UnstructuredParams(**params).problems(ModelFacts(form, Target("onnxruntime")))
    assert problem.path == path
    assert message in problem.message
    assert problem.hint


def test_it_needs_what_its_params_need() -> None:
    def needs(**params: Any) -> frozenset[Need]:
        return UnstructuredParams(**params).needs().requires

    assert needs() == frozenset()
    assert needs(method="sparsegpt") == {Need.CALIBRATION_DATA}
    assert needs(recalibrate_bn=True) == {Need.CALIBRATION_DATA}
    assert needs(finetune={}) == {Need.LABELS, Need.TRAINING_DATA, Need.TASK_LOSS}


@pytest.mark.parametrize("written", ["2:4", '"2:4"', "[4, 1]", "unstructured"])
def test_a_recipe_says_the_pattern_as_people_write_it(tmp_path: Path, written: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "recipe: compressctl/v1\nmodel: {source: builtin, name: digits-resnet}\n"
        f"stages:\n  - {{use: prune.unstructured, pattern: {written}}}\n"
    )
    (stage,) = load(path).stages
    assert isinstance(stage.params, UnstructuredParams)
    assert stage.params.pattern == {"[4, 1]": (4, 1)}.get(written, written.strip('"'))


@pytest.mark.slow
def test_a_recipe_prunes_while_training_and_the_report_counts_what_the_file_holds(shell: Shell) -> None:
    stages = """  - id: sparse
    use: prune.unstructured
    sparsity: 0.8
    schedule: gradual
    finetune: {epochs: 2, learning_rate: 0.02}
  - {use: quantize.static, if_slower: keep, id: int8}"""
    done = shell.run("apply", shell.recipe("sparse.yaml", stages), "--output", "out")
    assert done.code == 0, done.err
    report = shell.report("out")
    (backend,) = report["backends"]
    file = backend["compressed"]
    stored = onnx.load(shell.folder / "out" / file["path"]).graph.initializer
    weights = [numpy_helper.to_array(tensor) for tensor in stored if tensor.data_type == onnx.TensorProto.INT8]
    convolutions = [weight for weight in weights if weight.ndim == 4 and weight.shape[1] > 1]
    facts = next(stage for stage in report["stages"] if stage["id"] == "sparse")["facts"]
    least = sum(round(0.8 * weight.size) for weight in convolutions)
    assert sum(map(_zeros, convolutions)) >= least  # rounding to integers may add some
    assert facts["zeros"]["zero"] == pytest.approx(least, abs=len(convolutions))
    counted = next(entry for entry in file["weights"] if entry["dtype"] == "int8")
    assert counted["zeros"] == sum(_zeros(weight) for weight in weights if weight.ndim > 1)

    split = load_dataset(DataSection("digits", DigitsParams(), SplitSizes(calibration=100)), Path(), 0).split("test")
    batch = next(split.batches(len(split)))
    session = onnxruntime.InferenceSession(shell.folder / "out" / file["path"], providers=["CPUExecutionProvider"])
    outputs = session.run(None, {session.get_inputs()[0].name: next(iter(batch.inputs.values()))})[0]
    assert file["score"]["value"] == pytest.approx((outputs.argmax(axis=1) == batch.labels).mean() * 100)

    said = " ".join(done.out.split())
    assert "of the weights in the file are zero. ONNX Runtime multiplies with zeros as with any number" in said
    assert "smaller when compressed for transport" in said
    assert "ONNX Runtime multiplies with zeros" in (shell.folder / "out" / "report.html").read_text()
    assert "ONNX Runtime multiplies with zeros" in (shell.folder / "out" / "report.md").read_text()


@pytest.mark.slow
def test_an_onnx_file_is_pruned_without_data(shell: Shell, lowered: Model) -> None:
    onnx.save(lowered.body, shell.folder / "digits.onnx")
    (shell.folder / "file.yaml").write_text(
        "recipe: compressctl/v1\nmodel: {source: onnx, path: digits.onnx}\n"
        "stages:\n  - {use: prune.unstructured, method: lamp, sparsity: 0.6}\n"
    )
    plan = json.loads(shell.run("plan", "file.yaml", "--json").out)["steps"]
    assert [(step["takes"], step["gives"]) for step in plan if step["kind"] == "stage"] == [("onnx", "onnx")]
    done = shell.run("apply", "file.yaml", "--output", "out")
    assert done.code == 0, done.err
    (backend,) = shell.report("out")["backends"]
    stored = onnx.load(shell.folder / "out" / backend["compressed"]["path"]).graph.initializer
    weights = [numpy_helper.to_array(tensor) for tensor in stored if len(tensor.dims) == 4 and tensor.dims[1] > 1]
    assert sum(map(_zeros, weights)) == round(0.6 * sum(weight.size for weight in weights))
    refused = shell.run("plan", "file.yaml", "--set", "stages.0.finetune.epochs=1")
    assert refused.code == 2, refused.out


def test_weights_that_are_read_do_not_change_when_the_network_does() -> None:
    """A linear layer's weight, and that in another layout, would be the parameter's own memory."""
    body = nn.Linear(4, 4)
    network = TorchNetwork(_network(body, 4))
    (layer,) = network.layers()
    before, by_position = layer.weight.copy(), layer.by_position
    network.write("weight", np.zeros_like(before))
    assert np.array_equal(layer.weight, before)
    assert np.array_equal(by_position[:, 0], before)
