"""What every factorize stage does: survey, decompose, choose ranks, replace, train."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from compressctl.core.model import Model, TorchModel
from compressctl.core.technique import RunContext, StageResult
from compressctl.graph.lower import as_graph
from compressctl.graph.untouched import Untouched
from compressctl.layers.network import facts_of as said_before
from compressctl.layers.network import nothing_to
from compressctl.techniques.factorize._facts import facts_of
from compressctl.techniques.factorize._layer_rules import LayerRule, layer_rules
from compressctl.techniques.factorize._network import Factorizable, open_factorizable
from compressctl.techniques.factorize._onnx_network import alone
from compressctl.techniques.factorize._pieces import Survey
from compressctl.techniques.factorize._rank_checkpoint import found_before, keep
from compressctl.techniques.factorize._ranks import Chooser, Time, Validate
from compressctl.techniques.factorize._split import Option
from compressctl.techniques.factorize._splits import Way, decomposed
from compressctl.techniques.factorize.params import Shared

MakeWays = Callable[[LayerRule], list[Way]]


def factorize(model: Model, params: Shared, run: RunContext, make_ways: MakeWays) -> StageResult:
    """Raises StageError when the model has no layer that could be factorized."""
    facts: dict[str, Any] = {}
    opened, survey = _surveyed(model, run)
    rules = layer_rules(survey, params)
    if params.regularization is not None:
        assert isinstance(model, TorchModel), "the params refuse to train a graph"
        ways = [way for rule in rules if rule.rule != "full" for way in make_ways(rule)]
        model, facts["regularize"] = _regularized(model, params, run, ways)
        opened, survey = _surveyed(model, run)
        rules = layer_rules(survey, params)
    network = opened.network
    facts |= said_before(network)
    ways = [way for rule in rules if rule.rule != "full" for way in make_ways(rule)]
    splits = decomposed(network, ways, run, params.damping if params.whitening else None)
    validate = _validator(opened, model, run) if params.is_scored else None
    time = _clock(run) if params.skip_slower else None
    chooser = Chooser(rules, splits, params.saves, params.round_to, run.events, validate, time)
    # Processes that work together must all measure or none: which of them would see the file is a race.
    kept = run.checkpoint if run.processes == 1 else None
    chosen = found_before(splits, kept) or chooser.choose()
    if kept is not None:
        keep(chosen, run)
    for name, reason in {**survey.whole, **chosen.whole}.items():
        run.events.emit("note", message=f"{name} stays whole: {reason}")
    reasons = {**survey.whole, **chosen.whole}
    left = Untouched(
        "factorize", "convolutions, linear layers and input weights of recurrent layers", chosen.options, reasons
    ).facts(network.model(), run.events)
    if not chosen.options:
        run.events.warn("no layer was factorized; the report says why for each")
        return StageResult(model, {**facts, **facts_of(survey, chosen), **left})
    result = opened.with_pieces({name: one.pieces() for name, one in chosen.options.items()})
    facts |= {**facts_of(survey, chosen), **left}
    if params.finetune is not None:
        from compressctl.training.supervision.finetune import finetune

        assert isinstance(result, TorchModel), "the params refuse to train a graph"
        trained = finetune(result, params.finetune, run.part("finetune"))
        result, facts["finetune"] = replace(result, body=trained.network), dict(trained.facts)
    return StageResult(result, facts)


def _surveyed(model: Model, run: RunContext) -> tuple[Factorizable, Survey]:
    opened = open_factorizable(model, run)
    survey = opened.survey()
    if not survey.layers:
        raise nothing_to("factorize", model, opened.network, survey.whole)
    return opened, survey


def _validator(opened: Factorizable, model: Model, run: RunContext) -> Validate | None:
    """Points lost against the model that the stage was given, measured on the target's runtime."""
    score, metric, data = run.score, run.metric, run.data
    if score is None or metric is None or data is None or len(data.split("validation")) == 0:
        return None
    before: list[float] = []

    def lost(chosen: Mapping[str, Option]) -> float:
        if not before:
            before.append(score(as_graph(model), "validation"))
        candidate = opened.with_pieces({name: one.pieces() for name, one in chosen.items()})
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
    from compressctl.training.loop import train
    from compressctl.training.objective import task_objective

    section = params.regularization
    assert section is not None
    views = views_of(ways)
    hook = (
        NuclearNorm(views, section.learning_rate * section.strength, section.every)
        if section.penalty == "nuclear"
        else Ridge(tuple(views), section.strength)
    )
    objective = task_objective(run.learning, section.label_smoothing)
    trained = train(replace(model, body=copy.deepcopy(model.body)), objective, section, run.part("regularize"), (hook,))
    return replace(model, body=trained.network), dict(trained.facts)
