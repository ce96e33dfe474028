"""What stands where a block was that is given more than its input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


class PassThrough(nn.Module):
    """Returns its first argument, for blocks that are also given masks and the like; torch's Identity takes one alone."""

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        return x

    def constructor_arguments(self) -> Mapping[str, Any]:
        return {}
