"""What stands around a whole network and changes how it is run."""

from __future__ import annotations

from typing import Any, Self

from torch import nn


class Around(nn.Module):
    """Made without its network, as a description of a structure makes it; `network` is put in afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.network: nn.Module = nn.Identity()

    @classmethod
    def around(cls, network: nn.Module, **arguments: Any) -> Self:
        made = cls(**arguments)
        made.network = network
        made.train(network.training)
        return made
