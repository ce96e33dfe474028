"""dynamic.tokens: a transformer whose blocks see fewer tokens the further they are."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from compressctl.core.data import first_filled
from compressctl.core.errors import StageError, UsageError
from compressctl.core.model import TorchModel
from compressctl.core.nearest import nearest
from compressctl.core.technique import RunContext, StageResult
from compressctl.graph.torch_outputs import named_outputs
from compressctl.layers.channels.dependency_groups import example_inputs
from compressctl.sources.modules.fewer_tokens import FewerTokens
from compressctl.sources.modules.split_attention import split
from compressctl.techniques.dynamic._blocks import Blocks, is_read_off_first, mask_of_tokens, transformer_blocks
from compressctl.techniques.dynamic.params import TokensParams
from compressctl.techniques.prune._losses import loss_of
from compressctl.techniques.prune._measured_widths import clock
from compressctl.training.lora.train import train_adaptable
from compressctl.training.supervision.objective import objective_of

_LOOKED_AT = 512
"""Samples that schedules are told apart on."""

_HALVINGS = 6
_LEAST = {"prune": 0.1, "merge": 0.55}

Schedule = tuple[float, ...]
"""By block, the share of its tokens that it passes on."""


def apply(model: TorchModel, params: TokensParams, run: RunContext) -> StageResult:
    """Raises NothingToCompressError for a network without blocks of tokens, UsageError for blocks that it does not have, StageError where no schedule keeps the latency or the
    network cannot run on fewer tokens."""
    model = replace(model, body=split(model.body))
    blocks = transformer_blocks(model)
    first = is_read_off_first(model, blocks)
    attended = ("class" if first else "all") if params.attended == "auto" else params.attended

    def with_schedule(schedule: Schedule) -> TorchModel:
        return replace(
            model,
            body=_around(model, blocks, schedule, params, attended, first),
            sparse=tuple(f"network.{name}" for name in model.sparse),
        )

    facts: dict[str, Any] = {}
    if params.latency is None:
        schedule = _schedule(blocks, params.at, params.keep)
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
        "attended": attended if params.method == "prune" else None,
        "compared_by": "keys and queries" if all(blocks.keys) else "the tokens themselves",
    }
    pinned = params.model_dump(mode="json", exclude_unset=True, exclude={"latency", "keep", "at"})
    pinned |= {"use": "dynamic.tokens", "at": list(at), "keep": [round(share, 4) for share in at.values()]}
    return StageResult(made, facts, pinned=pinned if params.latency is not None else None)


def _around(
    model: TorchModel, blocks: Blocks, schedule: Schedule, params: TokensParams, attended: str, first: bool
) -> nn.Module:
    """From the first block behind which tokens go."""
    start = next((place for place, share in enumerate(schedule) if share < 1), len(schedule) - 1)
    return FewerTokens.around(
        copy.deepcopy(model.body),
        blocks=blocks.names[start:],
        keep=[round(share, 4) for share in schedule[start:]],
        queries=blocks.queries[start:],
        keys=blocks.keys[start:],
        heads=blocks.heads[start:],
        method=params.method,
        attended=attended,
        keeps_first=first or attended == "class",
        restores=not first,
        mask=mask_of_tokens(model.signature),
    )


def _schedule(blocks: Blocks, at: str | tuple[str, ...], keep: float | Sequence[float]) -> Schedule:
    places = _places(blocks, at)
    shares = [keep] * len(places) if isinstance(keep, float | int) else list(keep)
    if len(shares) != len(places):
        raise UsageError(
            f"keep has {len(shares)} shares, and there are {len(places)} places: behind {', '.join(blocks.names[place] for place in places)}"
        )
    found = [1.0] * len(blocks.names)
    for place, share in zip(places, shares, strict=True):
        found[place] = float(share)
    return tuple(found)


def _places(blocks: Blocks, at: str | tuple[str, ...]) -> list[int]:
    """Behind the last block there is nothing to save."""
    count = len(blocks.names)
    if at == "every":
        return list(range(count - 1))
    if at == "spread":
        return sorted({min(max(round(count * quarter / 4) - 1, 0), count - 2) for quarter in (1, 2, 3)})
    for name in at:
        if name not in blocks.names[:-1]:
            near = nearest(name, blocks.names[:-1])
            raise UsageError(
                f"at: {name} is no block behind which tokens can go",
                hint=f"{f'did you mean {near}? ' if near else ''}the blocks are {', '.join(blocks.names[:-1])}",
            )
    return [blocks.names.index(name) for name in at]


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
        schedule = _schedule(blocks, at, keep)
        before, after = clock(run)([model, with_schedule(schedule)])
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
