"""Experts: all of them together are the layer, a file looks up what a network masks, and groups are of one size."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.digit_runs import context, digits_data
from torch import Tensor, nn

from compressctl.core.errors import NothingToCompressError, UsageError
from compressctl.core.model import Signature, TensorSpec, TorchModel
from compressctl.core.technique import RunContext
from compressctl.graph.lower import lower, parity
from compressctl.sources.modules.experts import ACTIVATIONS, Experts
from compressctl.sources.structure import describe, rebuild
from compressctl.techniques.dynamic import experts
from compressctl.techniques.dynamic._clusters import balanced_clusters
from compressctl.techniques.dynamic._feed_forward import feed_forward_layers
from compressctl.techniques.dynamic.experts import _built, _Layer
from compressctl.techniques.dynamic.params import ExpertsParams

IMAGE = Signature(
    (TensorSpec("input", "float32", ("batch", 1, 8, 8)),), (TensorSpec("output", "float32", ("batch", 10)),)
)


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.act, self.drop, self.fc2 = nn.Linear(16, 32), nn.GELU(), nn.Dropout(0.1), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.fc2(self.drop(self.act(self.fc1(x))))
        return found


class Odd(Mlp):
    """Looks like one, and adds its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(64, 16)
        self.mlp, self.odd = Mlp(), Odd()
        self.head = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Dropout(0.1), nn.Linear(24, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.flatten(1)).unsqueeze(1)
        x = self.odd(x + self.mlp(x)).squeeze(1)
        found: Tensor = self.head(x)
        return found


def made() -> TorchModel:
    torch.manual_seed(0)
    return TorchModel(Network().eval(), IMAGE)


def on_digits(folder: Path) -> RunContext:
    return replace(context(folder, digits_data()), task="classification")


def test_feed_forward_layers_are_proven() -> None:
    found = {one.name: one.activation for one in feed_forward_layers(made())}
    assert found == {"mlp": "gelu", "head.0": "relu"}


@settings(deadline=None, max_examples=20)
@given(st.sampled_from(sorted(ACTIVATIONS)), st.sampled_from([(12, 2), (12, 3), (12, 4)]), st.integers(0, 999))
def test_all_experts_together_are_the_layer(activation: str, sizes: tuple[int, int], seed: int) -> None:
    torch.manual_seed(seed)
    hidden, count = sizes
    layer = _Layer(nn.Linear(5, hidden), nn.Linear(hidden, 4), activation)
    rows = torch.randn(64, 5)
    built, _ = _built(layer, rows, ExpertsParams(experts=count, chosen=count - 1), 0)
    everything = Experts(5, 4, count, count, hidden // count, activation)
    everything.load_state_dict(built.state_dict())
    x = torch.randn(7, 5)
    with torch.no_grad():
        assert torch.allclose(everything(x), layer.down(layer.hidden(x)), atol=1e-5)
        best = built.router(x).topk(built.chosen).indices
        assert torch.allclose(built._looked_up(x, best), built._masked(x, best), atol=1e-5)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 6), st.integers(1, 8), st.integers(2, 30), st.integers(0, 999))
def test_groups_are_of_one_size(size: int, groups: int, samples: int, seed: int) -> None:
    activity = np.abs(np.random.default_rng(seed).standard_normal((samples, size * groups)))
    found = balanced_clusters(activity, groups, seed)
    assert np.bincount(found, minlength=groups).tolist() == [size] * groups


def test_units_that_are_active_together_are_together() -> None:
    rng = np.random.default_rng(0)
    which = rng.permutation(np.repeat(np.arange(4), 8))
    activity = np.abs(rng.standard_normal((200, 4)))[:, which] + 0.01 * rng.random((200, 32))
    found = balanced_clusters(activity, 4, 0)
    assert all(len(set(found[which == group])) == 1 for group in range(4))


def test_a_file_with_experts_computes_what_the_network_does(tmp_path: Path) -> None:
    run = on_digits(tmp_path)
    result = experts.apply(made(), ExpertsParams(experts=4, chosen=2), run)
    assert set(result.facts["layers"]) == {"mlp", "head.0"}
    proto = lower(result.model)
    assert {"TopK", "Gather"} <= {node.op_type for node in proto.body.graph.node}
    assert run.data is not None
    for size in (1, 32):
        inputs = next(iter(run.data.split("test").batches(size))).inputs
        assert parity(result.model, proto, inputs)["output"] < 1e-4
    again = rebuild(made().body, describe(result.model.body, made().body), result.model.body.state_dict())
    x = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(again.eval()(x), result.model.body.eval()(x))


def test_the_router_keeps_more_than_chance(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = _Layer(nn.Linear(16, 64), nn.Linear(64, 8), "relu")
    rows = torch.randn(2048, 16)
    built, facts = _built(layer, rows, ExpertsParams(experts=8, chosen=4), 0)
    errors = []
    with torch.no_grad():
        whole = layer.down(layer.hidden(rows))
        for best in (built.router(rows).topk(4).indices, torch.rand(len(rows), 8).topk(4).indices):
            errors.append(float(((built._masked(rows, best) - whole) ** 2).mean()))
    assert errors[0] < 0.8 * errors[1]
    assert 0 < facts["of_what_the_best_choice_keeps"] <= 1


@pytest.mark.parametrize(
    ("params", "error", "words"),
    [
        (ExpertsParams(experts=5, chosen=2), UsageError, "groups of one size"),
        (ExpertsParams(match="tail*"), UsageError, "tail"),
    ],
)
def test_what_cannot_be_divided_is_named(params: ExpertsParams, error: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=words):
        experts.apply(made(), params, on_digits(tmp_path))


def test_a_network_without_feed_forward_layers_is_refused(tmp_path: Path) -> None:
    plain = TorchModel(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval(), IMAGE)
    with pytest.raises(NothingToCompressError):
        experts.apply(plain, ExpertsParams(), on_digits(tmp_path))


def test_as_many_chosen_as_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="chosen"):
        ExpertsParams(experts=4, chosen=4)
