"""Values that a description may hold: numbers, texts, and lists, tuples and dicts of such."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

_DEEPEST = 8


class NotPlainError(ValueError):
    """The value is something else."""


def encode(value: Any, depth: int = 0) -> Any:
    """Ready for JSON. A tuple becomes {"tuple": [...]}, a dict {"dict": {...}}. Raises NotPlainError."""
    if depth > _DEEPEST:
        raise NotPlainError("nested too deep")
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.integer | np.floating | np.bool_):
        return value.item()
    if isinstance(value, torch.Size | tuple) and type(value) in (torch.Size, tuple):
        return {"tuple": [encode(each, depth + 1) for each in value]}
    if type(value) is list:
        return [encode(each, depth + 1) for each in value]
    if type(value) is dict and all(type(key) is str for key in value):
        return {"dict": {key: encode(each, depth + 1) for key, each in value.items()}}
    raise NotPlainError(f"a {type(value).__name__}")


def decode(stored: Any, depth: int = 0) -> Any:
    """What `encode` was given. Raises NotPlainError for what it does not write."""
    if depth > 2 * _DEEPEST:
        raise NotPlainError("nested too deep")
    if stored is None or type(stored) in (bool, int, float, str):
        return stored
    if type(stored) is list:
        return [decode(each, depth + 1) for each in stored]
    if type(stored) is dict and list(stored) == ["tuple"] and type(stored["tuple"]) is list:
        return tuple(decode(each, depth + 1) for each in stored["tuple"])
    if type(stored) is dict and list(stored) == ["dict"] and type(stored["dict"]) is dict:
        return {key: decode(each, depth + 1) for key, each in stored["dict"].items()}
    raise NotPlainError("neither a number, a text, a list, {tuple: [...]} nor {dict: {...}}")


def is_plain(value: Any) -> bool:
    try:
        encode(value)
    except NotPlainError:
        return False
    return True
