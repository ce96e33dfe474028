"""Recurrent layers of torch as the ONNX nodes that they are, for sequences of any length: torch's exporter writes the length that it traced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from compressctl.core.errors import StageError

_OPS: dict[type[nn.RNNBase], str] = {nn.LSTM: "LSTM", nn.GRU: "GRU", nn.RNN: "RNN"}

_GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}
"""Where ONNX's gates stand among torch's: i, o, f, c of i, f, g, o; z, r, h of r, z, n."""


@contextmanager
def recurrent_as_nodes() -> Iterator[None]:
    """While it lasts, nn.LSTM, nn.GRU and nn.RNN are traced as a node for each of their layers. Raises StageError, then, for what ONNX has no counterpart for: projections and packed sequences."""
    own = {kind: kind.forward for kind in _OPS}
    try:
        for kind in _OPS:
            kind.forward = _forward(kind)
        yield
    finally:
        for kind, forward in own.items():
            kind.forward = forward


def _forward(kind: type[nn.RNNBase]) -> Any:
    def forward(self: nn.RNNBase, input: Any, hx: Any = None) -> Any:
        if self.proj_size or not isinstance(input, Tensor):
            raise _refused(_OPS[kind], "with projections" if self.proj_size else "of packed sequences")
        if input.ndim == 3:
            return _as_nodes(self, _OPS[kind], input, hx)
        batch = 0 if self.batch_first else 1
        states = tuple(state.unsqueeze(1) for state in (hx if isinstance(hx, tuple) else (hx,)) if state is not None)
        given: Any = None if not states else states if kind is nn.LSTM else states[0]
        every, last = _as_nodes(self, _OPS[kind], input.unsqueeze(batch), given)
        ends = tuple(state.squeeze(1) for state in (last if kind is nn.LSTM else (last,)))
        return every.squeeze(batch), ends if kind is nn.LSTM else ends[0]

    return forward


def _refused(op: str, what: str) -> StageError:
    return StageError(
        f"the network cannot be exported: ONNX has no {op} {what}",
        hint="leave out proj_size"
        if what == "with projections"
        else "give the layer padded samples, and read its steps by their lengths",
    )


def _as_nodes(layer: nn.RNNBase, op: str, value: Tensor, states: Any) -> Any:
    """As the layer's own forward: every step, and the last states."""
    steps = value.transpose(0, 1) if layer.batch_first else value
    first: Sequence[Tensor] = () if states is None else tuple(states) if op == "LSTM" else (states,)
    directions = 2 if layer.bidirectional else 1
    last: list[Sequence[Tensor]] = []
    for depth in range(layer.num_layers):
        own = slice(depth * directions, (depth + 1) * directions)
        every, *after = _node(layer, op, depth, steps, [state[own] for state in first])
        # (steps, directions, samples, hidden)
        steps = every.squeeze(1) if directions == 1 else every.permute(0, 2, 1, 3).flatten(2)
        last.append(after)
    ends = [torch.cat(each) if len(last) > 1 else each[0] for each in zip(*last, strict=True)]
    given = steps.transpose(0, 1) if layer.batch_first else steps
    return given, (tuple(ends) if op == "LSTM" else ends[0])


def _node(layer: nn.RNNBase, op: str, depth: int, steps: Tensor, first: Sequence[Tensor]) -> Sequence[Tensor]:
    suffixes = ("", "_reverse") if layer.bidirectional else ("",)
    of = partial(_stacked, layer, op, depth, suffixes)
    bias = torch.cat([of("bias_ih"), of("bias_hh")], 1) if layer.bias else None
    attributes: dict[str, Any] = {
        "hidden_size": layer.hidden_size,
        "direction": "bidirectional" if layer.bidirectional else "forward",
    }
    if op == "GRU":
        attributes["linear_before_reset"] = 1
    if isinstance(layer, nn.RNN):
        attributes["activations"] = [layer.nonlinearity.capitalize()] * len(suffixes)
    inputs = [steps, of("weight_ih"), of("weight_hh"), bias, None, *first]
    while inputs[-1] is None:
        inputs.pop()
    state = (len(suffixes), steps.shape[1], layer.hidden_size)
    shapes = [(steps.shape[0], len(suffixes), steps.shape[1], layer.hidden_size), state]
    shapes += [state] if op == "LSTM" else []
    return torch.onnx.ops.symbolic_multi_out(op, inputs, attributes, dtypes=[steps.dtype] * len(shapes), shapes=shapes)


def _stacked(layer: nn.RNNBase, op: str, depth: int, suffixes: Sequence[str], name: str) -> Tensor:
    """The parameters of all directions, gates in ONNX's order."""
    return torch.stack([_in_order(op, getattr(layer, f"{name}_l{depth}{suffix}")) for suffix in suffixes])


def _in_order(op: str, values: Tensor) -> Tensor:
    size = values.shape[0] // len(_GATES[op])
    return torch.cat([values[place * size : (place + 1) * size] for place in _GATES[op]])
