"""Operators that move, choose and repeat numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from compressctl.sources.graph_network.numbers import as_list, as_tensor
from compressctl.sources.graph_network.types import DTYPES, Attributes, Given


def shape(given: Given, attributes: Attributes) -> list[int]:
    sizes = list(as_tensor(given[0]).shape)
    return sizes[attributes.get("start", 0) : attributes.get("end", len(sizes))]


def reshaped(given: Given, attributes: Attributes) -> Tensor:
    value, sizes = as_tensor(given[0]), as_list(given[1])
    if not attributes.get("allowzero"):
        sizes = [value.shape[axis] if isinstance(size, int) and size == 0 else size for axis, size in enumerate(sizes)]
    return value.reshape(sizes)


def flat(given: Given, attributes: Attributes) -> Tensor:
    """Two axes: all before one, and all from it on."""
    value: Tensor = given[0]
    axis = attributes.get("axis", 1)
    axis = axis % value.ndim if axis < 0 else axis
    if axis == 0:
        return value.reshape(1, -1)
    if axis == value.ndim:
        return value.flatten()[:, None]
    return value.flatten(axis).flatten(0, axis - 1)


def transposed(given: Given, attributes: Attributes) -> Tensor:
    value: Tensor = given[0]
    return value.permute(attributes.get("perm", list(range(value.ndim))[::-1]))


def _axes(given: Given, attributes: Attributes) -> list[int] | None:
    if len(given) > 1 and given[1] is not None:
        return as_list(given[1])
    return list(attributes["axes"]) if "axes" in attributes else None


def squeezed(given: Given, attributes: Attributes) -> Tensor:
    axes, value = _axes(given, attributes), as_tensor(given[0])
    return value.squeeze() if axes is None else value.squeeze([axis % value.ndim for axis in axes])


def unsqueezed(given: Given, attributes: Attributes) -> Tensor:
    axes, value = _axes(given, attributes) or [], as_tensor(given[0])
    for axis in sorted(axis % (value.ndim + len(axes)) for axis in axes):
        value = value.unsqueeze(axis)
    return value


def joined(given: Given, attributes: Attributes) -> Tensor:
    return torch.cat([as_tensor(part, like=given) for part in given], attributes["axis"])


def split(given: Given, attributes: Attributes) -> Sequence[Tensor]:
    value, axis = given[0], attributes.get("axis", 0)
    if len(given) > 1 and given[1] is not None:
        return torch.split(value, as_list(given[1]), axis)
    if "split" in attributes:
        return torch.split(value, list(attributes["split"]), axis)
    parts = attributes["outputs"]
    return torch.split(value, (value.shape[axis] + parts - 1) // parts, axis)


def sliced(given: Given, attributes: Attributes) -> Tensor:
    value = as_tensor(given[0])
    if "starts" in attributes:
        starts, ends = list(attributes["starts"]), list(attributes["ends"])
        axes, steps = list(attributes.get("axes", range(len(starts)))), [1] * len(starts)
    else:
        starts, ends = as_list(given[1]), as_list(given[2])
        axes = as_list(given[3]) if len(given) > 3 and given[3] is not None else list(range(len(starts)))
        steps = as_list(given[4]) if len(given) > 4 and given[4] is not None else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        value = _along(value, start, end, axis % value.ndim, step)
    return value


_BEYOND = 10**9
"""What exporters of JAX write for the end of any axis; TensorFlow's write 2**31 - 1, torch's 2**63 - 1."""


def _along(value: Tensor, start: int, end: int, axis: int, step: int) -> Tensor:
    place = (slice(None),) * axis
    if step > 0:
        # An end that no axis reaches is none: as a number it would bound an open size.
        last = None if isinstance(end, int) and end >= _BEYOND else end
        return value[(*place, slice(start, last, step))]
    positions = (
        list(range(value.shape[axis]))[slice(start, end, step)]
        if end >= -value.shape[axis]
        else list(range(value.shape[axis]))[start::step]
    )
    return value.index_select(axis, torch.tensor(positions, device=value.device))


def gathered(given: Given, attributes: Attributes) -> Tensor:
    value, axis = as_tensor(given[0]), attributes.get("axis", 0)
    axis %= value.ndim
    if isinstance(given[1], int):
        return value.select(axis, given[1])
    indices = as_tensor(given[1], like=given).long()
    indices = torch.where(indices < 0, indices + value.shape[axis], indices)
    found = value.index_select(axis, indices.reshape(-1))
    return found.reshape(*value.shape[:axis], *indices.shape, *value.shape[axis + 1 :])


def entries(given: Given, attributes: Attributes) -> Tensor:
    """Indices of a table's entries, counted from its end where they are below 0."""
    indices = as_tensor(given[0]).long()
    return torch.where(indices < 0, indices + attributes["count"], indices)


def gathered_elements(given: Given, attributes: Attributes) -> Tensor:
    axis = attributes.get("axis", 0)
    indices = torch.where(given[1] < 0, given[1] + given[0].shape[axis], given[1])
    return torch.gather(given[0], axis, indices)


def gathered_slices(given: Given, attributes: Attributes) -> Tensor:
    """GatherND: the last axis of the indices says where, in as many axes as it is long, behind those that both have."""
    value, indices = as_tensor(given[0]), as_tensor(given[1]).long()
    shared, depth = attributes.get("batch_dims", 0), indices.shape[-1]
    sizes = value.shape[shared : shared + depth]
    flat = value.reshape(*value.shape[:shared], -1, *value.shape[shared + depth :])
    place = torch.zeros_like(indices[..., 0])
    for axis in range(depth):
        one = indices[..., axis]
        place = place * sizes[axis] + torch.where(one < 0, one + sizes[axis], one)
    if shared == 0:
        return flat.index_select(0, place.reshape(-1)).reshape(*place.shape, *flat.shape[1:])
    batches = torch.arange(math.prod(value.shape[:shared]), device=value.device)
    rows = flat.reshape(-1, *flat.shape[shared:])
    found = rows[batches[:, None], place.reshape(len(batches), -1)]
    return found.reshape(*place.shape, *flat.shape[shared + 1 :])


def expanded(given: Given, attributes: Attributes) -> Tensor:
    value, sizes = as_tensor(given[0]), as_list(given[1])
    wanted: Any = torch.broadcast_shapes(tuple(value.shape), tuple(sizes))  # type: ignore[no-untyped-call]
    return value.expand(wanted)


def filled(given: Given, attributes: Attributes) -> Tensor:
    value = attributes.get("value")
    sizes = as_list(given[0])
    if value is None:
        return torch.zeros(sizes)
    return torch.full(sizes, value[0], dtype=DTYPES[value[1]])


def ranged(given: Given, attributes: Attributes) -> Tensor:
    found = torch.arange(*(_number(one) for one in given))
    return found.to(DTYPES[attributes["to"]]) if "to" in attributes else found


def _number(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.item()
    return value[0] if isinstance(value, list) else value


def tiled(given: Given, attributes: Attributes) -> Tensor:
    return as_tensor(given[0]).repeat(as_list(given[1]))


def triangle(given: Given, attributes: Attributes) -> Tensor:
    offset = as_list(given[1])[0] if len(given) > 1 and given[1] is not None else 0
    return torch.triu(given[0], offset) if attributes.get("upper", 1) else torch.tril(given[0], offset)


def depth_to_space(given: Given, attributes: Attributes) -> Tensor:
    value: Tensor = given[0]
    size = attributes["blocksize"]
    if attributes.get("mode", "DCR") == "CRD":
        return functional.pixel_shuffle(value, size)
    batch, channels, height, width = value.shape
    parts = value.reshape(batch, size, size, channels // size**2, height, width).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(batch, channels // size**2, height * size, width * size)


def space_to_depth(given: Given, attributes: Attributes) -> Tensor:
    value: Tensor = given[0]
    size = attributes["blocksize"]
    batch, channels, height, width = value.shape
    parts = value.reshape(batch, channels, height // size, size, width // size, size).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(batch, channels * size**2, height // size, width // size)
