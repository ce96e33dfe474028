"""Recurrent layers of torch become one node each, for any number of steps and samples."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import Tensor, nn  # noqa: E402

from compressctl.core.model import Signature, TensorSpec, TorchModel  # noqa: E402
from compressctl.graph.lower import lower, parity  # noqa: E402
from compressctl.graph.recurrent_nodes import recurrent_as_nodes  # noqa: E402

KINDS = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}


class Net(nn.Module):
    """state: whether the layer begins with a learned state, the same for every sample."""

    def __init__(self, kind: str, state: bool = False, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell = KINDS[kind](5, 6, **options)
        ways = (2 if self.cell.bidirectional else 1) * self.cell.num_layers
        self.state = nn.Parameter(torch.randn(ways, 1, 6)) if state else None
        self.head = nn.Linear((2 if self.cell.bidirectional else 1) * 6, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        value = x if self.cell.batch_first else x.transpose(0, 1)
        given: Any = None
        if self.state is not None:
            first = self.state.expand(-1, x.shape[0], -1)
            given = (first, 2 * first) if isinstance(self.cell, nn.LSTM) else first
        every, last = self.cell(value, given)
        last = last[1] if isinstance(last, tuple) else last
        scores = self.head(every if self.cell.batch_first else every.transpose(0, 1))
        return {"y": scores, "last": last.transpose(0, 1)}


OPTIONS = [
    {"batch_first": batch_first, "bidirectional": both, "num_layers": layers, "bias": bias}
    for batch_first, both, layers, bias in itertools.product([True, False], [True, False], [1, 2], [True, False])
]


@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", OPTIONS[::3], ids=str)
def test_any_length_is_served_by_one_node_for_each_layer(kind: str, options: dict[str, Any], state: bool) -> None:
    net = Net(kind, state, **options)
    ways = (2 if options["bidirectional"] else 1) * options["num_layers"]
    signature = Signature(
        (TensorSpec("x", "float32", ("batch", "steps", 5)),),
        (TensorSpec("y", "float32", ("batch", "steps", 3)), TensorSpec("last", "float32", ("batch", ways, 6))),
    )
    model = TorchModel(net.eval(), signature)
    made = lower(model)
    assert [node.op_type for node in made.body.graph.node].count(kind) == options["num_layers"]
    assert {"Loop", "Scan"}.isdisjoint(node.op_type for node in made.body.graph.node)
    for samples, steps in ((1, 1), (3, 7), (2, 40)):
        inputs = {"x": np.random.default_rng(steps).normal(0, 1, (samples, steps, 5)).astype(np.float32)}
        assert max(parity(model, made, inputs).values()) < 1e-5


def test_relu_and_projections_mean_what_they_did() -> None:
    signature = Signature(
        (TensorSpec("x", "float32", ("batch", 9, 5)),), (TensorSpec("y", "float32", ("batch", 9, 3)), TensorSpec("last", "float32", ("batch", 1, 6)))
    )  # fmt: skip
    inputs = {"x": np.random.default_rng(0).normal(0, 1, (3, 9, 5)).astype(np.float32)}
    model = TorchModel(Net("RNN", nonlinearity="relu").eval(), signature)
    assert max(parity(model, lower(model), inputs).values()) < 1e-5


def test_layers_are_torchs_own_again_afterwards() -> None:
    own = nn.GRU.forward
    with recurrent_as_nodes():
        assert nn.GRU.forward is not own
    assert nn.GRU.forward is own
    with pytest.raises(RuntimeError, match="stopped"):
        _stopped_inside()
    assert nn.GRU.forward is own


def _stopped_inside() -> None:
    with recurrent_as_nodes():
        raise RuntimeError("stopped")
