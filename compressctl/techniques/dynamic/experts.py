"""dynamic.experts: of each feed-forward layer only the groups of hidden units that an input needs are computed."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compressctl.core.data import first_filled
from compressctl.core.errors import NothingToCompressError, UsageError
from compressctl.core.model import TorchModel
from compressctl.core.patterns import matching
from compressctl.core.technique import RunContext, StageResult
from compressctl.sources.modules.experts import ACTIVATIONS, Experts
from compressctl.techniques.dynamic._clusters import balanced_clusters
from compressctl.techniques.dynamic._feed_forward import FeedForward, feed_forward_layers, put
from compressctl.techniques.dynamic.params import ExpertsParams
from compressctl.training.data import tensor_batches
from compressctl.training.lora.train import train_adaptable
from compressctl.training.supervision.objective import objective_of

_BATCH = 128
_RIDGE = 1e-2
"""Share of the inputs' mean square that is added to their covariance."""


def apply(model: TorchModel, params: ExpertsParams, run: RunContext) -> StageResult:
    """Raises NothingToCompressError where the network has no feed-forward layers, UsageError for a pattern that matches none, and without samples."""
    known = {one.name: one for one in feed_forward_layers(model)}
    if not known:
        raise NothingToCompressError(
            "the network has no feed-forward layers that are recognised",
            hint="those are Linear, an activation, Linear: in an nn.Sequential, alone in a module of their own, or with the activation as a module between them",
        )
    names = matching(params.match, list(known), lambda name: (name,), key="match", what="feed-forward layer")
    network = copy.deepcopy(model.body).eval()
    left: dict[str, str] = {}
    made: dict[str, Any] = {}
    rows = _inputs(model, [known[name] for name in names], params, run)
    for number, name in enumerate(names):
        run.events.progress("grouping hidden units", number, len(names))
        layer = _Layer.of(model.body, known[name])
        if layer.up.out_features % params.experts:
            left[name] = f"its {layer.up.out_features} hidden units do not make {params.experts} groups of one size"
            continue
        built, made[name] = _built(layer, rows[name], params, run.seed)
        put(network, known[name], built)
    if not made:
        raise UsageError(
            f"no layer can be divided: {next(iter(left.values()))}",
            hint=_divisors([_Layer.of(model.body, known[name]).up.out_features for name in left], params.experts),
        )
    changed = replace(
        model,
        body=network,
        sparse=tuple(name for name in model.sparse if not any(name.startswith(f"{one}.") for one in made)),
    )
    facts: dict[str, Any] = {"experts": params.experts, "chosen": params.chosen, "layers": made, "left_whole": left}
    if params.finetune is not None:
        objective, hooks = objective_of(changed, params.finetune, run)
        trained = train_adaptable(changed, objective, params.finetune, run.part("finetune"), hooks)
        changed, facts["finetune"] = replace(changed, body=trained.network), dict(trained.facts)
    return StageResult(changed, facts)


def _divisors(units: list[int], wanted: int) -> str:
    """Numbers of experts near the one that was asked for that make groups of one size in all layers."""
    common = math.gcd(*units)
    found = [one for one in range(2, common + 1) if common % one == 0]
    near = sorted(sorted(found, key=lambda one: abs(one - wanted))[:4])
    return (
        f"set experts to a number that divides them, as {', '.join(map(str, near))}"
        if near
        else "set match to some of the layers"
    )


@dataclass(frozen=True)
class _Layer:
    up: nn.Linear
    down: nn.Linear
    activation: str

    @staticmethod
    def of(network: nn.Module, one: FeedForward) -> _Layer:
        up, down = network.get_submodule(one.up), network.get_submodule(one.down)
        assert isinstance(up, nn.Linear)
        assert isinstance(down, nn.Linear)
        return _Layer(up, down, one.activation)

    def hidden(self, rows: Tensor) -> Tensor:
        return ACTIVATIONS[self.activation](self.up(rows))


def _inputs(model: TorchModel, layers: list[FeedForward], params: ExpertsParams, run: RunContext) -> dict[str, Tensor]:
    """By layer, rows of what it is given: (rows, features)."""
    split = first_filled(run.data, "train", "calibration")
    if split is None:
        raise UsageError("experts are grouped by what a layer is given, and there are no samples", hint="add data")
    found: dict[str, list[Tensor]] = {one.name: [] for one in layers}

    def note(name: str, _: nn.Module, args: Any) -> None:
        found[name].append(args[0].reshape(-1, args[0].shape[-1]))

    network = model.body.eval()
    with ExitStack() as hooks, torch.no_grad():
        for one in layers:
            hooks.enter_context(network.get_submodule(one.up).register_forward_pre_hook(partial(note, one.name)))
        for batch in _batches(split, model):
            network(*batch)
            if all(sum(map(len, rows)) >= params.samples for rows in found.values()):
                break
    generator = torch.Generator().manual_seed(run.seed)
    rows = {name: torch.cat(parts) for name, parts in found.items()}
    return {name: one[torch.randperm(len(one), generator=generator)[: params.samples]] for name, one in rows.items()}


def _batches(split: Any, model: TorchModel) -> Iterator[tuple[Tensor, ...]]:
    for batch in tensor_batches(split, model.signature, _BATCH):
        yield batch.inputs


def _built(layer: _Layer, rows: Tensor, params: ExpertsParams, seed: int) -> tuple[Experts, dict[str, Any]]:
    with torch.no_grad():
        hidden = layer.hidden(rows)
        strength = hidden.abs() * layer.down.weight.norm(dim=0)
        groups = balanced_clusters(strength.numpy(), params.experts, seed)
        order = torch.from_numpy(np.argsort(groups, kind="stable"))
        count, size = params.experts, len(groups) // params.experts
        made = Experts(layer.up.in_features, layer.down.out_features, count, params.chosen, size, layer.activation)
        made.up.copy_(layer.up.weight[order].reshape(count, size, -1))
        if layer.up.bias is not None:
            made.up_bias.copy_(layer.up.bias[order].reshape(count, size))
        made.down.copy_(layer.down.weight[:, order].reshape(-1, count, size).permute(1, 0, 2))
        if layer.down.bias is not None:
            made.down_bias.copy_(layer.down.bias)
        parts = torch.einsum("res,eos->reo", hidden[:, order].reshape(-1, count, size), made.down)
        facts = _fit(made, rows, parts)
        whole = layer.down(hidden)
        found = made.eval()(rows)
        facts["output_error"] = round(float(((found - whole) ** 2).sum() / ((whole - whole.mean(0)) ** 2).sum()), 5)
    return made, facts


def _fit(made: Experts, rows: Tensor, parts: Tensor) -> dict[str, Any]:
    """The router, and what an expert that is not chosen gives in the mean. parts: (rows, experts, outputs).

    Scores are a linear regression of how far each expert's part is from its mean: what the sum misses without it.
    """
    made.usual.copy_(parts.mean(0))
    wanted = (parts - made.usual).norm(dim=-1)
    inputs = torch.cat([rows, torch.ones(len(rows), 1)], 1).double()
    gram = inputs.T @ inputs / len(inputs)
    gram += _RIDGE * gram.diagonal()[:-1].mean() * torch.eye(len(gram), dtype=torch.float64)
    weights = torch.linalg.solve(gram, inputs.T @ wanted.double() / len(inputs)).float()
    made.router.weight.copy_(weights[:-1].T)
    made.router.bias.copy_(weights[-1])
    best = made.router(rows).topk(made.chosen).indices
    ideal = wanted.topk(made.chosen).indices
    mask = torch.zeros_like(wanted).scatter(1, best, 1.0)
    for expert in range(made.experts):
        left_out = mask[:, expert] == 0
        if bool(left_out.any()):
            made.usual[expert] = parts[left_out, expert].mean(0)
    kept = wanted.gather(1, best).sum() / wanted.gather(1, ideal).sum()
    return {"of_what_the_best_choice_keeps": round(float(kept), 4)}
