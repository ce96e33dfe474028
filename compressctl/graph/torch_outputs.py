"""The tensors that a PyTorch network returns, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from compressctl.core.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor


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
