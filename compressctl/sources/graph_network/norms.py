"""Products, normalizations and softmax."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from compressctl.sources.graph_network.types import Attributes, Given

_NONZERO = 1e-12


def general_product(given: Given, attributes: Attributes) -> Tensor:
    first, second, *rest = given
    first = first.T if attributes.get("transA") else first
    second = second.T if attributes.get("transB") else second
    found: Tensor = attributes.get("alpha", 1.0) * (first @ second)
    return found if not rest or rest[0] is None else found + attributes.get("beta", 1.0) * rest[0]


def softmax(given: Given, attributes: Attributes, function: Callable[..., Tensor]) -> Tensor:
    value = given[0]
    if attributes["opset"] >= 13:
        return function(value, attributes.get("axis", -1))
    axis = attributes.get("axis", 1) % value.ndim  # older ones take everything from the axis on as one
    return function(value.flatten(axis), -1).reshape(value.shape)


def layer_norm(given: Given, attributes: Attributes) -> Tensor:
    value, scale, *rest = given
    axis = attributes.get("axis", -1) % value.ndim
    sizes = value.shape[axis:]
    found: Tensor = functional.layer_norm(value, sizes, None, None, attributes.get("epsilon", 1e-5)) * scale
    return found if not rest or rest[0] is None else found + rest[0]


def batch_norm(given: Given, attributes: Attributes) -> Tensor:
    value, scale, shift, mean, variance = given
    return functional.batch_norm(value, mean, variance, scale, shift, False, 0.0, attributes.get("epsilon", 1e-5))


def instance_norm(given: Given, attributes: Attributes) -> Tensor:
    return functional.instance_norm(given[0], weight=given[1], bias=given[2], eps=attributes.get("epsilon", 1e-5))


def group_norm(given: Given, attributes: Attributes) -> Tensor:
    value, scale, shift = given
    groups = attributes["num_groups"]
    if scale.numel() == groups and scale.numel() != value.shape[1]:  # opset 18: by group
        scale, shift = (part.repeat_interleave(value.shape[1] // groups) for part in (scale, shift))
    return functional.group_norm(value, groups, scale, shift, attributes.get("epsilon", 1e-5))


def local_response(given: Given, attributes: Attributes) -> Tensor:
    size = attributes["size"]
    return functional.local_response_norm(
        given[0], size, attributes.get("alpha", 1e-4), attributes.get("beta", 0.75), attributes.get("bias", 1.0)
    )


def normalized(given: Given, attributes: Attributes) -> Tensor:
    value: Tensor = given[0]
    size: Tensor = torch.linalg.vector_norm(value, attributes.get("p", 2), attributes.get("axis", -1), keepdim=True)
    return value / size.clamp(min=_NONZERO)
