"""PyTorch networks called on a signature's inputs, and the tensors that they return, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from compressctl.core.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

    from compressctl.core.model import TensorSpec, TorchModel


def device_of(network: nn.Module) -> torch.device:
    import torch

    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


def zero_inputs(specs: Sequence[TensorSpec], samples: int = 2) -> tuple[Tensor, ...]:
    """What is enough to see which layers are called, in which order. specs: with the batch as first axis."""
    import torch

    return tuple(torch.zeros([samples, *map(int, s.shape[1:])], dtype=getattr(torch, s.dtype)) for s in specs)


def outputs_of(model: TorchModel, inputs: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Without gradients, on the network's own device and in the mode that it is in. inputs: by name in the signature."""
    import torch

    device = device_of(model.body)
    with torch.no_grad():
        return named_outputs(model.body(*(torch.tensor(inputs[s.name], device=device) for s in model.signature.inputs)))


def named_outputs(given: Any) -> dict[str, Tensor]:
    """One tensor is called "output"; several by their keys, or "output_0", "output_1", ... Values that are None are left out.

    Raises UsageError when a forward pass returned anything but tensors.
    """
    import torch

    if isinstance(given, Mapping):
        named: dict[str, Any] = {str(key): value for key, value in given.items() if value is not None}
    elif isinstance(given, list | tuple):
        named = {f"output_{position}": value for position, value in enumerate(given) if value is not None}
    else:
        named = {"output": given}
    for name, value in named.items():
        if not isinstance(value, torch.Tensor):
            raise UsageError(
                f"the network's {name} is a {type(value).__name__}, not a tensor",
                hint="wrap the network in a module whose forward returns a tensor, a tuple or a dict of tensors",
            )
    if not named:
        raise UsageError("the network returns nothing")
    return named
