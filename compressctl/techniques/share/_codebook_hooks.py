"""Training of weights that share values: what happens to gradients and weights around each step of the optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from compressctl.training.hooks import Hook, StepInfo


@dataclass(frozen=True)
class Layout:
    """Where a parameter's weights get their values. index: of the parameter's shape, int64, into all books one after the other.

    scale: of a shape that broadcasts against it, or None. held: (all entries,) boolean, entries that never move.
    book_size: entries of one book.
    """

    index: Tensor
    scale: Tensor | None
    held: Tensor
    book_size: int

    def spread(self, codebook: Tensor) -> Tensor:
        """The parameter's values."""
        values = codebook[self.index]
        return values if self.scale is None else values * self.scale

    def sums(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """By entry, float64: scale x values, and scale^2, summed over the weights that have it.

        In float32 the sum of a million equal values is off by a percent, at every step in the same direction.
        """
        values = values.double()
        scale = None if self.scale is None else self.scale.double()
        ones = torch.ones_like(values) if scale is None else (scale**2).expand_as(values)
        scaled = values if scale is None else values * scale
        flat = self.index.reshape(-1)
        zeros = torch.zeros(len(self.held), dtype=torch.float64, device=values.device)
        return zeros.index_add(0, flat, scaled.reshape(-1)), zeros.index_add(0, flat, ones.reshape(-1))


class CodebookTraining(Hook):
    """Keeps each weight at its entry and moves the entries.

    A step of the optimizer is projected on what codebooks can express: an entry becomes the least-squares mean of its weights.
    gradient: "mean" leaves gradients to that; "sum" gives each weight its entry's own gradient.
    Source: Han et al. 2016, section 3.2.
    """

    def __init__(self, layouts: Mapping[str, Layout], *, summed: bool) -> None:
        self.layouts = dict(layouts)
        self._summed = summed

    def before_step(self, network: nn.Module, moment: StepInfo) -> None:
        for name, parameter in network.named_parameters():
            layout = self.layouts.get(name)
            if layout is None or parameter.grad is None:
                continue
            total, weight = layout.sums(parameter.grad)
            entry = total if self._summed else total / weight.clamp(min=1e-30)
            parameter.grad.copy_(layout.spread(entry.masked_fill(layout.held, 0).to(parameter.dtype)))

    def after_step(self, network: nn.Module, moment: StepInfo) -> None:
        self.hold(network)

    def hold(self, network: nn.Module) -> None:
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if name in self.layouts:
                    parameter.copy_(self.layouts[name].spread(codebook_of(self.layouts[name], parameter)))


def codebook_of(layout: Layout, values: Tensor) -> Tensor:
    """(entries,), of the values' type: least-squares entries; held ones, and those that no weight has, are 0."""
    total, weight = layout.sums(values.detach())
    entries = torch.where(layout.held | (weight <= 0), torch.zeros_like(total), total / weight.clamp(min=1e-30))
    return entries.to(values.dtype)


class MovingMembership(CodebookTraining):
    """Full-precision weights are trained behind the shared ones, and each takes the entry nearest to it.

    The network computes with shared weights, whose gradients go to those behind them straight through; a weight that is
    zero stays so. Source: Bengio et al. 2013 (straight-through); Stock et al. 2020, section 3.
    """

    def __init__(self, layouts: Mapping[str, Layout]) -> None:
        super().__init__(layouts, summed=False)
        self._whole: dict[str, Tensor] = {}

    def before_step(self, network: nn.Module, moment: StepInfo) -> None:
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if name not in self.layouts:
                    continue
                if name in self._whole:
                    parameter.copy_(self._whole[name])
                layout = self.layouts[name]
                if parameter.grad is not None:
                    parameter.grad.masked_fill_(layout.held[layout.index], 0)

    def after_step(self, network: nn.Module, moment: StepInfo) -> None:
        parameters = dict(network.named_parameters())
        self._whole = {name: parameters[name].detach().clone() for name in self.layouts}
        self.layouts = {name: reassigned(layout, self._whole[name]) for name, layout in self.layouts.items()}
        self.hold(network)

    def state(self) -> Mapping[str, Tensor]:
        kept = {f"whole/{name}": whole for name, whole in self._whole.items()}
        return {**kept, **{f"index/{name}": layout.index for name, layout in self.layouts.items()}}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        for name, layout in self.layouts.items():
            index = state[f"index/{name}"].to(layout.index.device).reshape(layout.index.shape)
            self.layouts[name] = replace(layout, index=index)
            if f"whole/{name}" in state:
                self._whole[name] = state[f"whole/{name}"].to(layout.index.device).clone()


def reassigned(layout: Layout, values: Tensor) -> Layout:
    """Each weight at the nearest entry of its own book; those at held entries stay there, and no other comes to them.

    Books are runs of entries of equal length; the nearest is looked for among those of the weight's own.
    """
    codebook = codebook_of(layout, values)
    size = layout.book_size
    books = codebook.reshape(-1, size)
    target = values if layout.scale is None else values / layout.scale
    own = torch.div(layout.index, size, rounding_mode="floor")
    best = torch.full_like(target, torch.inf)
    index = layout.index.clone()
    free = ~layout.held.reshape(-1, size)
    for position in range(size):
        distance = torch.where(free[own, position], (target - books[own, position]).abs(), torch.inf)
        index = torch.where(distance < best, own * size + position, index)
        best = torch.minimum(distance, best)
    index = torch.where(layout.held[layout.index], layout.index, index)
    return replace(layout, index=index)
