"""Recurrent networks that read an image of digits row by row."""

from torch import Tensor, nn


class Rows(nn.Module):
    """(batch, 1, 28, 28) -> scores of ten digits, from the state after the last row."""

    def __init__(self, cell: type[nn.LSTM] | type[nn.GRU], hidden: int) -> None:
        super().__init__()
        self.cell = cell(28, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 10)

    def forward(self, x: Tensor) -> Tensor:
        found, _ = self.cell(x[:, 0])
        return self.head(found[:, -1])


def lstm(hidden: int = 192) -> nn.Module:
    return Rows(nn.LSTM, hidden)


def gru(hidden: int = 192) -> nn.Module:
    return Rows(nn.GRU, hidden)
