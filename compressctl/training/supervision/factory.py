"""Networks that a recipe's stage names by factory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from compressctl.core.errors import UsageError
from compressctl.core.model import Factory, Signature, TensorSpec, TorchModel
from compressctl.core.technique import RunContext
from compressctl.sources.checkpoint import load_weights
from compressctl.sources.forward import called_in_order
from compressctl.sources.python_code import call_factory
from compressctl.sources.torch_modules import signature_of


def make_network(
    factory: str, args: Mapping[str, Any], weights: str | None, like: Signature, run: RunContext, *, what: str
) -> TorchModel:
    """Call the factory and load the weights. like: whose inputs the network takes. what: "student" or "teacher", for messages.

    The stage's seed decides fresh weights. Raises UsageError when the function fails or gives no network for these inputs.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        network = call_factory(factory, args, run.base)
    if not isinstance(network, nn.Module):
        raise UsageError(f"{what}: {factory} returned a {type(network).__name__}, not a torch.nn.Module")
    if weights is not None:
        load_weights(network, run.base / weights)
    network.eval()
    inputs = [_any_batch(spec, what) for spec in like.inputs]
    try:
        network = called_in_order(network, inputs)
        signature = signature_of(network, inputs)
    except UsageError as error:
        error.hint = f"the {what} is given the same inputs as the recipe's model"
        raise
    # The model's outputs keep their names, so that whatever reads the exported file finds them.
    if len(signature.outputs) == len(like.outputs):
        named = zip(signature.outputs, like.outputs, strict=True)
        signature = replace(signature, outputs=tuple(replace(ours, name=theirs.name) for ours, theirs in named))
    return TorchModel(network, signature, factory=Factory(factory, args))


def _any_batch(spec: TensorSpec, what: str) -> TensorSpec:
    if not spec.shape:
        raise UsageError(
            f"the {what} cannot be made for {spec.name}, a single number: its first axis must count samples",
            hint="give the model as torch",
        )
    return replace(spec, shape=("batch", *spec.shape[1:]))
