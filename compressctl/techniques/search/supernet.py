"""search.supernet: the whole network, the smallest and some others between them learn in every step."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compressctl.core.model import TorchModel
from compressctl.core.technique import RunContext, StageResult
from compressctl.graph.torch_outputs import named_outputs
from compressctl.layers.channels.dependency_groups import example_inputs
from compressctl.techniques.search._searched import comparison_of
from compressctl.techniques.search._shared_weights import SharedWeights
from compressctl.techniques.search._space import Space, Subnetwork
from compressctl.techniques.search.params import SearchedParams, SupernetParams
from compressctl.training.data import TensorBatch
from compressctl.training.hooks import Hook, StepInfo
from compressctl.training.loop import train
from compressctl.training.objective import Objective
from compressctl.training.supervision.objective import objective_of
from compressctl.training.supervision.teacher_loss import Compare, comparison

_NO_BETTER = (
    "subnetworks became no better: the one of half the channels has a loss of {1:.4g}, and had {0:.4g} when it was cut out of the network that was given; "
    "lower learning_rate, or train for more epochs"
)

_ROUNDING = 1e-4
"""Share of the largest output by which sums in another order may differ."""


def apply(model: TorchModel, params: SupernetParams, run: RunContext) -> StageResult:
    """Sort the channels, then train. Raises NothingToCompressError where the network has no subnetworks."""
    found = Space(model, params, run, is_sorted=False)
    for name, why in found.narrower.fixed.items():
        run.events.emit("note", message=f"as wide in every subnetwork: {name}: {why}")
    ordered, is_sorted = _sorted(model, found)
    space = Space(ordered, params, run, is_sorted=True)
    learner = replace(ordered, body=copy.deepcopy(space.model.body))
    objective, hooks = objective_of(learner, params, run)
    sampling = Sampling(space, params.subnetworks, run.seed)
    compare = comparison(params.teacher_loss, run.learning, model.signature)
    sandwich = Sandwich(
        objective,
        compare,
        SharedWeights(ordered.body, space.cut_of, space.prefix),
        sampling,
        params.other_outputs_weight,
    )
    half, loss = space.uniform(0.5), comparison_of(ordered, SearchedParams(), run)
    before = loss(space.cut(half).body)
    # The whole network's best epoch is not that of its subnetworks.
    how = params.model_copy(update={"checkpoint": "last"})
    trained = train(learner, sandwich, how, run, [*hooks, sampling])
    after = loss(space.cut_of(trained.network, half))
    if not after < before:
        run.events.warn(_NO_BETTER.format(before, after))
    facts: dict[str, Any] = {
        **space.by_kind(),
        "blocks": {"may_go": list(space.blocks), "at_most": space.most_gone},
        "sorted": is_sorted,
        "networks_a_step": 2 + params.subnetworks,
        "half": {"loss_before": before, "loss_after": after if math.isfinite(after) else None},
        "fixed": dict(space.narrower.fixed),
    }
    return StageResult(replace(learner, body=trained.network), {**facts, **trained.facts})


def _sorted(model: TorchModel, space: Space) -> tuple[TorchModel, bool]:
    """The model with its strongest channels first; as it is where it would then compute something else."""
    ordered = space.narrower.sorted()
    inputs = example_inputs(model.signature)
    with torch.no_grad():
        before, after = (named_outputs(body.eval()(*inputs)) for body in (model.body, ordered.body))
    for name, value in before.items():
        if not torch.allclose(after[name].float(), value.float(), rtol=0, atol=_ROUNDING * float(value.abs().max())):
            return model, False
    return ordered, True


class Sampling(Hook):
    """Which subnetworks learn in a step: by its number alone, so that a resumed training goes on with the same."""

    def __init__(self, space: Space, random: int, seed: int) -> None:
        self._space, self._random, self._seed = space, random, seed
        self._step = 0

    def before_epoch(self, network: nn.Module, moment: StepInfo) -> None:
        self._step = moment.step

    def after_step(self, network: nn.Module, moment: StepInfo) -> None:
        self._step = moment.step + 1

    def subnetworks(self) -> list[Subnetwork]:
        """The smallest first."""
        generator = np.random.default_rng([self._seed, self._step])
        return [self._space.smallest(generator), *(self._space.random(generator) for _ in range(self._random))]


class Sandwich:
    """The mean loss of the whole network, which learns what the stage's params say, and of subnetworks, which learn its outputs.

    Source: Yu & Huang 2019, Universally Slimmable Networks, algorithm 1.
    """

    def __init__(
        self,
        objective: Objective,
        compare: Compare,
        shared: SharedWeights,
        sampling: Sampling,
        others_weight: float = 0.0,
    ) -> None:
        """others_weight: of the distance of each output behind the first, as `other_outputs_weight` weighs the whole network's."""
        self._objective, self._compare, self._shared, self._sampling = objective, compare, shared, sampling
        self._others_weight = others_weight

    def __call__(self, network: nn.Module, batch: TensorBatch) -> Tensor:
        heard = _Heard(network)
        loss = self._objective(heard, batch)
        if not network.training:
            return loss
        taught = {name: value.detach() for name, value in heard.given.items()}
        subnetworks = self._sampling.subnetworks()
        for subnetwork in subnetworks:
            outputs = named_outputs(self._shared(network, subnetwork, batch.inputs))
            loss = loss + self._compare(_first(outputs), _first(taught), batch)
            for name in [*outputs][1:] if self._others_weight else ():
                loss = loss + self._others_weight * _apart(outputs[name], taught[name])
        return loss / (1 + len(subnetworks))


class _Heard(nn.Module):
    """A network whose last outputs are kept."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.training = network, network.training
        self.given: Mapping[str, Tensor] = {}

    def forward(self, *inputs: Tensor) -> object:
        made = self.network(*inputs)
        self.given = named_outputs(made)
        return made


def _apart(found: Tensor, wanted: Tensor) -> Tensor:
    """log(1 + mean squared difference / variance), bounded far from the target; 0 of outputs that are no floats or vary not at all."""
    if not found.is_floating_point() or not bool((spread := wanted.float().var(correction=0)) > 0):
        return found.new_zeros((), dtype=torch.float32)
    return ((found.float() - wanted.float()).square().mean() / spread).log1p()


def _first(outputs: Mapping[str, Tensor]) -> Tensor:
    return next(iter(outputs.values()))
