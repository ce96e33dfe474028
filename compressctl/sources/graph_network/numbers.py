"""Arithmetic on sizes as numbers, not as tensors: what Shape gives, and what is made of it for a Reshape or a Slice. An axis that is open while a
network is traced stays open that way."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

TAKES_SIZES = frozenset(
    {"Reshape", "Expand", "Slice", "Pad", "Tile", "ConstantOfShape", "Range", "Resize", "Upsample", "Unsqueeze", "Squeeze", "Split", "TopK"}
    | {"ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp", "Gather"}
    | {"CumSum", "Trilu", "OneHot", "Shape", "Size"}
)  # fmt: skip
"""Operators whose sizes, axes or indices are read as numbers."""

GIVES_SEVERAL = frozenset({"Split", "TopK"})


def as_tensor(value: Any, like: Sequence[Any] = ()) -> Tensor:
    """int64, on the device of the first tensor in like."""
    if isinstance(value, Tensor):
        return value
    device = next((one.device for one in like if isinstance(one, Tensor)), None)
    if isinstance(value, list):
        if all(isinstance(one, int) for one in value):
            return torch.tensor(value, dtype=torch.int64, device=device)
        return torch.stack([torch.scalar_tensor(one, dtype=torch.int64, device=device) for one in value])
    return torch.scalar_tensor(value, dtype=torch.int64, device=device)


def as_list(value: Any) -> list[int]:
    """Sizes, axes or indices as numbers."""
    if isinstance(value, Tensor):
        return [int(one) for one in value.reshape(-1).tolist()]
    return list(value) if isinstance(value, list) else [value]


def can_count(op: str, given: Sequence[Any], attributes: Mapping[str, Any]) -> bool:
    """Whether everything is a whole number already, and stays one."""
    if op not in _COUNTED or not given or (op == "Cast" and attributes["to"] not in _WHOLE):
        return False
    return all(value is None or isinstance(value, list | int | torch.SymInt) for value in given)


_WHOLE = (6, 7, 9)
"""int32, int64 and bool, as TensorProto.DataType counts."""


def counted(op: str, given: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
    return _COUNTED[op](given, attributes)


def _each(of: Callable[[Any, Any], Any]) -> Callable[[Sequence[Any], Mapping[str, Any]], Any]:
    """Element by element, a single number with every other."""

    def made(given: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
        first, second = given
        if not isinstance(first, list) and not isinstance(second, list):
            return of(first, second)
        firsts, seconds = as_list(first), as_list(second)
        length = max(len(firsts), len(seconds))
        pairs = zip(
            firsts * (length if len(firsts) == 1 else 1), seconds * (length if len(seconds) == 1 else 1), strict=True
        )
        return [of(one, other) for one, other in pairs]

    return made


def _gathered(given: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
    data, indices = given
    return [data[one] for one in indices] if isinstance(indices, list) else data[indices]


def _sliced(given: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
    data, start, end, *rest = given
    step = as_list(rest[1])[0] if len(rest) > 1 and rest[1] is not None else 1
    return data[slice(as_list(start)[0], as_list(end)[0], step)]


def _joined(given: Sequence[Any], attributes: Mapping[str, Any]) -> list[Any]:
    return [one for part in given for one in as_list(part)]


def _first(given: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
    """Of one entry the number, as Squeeze gives it."""
    return given[0][0] if isinstance(given[0], list) and len(given[0]) == 1 else given[0]


def _cast(given: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
    return given[0]


def _reshaped(given: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
    return as_list(given[0]) if as_list(given[1]) else _first(given, attributes)


def _chosen(given: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
    conditions, first, second = (as_list(part) for part in given)
    length = max(map(len, (conditions, first, second)))
    conditions, first, second = (part * (length if len(part) == 1 else 1) for part in (conditions, first, second))
    found = [one if condition else other for condition, one, other in zip(conditions, first, second, strict=True)]
    return found if any(isinstance(part, list) for part in given) else found[0]


_COUNTED: Mapping[str, Callable[[Sequence[Any], Mapping[str, Any]], Any]] = {
    "Add": _each(lambda one, other: one + other),
    "Sub": _each(lambda one, other: one - other),
    "Mul": _each(lambda one, other: one * other),
    "Div": _each(lambda one, other: one // other),
    "Mod": _each(lambda one, other: one % other),
    "Min": _each(min),
    "Max": _each(max),
    "Equal": _each(lambda one, other: one == other),
    "Gather": _gathered,
    "Slice": _sliced,
    "Concat": _joined,
    "Unsqueeze": lambda given, attributes: as_list(given[0]),
    "Squeeze": _first,
    "Reshape": _reshaped,
    "Cast": _cast,
    "Identity": _cast,
    "Where": _chosen,
    "ReduceProd": lambda given, attributes: math.prod(as_list(given[0])),
    "Neg": lambda given, attributes: [-one for one in given[0]] if isinstance(given[0], list) else -given[0],
}
