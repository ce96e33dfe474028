"""Operators that make fewer numbers of many along axes, or add them up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from compressctl.sources.graph_network.numbers import as_list, as_tensor
from compressctl.sources.graph_network.types import Attributes, Given, Operator


def reduced(function: Callable[[Tensor, list[int], bool], Tensor]) -> Operator:
    def made(given: Given, attributes: Attributes) -> Tensor:
        value = as_tensor(given[0])
        axes = as_list(given[1]) if len(given) > 1 and given[1] is not None else list(attributes.get("axes", []))
        if not axes and attributes.get("noop_with_empty_axes"):
            return value
        return function(value, axes or list(range(value.ndim)), bool(attributes.get("keepdims", 1)))

    return made


def product(value: Tensor, axes: list[int], keeps: bool) -> Tensor:
    for axis in sorted((axis % value.ndim for axis in axes), reverse=True):
        value = value.prod(axis, keepdim=keeps)
    return value


def extreme(given: Given, attributes: Attributes, function: Callable[..., Tensor]) -> Tensor:
    return function(given[0], attributes.get("axis", 0), keepdim=bool(attributes.get("keepdims", 1)))


def top(given: Given, attributes: Attributes) -> Sequence[Tensor]:
    count = as_list(given[1])[0] if len(given) > 1 else attributes["k"]
    axis, largest = attributes.get("axis", -1), bool(attributes.get("largest", 1))
    return torch.topk(given[0], count, axis, largest, bool(attributes.get("sorted", 1)))


def summed_along(given: Given, attributes: Attributes) -> Tensor:
    axis = as_list(given[1])[0]
    value: Tensor = given[0].flip(axis) if attributes.get("reverse") else given[0]
    found = value.cumsum(axis)
    if attributes.get("exclusive"):
        found = found - value
    return found.flip(axis) if attributes.get("reverse") else found


def globally(function: Callable[[Tensor, list[int], bool], Tensor]) -> Operator:
    return lambda given, attributes: function(given[0], list(range(2, given[0].ndim)), True)
