"""A small network for digits with what rounding must cope with, trained for a moment."""

import copy
from functools import cache

import torch
from support.lessons import digits_data
from torch import nn

from compressctl.core.model import Model, Signature, TensorSpec, TorchModel

SIGNATURE = Signature(
    (TensorSpec("input", "float32", ("batch", 1, 8, 8)),), (TensorSpec("output", "float32", ("batch", 10)),)
)


class Small(nn.Module):
    """Two readers of one tensor, a residual addition, pooling, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.left, self.left_norm = nn.Conv2d(12, 16, 3, 2, padding=1, bias=False), nn.BatchNorm2d(16)
        self.right, self.right_norm = nn.Conv2d(12, 16, 1, 2, bias=False), nn.BatchNorm2d(16)
        self.last = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.left_norm(self.left(x)) + self.right_norm(self.right(x)))
        x = nn.functional.max_pool2d(torch.relu(self.last(x)), 2)
        return self.head(x.flatten(1))


def small_model() -> Model:
    """A copy each time."""
    trained = _trained()
    return TorchModel(copy.deepcopy(trained), SIGNATURE)


@cache
def _trained() -> nn.Module:
    """BatchNorm's factors have both signs."""
    torch.manual_seed(0)
    network = Small().train()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    with torch.no_grad():
        network.norm.weight[::3] *= -1
    for epoch in range(4):
        for batch in digits_data().split("train").batches(64, shuffle_seed=epoch):
            loss = nn.functional.cross_entropy(network(torch.tensor(batch.inputs["input"])), torch.tensor(batch.labels))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()
