"""What operators take: the values that a node reads, and its attributes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

Given = Sequence[Any]
"""Tensors; sizes as numbers where the operator reads them so; None for what a node leaves out."""

Attributes = Mapping[str, Any]
"""Those that the node has, "opset" and "outputs", how many it makes."""

Operator = Callable[[Given, Attributes], Any]

DTYPES: Mapping[int, torch.dtype] = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64, 9: torch.bool, 10: torch.float16,
    11: torch.float64, 16: torch.bfloat16,
}  # fmt: skip
"""By TensorProto.DataType."""
