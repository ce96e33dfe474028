"""What every factorize stage does: survey, decompose, choose ranks, replace, train."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from compressctl.core.errors import NothingToCompressError
from compressctl.core.model import Model, TorchModel
from compressctl.core.technique import RunContext, StageResult
from compressctl.graph.lower import as_graph
from compressctl.graph.untouched import Untouched
from compressctl.graph.where_weights import layers_hint
from compressctl.techniques.factorize._facts import facts_of
from compressctl.techniques.factorize._layers import Survey
from compressctl.techniques.factorize._network import open_network
from compressctl.techniques.factorize._onnx_network import alone
from compressctl.techniques.factorize._rank_checkpoint import found_before, keep
from compressctl.techniques.factorize._ranks import Chooser, Time, Validate
from compressctl.techniques.factorize._split import Option
from compressctl.techniques.factorize._splits import Way, decomposed
from compressctl.techniques.factorize._treat import Treatment, treat
from compressctl.techniques.factorize.params import Shared
from compressctl.training.params import TrainingParams
from compressctl.training.supervision.params import SupervisedParams

MakeWays = Callable[[Treatment], list[Way]]


def factorize(model: Model, params: Shared, run: RunContext, make_ways: MakeWays) -> StageResult:
    """Raises StageError when the model has no layer that could be factorized."""
    facts: dict[str, Any] = {}
    survey = _survey(model, run)
    if params.regularization is not None:
        assert isinstance(model, TorchModel), "the check refuses to train a graph"
        model, facts["regularize"] = _regularized(model, params, run, _ways(survey, params, make_ways))
        survey = _survey(model, run)
    network = open_network(model, run)
    for sentence in network.before:
        run.events.warn(sentence)
    facts |= {"already_quantized": list(network.before)} if network.before else {}
    treatments = treat(survey, params)
    ways = [way for treatment in treatments if treatment.rule != "full" for way in make_ways(treatment)]
    splits = decomposed(network, model, ways, run, params.damping if params.whitening else None)
    validate = _validator(network.with_pieces, model, run) if params.is_scored else None
    time = _clock(run) if params.skip_slower else None
    chooser = Chooser(treatments, splits, params.saves, params.round_to, run.events, validate, time)
    # Processes that work together must all measure or none: which of them would see the file is a race.
    kept = run.checkpoint if run.processes == 1 else None
    chosen = found_before(splits, kept) or chooser.choose()
    keep(chosen, kept)
    for name, reason in {**survey.whole, **chosen.whole}.items():
        run.events.emit("note", message=f"{name} stays whole: {reason}")
    reasons = {**survey.whole, **chosen.whole}
    left = Untouched("factorize", "convolutions and linear layers", chosen.options, reasons).facts(
        network.model, run.events
    )
    if not chosen.options:
        run.events.warn("no layer was factorized; the report says why for each")
        return StageResult(model, {**facts, **facts_of(survey, chosen), **left})
    result = network.with_pieces({name: one.pieces() for name, one in chosen.options.items()})
    facts |= {**facts_of(survey, chosen), **left}
    if params.finetune is not None:
        assert isinstance(result, TorchModel), "the check refuses to train a graph"
        result, facts["finetune"] = _finetuned(result, params.finetune, run.part("finetune"))
    return StageResult(result, facts)


def _survey(model: Model, run: RunContext) -> Survey:
    network = open_network(model, run)
    survey = network.survey()
    if not survey.layers:
        whole = [f"{name}: {reason}" for name, reason in list(survey.whole.items())[:4]]
        reasons = "; ".join([*whole, *network.before])
        raise NothingToCompressError(
            "nothing to factorize: no linear layer or convolution with a weight of its own",
            hint=reasons or layers_hint(model),
        )
    return survey


def _ways(survey: Survey, params: Shared, make_ways: MakeWays) -> list[Way]:
    return [way for one in treat(survey, params) if one.rule != "full" for way in make_ways(one)]


def _validator(with_pieces: Callable[[Mapping[str, Any]], Model], model: Model, run: RunContext) -> Validate | None:
    """Points lost against the model that the stage was given, measured on the target's runtime."""
    score, metric, data = run.score, run.metric, run.data
    if score is None or metric is None or data is None or len(data.split("validation")) == 0:
        return None
    before: list[float] = []

    def lost(chosen: Mapping[str, Option]) -> float:
        if not before:
            before.append(score(as_graph(model), "validation"))
        candidate = with_pieces({name: one.pieces() for name, one in chosen.items()})
        return metric.drop(before[0], score(as_graph(candidate), "validation"))

    return lost


def _clock(run: RunContext) -> Time | None:
    if run.latency_ms is None:
        return None
    latency_ms = run.latency_ms

    def time(one: Option) -> tuple[float, float]:
        layer = one.split.layer
        before, after = latency_ms([alone(layer, None), alone(layer, one.pieces())])
        return before, after

    return time


def _regularized(
    model: TorchModel, params: Shared, run: RunContext, ways: Sequence[Way]
) -> tuple[TorchModel, Mapping[str, Any]]:
    """The whole layers after training under the penalty."""
    from compressctl.techniques.factorize._regularize import NuclearNorm, Ridge, views_of
    from compressctl.training.objective import task_objective

    section = params.regularization
    assert section is not None
    views = views_of(ways)
    hook = (
        NuclearNorm(views, section.learning_rate * section.strength, section.every)
        if section.penalty == "nuclear"
        else Ridge(tuple(views), section.strength)
    )
    objective = task_objective(run.task, section.label_smoothing)
    return _trained(model, objective, section, run.part("regularize"), (hook,))


def _finetuned(model: TorchModel, params: SupervisedParams, run: RunContext) -> tuple[TorchModel, Mapping[str, Any]]:
    from compressctl.training.supervision.objective import objective_of

    objective, hooks = objective_of(model, params, run)
    return _trained(model, objective, params, run, hooks)


def _trained(
    model: TorchModel, objective: Any, params: TrainingParams, run: RunContext, hooks: Sequence[Any]
) -> tuple[TorchModel, Mapping[str, Any]]:
    """A copy, trained."""
    from compressctl.training.loop import train

    trainable = replace(model, body=copy.deepcopy(model.body))
    trained = train(trainable, objective, params, run, hooks)
    return replace(model, body=trained.network), dict(trained.facts)
