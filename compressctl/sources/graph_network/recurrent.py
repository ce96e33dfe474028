"""LSTM and GRU nodes as torch's layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2)}
"""Where torch's gates stand among ONNX's: input, forget, cell, output of i, o, f, c; reset, update, new of z, r, h."""

_USUAL = {
    "LSTM": ("Sigmoid", "Tanh", "Tanh"),
    "GRU": ("Sigmoid", "Tanh"),
}


class Recurrent(nn.Module):
    """Called with (steps, samples, inputs) and perhaps the first states, (directions, samples, hidden) each; gives what the node does: all steps, (steps,
    directions, samples, hidden), and the last states."""

    def __init__(self, layer: nn.LSTM | nn.GRU) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, value: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        # A state for all samples, expanded, has not the layout of the states that follow it, which an exported loop asks for.
        states = tuple(state.contiguous() for state in states)
        given: Any = None if not states else states if isinstance(self.layer, nn.LSTM) else states[0]
        every, last = self.layer(value, given)
        directions = 2 if self.layer.bidirectional else 1
        split = every.reshape(*every.shape[:2], directions, -1).permute(0, 2, 1, 3)
        return (split, *(last if isinstance(self.layer, nn.LSTM) else (last,)))


def recurrent(op: str, weights: Sequence[np.ndarray], attributes: Mapping[str, Any]) -> Recurrent | None:
    """weights: (directions, gates * hidden, inputs), (directions, gates * hidden, hidden), and perhaps (directions, 2 * gates * hidden). None for what
    torch has no layer for: one direction from the end, other activations, clipped cells, peepholes, samples first."""
    direction = attributes.get("direction", "forward")
    plain = _USUAL[op] * (2 if direction == "bidirectional" else 1)
    if direction == "reverse" or tuple(attributes.get("activations", plain)) != plain or attributes.get("layout", 0):
        return None
    if any(name in attributes for name in ("clip", "activation_alpha", "activation_beta")) or attributes.get(
        "input_forget"
    ):
        return None
    if op == "GRU" and not attributes.get("linear_before_reset", 0):
        return None
    inputs, hidden = weights[0].shape[2], weights[1].shape[2]
    kind = nn.LSTM if op == "LSTM" else nn.GRU
    layer = kind(inputs, hidden, bias=len(weights) > 2, bidirectional=direction == "bidirectional")
    with torch.no_grad():
        for place, suffix in enumerate(("", "_reverse")[: len(weights[0])]):
            for name, values in (("weight_ih", weights[0][place]), ("weight_hh", weights[1][place])):
                getattr(layer, f"{name}_l0{suffix}").copy_(_in_order(op, values))
            for name, values in zip(
                ("bias_ih", "bias_hh"), np.split(weights[2][place], 2) if len(weights) > 2 else (), strict=False
            ):
                getattr(layer, f"{name}_l0{suffix}").copy_(_in_order(op, values))
    return Recurrent(layer)


def _in_order(op: str, values: np.ndarray) -> Tensor:
    gates = np.split(np.array(values, np.float32), len(_GATES[op]))
    return torch.from_numpy(np.concatenate([gates[place] for place in _GATES[op]]))
