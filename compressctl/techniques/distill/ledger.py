"""The parts of a loss, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from compressctl.training.hooks import Hook, Moment


class Ledger(Hook):
    """by_part: the mean of each part per epoch, weights included, so that the parts add up to the loss."""

    def __init__(self) -> None:
        self.by_part: dict[str, list[float]] = {}
        self._sums: dict[str, float] = {}
        self._samples = 0

    def total(self, parts: Mapping[str, Tensor], samples: int) -> Tensor:
        """The sum of the parts, which are written down."""
        for name, value in parts.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value.detach()) * samples
        self._samples += samples
        first, *rest = parts.values()
        return sum(rest, start=first)

    def after_epoch(self, network: nn.Module, moment: Moment) -> None:
        for name, value in self._sums.items():
            self.by_part.setdefault(name, []).append(value / max(1, self._samples))
        self._sums, self._samples = {}, 0
