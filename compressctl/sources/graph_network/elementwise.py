"""Operators that compute each number by itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional

from compressctl.sources.graph_network.numbers import as_tensor
from compressctl.sources.graph_network.types import DTYPES, Attributes, Given, Operator


def of_one(function: Callable[[Tensor], Tensor]) -> Operator:
    return lambda given, attributes: function(given[0])


def of_two(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda given, attributes: function(given[0], given[1])


def of_all(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda given, attributes: reduce(function, given)


def divided(given: Given, attributes: Attributes) -> Tensor:
    first, second = given
    if not first.is_floating_point() and not second.is_floating_point():
        return torch.div(first, second, rounding_mode="trunc")
    return torch.div(first, second)


def power(given: Given, attributes: Attributes) -> Tensor:
    return torch.pow(given[0], given[1]).to(given[0].dtype)


def remainder(given: Given, attributes: Attributes) -> Tensor:
    return torch.fmod(*given) if attributes.get("fmod") else torch.remainder(*given)


def clipped(given: Given, attributes: Attributes) -> Tensor:
    least, most = [*given[1:], None, None][:2]
    least = attributes.get("min") if least is None else least
    most = attributes.get("max") if most is None else most
    return given[0] if least is None and most is None else torch.clamp(given[0], least, most)


def cast(given: Given, attributes: Attributes) -> Tensor:
    return as_tensor(given[0]).to(DTYPES[attributes["to"]])


def gelu(given: Given, attributes: Attributes) -> Tensor:
    return functional.gelu(given[0], approximate=attributes.get("approximate", "none"))


def prelu(given: Given, attributes: Attributes) -> Tensor:
    return torch.where(given[0] >= 0, given[0], given[0] * given[1])


def hard_sigmoid(given: Given, attributes: Attributes) -> Tensor:
    return torch.clamp(attributes.get("alpha", 0.2) * given[0] + attributes.get("beta", 0.5), 0, 1)


def selu(given: Given, attributes: Attributes) -> Tensor:
    value: Tensor = given[0]
    alpha, gamma = attributes.get("alpha", 1.6732632423543772), attributes.get("gamma", 1.0507009873554805)
    return torch.where(value > 0, gamma * value, gamma * alpha * (torch.exp(value) - 1))
