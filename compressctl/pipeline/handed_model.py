"""The model that a technique is handed, which it must leave as it is: the cache, the baseline and an undone stage rest on it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING

from compressctl.core.errors import StageError
from compressctl.core.model import Model, OnnxModel

if TYPE_CHECKING:
    from torch import nn


def refuse_change(before: str, model: Model) -> None:
    """Raises StageError where a model's digest is no longer what it was before a technique was handed it."""
    if model_digest(model) != before:
        hint = "work on a copy: copy.deepcopy(model.body) of a network, body.CopyFrom(model.body) of a graph"
        raise StageError("the technique changed the model that it was handed, in place", hint=hint)


def model_digest(model: Model) -> str:
    """Equal before and after work that left the model's numbers and structure as they were.

    Of a graph's large constants, which stand in files, the references count. Of a network, what its state dict leaves out, as
    tables that a call fills, does not.
    """
    digest = hashlib.sha256()
    for part in _of_graph(model) if isinstance(model, OnnxModel) else _of_network(model.body):
        digest.update(part)
    return digest.hexdigest()


def _of_graph(model: OnnxModel) -> Iterator[bytes]:
    yield model.body.SerializeToString(deterministic=True)
    if model.quant is None:
        return
    yield repr(
        (sorted(model.quant.float_nodes.items()), sorted(model.quant.dynamic), sorted(model.quant.weights_alone))
    ).encode()
    for tensors in (model.quant.activations, model.quant.weights):
        for name, quant in sorted(tensors.items()):
            yield name.encode()
            for field in fields(quant):
                value = getattr(quant, field.name)
                yield value.tobytes() if hasattr(value, "tobytes") else repr(value).encode()


def _of_network(network: nn.Module) -> Iterator[bytes]:
    from torch import Tensor, strided

    from compressctl.training.checkpoint import tensors_digest

    for name, module in network.named_modules():
        yield f"{name}{type(module)}{module.training}".encode()
    stored = network.state_dict().items()
    dense = [(name, value) for name, value in stored if isinstance(value, Tensor) and value.layout == strided]
    yield tensors_digest(dense).encode()
