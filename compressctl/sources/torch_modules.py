"""What sources of PyTorch networks share: a clear error without torch, and a signature found by running once."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from compressctl.core.errors import MissingDependencyError, UsageError
from compressctl.core.model import Signature, TensorSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

INSTALL_TORCH = "pip install 'compressctl[torch]'"


def require_torch(needed_for: str) -> None:
    """Raises MissingDependencyError when torch is not installed."""
    if importlib.util.find_spec("torch") is None:
        raise MissingDependencyError(needed_for, "torch", INSTALL_TORCH)


def signature_of(module: nn.Module, inputs: Sequence[TensorSpec]) -> Signature:
    """Run the module once on zeros, in batches of two, and describe what comes out.

    inputs: with "batch" as first axis. One output is called "output"; several by their keys, or "output_0", "output_1", ...
    Raises UsageError when the module does not take these inputs or gives something else than tensors with a batch axis.
    """
    import torch

    samples = 2
    arrays = [torch.zeros([samples, *map(int, spec.shape[1:])], dtype=getattr(torch, spec.dtype)) for spec in inputs]
    shapes = ", ".join(f"{spec.name} {list(array.shape)}" for spec, array in zip(inputs, arrays, strict=True))
    try:
        with torch.no_grad():
            given = module(*arrays)
    except Exception as error:
        raise UsageError(
            f"the network does not run on {shapes}: {error}", hint="check model.input_shape and model.input_dtype"
        ) from error
    outputs = named_outputs(given)
    for name, output in outputs.items():
        if output.ndim == 0 or output.shape[0] != samples:
            raise UsageError(
                f"the network's {name} has shape {list(output.shape)} for {samples} samples; its first axis must be the batch"
            )
    return Signature(
        tuple(inputs),
        tuple(
            TensorSpec(name, str(output.dtype).removeprefix("torch."), ("batch", *output.shape[1:]))
            for name, output in outputs.items()
        ),
    )


def named_outputs(given: Any) -> dict[str, Tensor]:
    """Tensors by name from what a forward pass returned. Raises UsageError for anything but tensors."""
    import torch

    if isinstance(given, torch.Tensor):
        return {"output": given}
    if isinstance(given, Mapping):
        named: dict[str, Any] = {str(key): value for key, value in given.items() if value is not None}
    elif isinstance(given, list | tuple):
        named = {f"output_{position}": value for position, value in enumerate(given)}
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
