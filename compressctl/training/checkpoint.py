"""A training's state as one file that a killed run leaves behind: safetensors, with JSON in its header."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from compressctl.core.events import Events
from compressctl.core.technique import RunContext

_FACTS = "training"
_DEEPEST = 6


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """At once or not at all, and on the disk when this returns. facts: plain values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_file(stored, temporary, {_FACTS: json.dumps(dict(facts))})
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    temporary.replace(path)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """What write_checkpoint wrote; None when there is nothing or it is damaged."""
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {})[_FACTS])
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


def identity(network: nn.Module, *parts: Any) -> str:
    """A digest that two trainings share only when they start from the same weights and are told the same.

    parts: objectives, hooks, params, numbers. Functions count with their closures, modules with their weights, objects
    with what they hold. What cannot be compared between processes (sessions, open files) counts by its type alone, and so
    do paths, which differ between a run and its resumption.
    """
    digest = hashlib.sha256()
    _add(digest.update, network, set(), 0)
    for part in parts:
        _add(digest.update, part, set(), 0)
    return digest.hexdigest()


def _add(update: Callable[[bytes], None], value: Any, seen: set[int], depth: int) -> None:
    update(f"{type(value).__module__}.{type(value).__qualname__};".encode())
    if depth > _DEEPEST or id(value) in seen:
        return
    inner = seen | {id(value)}

    def add_all(values: Sequence[Any]) -> None:
        for each in values:
            _add(update, each, inner, depth + 1)

    match value:
        case bool() | int() | float() | str() | bytes() | None:
            update(repr(value).encode())
        case Tensor() | np.ndarray():
            _add_array(update, value)
        case RunContext():
            update(repr((value.seed, value.task)).encode())
        case nn.Module():
            add_all([part for item in (*value.named_parameters(), *value.named_buffers()) for part in item])
        case Mapping():
            add_all([part for item in value.items() for part in item])
        case list() | tuple():
            add_all(value)
        case FunctionType():
            update(f"{value.__module__}.{value.__qualname__}".encode())
            cells = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
            add_all([*cells, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()])
        case MethodType():
            add_all([value.__func__, value.__self__])
        case partial():
            add_all([value.func, value.args, value.keywords])
        case Path() | Events():
            pass
        case _ if hasattr(value, "model_dump_json"):
            update(value.model_dump_json().encode())
        case _ if is_dataclass(value) and not isinstance(value, type):
            add_all([getattr(value, field.name) for field in fields(value)])
        case _ if _is_ours_to_look_into(value):
            add_all([part for item in sorted(vars(value).items()) for part in item])


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _is_ours_to_look_into(value: Any) -> bool:
    """Hooks and objectives as plain objects; not datasets, sessions, streams or classes."""
    return hasattr(value, "__dict__") and not isinstance(value, type) and not hasattr(value, "split")


def _add_array(update: Callable[[bytes], None], value: Tensor | np.ndarray) -> None:
    tensor = torch.as_tensor(value).detach().cpu().contiguous()
    update(f"{tensor.dtype}{list(tensor.shape)}".encode())
    update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
