"""What becomes a branch: one of two results, by a decision for each sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Select(nn.Module):
    """By sample: early where `decided`, late elsewhere. decided: (n, 1, ...), of the rank of both."""

    def forward(self, decided: Tensor, early: Tensor, late: Tensor) -> Tensor:
        return torch.where(decided, early, late)

    def constructor_arguments(self) -> Mapping[str, Any]:
        return {}
