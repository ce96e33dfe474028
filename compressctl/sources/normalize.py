"""Stored values to what a model takes: (value * scale - mean) / std, per channel, float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compressctl.core.errors import UsageError


@dataclass(frozen=True)
class Normalization:
    """mean and std: one number per channel, or one for all."""

    scale: float = 1.0
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None

    @property
    def is_identity(self) -> bool:
        return self.scale == 1.0 and self.mean is None and self.std is None

    def apply(self, values: np.ndarray, axis: int) -> np.ndarray:
        """float32 of the same shape. axis: that of the channels. Raises UsageError when the counts do not fit."""
        result = values.astype(np.float32)
        result *= np.float32(self.scale)
        if self.mean is not None:
            result -= self._along("mean", self.mean, result, axis)
        if self.std is not None:
            result /= self._along("std", self.std, result, axis)
        return result

    def _along(self, name: str, numbers: Sequence[float], values: np.ndarray, axis: int) -> np.ndarray:
        if len(numbers) == 1:
            return np.asarray(numbers, np.float32)
        if values.ndim <= axis or values.shape[axis] != len(numbers):
            channels = values.shape[axis] if values.ndim > axis else 1
            raise UsageError(f"data.{name} has {len(numbers)} numbers but the inputs have {channels} channels")
        shape = [1] * values.ndim
        shape[axis] = len(numbers)
        return np.asarray(numbers, np.float32).reshape(shape)
