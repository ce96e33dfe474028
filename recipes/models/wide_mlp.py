"""A perceptron wider than digits need, as networks of fully connected layers usually are: 2.9 million parameters."""

from torch import nn


def wide_mlp(width: int = 1024) -> nn.Module:
    """(n, 1, 28, 28) to (n, 10), through three hidden layers."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, 10),
    )
