"""A recurrent layer behind a projection of its inputs: what a low rank of its input weights makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

CELLS = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}

_PLAIN = ("hidden_size", "num_layers", "bidirectional", "batch_first", "dropout", "bias", "proj_size", "mode")
"""What code around a recurrent layer asks of it."""


class ProjectedRecurrent(nn.Module):
    """Called like torch's nn.LSTM, nn.GRU and nn.RNN, packed sequences too. reduce: a linear layer without bias. layer: torch's."""

    def __init__(
        self,
        cell: str,
        input_size: int,
        rank: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        nonlinearity: str = "tanh",
    ) -> None:
        """As torch's own, which alone have proj_size (LSTM) and nonlinearity (RNN)."""
        super().__init__()
        own: dict[str, Any] = {"proj_size": proj_size} if cell == "LSTM" else {}
        if cell == "RNN":
            own["nonlinearity"] = nonlinearity
        self.reduce: nn.Module = nn.Linear(input_size, rank, bias=False)
        self.layer: nn.RNNBase = CELLS[cell](
            rank, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, **own
        )

    @classmethod
    def of(cls, reduce: nn.Module, layer: nn.RNNBase) -> Self:
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        made.reduce, made.layer = reduce, layer
        return made

    def constructor_arguments(self) -> Mapping[str, Any]:
        assert isinstance(self.reduce, nn.Linear)
        names = ("hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional", "proj_size")
        return {
            "cell": type(self.layer).__name__,
            "input_size": self.reduce.in_features,
            "rank": self.reduce.out_features,
            "nonlinearity": getattr(self.layer, "nonlinearity", "tanh"),
            **{name: getattr(self.layer, name) for name in names},
        }

    def forward(self, input: Tensor | PackedSequence, hx: Any = None) -> Any:
        if isinstance(input, PackedSequence):
            return self.layer(input._replace(data=self.reduce(input.data)), hx)
        return self.layer(self.reduce(input), hx)

    def flatten_parameters(self) -> None:
        self.layer.flatten_parameters()

    def __getattr__(self, name: str) -> Any:
        return getattr(super().__getattr__("layer"), name) if name in _PLAIN else super().__getattr__(name)
