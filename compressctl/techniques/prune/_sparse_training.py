"""Pruning while a network is trained: cuts at steps of the optimizer, by magnitude or by movement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from compressctl.layers.layer import by_position, from_positions
from compressctl.layers.torch_network import TorchNetwork
from compressctl.numerics.sparsity_schedule import cubic
from compressctl.techniques.prune._masking import choose, magnitudes
from compressctl.techniques.prune._sparsity import Sparsities
from compressctl.techniques.prune.params import UnstructuredParams
from compressctl.training.hooks import Hook, StepInfo

_CUTS = 100


class GradualPruning(Hook):
    """Cut more and more by the cubic schedule; what was cut stays zero. cuts: the optimizer steps after which it was cut."""

    def __init__(self, network: TorchNetwork, chosen: Sparsities, params: UnstructuredParams) -> None:
        self._layers = network
        self._network = network.body
        self._chosen = chosen
        self._params = params
        self._masks: dict[str, Tensor] | None = None
        self.cuts: list[int] = []

    def before_step(self, network: nn.Module, moment: StepInfo) -> None:
        """Weights that are zero take no part: neither in the norm of the gradients nor in the momentum."""
        if self._masks is None:
            self._masks = {name: parameter.detach() != 0 for name, parameter in self._pruned(network)}
        for name, parameter in self._pruned(network):
            if parameter.grad is not None:
                parameter.grad.mul_(self._masks[name])

    def after_step(self, network: nn.Module, moment: StepInfo) -> None:
        if self._is_due(moment):
            self._masks = self._cut(network, moment)
        self.hold(network)

    def hold(self, network: nn.Module) -> None:
        with torch.no_grad():
            for name, parameter in self._pruned(network):
                if self._masks is not None:
                    # A negative weight leaves -0.0, which is other bits than 0.0: adding 0 makes one zero of both.
                    parameter.mul_(self._masks[name]).add_(0.0)

    def is_done(self, moment: StepInfo) -> bool:
        return moment.step + 1 >= self._window(moment)[1]

    def state(self) -> Mapping[str, Tensor]:
        masks = {f"mask/{name}": mask for name, mask in (self._masks or {}).items()}
        return {**masks, "cuts": torch.tensor(self.cuts, dtype=torch.int64)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self._masks = _under("mask/", state, self._network) or None
        self.cuts = state["cuts"].tolist()

    def _cut(self, network: nn.Module, moment: StepInfo) -> dict[str, Tensor]:
        share = partial(self._share, moment)
        self.cuts.append(moment.step + 1)
        masks = choose(self._scores(network), self._chosen, share, is_global=self._params.is_global)
        return {
            name: torch.from_numpy(from_positions(masks[name], tuple(parameter.shape))).to(parameter.device)
            for name, parameter in self._pruned(network)
        }

    def _scores(self, network: nn.Module) -> Mapping[str, np.ndarray]:
        return magnitudes(self._layers.layers(), self._chosen, self._params.method)

    def _share(self, moment: StepInfo, final: float) -> float:
        start, stop = self._window(moment)
        return cubic(moment.step + 1, start, stop, 0.0, final)

    def _window(self, moment: StepInfo) -> tuple[int, int]:
        start = int(self._params.begin * moment.steps)
        return start, min(max(round(self._params.end * moment.steps), start + 1), moment.steps)

    def _is_due(self, moment: StepInfo) -> bool:
        start, stop = self._window(moment)
        step = moment.step + 1
        every = self._params.every or max(1, (stop - start) // _CUTS)
        return step == stop or (start < step < stop and (step - start) % every == 0)

    def _pruned(self, network: nn.Module) -> list[tuple[str, nn.Parameter]]:
        return [(name, found) for name, found in network.named_parameters() if name in self._chosen.pruned]


class MovementPruning(GradualPruning):
    """Scores are -w * gradient, summed over the steps; a weight that was cut keeps its value aside and may come back.

    The network computes with masked weights, whose gradient goes to the scores of all weights straight through the mask.
    Source: Sanh et al. 2020, "Movement Pruning", section 4 (hard movement pruning).
    """

    def __init__(self, network: TorchNetwork, chosen: Sparsities, params: UnstructuredParams) -> None:
        super().__init__(network, chosen, params)
        self._whole: dict[str, Tensor] = {}
        self._moved: dict[str, Tensor] = {}

    def before_step(self, network: nn.Module, moment: StepInfo) -> None:
        for name, parameter in self._pruned(network):
            if name in self._whole:
                with torch.no_grad():
                    parameter.copy_(self._whole[name])
            if parameter.grad is not None:
                moved = -(parameter.detach() * parameter.grad)
                self._moved[name] = self._moved[name] + moved if name in self._moved else moved
        super().before_step(network, moment)

    def after_step(self, network: nn.Module, moment: StepInfo) -> None:
        self._whole = {name: parameter.detach().clone() for name, parameter in self._pruned(network)}
        super().after_step(network, moment)

    def state(self) -> Mapping[str, Tensor]:
        kept = {"whole/": self._whole, "moved/": self._moved}
        return {**super().state(), **{key + name: each for key, all in kept.items() for name, each in all.items()}}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        super().restore(state)
        self._whole = _under("whole/", state, self._network)
        self._moved = _under("moved/", state, self._network)

    def _scores(self, network: nn.Module) -> Mapping[str, np.ndarray]:
        return {name: by_position(moved.cpu().float().numpy()) for name, moved in self._moved.items()}


def _under(prefix: str, state: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Entries of one kind, each where its parameter is and laid out like it: sums in another order would round differently."""
    parameters = dict(network.named_parameters())
    names = {key: key.removeprefix(prefix) for key in state if key.startswith(prefix)}
    return {
        name: torch.empty_like(parameters[name], dtype=state[key].dtype, requires_grad=False).copy_(state[key])
        for key, name in names.items()
    }


def gradual(network: TorchNetwork, chosen: Sparsities, params: UnstructuredParams) -> GradualPruning:
    kind: Callable[..., GradualPruning] = MovementPruning if params.method == "movement" else GradualPruning
    made: GradualPruning = kind(network, chosen, params)
    return made
