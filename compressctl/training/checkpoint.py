"""A training's state as one file that a killed run leaves behind: safetensors, with JSON in its header."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from compressctl.core.regular_files import NotRegularError, check_regular

_FACTS = "training"


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """On the disk when this returns. facts: plain values."""
    stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_file(stored, path, {_FACTS: json.dumps(dict(facts))})
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """What write_checkpoint wrote; None when there is nothing or it is damaged."""
    try:
        check_regular(path)
        with safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {})[_FACTS])
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
    except (OSError, NotRegularError, SafetensorError, KeyError, ValueError):
        return None


def weights_digest(network: nn.Module) -> str:
    """Two networks share it only when all their tensors are equal, in name, shape and value."""
    return tensors_digest((*network.named_parameters(), *network.named_buffers()))


def tensors_digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors:
        stored = tensor.detach().cpu().contiguous()
        digest.update(f"{name}{stored.dtype}{list(stored.shape)}".encode())
        digest.update(stored.reshape(-1).view(torch.uint8).numpy().tobytes() if stored.numel() else b"")
    return digest.hexdigest()
