"""dynamic.blocks: residual blocks that are skipped where a gate that looks at the input says so."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compressctl.core.errors import NothingToCompressError, UsageError
from compressctl.core.model import TorchModel
from compressctl.core.patterns import matching
from compressctl.core.technique import RunContext, StageResult
from compressctl.graph.lower import as_graph
from compressctl.layers.calls import calls_of
from compressctl.layers.channels.dependency_groups import example_inputs
from compressctl.sources.modules.gated_block import GatedBlock, opened_by
from compressctl.sources.modules.pass_through import PassThrough
from compressctl.techniques.dynamic._blocks import is_causal
from compressctl.techniques.dynamic._places import channel_axis
from compressctl.techniques.dynamic.params import BlocksParams
from compressctl.techniques.prune import _costs as costs
from compressctl.techniques.prune.layers import residual_blocks
from compressctl.training.data import TensorBatch, tensor_batches
from compressctl.training.loop import train
from compressctl.training.objective import Objective
from compressctl.training.supervision.objective import objective_of

_BATCH = 256


def apply(model: TorchModel, params: BlocksParams, run: RunContext) -> StageResult:
    """Put gates before residual blocks, train with what blocks cost, set one threshold for all on the validation split, and leave out gates that say one thing of all its samples.

    Raises NothingToCompressError where no residual block can be skipped, UsageError for a causal network, for a pattern that matches none, and where even with all gates shut the network costs more than `average`.
    """
    if is_causal(model):
        raise UsageError(
            "the network is causal: a gate that looks at a block's input would tell earlier tokens of later ones",
            hint="gates are for classifiers and encoders; prune.layers takes blocks out of language models for good",
        )
    inputs = example_inputs(model.signature)
    known, fixed = residual_blocks(model.body, inputs)
    if not known:
        raise NothingToCompressError(
            "no residual block can be skipped", hint="; ".join(f"{name}: {why}" for name, why in fixed.items()) or None
        )
    names = matching(params.match, known, lambda name: (name,), key="match", what="residual block")
    shares = _shares(model, names, inputs)
    least = 1 - sum(shares.values())
    if params.average < least:
        raise UsageError(
            f"average: with all its {len(names)} gates shut the network takes {least:.0%} of its multiply-accumulates, {params.average:.0%} was asked for",
            hint="ask for less, or combine gates with prune.channels",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        network = _gated(model.body, names, inputs)
    learner = replace(model, body=network, sparse=_renamed(model.sparse, names))
    objective, hooks = objective_of(learner, params, run)
    priced = _Priced(objective, shares, params.average, params.cost_weight)
    trained = train(learner, priced, params.model_copy(update={"checkpoint": "last"}), run, hooks)
    learner = replace(learner, body=trained.network)
    facts: dict[str, Any] = {
        "gates": {name: round(share, 4) for name, share in shares.items()},
        "not_skipped": fixed,
        **trained.facts,
    }
    facts |= _set_threshold(learner, shares, params, run)
    pinned = _pinned(params, learner.body)
    network, sure = _without_settled(network=learner.body, opened=facts.get("opened", {}))
    if sure and len(sure) == len(names):
        run.events.warn(
            "every gate opens for all validation samples or for none: what is left depends on no input, as after prune.layers"
        )
    gated = [name for name in names if name not in sure]
    kept = [
        name for name in model.sparse if not any(name.startswith(f"{one}.") for one in sure if sure[one] == "never")
    ]
    learner = replace(learner, body=network, sparse=_renamed(kept, gated))
    facts["settled"] = sure
    if run.score is not None:  # what training says of its epochs is of gates whose threshold was not set yet
        facts["score"] = run.score(as_graph(learner), "validation")
    _warn_of_threshold(facts, params, run)
    return StageResult(learner, facts, pinned=pinned)


def _pinned(params: BlocksParams, network: nn.Module) -> dict[str, Any]:
    """All gates have one threshold."""
    threshold = float(next(iter(gates(network).values())).threshold)
    return {"use": "dynamic.blocks", **params.model_dump(mode="json", exclude_unset=True), "threshold": threshold}


def gates(network: nn.Module) -> dict[str, GatedBlock]:
    return {name: module for name, module in network.named_modules() if isinstance(module, GatedBlock)}


def _shares(model: TorchModel, names: Sequence[str], inputs: Sequence[Tensor]) -> dict[str, float]:
    """By block, its share of the network's multiply-accumulates."""
    measured = costs.layers(model.body, inputs)
    whole = costs.macs(measured)
    return {
        name: costs.macs({layer: one for layer, one in measured.items() if layer.startswith(f"{name}.")}) / whole
        for name in names
    }


def _gated(network: nn.Module, names: Sequence[str], inputs: Sequence[Tensor]) -> nn.Module:
    made = copy.deepcopy(network)
    shapes = {name: tuple(calls[0][0][0].shape) for name, calls in calls_of(network, inputs).items() if name in names}
    for name in names:
        owner, _, attribute = name.rpartition(".")
        axis = channel_axis(network, shapes[name])
        gated = GatedBlock.around(made.get_submodule(name), features=shapes[name][axis], axis=axis)
        setattr(made.get_submodule(owner), attribute, gated)
    return made


_FAR = 1.05
"""Times the cost that is asked for, up to which training is taken to have reached it."""


def _warn_of_threshold(facts: Mapping[str, Any], params: BlocksParams, run: RunContext) -> None:
    """Where the threshold, and not what the gates learned, keeps the cost."""
    trained = facts.get("as_trained")
    if trained is None or trained <= _FAR * params.average:
        return
    scored = f", with which it scores {facts['score']:.4g} on the validation split" if "score" in facts else ""
    run.events.warn(
        f"training left the mean cost of a sample at {trained:.0%} of the network's; the threshold of the gates brings it to {facts['average']:.0%}{scored}: "
        "more epochs, or a larger cost_weight, let the network learn that"
    )


def _without_settled(network: nn.Module, opened: Mapping[str, float]) -> tuple[nn.Module, dict[str, str]]:
    """Blocks that all samples are computed with as they were, and none in the place of those that none is; by name, "always" or "never".

    A gate that says one thing costs its time and a branch's.
    """
    sure = {name: "never" if share == 0 else "always" for name, share in opened.items() if share in (0, 1)}
    for name, when in sure.items():
        owner, _, attribute = name.rpartition(".")
        gated = network.get_submodule(name)
        assert isinstance(gated, GatedBlock)
        setattr(network.get_submodule(owner), attribute, PassThrough() if when == "never" else gated.block)
    return network, sure


def _renamed(sparse: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Parameters of gated blocks, by the names that they have now."""

    def now(name: str) -> str:
        block = next((one for one in names if name.startswith(f"{one}.")), None)
        return name if block is None else f"{block}.block{name[len(block) :]}"

    return tuple(map(now, sparse))


class _Priced:
    """The loss, and how far the mean cost of a batch's samples is above what is asked for: its square, relative to that.

    Source: Veit & Belongie 2018, equation 4, with one target for the whole network.
    """

    def __init__(self, objective: Objective, shares: dict[str, float], average: float, weight: float) -> None:
        self._objective, self._shares = objective, shares
        self._average, self._weight = average, weight

    def __call__(self, network: nn.Module, batch: TensorBatch) -> Tensor:
        if not network.training:
            return self._objective(network, batch)
        with _Scores(network) as scores:
            loss = self._objective(network, batch)
        opened = torch.stack([self._shares[name] * opened_by(scores[name]) for name in self._shares])
        cost = 1 - sum(self._shares.values()) + opened.sum(0).mean()
        return loss + self._weight * torch.relu(cost / self._average - 1) ** 2


class _Scores:
    """By gate, the scores of the calls within."""

    def __init__(self, network: nn.Module) -> None:
        self._network, self._hooks = network, ExitStack()
        self.found: dict[str, Tensor] = {}

    def __enter__(self) -> dict[str, Tensor]:
        for name, gated in gates(self._network).items():
            self._hooks.enter_context(gated.gate.register_forward_hook(partial(self._note, name, gated)))
        return self.found

    def __exit__(self, *_: object) -> None:
        self._hooks.close()

    def _note(self, name: str, gated: GatedBlock, _: nn.Module, __: Any, output: Tensor) -> None:
        self.found[name] = output.squeeze(-1) - gated.threshold


def _set_threshold(
    learner: TorchModel, shares: dict[str, float], params: BlocksParams, run: RunContext
) -> dict[str, Any]:
    """The least threshold of all gates together with which the validation samples cost no more than asked for."""
    assert run.data is not None
    if not len(run.data.split("validation")):
        if params.threshold is not None:
            _set(learner, params.threshold)
            return {"threshold": params.threshold}
        run.events.warn(
            "without a validation split the gates open as they were trained to: what samples cost is not known"
        )
        return {}
    low, high = -20.0, 20.0
    own = _cost(learner, shares, 0.0, run)
    if params.threshold is not None:
        threshold = params.threshold
    elif own <= params.average:
        threshold = 0.0
    else:
        for _ in range(12):
            middle = (low + high) / 2
            low, high = (low, middle) if _cost(learner, shares, middle, run) <= params.average else (middle, high)
        threshold = high
    cost = _cost(learner, shares, threshold, run)
    rows = list(_rows(learner, shares, run))
    opened = {name: float((np.concatenate([row[name] for row in rows]) > 0).mean()) for name in shares}
    return {
        "average": round(cost, 4),
        "threshold": round(threshold, 4),
        "as_trained": round(own, 4),
        "opened": {name: round(share, 4) for name, share in opened.items()},
    }


def _set(learner: TorchModel, threshold: float) -> None:
    with torch.no_grad():
        for gated in gates(learner.body).values():
            gated.threshold.fill_(threshold)


def _rows(learner: TorchModel, shares: dict[str, float], run: RunContext) -> Iterator[dict[str, np.ndarray]]:
    """By batch and gate, how far scores are above the threshold."""
    assert run.data is not None
    with torch.no_grad(), _Scores(learner.body.eval()) as scores:
        for batch in tensor_batches(run.data.split("validation"), learner.signature, _BATCH):
            learner.body(*batch.inputs)
            yield {name: scores[name].numpy() for name in shares}


def _cost(learner: TorchModel, shares: dict[str, float], threshold: float, run: RunContext) -> float:
    """The mean over validation samples with this threshold, which is set: what a block gives decides what the gates behind it see."""
    _set(learner, threshold)
    total, count = 0.0, 0
    for row in _rows(learner, shares, run):
        opened = sum(share * (row[name] > 0) for name, share in shares.items())
        total += float(np.sum(1 - sum(shares.values()) + opened))
        count += len(next(iter(row.values())))
    return total / max(count, 1)
