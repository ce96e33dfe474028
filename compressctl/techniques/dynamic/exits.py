"""dynamic.exits: a classifier or an encoder answers behind part of its layers where it is sure."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressctl.core.errors import NothingToCompressError, UsageError
from compressctl.core.model import TorchModel
from compressctl.core.nearest import nearest
from compressctl.core.technique import RunContext, StageResult
from compressctl.graph.torch_outputs import named_outputs
from compressctl.sources.modules.early_exits import EarlyExits
from compressctl.sources.modules.fewer_tokens import FewerTokens
from compressctl.techniques.dynamic._answers import answers_of, cool, set_thresholds
from compressctl.techniques.dynamic._blocks import mask_of_tokens
from compressctl.techniques.dynamic._heads import stride_of, width_of
from compressctl.techniques.dynamic._places import Place, places, spread
from compressctl.techniques.dynamic._thresholds import Answers, Point, best_within, cheapest, front
from compressctl.techniques.dynamic.params import ExitsParams
from compressctl.training.data import TensorBatch, tensor_batches
from compressctl.training.hooks import FreezeNorms, Hook
from compressctl.training.logits import as_logits
from compressctl.training.loop import train
from compressctl.training.objective import Objective
from compressctl.training.supervision.objective import objective_of
from compressctl.training.supervision.teacher_loss import Compare, comparison

_BATCH = 256
_SHOWN = 24
"""Points of the front in the report."""


def apply(model: TorchModel, params: ExitsParams, run: RunContext) -> StageResult:
    """Put heads behind modules, train, and choose thresholds. Raises UsageError for modules that are no places to leave at, and for networks that
    classify nothing, NothingToCompressError for a network that cannot be left on its way."""
    classes, probabilities = _numbers(model, run)
    chosen = _chosen(model, params, run)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        network = EarlyExits.around(
            copy.deepcopy(model.body),
            places=[place.name for place in chosen],
            features=[place.features for place in chosen],
            axes=[place.axis for place in chosen],
            classes=classes,
            confidence=_confidence(classes, run),
            probabilities=probabilities,
            mask=_mask(model, chosen),
            strides=[stride_of(place) if params.head == "convolutions" else 0 for place in chosen],
            width=width_of(chosen, params.head_width),
        )
    learner = replace(model, body=network, sparse=tuple(f"network.{name}" for name in model.sparse))
    facts: dict[str, Any] = {"at": {place.name: round(place.share, 4) for place in chosen}}
    facts |= _train(learner, params, run)
    if params.thresholds:
        for place, heat in enumerate(params.temperatures):
            cool(network, place, heat)
        set_thresholds(network, params.thresholds)
        facts |= {"thresholds": dict(zip(network.places, params.thresholds, strict=True))}
        return StageResult(_without_idle(learner, run), facts)
    answers, temperatures, told = answers_of(learner, chosen, params, run)
    point, found = _choice(answers, params)
    set_thresholds(network, point.thresholds)
    pinned = params.model_dump(mode="json", exclude_unset=True, exclude={"exits", "drop", "margin", "average"})
    pinned |= {
        "use": "dynamic.exits",
        "at": list(network.places),
        "thresholds": list(point.thresholds),
        "temperatures": temperatures,
    }
    _warn_of_few(point, params, len(answers.sure), run)
    return StageResult(_without_idle(learner, run), facts | told | found, pinned=pinned)


def _confidence(classes: int, run: RunContext) -> str:
    if run.task == "embedding":
        return "learned"
    return "sigmoid" if classes == 1 or run.task == "multi-label" else "softmax"


def _numbers(model: TorchModel, run: RunContext) -> tuple[int, bool]:
    """How many scores the network gives a sample, and whether they are probabilities; of an encoder how long its vectors are, and whether their length is 1."""
    if run.task not in ("classification", "multi-label", "embedding", "custom"):
        raise UsageError(
            f"dynamic.exits serves classifiers and encoders, and the task is {run.task}",
            hint="their heads say how sure they are; nothing says that of other outputs",
        )
    if len(model.signature.outputs) != 1:
        names = ", ".join(spec.name for spec in model.signature.outputs)
        raise UsageError(
            f"dynamic.exits needs a network with one output, and this one has {names}",
            hint="choose one with `outputs: [...]` in the model section",
        )
    (spec,) = model.signature.outputs
    size = spec.shape[-1]
    if len(spec.shape) != 2 or not isinstance(size, int):
        raise UsageError(
            f"dynamic.exits needs one row of numbers for each sample, (samples, numbers), and {spec.name} is {list(spec.shape)}"
        )
    assert run.data is not None
    batch = next(iter(tensor_batches(run.data.split("train"), model.signature, _BATCH)))
    with torch.no_grad():
        output = next(iter(named_outputs(model.body.eval()(*batch.inputs)).values()))
    if run.task == "embedding":
        return size, bool(torch.allclose(output.norm(dim=-1), torch.ones(len(output)), atol=1e-3))
    return size, as_logits(output) is not output


def _without_idle(learner: TorchModel, run: RunContext) -> TorchModel:
    """Without exits whose threshold no confidence reaches: their heads would be computed for nothing. The network itself where all are such."""
    network = learner.body
    assert isinstance(network, EarlyExits)
    thresholds = network.thresholds.tolist()
    idle = [name for name, threshold in zip(network.places, thresholds, strict=True) if threshold >= 1]
    if not idle:
        return learner
    every = len(idle) == len(network.places)
    run.events.warn(
        f"no sample may leave at {', '.join(idle)}: {'the network stays as it was trained, without exits' if every else 'left out'}"
    )
    if every:
        sparse = tuple(name.removeprefix("network.") for name in learner.sparse)
        return replace(learner, body=network.network, sparse=sparse)
    return replace(learner, body=network.only([name not in idle for name in network.places]))


def _warn_of_few(point: Point, params: ExitsParams, samples: int, run: RunContext) -> None:
    """Where the samples that thresholds are chosen on tell no loss as small as what may be lost."""
    if params.average is None and 100 * params.margin * point.error > params.drop / 2:
        run.events.warn(
            f"what leaving early loses is known to within {100 * params.margin * point.error:.2f} points on {samples:,} validation samples, and {params.drop:g} may be lost: with more of them "
            "exits would answer more often"
        )


def _chosen(model: TorchModel, params: ExitsParams, run: RunContext) -> list[Place]:
    candidates = places(model)
    known = {name: place for place in candidates for name in (place.name, *place.also)}
    for name in params.at:
        if name not in known:
            near = nearest(name, known)
            raise UsageError(
                f"at: {name} is no module that the network can be left behind: everything behind it must read its output alone",
                hint=f"{f'did you mean {near}? ' if near else ''}those that can be: {', '.join(known) or 'none'}"
                + ("; dynamic.exits goes before dynamic.tokens" if isinstance(model.body, FewerTokens) else ""),
            )
    chosen = [known[name] for name in params.at] if params.at else spread(candidates, params.exits)
    if not chosen:
        raise NothingToCompressError(
            "the network cannot be left on its way: behind each module something else is still needed",
            hint="early exits are for networks of layers or blocks one after the other",
        )
    if not params.at and len(chosen) < params.exits:
        run.events.warn(
            f"{len(chosen)} exit{'s' if len(chosen) > 1 else ''} instead of {params.exits}: the network can be left behind no more of its modules"
        )
    if [candidates.index(place) for place in chosen] != sorted({candidates.index(place) for place in chosen}):
        in_order = dict.fromkeys(place.name for place in candidates if place in chosen)
        raise UsageError(f"at: the modules run in the order {', '.join(in_order)}")
    return chosen


def _mask(model: TorchModel, chosen: Sequence[Place]) -> int:
    """The place of a mask of tokens among the inputs, -1 without."""
    is_of_tokens = all(place.axis == -1 and len(place.shape) == 3 for place in chosen)
    return mask_of_tokens(model.signature) if is_of_tokens else -1


def _train(learner: TorchModel, params: ExitsParams, run: RunContext) -> dict[str, Any]:
    network = learner.body
    assert isinstance(network, EarlyExits)
    objective, hooks = objective_of(learner, params, run)
    compare = comparison(params.teacher_loss, run.learning, learner.signature)
    trainable = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    extra: list[Hook] = []
    if params.learn == "heads":
        network.network.requires_grad_(False)
        extra = [FreezeNorms(0)]
    # Nothing leaves early yet: by the score of the whole network alone the first epoch would be as good as the last.
    how = params.model_copy(update={"checkpoint": "last"})
    trained = train(learner, _Exits(objective, compare, params.exit_weight), how, run, [*hooks, *extra])
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(trainable[name])
    return dict(trained.facts)


class _Exits:
    """The network's own loss and its exits', which learn what it learns and what it says, and an encoder's how near they come to that.

    Source: Phuong & Lampert 2019, Distillation-based training for multi-exit architectures, equation 4: the last exit teaches the others.
    """

    def __init__(self, objective: Objective, compare: Compare, weight: float) -> None:
        self._objective, self._compare, self._weight = objective, compare, weight

    def __call__(self, network: nn.Module, batch: TensorBatch) -> Tensor:
        assert isinstance(network, EarlyExits)
        given, scores = network.every(*batch.inputs)
        loss = self._objective(_Said(given, network.training), batch)
        taught = next(iter(named_outputs(given).values())).detach()
        losses = []
        for one in scores:
            answer = network.as_output(one) if network.confidence == "learned" else one
            own = self._objective(_Said(answer, network.training), batch)
            losses.append(0.5 * (own + self._compare(answer, taught, batch)))
            if network.confidence == "learned":
                near = functional.cosine_similarity(answer.detach(), taught, dim=-1).clamp(0, 1)
                losses[-1] = losses[-1] + functional.mse_loss(network.sureness(one).squeeze(-1), near)
        return loss + self._weight * torch.stack(losses).mean()


class _Said(nn.Module):
    """Gives what was computed already."""

    def __init__(self, given: Any, training: bool) -> None:
        super().__init__()
        self.given, self.training = given, training

    def forward(self, *_: Tensor) -> Any:
        return self.given


def _choice(answers: Answers, params: ExitsParams) -> tuple[Point, dict[str, Any]]:
    points = front(answers)
    whole = points[0]
    if params.average is not None:
        found = best_within(points, params.average * whole.cost)
        if found is None:
            least = min(point.cost for point in points) / whole.cost
            raise UsageError(
                f"average: the samples take {least:.0%} of the network's cost at least, {params.average:.0%} was asked for",
                hint="put an exit further to the front (at), or ask for less",
            )
    else:
        found = cheapest(points, whole.right - params.drop / 100, params.margin)
    return found, {
        "thresholds": [round(one, 5) for one in found.thresholds],
        "shares": [round(one, 4) for one in found.shares],
        "cost": round(found.cost / whole.cost, 4),
        "right": {"whole": round(100 * whole.right, 3), "early": round(100 * found.right, 3)},
        "error": round(100 * found.error, 3),
        "front": [
            {
                "cost": round(point.cost / whole.cost, 4),
                "right": round(100 * point.right, 3),
                "thresholds": [round(one, 5) for one in point.thresholds],
            }
            for point in points[:: max(1, len(points) // _SHOWN)]
        ],
    }
