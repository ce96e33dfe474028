"""prune.channels on recurrent layers: hidden units go with all of their gates, and the exported file is smaller by them."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from support.costs import total_macs
from support.digit_runs import context, digits_data
from torch import Tensor, nn

from compressctl.core.model import Signature, TensorSpec, TorchModel
from compressctl.graph.lower import lower
from compressctl.layers.channels.dependency_groups import find_coupling
from compressctl.layers.channels.surgery import cut, mask, removal
from compressctl.layers.channels.verify_group import proven
from compressctl.sources.structure import read_network, write_network
from compressctl.techniques.prune import _costs as layer_costs
from compressctl.techniques.prune._criteria import scores
from compressctl.techniques.prune.channels import apply
from compressctl.techniques.prune.params import ChannelsParams
from compressctl.training.data import TensorBatch

SEQUENCE = torch.randn(3, 7, 12, generator=torch.Generator().manual_seed(0))
HIDDEN, INPUTS = 20, 12


class Recurrent(nn.Module):
    """reads: what the head takes: the last step, the mean of all, or the last state of each direction."""

    def __init__(self, cell: str, layers: int = 1, ways: int = 1, reads: str = "last", before: str = "") -> None:
        super().__init__()
        self.before: nn.Module = nn.Identity()
        width, self.reads = INPUTS, reads
        if before:
            self.before, width = nn.Sequential(nn.Conv1d(INPUTS, 16, 3, padding=1), nn.GroupNorm(2, 16)), 16
        self.cell = getattr(nn, cell)(width, HIDDEN, layers, batch_first=True, bidirectional=ways == 2)
        self.head = nn.Linear(HIDDEN * ways, 5)

    def forward(self, x: Tensor) -> Tensor:
        found, state = self.cell(self.before(x.transpose(1, 2)).transpose(1, 2))
        state = state[0] if isinstance(state, tuple) else state
        if self.reads == "mean":
            return self.head(found.mean(1))
        if self.reads == "states":
            return self.head(torch.cat((state[-2], state[-1]), 1))
        return self.head(found[:, -1])


CASES = {
    **{cell: Recurrent(cell) for cell in ("LSTM", "GRU", "RNN")},
    "two layers": Recurrent("GRU", layers=2),
    "two ways": Recurrent("LSTM", ways=2, reads="mean"),
    "two layers, two ways": Recurrent("LSTM", layers=2, ways=2, reads="states"),
    "behind GroupNorm": Recurrent("GRU", before="convolution"),
}


@pytest.mark.parametrize("name", CASES)
def test_units_that_are_cut_compute_what_zeroed_ones_do(name: str) -> None:
    network = CASES[name].eval()
    coupling = proven(find_coupling(network, (SEQUENCE,)), network, (SEQUENCE,))
    group = next(group for group in coupling.groups if group.layers == ("cell",))
    assert (group.name, group.units, group.width) == ("cell", HIDDEN, HIDDEN)
    gone = removal(coupling.groups, {group.name: np.array([0, 3, 19])})
    smaller = cut(network, gone)
    assert smaller.get_submodule("cell").hidden_size == HIDDEN - 3
    assert all(
        weight.shape == like.shape
        for weight, like in zip(
            smaller.cell.parameters(),  # type: ignore[union-attr]
            type(network.cell)(  # type: ignore[operator]
                smaller.cell.input_size,  # type: ignore[union-attr]
                HIDDEN - 3,
                network.cell.num_layers,  # type: ignore[union-attr]
                bidirectional=network.cell.bidirectional,  # type: ignore[union-attr]
            ).parameters(),
            strict=True,
        )
    )
    with torch.no_grad():
        assert torch.allclose(smaller(SEQUENCE), mask(network, gone)(SEQUENCE), atol=1e-6)
        assert not torch.allclose(smaller(SEQUENCE), network(SEQUENCE), atol=1e-3)


class Projected(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.cell = nn.LSTM(INPUTS, HIDDEN, batch_first=True, proj_size=8 if kind == "projected" else 0)
        self.head = nn.Linear(8 if kind == "projected" else HIDDEN, 5)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        found, (state, _) = self.cell(x)
        return (self.head(found), state) if self.kind == "gives its state" else self.head(found)


@pytest.mark.parametrize(("kind", "reason"), [("projected", "projections"), ("gives its state", "network's outputs")])
def test_layers_that_stay_say_why(kind: str, reason: str) -> None:
    network = Projected(kind).eval()
    coupling = proven(find_coupling(network, (SEQUENCE,)), network, (SEQUENCE,))
    assert not coupling.groups
    assert reason in coupling.fixed["cell"]


@pytest.mark.parametrize("name", CASES)
def test_costs_before_a_cut_are_those_after_it(name: str) -> None:
    network = CASES[name].eval()
    groups = [group for group in find_coupling(network, (SEQUENCE,)).groups if group.name == "cell"]
    units = {"cell": np.arange(7)}
    measured = layer_costs.layers(network, (SEQUENCE,))
    after = layer_costs.layers(cut(network, removal(groups, units)), (SEQUENCE,))
    for of in ("macs", "parameters", "channels"):
        told = layer_costs.cost(of, measured, groups, units)  # type: ignore[arg-type]
        assert told == layer_costs.cost(of, after, (), {})  # type: ignore[arg-type]
    cell = network.get_submodule("cell")
    weights = sum(value.numel() for key, value in cell.named_parameters() if "weight" in key)
    assert measured["cell"].positions == SEQUENCE.shape[1]
    assert layer_costs.macs({"cell": measured["cell"]}) == weights * SEQUENCE.shape[1]


@pytest.mark.parametrize("criterion", ["l1", "l2", "fpgm", "random", "activation", "taylor", "hessian"])
def test_every_criterion_finds_the_unit_that_does_nothing(criterion: str) -> None:
    network = Recurrent("LSTM", layers=2, ways=2, reads="mean").eval()
    groups = find_coupling(network, (SEQUENCE,)).groups
    with torch.no_grad():
        for parameter in mask(network, removal(groups, {"cell": np.array([4])})).named_parameters():
            network.get_parameter(parameter[0]).copy_(parameter[1])
    batch = TensorBatch((SEQUENCE,), torch.zeros(3, dtype=torch.long), np.arange(3))
    found = scores(
        network,
        groups,
        criterion,  # type: ignore[arg-type]
        batches=lambda size: [batch],
        loss=lambda net, given: net(*given.inputs).square().sum(),
    )["cell"]
    assert found.shape == (HIDDEN,)
    assert np.all(np.isfinite(found))
    if criterion not in ("fpgm", "random"):
        assert found.argmin() == 4


class Rows(nn.Module):
    """Reads an image of digits row by row."""

    def __init__(self, cell: str) -> None:
        super().__init__()
        self.cell = getattr(nn, cell)(8, 32, batch_first=True, bidirectional=True)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x[:, 0])[0][:, -1])


@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
def test_half_of_a_networks_macs_go_from_the_exported_file_too(cell: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    signature = Signature(
        (TensorSpec("input", "float32", ("batch", 1, 8, 8)),), (TensorSpec("output", "float32", ("batch", 10)),)
    )
    network = Rows(cell).eval()
    model = TorchModel(network, signature)
    result = apply(model, ChannelsParams(keep=0.5, criterion="l2", round_to=1), context(tmp_path, digits_data()))
    before, after = lower(model).body, lower(result.model).body
    macs = [total_macs(graph) for graph in (before, after)]
    assert macs[1] <= 0.5 * macs[0]
    assert result.facts["macs"]["before"] == macs[0]
    assert result.facts["macs"]["after"] == macs[1]
    images = np.random.default_rng(0).standard_normal((3, 1, 8, 8)).astype(np.float32)
    [made] = onnxruntime.InferenceSession(after.SerializeToString()).run(None, {"input": images})
    with torch.no_grad():
        assert np.allclose(made, result.model.body(torch.from_numpy(images)).numpy(), atol=1e-5)
    write_network(result.model.body, network, tmp_path)
    again = read_network(Rows(cell), tmp_path / "model.safetensors", tmp_path / "structure.json")
    with torch.no_grad():
        assert torch.equal(again(torch.from_numpy(images)), result.model.body(torch.from_numpy(images)))
