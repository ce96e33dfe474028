"""The two networks of LeCun et al. 1998 as Deep Compression (Han et al. 2016) compresses them: Caffe's sizes."""

from torch import nn


def lenet_300_100() -> nn.Module:
    """(n, 1, 28, 28) to (n, 10), fully connected: 266,610 parameters."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 300),
        nn.ReLU(),
        nn.Linear(300, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )


def lenet_5() -> nn.Module:
    """(n, 1, 28, 28) to (n, 10), two convolutions and two products: 431,080 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 20, 5),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(800, 500),
        nn.ReLU(),
        nn.Linear(500, 10),
    )
