"""The parts of a loss, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from compressctl.training.hooks import Hook, StepInfo


class LossHistory(Hook):
    """by_part: the mean of each part per epoch, weights included, so that the parts add up to the loss."""

    def __init__(self) -> None:
        self.by_part: dict[str, list[float]] = {}
        self._sums: dict[str, float] = {}
        self._samples = 0

    def total(self, parts: Mapping[str, Tensor], samples: int) -> Tensor:
        """The sum of the parts, which are written down; samples: how many they are means over, 0 outside of training."""
        for name, value in parts.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value.detach()) * samples
        self._samples += samples
        first, *rest = parts.values()
        return sum(rest, start=first)

    def after_epoch(self, network: nn.Module, moment: StepInfo) -> None:
        for name, value in self._sums.items():
            self.by_part.setdefault(name, []).append(value / max(1, self._samples))
        self._sums, self._samples = {}, 0

    def state(self) -> Mapping[str, Tensor]:
        """In float64: the epochs so far and the sums of the one at work, by part."""
        found = {"samples": torch.tensor(float(self._samples), dtype=torch.float64)}
        for name, value in self._sums.items():
            found[f"sum/{name}"] = torch.tensor(value, dtype=torch.float64)
        for name, values in self.by_part.items():
            found[f"epochs/{name}"] = torch.tensor(values, dtype=torch.float64)
        return found

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self._samples = int(state["samples"])
        for key, value in state.items():
            kind, _, name = key.partition("/")
            if kind == "sum":
                self._sums[name] = value.item()
            elif kind == "epochs":
                self.by_part[name] = value.tolist()
