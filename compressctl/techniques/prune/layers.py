"""prune.layers: whole residual blocks go; what runs past them stays."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from compressctl.core.data import first_filled
from compressctl.core.errors import NothingToCompressError, StageError
from compressctl.core.model import TorchModel
from compressctl.core.patterns import matching
from compressctl.core.technique import RunContext, StageResult
from compressctl.layers.calls import calls_of
from compressctl.layers.channels.dependency_groups import GIVES_CHANNELS, example_inputs
from compressctl.sources.modules.pass_through import PassThrough
from compressctl.techniques.prune import _costs as costs
from compressctl.techniques.prune._losses import By, loss_of
from compressctl.techniques.prune.params import LayersParams
from compressctl.training.batchnorm_recalibration import recalibrate_bn

_ALIKE = 0.9
"""Cosine between what a block is given and what it returns without its weights. Residual blocks give 1 or, behind a norm, almost."""


def apply(model: TorchModel, params: LayersParams, run: RunContext) -> StageResult:
    """Remove params.remove blocks, one at a time, each time the one without which the loss rises least.

    Raises UsageError for a pattern that matches no block or without labelled samples, NothingToCompressError when no block can
    go, StageError when too few can.
    """
    inputs = example_inputs(model.signature)
    blocks, fixed = residual_blocks(model.body, inputs)
    for name, reason in fixed.items():
        run.events.emit("note", message=f"not removable: {name}: {reason}")
    allowed = (
        matching(params.match, list(blocks), lambda name: (name,), key="match", what="residual block") if blocks else []
    )
    if not allowed:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in fixed.items())
        raise NothingToCompressError("no residual block can be removed", hint=reasons or "the network has none")
    if len(allowed) < params.remove:
        raise StageError(
            f"{params.remove} blocks shall go, but only {len(allowed)} can",
            hint=f"removable: {', '.join(allowed) or 'none'}",
        )
    saved_ms = _saved_ms(model, allowed, run) if params.criterion == "latency" else dict.fromkeys(allowed, 1.0)
    by: By = "outputs" if params.criterion == "outputs" else "labels"
    loss = loss_of(model, by, params.samples, params.bn_samples, run)
    current, removed = copy.deepcopy(model.body), []
    before = loss(current)
    history = []
    for _ in range(params.remove):
        damages: dict[str, float] = {}
        for name in allowed:
            run.events.progress("measuring the network without each block", len(damages), len(allowed))
            damages[name] = loss(without(current, [name])) - before
        weakest = min(allowed, key=lambda name: damages[name] / saved_ms[name])
        history.append({"removed": weakest, "loss_rise": {name: round(rise, 5) for name, rise in damages.items()}})
        current = without(current, [weakest])
        removed.append(weakest)
        allowed.remove(weakest)
    facts: dict[str, Any] = {"removed": removed, "steps": history, "not_removable": fixed, "loss_before": before}
    split = first_filled(run.data, "train", "calibration")
    if split is not None and params.bn_samples:
        facts["norms_reestimated"] = recalibrate_bn(current, split, model.signature, samples=params.bn_samples)
    facts |= costs.change(model.body, current, inputs)
    gone = tuple(name for name in model.sparse if not any(name.startswith(f"{block}.") for block in removed))
    return StageResult(replace(model, body=current, sparse=gone), facts)


def without(network: nn.Module, names: Sequence[str]) -> nn.Module:
    """A copy in which these blocks return what they are given."""
    smaller = copy.deepcopy(network)
    for name in names:
        owner, _, attribute = name.rpartition(".")
        setattr(smaller.get_submodule(owner), attribute, _stand_in(smaller.get_submodule(name)))
    return smaller


def residual_blocks(network: nn.Module, inputs: Sequence[Tensor]) -> tuple[list[str], dict[str, str]]:
    """Blocks that can go, in the order of the network, and shape-changing neighbours of their kind with the reason.

    A block is a module that gives back what it is given when its weights are zero; of nested ones the innermost.
    """
    network = copy.deepcopy(network).eval()
    seen = calls_of(network, inputs)
    passing: list[str] = []
    fixed: dict[str, str] = {}
    for name, calls in seen.items():
        module = network.get_submodule(name)
        if not name or not any(isinstance(part, (*GIVES_CHANNELS, nn.MultiheadAttention)) for part in module.modules()):
            continue
        args, kwargs, output = calls[0]
        if not isinstance(output, Tensor) or not args or not isinstance(args[0], Tensor):
            continue
        if output.shape == args[0].shape and len(calls) == 1 and _gives_back(module, args, kwargs):
            passing.append(name)
    innermost = [name for name in passing if not any(other.startswith(f"{name}.") for other in passing)]
    blocks = [name for name in innermost if _runs(without(network, [name]), inputs)]
    fixed.update((name, "code around it looks into it") for name in innermost if name not in blocks)
    kinds = {type(network.get_submodule(name)) for name in blocks}
    for name, calls in seen.items():
        if name not in innermost and type(network.get_submodule(name)) in kinds - {nn.Sequential}:
            args, _, output = calls[0]
            changes = isinstance(output, Tensor) and args and output.shape != args[0].shape
            fixed[name] = "its output has another shape than its input" if changes else "nothing runs past its weights"
    return blocks, fixed


def _runs(network: nn.Module, inputs: Sequence[Tensor]) -> bool:
    try:
        with torch.no_grad():
            network(*inputs)
    except Exception:
        return False
    return True


def _gives_back(module: nn.Module, args: Any, kwargs: Any) -> bool:
    empty = copy.deepcopy(module)
    with torch.no_grad():
        for part in empty.modules():
            if not isinstance(part, (nn.LayerNorm, nn.GroupNorm)):
                for parameter in part.parameters(recurse=False):
                    parameter.zero_()
        output, given = empty(*args, **kwargs).flatten().double(), args[0].flatten().double()
    size = float(output.norm() * given.norm())
    return size > 0 and float(output @ given) / size > _ALIKE


def _stand_in(block: nn.Module) -> nn.Module:
    """By how many arguments the block takes: blocks of transformers are often given masks too."""
    arguments = inspect.signature(block.forward).parameters
    return nn.Identity() if len(arguments) == 1 else PassThrough()


def _saved_ms(model: TorchModel, blocks: Sequence[str], run: RunContext) -> dict[str, float]:
    shorter = [replace(model, body=without(model.body, [name])) for name in blocks]
    whole, *others = run.clock()([model, *shorter])
    return {name: max(whole - other, 1e-4) for name, other in zip(blocks, others, strict=True)}
