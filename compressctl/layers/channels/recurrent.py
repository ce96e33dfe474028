"""Hidden units of torch's recurrent layers as channels: which rows and columns of their weights belong to one unit.

A unit is a row of each gate in the weights for the input and for the state, a column of the latter, and an input of whatever reads the
layer. All layers and directions of one module have one hidden size, so that the units in the same place go together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

PROJECTED = "a recurrent layer with projections (proj_size) is not narrowed: its states and its outputs differ in width"

KINDS = (nn.LSTM, nn.GRU, nn.RNN)


def is_cuttable(module: nn.Module) -> bool:
    """torch's own classes only: another forward may do anything."""
    return type(module) in KINDS and not module.proj_size


@dataclass(frozen=True)
class Part:
    """One matrix of a recurrent layer. module: its name. of: "ih" for the input's, "hh" for the state's. suffix: as in weight_ih_l0_reverse."""

    module: str
    of: str
    suffix: str


class StandIn(nn.Module):
    """What couples a recurrent layer's channels, without steps: a linear layer for each of its matrices, each direction's added up.

    A trace follows it as it follows any linear layer, and sees the two matrices of a direction as one width.
    """

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.hidden_size, self.input_size = module.hidden_size, module.input_size
        self.num_layers, self.bidirectional, self.batch_first = (
            module.num_layers,
            module.bidirectional,
            module.batch_first,
        )
        self.has_cell = isinstance(module, nn.LSTM)
        for suffix in suffixes(module):
            width = getattr(module, f"weight_ih{suffix}").shape[1]
            self.add_module(f"ih{suffix}", nn.Linear(width, self.hidden_size))
            self.add_module(f"hh{suffix}", nn.Linear(self.hidden_size, self.hidden_size))

    def flatten_parameters(self) -> None:
        """Networks call it before a step."""

    def forward(self, x: Tensor, given: Any = None) -> Any:
        steps = 1 if self.batch_first and x.ndim == 3 else 0
        states = () if given is None else given if isinstance(given, tuple) else (given,)
        directions = 2 if self.bidirectional else 1
        last = []
        for layer in range(self.num_layers):
            outputs = []
            for direction in range(directions):
                suffix = f"_l{layer}{'_reverse' if direction else ''}"
                read = self.get_submodule(f"ih{suffix}")(x)
                made = read + self.get_submodule(f"hh{suffix}")(read)
                for state in states:
                    made = made + state[layer * directions + direction].unsqueeze(steps)
                outputs.append(made)
                last.append(made.select(steps, -1))
            x = torch.cat(outputs, -1) if directions > 1 else outputs[0]
        final = torch.stack(last)
        return x, (final, final) if self.has_cell else final


def suffixes(module: nn.Module) -> list[str]:
    """Of the module's parameters, a layer and a direction each: "_l0", "_l0_reverse", ..."""
    ways = ("", "_reverse") if module.bidirectional else ("",)
    return [f"_l{layer}{way}" for layer in range(int(module.num_layers)) for way in ways]  # type: ignore[arg-type]


def stand_in(network: nn.Module) -> dict[str, Part]:
    """Put stand-ins for such layers into a network, in place. Returns by name of a linear layer in them the matrix that it is for."""
    parts: dict[str, Part] = {}
    for name, module in [(name, module) for name, module in network.named_modules() if name and is_cuttable(module)]:
        owner, _, attribute = name.rpartition(".")
        setattr(network.get_submodule(owner), attribute, StandIn(module))
        for suffix in suffixes(module):
            parts.update({f"{name}.{of}{suffix}": Part(name, of, suffix) for of in ("ih", "hh")})
    return parts


def rows(module: nn.Module, part: Part, channels: np.ndarray) -> np.ndarray:
    """(gates, n) rows of the matrix that make these hidden units. Source: torch, LSTM: W_ii|W_if|W_ig|W_io along axis 0."""
    hidden = int(module.hidden_size)  # type: ignore[arg-type]
    gates = getattr(module, f"weight_{part.of}{part.suffix}").shape[0] // hidden
    return np.asarray(channels + hidden * np.arange(gates)[:, None])


def set_widths(modules: Iterable[nn.Module]) -> None:
    """Let recurrent layers whose weights were cut say the sizes that these have."""
    for module in modules:
        if isinstance(module, nn.RNNBase):
            module.hidden_size = module.get_parameter("weight_hh_l0").shape[1]
            module.input_size = module.get_parameter("weight_ih_l0").shape[1]


def weight_sizes(module: nn.Module, name: str, gone: Mapping[tuple[str, Any, int], Sequence[int] | np.ndarray]) -> int:
    """Elements of the layer's matrices after what is gone, by (parameter, "values", axis) as in `Removal`."""
    matrices = {f"{name}.{own}": value.shape for own, value in module.named_parameters() if value.ndim == 2}
    return sum(
        math.prod(size - len(gone.get((place, "values", axis), ())) for axis, size in enumerate(shape))
        for place, shape in matrices.items()
    )
