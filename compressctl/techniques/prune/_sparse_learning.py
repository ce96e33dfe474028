"""Training that pulls weak channels to zero before they are cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from compressctl.layers.channels.dependency_groups import Group
from compressctl.layers.channels.weights import channel_norms, member_weights, over_channels, per_channel
from compressctl.training.hooks import Hook, StepInfo

_HARDEST = 16.0
"""How much harder the weakest channel of a group is pulled than the strongest: alpha = 2^4 in DepGraph's experiments."""

_RISES = 10
"""How often the pull of `Growing` becomes stronger."""


class Pull(Hook):
    """Adds pull * weight to the gradient of every member of every group; pulls: by the group's name, (units,)."""

    def __init__(self, groups: Sequence[Group], strength: float) -> None:
        self._groups = groups
        self._strength = strength
        self._shaped: list[tuple[str, Tensor]] = []

    def set(self, network: nn.Module, pulls: Mapping[str, np.ndarray]) -> None:
        """Spread the pulls over the shapes of the members' parameters."""
        self._shaped = []
        for group in self._groups:
            for member in group.members:
                module, parameters = member_weights(network, member)
                for name, value in parameters:
                    along = np.zeros(len(per_channel(value, module, member)))
                    along[member.channels] = pulls[group.name][member.units]
                    tensor = torch.as_tensor(along, dtype=value.dtype, device=value.device)
                    self._shaped.append((name, over_channels(tensor, value, module, member)))

    def before_step(self, network: nn.Module, moment: StepInfo) -> None:
        parameters = dict(network.named_parameters())
        with torch.no_grad():
            for name, pull in self._shaped:
                gradient = parameters[name].grad
                if gradient is not None:
                    gradient.add_(parameters[name] * pull.to(gradient.device), alpha=self._strength)

    def is_done(self, moment: StepInfo) -> bool:
        """Channels are weakest at the end, whatever an epoch before, or the start, scores."""
        return moment.step + 1 >= moment.steps

    def state(self) -> Mapping[str, Tensor]:
        return {f"{number}/{name}": pull for number, (name, pull) in enumerate(self._shaped)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        in_order = sorted(state, key=lambda key: int(key.partition("/")[0]))
        self._shaped = [(key.partition("/")[2], state[key]) for key in in_order]


class GroupNorm(Pull):
    """Pulls all channels, the weaker the harder, with weights that are set anew at each epoch.

    Source: DepGraph, Fang et al. 2023, section 3.3, equations 5 and 6.
    """

    def __init__(self, network: nn.Module, groups: Sequence[Group], strength: float) -> None:
        super().__init__(groups, strength)
        self.set(network, self._pulls(network))

    def after_epoch(self, network: nn.Module, moment: StepInfo) -> None:
        self.set(network, self._pulls(network))

    def _pulls(self, network: nn.Module) -> dict[str, np.ndarray]:
        return {group.name: group_norm_pull(channel_norms(network, group, 2)) for group in self._groups}


class Growing(Pull):
    """Pulls the channels that shall go, and those alone, harder after each tenth of the steps.

    Source: Neural Pruning via Growing Regularization, Wang et al. 2021, section 3.2 (GReg-1).
    """

    def __init__(
        self, network: nn.Module, groups: Sequence[Group], strength: float, going: Mapping[str, np.ndarray]
    ) -> None:
        super().__init__(groups, strength)
        self._rise = strength
        pulls = {group.name: np.zeros(group.units) for group in groups}
        for name, units in going.items():
            pulls[name][units] = 1.0
        self.set(network, pulls)

    def before_step(self, network: nn.Module, moment: StepInfo) -> None:
        self._strength = self._rise * (1 + moment.step * _RISES // max(1, moment.steps))
        super().before_step(network, moment)


def group_norm_pull(importance: np.ndarray) -> np.ndarray:
    """(units,) to (units,): 1 for the strongest unit, `_HARDEST` for the weakest, exponential in between."""
    spread = float(importance.max() - importance.min())
    if spread <= 0:
        return np.ones_like(importance)
    return np.asarray(_HARDEST ** ((importance.max() - importance) / spread))
