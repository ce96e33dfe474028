"""Weights from a file into a network, without ever running code that the file brings."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressctl.core.errors import UsageError
from compressctl.sources.fingerprint import existing

if TYPE_CHECKING:
    from torch import Tensor, nn

_WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts store the weights next to their optimizer's state."""


def load_weights(module: nn.Module, path: Path) -> None:
    """Put the file's tensors into the module, which changes in place.

    Reads .safetensors, and .pt, .pth or .bin checkpoints that hold tensors only. Raises UsageError when the file is not one
    of these, holds code, or does not fit: every missing, unexpected or differently shaped tensor is listed.
    """
    existing(path, what="the weights file")
    weights = _without_wrapper_prefix(_read(path))
    _check_fit(module, weights, path)
    module.load_state_dict(dict(weights), strict=False)


def _read(path: Path) -> Mapping[str, Tensor]:
    readers = {".safetensors": _read_safetensors, ".pt": _read_pickle, ".pth": _read_pickle, ".bin": _read_pickle}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UsageError(f"{path}: weights are read from {', '.join(readers)} files")
    return reader(path)


def _read_safetensors(path: Path) -> Mapping[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: Mapping[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise UsageError(f"{path} is not a safetensors file: {error}") from error
    return tensors


def _read_pickle(path: Path) -> Mapping[str, Tensor]:
    """torch's weights_only unpickler builds tensors and plain containers, and refuses everything else."""
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols, of files that are refused anyway
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UsageError(
            f"{path} holds more than tensors, and loading that could run code from the file",
            hint="save the weights alone: safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')",
        ) from error
    except Exception as error:
        raise UsageError(f"{path} is not a checkpoint that PyTorch can read: {error}") from error
    return _tensors(stored, path)


def _tensors(stored: Any, path: Path) -> Mapping[str, Tensor]:
    import torch

    for wrapper in _WRAPPERS:
        if isinstance(stored, Mapping) and isinstance(stored.get(wrapper), Mapping):
            stored = stored[wrapper]
    if not isinstance(stored, Mapping):
        raise UsageError(f"{path} holds a {type(stored).__name__}, not a state dict of tensors by name")
    others = [str(key) for key, value in stored.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise UsageError(f"{path} is not a state dict: {_some(others)} are no tensors")
    return {str(key): value for key, value in stored.items()}


def _without_wrapper_prefix(weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """DataParallel and DistributedDataParallel put "module." before every name."""
    if weights and all(name.startswith("module.") for name in weights):
        return {name.removeprefix("module."): value for name, value in weights.items()}
    return weights


def _check_fit(module: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    wanted = module.state_dict()
    # BatchNorm's counter decides nothing in inference, and checkpoints from before torch 0.4.1 lack it.
    missing = [name for name in wanted if name not in weights and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in weights if name not in wanted]
    shapes = [
        f"{name} {list(weights[name].shape)} (the network's is {list(value.shape)})"
        for name, value in wanted.items()
        if name in weights and weights[name].shape != value.shape
    ]
    claims = [
        f"{what}: {_some(names)}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    if claims:
        raise UsageError(
            "\n".join([f"the weights in {path} do not fit the network", *(f"   {claim}" for claim in claims)]),
            hint="check that model.factory or model.name, and model.args, make the network that was trained",
        )


def _some(names: Sequence[str], most: int = 12) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
