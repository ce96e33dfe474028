"""Arithmetic on sizes as numbers, not as tensors: what Shape gives, and what is made of it for a Reshape or a Slice. An axis that is open while a
network is traced stays open that way."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

TAKES_SIZES = frozenset(
    {"Reshape", "Expand", "Slice", "Pad", "Tile", "ConstantOfShape", "Range", "Resize", "Upsample", "Unsqueeze", "Squeeze", "Split", "TopK"}
    | {"ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp", "Gather"}
    | {"CumSum", "Trilu", "OneHot", "Shape", "Size"}
)  # fmt: skip
"""Operators whose sizes, axes or indices are read as numbers."""

GIVES_SEVERAL = frozenset({"Split", "TopK"})


def as_tensor(value: Any, like: Sequence[Any] = ()) -> Tensor:
    """int64, of floats float32, of truth values bool, on the device of the first tensor in like."""
    if isinstance(value, Tensor):
        return value
    device = next((one.device for one in like if isinstance(one, Tensor)), None)
    kind = _kind(as_list(value))
    if not isinstance(value, list):
        return torch.scalar_tensor(value, dtype=kind, device=device)
    if all(isinstance(one, int | float) for one in as_list(value)):
        return torch.tensor(value, dtype=kind, device=device)
    return torch.stack([as_tensor(one, like) for one in value])


def _kind(values: Sequence[Any]) -> torch.dtype:
    if any(isinstance(one, float) for one in values):
        return torch.float32
    return torch.bool if values and all(isinstance(one, bool) for one in values) else torch.int64


def as_list(value: Any) -> list[int]:
    """Sizes, axes or indices as numbers, one behind the other."""
    if isinstance(value, Tensor):
        return [int(one) for one in value.reshape(-1).tolist()]
    if not isinstance(value, list):
        return [value]
    return [one for part in value for one in as_list(part)] if value and isinstance(value[0], list) else list(value)


def can_count(op: str, given: Sequence[Any], attributes: Mapping[str, Any]) -> bool:
    """Whether everything is a number already, and what is made of it is numbers too: whole ones, and floats that are no open size's."""
    if op not in COUNTED or not given:
        return False
    if not all(value is None or isinstance(value, list | int | float | torch.SymInt) for value in given):
        return False
    if op == "ConstantOfShape":
        return _is_short(given[0], attributes)
    if op == "Cast" and attributes["to"] == _FLOAT:
        return all(isinstance(one, int | float) for one in as_list(given[0]))
    return op != "Cast" or attributes["to"] in _WHOLE


_BOOL, _FLOAT = 9, 1
_WHOLE = (6, 7, _BOOL)
"""int32, int64 and bool, as TensorProto.DataType counts."""

_MOST_FILLED = 64
"""Entries that ConstantOfShape makes at most as numbers: more are a tensor."""


def _is_short(sizes: Any, attributes: Mapping[str, Any]) -> bool:
    """Whether ConstantOfShape makes a few whole numbers of these sizes."""
    known = isinstance(sizes, list) and all(isinstance(size, int) and size >= 0 for size in sizes)
    return known and math.prod(sizes) <= _MOST_FILLED and "value" in attributes and attributes["value"][1] in _WHOLE


class NotCountedError(Exception):
    """What comes out depends on how large an open size is, or on a division by nothing."""


def counted(op: str, given: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
    """What the operator makes of numbers: lists in lists where it has several axes. Arithmetic is Python's, so that an open size stays open. Raises NotCountedError."""
    arrays = [None if value is None else _array(value) for value in given]
    return COUNTED[op](arrays, attributes).tolist()


def _decided(condition: Any) -> bool:
    """What is so whatever the open sizes are. Raises NotCountedError where they decide: as they are while a network is traced they must not."""
    if isinstance(condition, torch.SymBool | torch.SymInt):
        truth = condition if isinstance(condition, torch.SymBool) else condition != 0
        if statically_known_true(truth):
            return True
        if statically_known_true(torch.sym_not(truth)):  # type: ignore[no-untyped-call]
            return False
        raise NotCountedError
    return bool(condition)


def _array(value: Any) -> np.ndarray:
    return np.array(value, dtype=object)


def _each(of: Callable[[Any, Any], Any]) -> Callable[[Sequence[Any], Mapping[str, Any]], np.ndarray]:
    """Element by element, of two inputs or, where the operator takes more, one after the other; floats in single precision, as graphs compute them."""

    def single(one: Any, other: Any) -> Any:
        found = of(one, other)
        return _in_single(found) if isinstance(found, float) else found

    run = np.frompyfunc(single, 2, 1)
    return lambda given, attributes: _array(reduce(run, given))


def _alone(of: Callable[[Any], Any]) -> Callable[[Sequence[Any], Mapping[str, Any]], np.ndarray]:
    run = np.frompyfunc(of, 1, 1)
    return lambda given, attributes: _array(run(given[0]))


def _rounded(towards: Callable[[float], int]) -> Callable[[Sequence[Any], Mapping[str, Any]], np.ndarray]:
    """Of floats, which stay floats."""
    return _alone(lambda one: float(towards(one)))


def _cast(given: Sequence[Any], attributes: Mapping[str, Any]) -> np.ndarray:
    kinds: Mapping[int, Callable[[Any], Any]] = {_FLOAT: _in_single, _BOOL: _decided}
    return _alone(kinds.get(attributes["to"], _towards_zero))(given, attributes)


def _in_single(one: Any) -> float:
    return float(np.float32(one))


def _towards_zero(one: Any) -> Any:
    return int(one) if isinstance(one, float | bool) else one


def _quotient(one: Any, other: Any) -> Any:
    """Of floats exactly; towards zero, as ONNX divides whole numbers; of open sizes, which are none below 0, downwards."""
    if isinstance(other, int | float) and other == 0:
        raise NotCountedError
    if isinstance(one, float) or isinstance(other, float):
        return one / other
    if isinstance(one, int) and isinstance(other, int) and (one < 0) != (other < 0):
        return -(-one // other)
    return one // other


def _rest(given: Sequence[Any], attributes: Mapping[str, Any]) -> np.ndarray:
    """With the divisor's sign; with fmod, or of floats, with that of what is divided."""

    def of(one: Any, other: Any) -> Any:
        if isinstance(other, int | float) and other == 0:
            raise NotCountedError
        if attributes.get("fmod") and isinstance(one, int | float) and isinstance(other, int | float):
            rest = math.fmod(one, other)
            return rest if isinstance(one, float) or isinstance(other, float) else int(rest)
        return one % other

    return _each(of)(given, attributes)


def _gathered(given: Sequence[Any], attributes: Mapping[str, Any]) -> np.ndarray:
    data, indices = given
    return _array(np.take(data, indices.astype(np.int64), attributes.get("axis", 0)))


def _sliced(given: Sequence[Any], attributes: Mapping[str, Any]) -> np.ndarray:
    if "starts" in attributes:
        starts, ends, axes, steps = attributes["starts"], attributes["ends"], attributes.get("axes"), None
    else:
        starts, ends, axes, steps = (None if one is None else one.tolist() for one in (*given[1:], None, None)[:4])
    found: np.ndarray = given[0]
    axes, steps = axes or range(len(starts)), steps or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        found = found[(slice(None),) * (axis % found.ndim) + (slice(start, end, step),)]
    return found


def _joined(given: Sequence[Any], attributes: Mapping[str, Any]) -> np.ndarray:
    return np.concatenate(given, attributes["axis"])


def _axes(given: Sequence[Any], attributes: Mapping[str, Any]) -> tuple[int, ...] | None:
    if len(given) > 1 and given[1] is not None:
        return tuple(given[1].reshape(-1).tolist())
    return tuple(attributes["axes"]) if "axes" in attributes else None


def _squeezed(given: Sequence[Any], attributes: Mapping[str, Any]) -> np.ndarray:
    value: np.ndarray = given[0]
    return value.squeeze(_axes(given, attributes))


def _unsqueezed(given: Sequence[Any], attributes: Mapping[str, Any]) -> np.ndarray:
    return np.expand_dims(given[0], _axes(given, attributes) or ())


def _reshaped(given: Sequence[Any], attributes: Mapping[str, Any]) -> np.ndarray:
    value: np.ndarray = given[0]
    sizes = given[1].tolist()
    if not attributes.get("allowzero"):
        sizes = [value.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return value.reshape(sizes)


def _chosen(given: Sequence[Any], attributes: Mapping[str, Any]) -> np.ndarray:
    return _array(np.frompyfunc(lambda condition, one, other: one if _decided(condition) else other, 3, 1)(*given))


def _product(given: Sequence[Any], attributes: Mapping[str, Any]) -> np.ndarray:
    axes = _axes(given, attributes) or (() if attributes.get("noop_with_empty_axes") else None)
    keeps: Any = bool(attributes.get("keepdims", 1))
    return _array(np.multiply.reduce(given[0], axes, keepdims=keeps))


def _filled(given: Sequence[Any], attributes: Mapping[str, Any]) -> np.ndarray:
    return np.full(tuple(given[0].tolist()), int(attributes["value"][0]), object)


COUNTED: Mapping[str, Callable[[Sequence[Any], Mapping[str, Any]], np.ndarray]] = {
    "Add": _each(lambda one, other: one + other),
    "Sub": _each(lambda one, other: one - other),
    "Mul": _each(lambda one, other: one * other),
    "Div": _each(_quotient),
    "Mod": _rest,
    "Min": _each(lambda one, other: one if _decided(one <= other) else other),
    "Max": _each(lambda one, other: other if _decided(one <= other) else one),
    "Equal": _each(lambda one, other: _decided(one == other)),
    "Gather": _gathered,
    "Slice": _sliced,
    "Concat": _joined,
    "Unsqueeze": _unsqueezed,
    "Squeeze": _squeezed,
    "Reshape": _reshaped,
    "Transpose": lambda given, attributes: np.transpose(given[0], attributes.get("perm")),
    "Cast": _cast,
    "Ceil": _rounded(math.ceil),
    "Floor": _rounded(math.floor),
    "Identity": lambda given, attributes: given[0],
    "Where": _chosen,
    "ReduceProd": _product,
    "Neg": _alone(lambda one: -one),
    "ConstantOfShape": _filled,
}
"""What is counted: operators on whole numbers, and on floats that become some again."""
