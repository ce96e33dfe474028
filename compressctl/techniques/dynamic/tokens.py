"""dynamic.tokens: a transformer whose blocks see fewer tokens the further they are."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from compressctl.core.data import first_filled
from compressctl.core.errors import StageError
from compressctl.core.model import TorchModel
from compressctl.core.technique import RunContext, StageResult
from compressctl.graph.torch_outputs import named_outputs
from compressctl.layers.channels.dependency_groups import example_inputs
from compressctl.sources.modules.split_attention import split
from compressctl.techniques.dynamic._blocks import Blocks
from compressctl.techniques.dynamic._schedules import Schedule, Transformer, schedule_of
from compressctl.techniques.dynamic.params import TokensParams
from compressctl.techniques.prune._losses import loss_of
from compressctl.training.lora.train import train_adaptable
from compressctl.training.supervision.objective import objective_of

_LOOKED_AT = 512
"""Samples that schedules are told apart on."""

_HALVINGS = 6
_LEAST = {"prune": 0.1, "merge": 0.55}


def apply(model: TorchModel, params: TokensParams, run: RunContext) -> StageResult:
    """Raises NothingToCompressError for a network without blocks of tokens, UsageError for blocks that it does not have, StageError where no schedule keeps the latency or the
    network cannot run on fewer tokens."""
    model = replace(model, body=split(model.body))
    transformer = Transformer.of(model, params.method, params.attended)
    blocks = transformer.blocks

    def with_schedule(schedule: Schedule) -> TorchModel:
        return replace(
            model,
            body=transformer.around(copy.deepcopy(model.body), schedule),
            sparse=tuple(f"network.{name}" for name in model.sparse),
        )

    facts: dict[str, Any] = {}
    if params.latency is None:
        schedule = schedule_of(blocks, params.at, params.keep)
    else:
        schedule, facts = _searched(model, blocks, params, run, with_schedule)
    made = with_schedule(schedule)
    _check(model, made)
    if params.finetune is not None:
        learner = replace(made, body=copy.deepcopy(made.body))
        objective, hooks = objective_of(learner, params.finetune, run)
        trained = train_adaptable(learner, objective, params.finetune, run.part("finetune"), hooks)
        made, facts["finetune"] = replace(learner, body=trained.network), dict(trained.facts)
    at = {name: share for name, share in zip(blocks.names, schedule, strict=True) if share < 1}
    facts |= {
        "tokens_kept": {name: round(share, 3) for name, share in at.items()},
        "blocks": len(blocks.names),
        "attended": transformer.attended if params.method == "prune" else None,
        "compared_by": "keys and queries" if all(blocks.keys) else "the tokens themselves",
    }
    pinned = params.model_dump(mode="json", exclude_unset=True, exclude={"latency", "keep", "at"})
    pinned |= {"use": "dynamic.tokens", "at": list(at), "keep": [round(share, 4) for share in at.values()]}
    return StageResult(made, facts, pinned=pinned if params.latency is not None else None)


def _searched(
    model: TorchModel,
    blocks: Blocks,
    params: TokensParams,
    run: RunContext,
    with_schedule: Callable[[Schedule], TorchModel],
) -> tuple[Schedule, dict[str, Any]]:
    """Of schedules that differ in where tokens go, each with as many as keep the latency, the one whose outputs are nearest."""
    assert params.latency is not None
    kinds = {"as asked": params.at} if params.at != "spread" else _kinds(blocks)
    known: dict[str, tuple[Schedule, float]] = {}
    for number, (name, at) in enumerate(kinds.items()):
        run.events.progress("timing schedules of tokens", number, len(kinds))
        found = _within(model, blocks, at, params, run, with_schedule)
        if found is not None:
            known[name] = found
    if not known:
        raise StageError(
            f"no schedule of tokens keeps {params.latency:.0%} of the latency",
            hint="ask for less, or leave out whole blocks too (prune.layers)",
        )
    if len(known) > 1 and first_filled(run.data, "validation", "calibration", "train") is not None:
        loss = loss_of(model, "outputs", _LOOKED_AT, 0, run)
        losses = {name: loss(with_schedule(schedule).body) for name, (schedule, _) in known.items()}
    else:
        losses = dict.fromkeys(known, 0.0)
    best = min(known, key=lambda name: losses[name])
    facts = {
        "latency": {"goal": params.latency, "reached": round(known[best][1], 4)},
        "schedules": {
            name: {
                "latency": round(share, 4),
                "distance": round(losses[name], 6),
                "keep": [round(one, 3) for one in schedule],
            }
            for name, (schedule, share) in known.items()
        },
    }
    return known[best][0], facts


def _kinds(blocks: Blocks) -> dict[str, str | tuple[str, ...]]:
    """Places of the schedules that are tried."""
    names, count = blocks.names, len(blocks.names)
    found: dict[str, str | tuple[str, ...]] = {"spread": "spread", "every block": "every"}
    if count > 2:
        found |= {"early": (names[0],), "in the middle": (names[count // 2 - 1],)}
    return found


def _within(
    model: TorchModel,
    blocks: Blocks,
    at: str | tuple[str, ...],
    params: TokensParams,
    run: RunContext,
    with_schedule: Callable[[Schedule], TorchModel],
) -> tuple[Schedule, float] | None:
    """The largest share with which the latency is kept, and what it takes; None where the least does not keep it."""
    assert params.latency is not None

    def of(keep: float) -> tuple[Schedule, float]:
        schedule = schedule_of(blocks, at, keep)
        before, after = run.clock()([model, with_schedule(schedule)])
        return schedule, after / before

    least, most = _LEAST[params.method], 1.0
    found = of(least)
    if found[1] > params.latency:
        return None
    for _ in range(_HALVINGS):
        middle = (least + most) / 2
        tried = of(middle)
        if tried[1] <= params.latency:
            least, found = middle, tried
        else:
            most = middle
    return found


def _check(model: TorchModel, made: TorchModel) -> None:
    """That the network takes fewer tokens and gives what it gave: code between its blocks may count them."""
    inputs = example_inputs(model.signature)
    try:
        with torch.no_grad():
            before, after = (named_outputs(one.body.eval()(*inputs)) for one in (model, made))
    except Exception as error:
        raise StageError(
            f"the network does not run on fewer tokens: {error}",
            hint="code within or between its blocks counts them; leave dynamic.tokens out",
        ) from error
    for name, value in before.items():
        if after[name].shape != value.shape:
            raise StageError(
                f"with fewer tokens {name} has the shape {list(after[name].shape)} instead of {list(value.shape)}"
            )
