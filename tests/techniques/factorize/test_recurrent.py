"""Input weights of recurrent layers at a low rank: a projection before the layer, in torch and in graphs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.factorizing import as_model, context, run_onnx, run_torch
from torch import Tensor, nn

from compressctl.core.model import Model, OnnxModel, TorchModel
from compressctl.core.target import Target
from compressctl.graph.cost import costs
from compressctl.graph.lower import lower
from compressctl.layers.channels.dependency_groups import find_coupling
from compressctl.layers.channels.surgery import cut, removal
from compressctl.layers.channels.verify_group import proven
from compressctl.pipeline.workspace import open_backend
from compressctl.sources.modules.projected_recurrent import ProjectedRecurrent
from compressctl.sources.structure import read_network, write_network
from compressctl.techniques.factorize.params import SvdParams
from compressctl.techniques.factorize.svd import apply
from compressctl.techniques.quantize.dynamic import apply as dynamic
from compressctl.techniques.quantize.params import DynamicParams

STEPS, IN, HIDDEN, RANK = 9, 40, 24, 4
CELLS = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}


class Reader(nn.Module):
    """Scores from all of what a recurrent layer gives."""

    def __init__(self, cell: str, **options: Any) -> None:
        super().__init__()
        self.cell = CELLS[cell](IN, HIDDEN, batch_first=True, **options)
        self.head = nn.Linear(HIDDEN * (2 if self.cell.bidirectional else 1), 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0].mean(1))


def network(cell: str, **options: Any) -> nn.Module:
    """Its input weights, those of both directions together, have exactly the rank RANK."""
    torch.manual_seed(0)
    made = Reader(cell, **options)
    seen = torch.randn(RANK, IN)
    with torch.no_grad():
        for name, weight in made.cell.named_parameters():
            if name.startswith("weight_ih_l0"):
                weight.copy_(torch.randn(len(weight), RANK) @ seen * 0.1)
    return made.eval()


def inputs() -> np.ndarray:
    return np.random.default_rng(3).standard_normal((5, STEPS, IN)).astype(np.float32)


def params(rank: int = RANK) -> SvdParams:
    return SvdParams.model_validate(
        {"rank": rank, "skip_slower": False, "whitening": False, "overrides": [{"match": "*head*", "rank": "full"}]}
    )


def factorized(model: Model) -> Any:
    return apply(model, params(), context())


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", list(CELLS))
def test_a_layer_of_low_rank_computes_the_same_behind_a_projection(cell: str, bidirectional: bool) -> None:
    whole = network(cell, bidirectional=bidirectional)
    found = factorized(as_model(whole, (STEPS, IN)))
    body = found.model.body
    assert isinstance(body.cell, ProjectedRecurrent)
    assert body.cell.reduce.weight.shape == (RANK, IN)
    assert body.cell.layer.weight_ih_l0.shape[1] == RANK
    np.testing.assert_allclose(run_torch(body, inputs()), run_torch(whole, inputs()), atol=1e-5)
    np.testing.assert_allclose(run_onnx(lower(found.model), inputs()), run_torch(whole, inputs()), atol=1e-4)


@pytest.mark.parametrize(
    ("cell", "bidirectional"), [("LSTM", False), ("LSTM", True), ("GRU", False), ("GRU", True), ("RNN", False)]
)
def test_a_graph_gets_a_product_before_the_layer(cell: str, bidirectional: bool) -> None:
    whole = network(cell, bidirectional=bidirectional)
    model = lower(as_model(whole, (STEPS, IN)))  # type: ignore[arg-type]
    found = factorized(model)
    assert isinstance(found.model, OnnxModel)
    np.testing.assert_allclose(run_onnx(found.model, inputs()), run_torch(whole, inputs()), atol=1e-4)
    before, after = (
        sum(cost.macs or 0 for cost in costs(graph.body, inputs={"input": (1, STEPS, IN)}))
        for graph in (model, found.model)
    )
    rows = (2 if bidirectional else 1) * {"LSTM": 4, "GRU": 3, "RNN": 1}[cell] * HIDDEN
    assert before - after == STEPS * (IN * rows - RANK * (IN + rows))


def test_what_stays_whole_has_its_reason() -> None:
    found = factorized(as_model(network("LSTM", num_layers=2), (STEPS, IN)))
    whole = found.facts["cannot_be_factorized"]
    assert "no runtime has a recurrent kernel with two factors" in whole["cell.weight_hh_l0"]
    assert "make each layer a module of its own" in whole["cell.weight_ih_l1"]


def test_other_layers_and_directions_stay_as_they_are() -> None:
    whole = network("GRU", num_layers=2, bidirectional=True)
    found = factorized(as_model(whole, (STEPS, IN)))
    np.testing.assert_allclose(run_torch(found.model.body, inputs()), run_torch(whole, inputs()), atol=1e-5)


def test_ranks_of_what_the_layer_sees_lose_little() -> None:
    """Inputs of three directions: three are enough, although the weights have full rank."""
    torch.manual_seed(1)
    whole = Reader("LSTM").eval()
    rng = np.random.default_rng(0)
    seen = (rng.normal(size=(40, STEPS, 3)) @ rng.normal(size=(3, IN))).astype(np.float32)

    class Split:
        def __len__(self) -> int:
            return len(seen)

        def batches(self, size: int, *, shuffle_seed: int | None = None) -> Any:
            from compressctl.core.data import Batch

            for start in range(0, len(seen), size):
                yield Batch({"input": seen[start : start + size]}, None, np.arange(len(seen))[start : start + size])

    class Data:
        classes = None

        def split(self, name: str) -> Split:
            return Split()

    def far(model: Any, *, whitening: bool) -> float:
        params = SvdParams.model_validate(
            {
                "rank": 3,
                "skip_slower": False,
                "whitening": whitening,
                "overrides": [{"match": "*head*", "rank": "full"}],
            }
        )
        found = apply(model, params, context(data=Data()))
        result = (
            run_torch(found.model.body, seen) if isinstance(found.model, TorchModel) else run_onnx(found.model, seen)
        )
        return float(np.abs(result - run_torch(whole, seen)).max())

    for model in (as_model(whole, (STEPS, IN)), lower(as_model(whole, (STEPS, IN)))):  # type: ignore[arg-type]
        assert far(model, whitening=True) < 0.02
        assert far(model, whitening=True) < 0.1 * far(model, whitening=False)


def test_a_packed_sequence_is_projected_too() -> None:
    whole = network("GRU")
    found = factorized(as_model(whole, (STEPS, IN))).model.body
    packed = nn.utils.rnn.pack_padded_sequence(torch.from_numpy(inputs()), [9, 7, 5, 5, 2], batch_first=True)
    with torch.no_grad():
        np.testing.assert_allclose(found.cell(packed)[0].data, whole.cell(packed)[0].data, atol=1e-5)


def test_the_network_is_written_with_its_structure_and_made_again(tmp_path: Path) -> None:
    whole = network("LSTM", bidirectional=True)
    found = factorized(as_model(whole, (STEPS, IN))).model.body
    write_network(found, whole, tmp_path)
    again = read_network(whole, tmp_path / "model.safetensors", tmp_path / "structure.json")
    np.testing.assert_array_equal(run_torch(again, inputs()), run_torch(found, inputs()))


def test_units_are_pruned_and_weights_quantized_behind_the_projection(tmp_path: Path) -> None:
    found = factorized(as_model(network("LSTM"), (STEPS, IN))).model
    given = (torch.from_numpy(inputs()),)
    coupling = proven(find_coupling(found.body, given), found.body, given)
    [group] = [group for group in coupling.groups if group.layers == ("cell.layer",)]
    slim = replace(found, body=cut(found.body, removal(coupling.groups, {group.name: np.arange(HIDDEN // 2)})))
    assert slim.body.cell.layer.hidden_size == HIDDEN // 2
    assert slim.body.cell.reduce.weight.shape == (RANK, IN)
    backend, target = open_backend("onnxruntime"), Target("onnxruntime")
    made = dynamic(lower(slim), DynamicParams(), context(target=target))
    file = backend.build(made.model, target, tmp_path)
    outputs = next(iter(backend.open(file, target).run({"input": inputs()}).values()))
    signal = run_torch(slim.body, inputs())
    assert np.linalg.norm(outputs - signal) < 0.1 * np.linalg.norm(signal)
    assert len(made.model.quant.weights) >= 3  # the projection, and both matrices of the layer
