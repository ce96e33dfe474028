"""Which parameters a stage left alone, found in networks and graphs of every kind."""

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from compressctl.core import untouched
from compressctl.core.events import Event, Events
from compressctl.core.model import Form, Model, OnnxModel, Signature, TensorSpec, TorchModel
from compressctl.core.target import Target
from compressctl.core.technique import RunContext
from compressctl.graph.canonical import canonical
from compressctl.graph.lower import lower
from compressctl.graph.untouched import Untouched, graph_layers, torch_layers
from compressctl.sources.torch_modules import signature_of
from compressctl.techniques.cast.cast import apply as cast
from compressctl.techniques.cast.params import CastParams
from compressctl.techniques.factorize.params import SvdParams
from compressctl.techniques.factorize.svd import apply as svd
from compressctl.techniques.prune.params import UnstructuredParams
from compressctl.techniques.prune.unstructured import apply as prune
from compressctl.techniques.quantize.dynamic import apply as dynamic
from compressctl.techniques.quantize.params import DynamicParams, WeightsParams
from compressctl.techniques.quantize.weights import apply as weights
from compressctl.techniques.share.kmeans import apply as kmeans
from compressctl.techniques.share.params import KmeansParams


class Recurrent(nn.Module):
    """Most parameters are the recurrent layer's; there is a table, a norm and two linear layers beside it."""

    def __init__(self, cell: str = "LSTM") -> None:
        super().__init__()
        self.table = nn.Embedding(20, 8)
        self.cell = getattr(nn, cell)(8, 48, batch_first=True)
        self.norm = nn.LayerNorm(48)
        self.hidden, self.head = nn.Linear(48, 16), nn.Linear(16, 10)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        found, _ = self.cell(self.table(ids))
        return self.head(torch.relu(self.hidden(self.norm(found[:, -1]))))


def recurrent(cell: str = "LSTM") -> Model:
    torch.manual_seed(0)
    network = Recurrent(cell).eval()
    return TorchModel(network, signature_of(network, [TensorSpec("ids", "int64", ("batch", 6))]))


@cache
def lowered(cell: str) -> OnnxModel:
    """Exported once: no technique changes what it is given."""
    return lower(recurrent(cell))


def run_in(folder: Path) -> tuple[RunContext, list[Event]]:
    heard: list[Event] = []
    return RunContext(0, Events(heard.append), folder, Target("onnxruntime")), heard


def warnings_of(heard: list[Event]) -> list[str]:
    return [event.fields["message"] for event in heard if event.kind == "warning"]


@pytest.mark.parametrize("cell", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("form", list(Form))
@pytest.mark.parametrize(
    ("apply", "params"),
    [
        (svd, SvdParams(rank=2, skip_slower=False, whitening=False)),
    ],
    ids=["factorize"],
)
def test_what_is_left_of_a_recurrent_layer_and_beside_it_is_named(
    apply: object, params: object, form: Form, cell: str, tmp_path: Path
) -> None:
    model = recurrent(cell)
    if form is Form.ONNX and cell == "RNN":
        pytest.skip("the exporter writes its steps out as matrix products")
    if form is Form.ONNX:
        model = lowered(cell)
    run, heard = run_in(tmp_path)
    facts = apply(model, params, run).facts  # type: ignore[operator]
    assert ["multiplies the state" in reason for reason in facts["cannot_be_factorized"].values()] == [True]
    (table,) = facts[untouched.KEY]["layers"]
    assert table["kind"] == ("Gather" if form is Form.ONNX else "Embedding")
    assert table["parameters"] == recurrent(cell).body.table.weight.numel()
    assert table["share"] == pytest.approx(table["parameters"] / facts[untouched.KEY]["of"], abs=1e-3)
    assert table["reason"]
    assert not warnings_of(heard)


def test_what_was_treated_is_not_among_it_and_norms_are_no_weights(tmp_path: Path) -> None:
    run, _ = run_in(tmp_path)
    found = dynamic(lowered("LSTM"), DynamicParams(), run).facts[untouched.KEY]
    assert found["layers"] == []


def test_all_of_a_cast_graph_is_treated(tmp_path: Path) -> None:
    run, heard = run_in(tmp_path)
    found = cast(lowered("LSTM"), CastParams(), run).facts[untouched.KEY]
    assert found["parameters"] == 0
    assert not warnings_of(heard)


def test_a_blocklist_is_the_reason_of_what_a_cast_left(tmp_path: Path) -> None:
    run, _ = run_in(tmp_path)
    found = cast(lowered("LSTM"), CastParams(exclude=["LSTM"]), run).facts[untouched.KEY]
    assert [(entry["kind"], entry["reason"]) for entry in found["layers"]] == [("LSTM", "asked for")]


def graph_of(*nodes: onnx.NodeProto, **constants: np.ndarray) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_weights_in_branches_constant_nodes_einsum_and_of_three_axes_are_found() -> None:
    branches = [
        helper.make_graph(
            [helper.make_node("MatMul", ["e", "inner"], ["out"], name)],
            name,
            [],
            [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(weight(8, 8), "inner")],
        )
        for name in ("yes", "no")
    ]
    model = graph_of(
        helper.make_node("Constant", [], ["stored"], "constant", value=numpy_helper.from_array(weight(8, 8))),
        helper.make_node("MatMul", ["x", "stored"], ["a"], "from_constant"),
        helper.make_node("Transpose", ["flat"], ["turned"], "turn", perm=[1, 0]),
        helper.make_node("MatMul", ["a", "turned"], ["b"], "behind_transpose"),
        helper.make_node("MatMul", ["b", "batched"], ["c"], "of_three_axes"),
        helper.make_node("Einsum", ["c", "mixed"], ["d"], "sum", equation="btc,cd->btd"),
        helper.make_node("Add", ["d", "bias"], ["e"], "bias"),
        helper.make_node("If", ["choice"], ["y"], "either", then_branch=branches[0], else_branch=branches[1]),
        flat=weight(8, 8),
        batched=weight(4, 8, 8),
        mixed=weight(8, 8),
        bias=weight(8),
        choice=np.array(True),
    )
    found = {layer.name: (layer.kind, layer.elements, layer.is_weighted) for layer in graph_layers(canonical(model))}
    assert found == {
        "from_constant": ("MatMul", 64, True),
        "behind_transpose": ("MatMul", 64, True),
        "of_three_axes": ("MatMul", 256, True),
        "sum": ("Einsum", 64, True),
        "bias": ("Add", 8, False),
        "yes": ("MatMul inside If either", 64, True),
        "no": ("MatMul inside If either", 64, True),
    }


def test_a_weight_that_two_layers_share_counts_once() -> None:
    network = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10, bias=False))
    network[1].weight = network[0].weight
    assert sum(layer.elements for layer in torch_layers(network)) == 40


def test_the_sentence_names_the_largest_kinds_and_is_silent_below_a_twentieth() -> None:
    model = TorchModel(nn.ModuleDict({"a": nn.Linear(10, 10), "b": nn.Bilinear(10, 10, 9)}), Signature((), ()))
    facts = Untouched("some.stage", "linear layers", {"a.weight"}, {}).facts(model, Events())
    assert untouched.words(facts) == (
        "89.2% of the parameters untouched: Bilinear b (89.2%): some.stage treats linear layers"
    )
    assert untouched.words(Untouched("some.stage", "all", {"a.weight", "b"}, {}).facts(model, Events())) is None
    assert untouched.words({}) is None


@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
@pytest.mark.parametrize("form", list(Form))
@pytest.mark.parametrize(
    ("apply", "params"),
    [
        (weights, WeightsParams(bits=8)),
        (prune, UnstructuredParams(sparsity=0.5, first_and_last="prune", embeddings=True)),
        (kmeans, KmeansParams(clusters=4, embeddings=True)),
    ],
    ids=["quantize", "prune", "share"],
)
def test_weights_of_recurrent_layers_are_treated(
    apply: object, params: object, form: Form, cell: str, tmp_path: Path
) -> None:
    if form is Form.TORCH and apply is weights:
        pytest.skip("takes graphs")
    run, heard = run_in(tmp_path)
    model = lowered(cell) if form is Form.ONNX else recurrent(cell)
    result = apply(model, params, run)  # type: ignore[operator]
    assert not result.facts[untouched.KEY]["layers"]
    assert not warnings_of(heard)
    values = (
        [value.detach().numpy() for value in result.model.body.cell.parameters()]
        if form is Form.TORCH
        else [numpy_helper.to_array(tensor) for tensor in result.model.body.graph.initializer]
    )
    for matrix in [value for value in values if value.size > 8 * 48]:
        if apply is prune:
            assert np.mean(matrix == 0) == pytest.approx(0.5, abs=0.01)
        elif apply is kmeans:
            assert all(len(np.unique(row)) <= 4 for row in matrix.reshape(-1, matrix.shape[-1]))
