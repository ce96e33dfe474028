"""Training of low-rank adapters, which are in the weights when it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compressctl.core.errors import UsageError
from compressctl.core.model import TorchModel
from compressctl.core.technique import RunContext
from compressctl.training.data import tensor_batches
from compressctl.training.hooks import Hook
from compressctl.training.loop import Trained, train
from compressctl.training.lora.chosen_layers import Choice, choose, refuse_nothing
from compressctl.training.lora.low_rank import LowRank, attach, detach, merge
from compressctl.training.lora.proof import misread
from compressctl.training.objective import Objective
from compressctl.training.params import AdaptableParams, Lora
from compressctl.training.supervision.teacher import CachedTeacher

_SHOWN = 3


def train_adaptable(
    model: TorchModel,
    objective: Objective,
    params: AdaptableParams,
    run: RunContext,
    hooks: Sequence[Hook] = (),
    *,
    teacher: CachedTeacher | None = None,
) -> Trained:
    """`train`, of low-rank adapters alone where the params name them: the network that is given has modules, names and shapes as before.

    Weights, biases and norms are frozen; the objective's own parameters are not. Zeros of `model.sparse` stay, since products
    are masked. Raises UsageError where no layer can have an adapter.
    """
    if params.lora is None:
        return train(model, objective, params, run, hooks, teacher=teacher)
    network: nn.Module = model.body
    adapted, left_out = _adapted(model, params.lora, run)
    facts = _facts(network, adapted, left_out, params.lora)
    run.events.emit("note", message=_in_words(facts))
    were_trained = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    network.requires_grad_(False)
    for layer in adapted.values():
        layer.lora_a.requires_grad_(True)
        layer.lora_b.requires_grad_(True)
    trained = train(model, objective, params, run, hooks, teacher=teacher)
    merge(adapted.values())
    for parameter, was_trained in were_trained:
        parameter.requires_grad_(was_trained)
    return Trained(trained.network, {**trained.facts, "lora": facts})


def _adapted(model: TorchModel, lora: Lora, run: RunContext) -> tuple[dict[str, LowRank], dict[str, str]]:
    """Layers with adapters, in place, that compute what they did, and why others have none."""
    samples = _samples(model, run)
    choice: Choice = choose(model, lora, samples)
    generator = torch.Generator().manual_seed(run.seed)
    layers = {
        path: attach(layer, lora, generator, is_masked=_weight_of(path) in model.sparse)
        for path, layer in choice.layers.items()
    }
    left_out = dict(choice.left_out)
    for path in misread(model.body, layers, samples):
        detach(layers.pop(path))
        left_out[path] = "the code around it reads its weight"
    if not layers:
        refuse_nothing(lora, left_out)
    return layers, left_out


def _weight_of(path: str) -> str:
    return f"{path}.weight" if path else "weight"


def _samples(model: TorchModel, run: RunContext) -> tuple[Tensor, ...]:
    """A batch of a few training samples."""
    size = model.signature.fixed_batch or 2
    split = run.data.split("train") if run.data is not None else None
    if split is None or len(split) == 0:
        raise UsageError("training needs samples, and the train split is empty", hint="leave some samples in the data")
    return next(tensor_batches(split, model.signature, size)).inputs


def _facts(
    network: nn.Module, adapted: Mapping[str, LowRank], left_out: Mapping[str, str], lora: Lora
) -> dict[str, Any]:
    trained = sum(layer.lora_a.numel() + layer.lora_b.numel() for layer in adapted.values())
    return {
        "rank": lora.rank,
        "alpha": lora.alpha,
        "trained_parameters": trained,
        "parameters": sum(parameter.numel() for parameter in network.parameters()) - trained,
        "layers": list(adapted),
        "left_out": dict(left_out),
    }


def _in_words(facts: Mapping[str, Any]) -> str:
    trained, whole = facts["trained_parameters"], facts["parameters"]
    said = (
        f"{trained:,} parameters are trained, in adapters of rank {facts['rank']} beside {len(facts['layers'])} layers; "
        f"the network's {whole:,} are frozen ({trained / max(whole, 1):.2%})"
    )
    left_out = [f"{path or 'the network'} ({why})" for path, why in facts["left_out"].items()]
    more = f" and {len(left_out) - _SHOWN} more" if len(left_out) > _SHOWN else ""
    return f"{said}; left out: {', '.join(left_out[:_SHOWN])}{more}" if left_out else said
