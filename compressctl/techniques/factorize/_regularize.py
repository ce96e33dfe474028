"""Training that gathers a layer's weight in few directions before it is cut to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressctl.techniques.factorize._splits import Way
from compressctl.training.hooks import Hook, StepInfo


@dataclass(frozen=True)
class MatrixView:
    """One way to read a weight as a matrix, and back."""

    to_matrix: Callable[[Tensor], Tensor]
    to_weight: Callable[[Tensor, torch.Size], Tensor]


OUTPUTS = MatrixView(lambda weight: weight.flatten(1), lambda matrix, shape: matrix.reshape(shape))
"""(out, in * kernel): what `channel` cuts, and linear layers."""

INPUTS = MatrixView(
    lambda weight: weight.transpose(0, 1).flatten(1),
    lambda matrix, shape: matrix.reshape(shape[1], shape[0], *shape[2:]).transpose(0, 1),
)
"""(in, out * kernel): what Tucker cuts beside the outputs."""

CROSSED = MatrixView(
    lambda weight: weight.permute(0, 3, 1, 2).flatten(2).flatten(0, 1),
    lambda matrix, shape: matrix.reshape(shape[0], shape[3], shape[1], shape[2]).permute(0, 2, 3, 1),
)
"""(out * width, in * height): what `spatial` cuts."""


class NuclearNorm(Hook):
    """Lowers the singular values of weights: the proximal step of the sum of singular values.

    views: how each parameter, by name, is read as a matrix; several take turns. threshold: what one training step takes off
    each singular value. every: steps between two decompositions, whose threshold is that of all steps since.
    Source: Xu et al. 2020, TRP: Trained Rank Pruning, section 3.3, which follows the subgradient of the same norm.
    """

    def __init__(self, views: Mapping[str, tuple[MatrixView, ...]], threshold: float, every: int) -> None:
        self._views = views
        self._threshold = threshold
        self._every = every

    def after_step(self, network: nn.Module, moment: StepInfo) -> None:
        due = (moment.step + 1) % self._every
        if due and moment.step + 1 < moment.steps:
            return
        since = due or self._every
        parameters = dict(network.named_parameters())
        with torch.no_grad():
            for name, views in self._views.items():
                for view in views:
                    weight = parameters[name]
                    weight.copy_(view.to_weight(self._shrunk(view.to_matrix(weight), since / len(views)), weight.shape))

    def is_done(self, moment: StepInfo) -> bool:
        """Weights are gathered most at the end, whatever an epoch before scores."""
        return moment.step + 1 >= moment.steps

    def _shrunk(self, matrix: Tensor, steps: float) -> Tensor:
        left, values, right = torch.linalg.svd(matrix.float(), full_matrices=False)
        shrunk: Tensor = (left * (values - self._threshold * steps).clamp(min=0.0)) @ right
        return shrunk.to(matrix.dtype)


class Ridge(Hook):
    """Adds strength * weight to the gradient of each named weight."""

    def __init__(self, names: tuple[str, ...], strength: float) -> None:
        self._names = names
        self._strength = strength

    def before_step(self, network: nn.Module, moment: StepInfo) -> None:
        parameters = dict(network.named_parameters())
        for name in self._names:
            weight = parameters[name]
            if weight.grad is not None:
                weight.grad.add_(weight.detach(), alpha=self._strength)

    def is_done(self, moment: StepInfo) -> bool:
        """As for the nuclear norm."""
        return moment.step + 1 >= moment.steps


def views_of(ways: Sequence[Way]) -> dict[str, tuple[MatrixView, ...]]:
    """By parameter: every matrix that some scheme would cut it as. Where two schemes compete, the first is made low."""
    found: dict[str, tuple[MatrixView, ...]] = {}
    for way in ways:
        found.setdefault(way.layer.name, _VIEWS[way.scheme])
    return found


_VIEWS: Mapping[str, tuple[MatrixView, ...]] = {
    "channel": (OUTPUTS,),
    "spatial": (CROSSED,),
    "tucker": (OUTPUTS, INPUTS),
    "cp": (OUTPUTS,),
}
