"""A network as two files: `model.safetensors` and `structure.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compressctl.core.errors import UsageError
from compressctl.core.regular_files import check_regular, read_regular
from compressctl.sources.structure.describe import describe
from compressctl.sources.structure.rebuild import StructureError, rebuild

if TYPE_CHECKING:
    from collections.abc import Mapping

WEIGHTS, STRUCTURE = "model.safetensors", "structure.json"
_LARGEST_DESCRIPTION = 64 * 1024**2


def write_network(network: nn.Module, original: nn.Module, folder: Path) -> None:
    """Both files into a folder that exists. original: what the description refers to, as its source loads it.

    Raises NotDescribableError.
    """
    from safetensors.torch import save_file

    description = describe(network, original)
    save_file(stored_tensors(network, original), folder / WEIGHTS)
    (folder / STRUCTURE).write_text(json.dumps(description, indent=1), encoding="utf-8")


def read_network(original: nn.Module, weights: Path, structure: Path) -> nn.Module:
    """The network that `write_network` wrote, in eval mode. Raises UsageError for files that are missing or do not fit."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    description = read_description(structure)
    try:
        check_regular(weights)
        tensors: Mapping[str, Tensor] = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{weights} is not a safetensors file: {error}") from error
    try:
        return rebuild(original, description, tensors)
    except StructureError as error:
        error.message = f"{structure}: {error.message}"
        raise


def read_description(path: Path) -> Any:
    """The JSON of a description. Raises UsageError when it cannot be read."""
    try:
        return json.loads(read_regular(path, _LARGEST_DESCRIPTION))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not a description of a network: {error}") from error


def stored_tensors(network: nn.Module, original: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by name, on the CPU. Buffers that a state dict leaves out only where they changed."""
    before = dict(original.named_buffers(remove_duplicate=False))
    left_out = {
        f"{path}.{name}" if path else name
        for path, module in network.named_modules(remove_duplicate=False)
        for name in module._non_persistent_buffers_set
    }
    found = dict(network.named_parameters(remove_duplicate=False))
    tensors: dict[str, Tensor] = {**found, **dict(network.named_buffers(remove_duplicate=False))}
    return {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in tensors.items()
        if name not in left_out or not _is_unchanged(tensor, before.get(name))
    }


def _is_unchanged(tensor: Tensor, before: Tensor | None) -> bool:
    return before is not None and tensor.shape == before.shape and torch.equal(tensor.cpu(), before.cpu())
