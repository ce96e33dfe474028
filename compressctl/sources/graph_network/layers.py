"""Nodes with stored weights as torch's layers, which hold them as parameters: what pruning, factorizing and quantizing know."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from compressctl.graph.activations import Kind
from compressctl.sources.graph_network.recurrent import recurrent

_CONVOLUTIONS: Sequence[Callable[..., nn.Module]] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED: Sequence[Callable[..., nn.Module]] = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BATCH_NORMS: Sequence[Callable[..., nn.Module]] = (
    nn.BatchNorm1d,
    nn.BatchNorm1d,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
)
_INSTANCE_NORMS: Sequence[Callable[..., nn.Module]] = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


@dataclass(frozen=True)
class Layer:
    """module: in place of a node. reads: which of the node's inputs it is called with. before: a step in front of it, operator and attributes.
    weight: the constant that is module.weight as it is, for layers that share it."""

    module: nn.Module
    reads: tuple[str, ...]
    before: tuple[str, Mapping[str, Any]] | None = None
    weight: str | None = None


@dataclass(frozen=True)
class Stored:
    """What a graph knows about a node: constants by name, and how many axes tensors have."""

    constants: Mapping[str, np.ndarray]
    ranks: Mapping[str, int] = field(default_factory=dict)

    def __call__(self, name: str) -> np.ndarray | None:
        return self.constants.get(name)

    def floats(self, names: Sequence[str]) -> list[np.ndarray] | None:
        """All of them, where all are stored in float32."""
        found = [self.constants.get(name) for name in names]
        known = [one for one in found if one is not None and one.dtype == np.float32]
        return known if len(known) == len(names) else None


def layer_of(op: str, inputs: Sequence[str], attributes: Mapping[str, Any], stored: Stored) -> Layer | None:
    """None for a node that holds no weights, or holds them in a way that no layer of torch's does: it is computed by its operator."""
    make = _MAKERS.get(op)
    return None if make is None else make(tuple(inputs), attributes, stored)


def _convolution(inputs: tuple[str, ...], attributes: Mapping[str, Any], stored: Stored) -> Layer | None:
    weights = stored.floats([name for name in inputs[1:] if name])
    if weights is None or not 3 <= weights[0].ndim <= 5:
        return None
    weight, dims = weights[0], weights[0].ndim - 2
    strides, dilations = _sizes(attributes, "strides", dims), _sizes(attributes, "dilations", dims)
    pads = tuple(attributes.get("pads", (0,) * 2 * dims))
    mode = attributes.get("auto_pad", "NOTSET")
    before: tuple[str, Mapping[str, Any]] | None = None
    padding = (0,) * dims
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        before = (
            "SamePad",
            {
                "kernel_shape": list(weight.shape[2:]),
                "strides": list(strides),
                "dilations": list(dilations),
                "auto_pad": mode,
            },
        )
    elif mode != "VALID" and pads[:dims] == pads[dims:]:
        padding = pads[:dims]
    elif mode != "VALID":
        before = "Pad", {"pads": [0, 0, *pads[:dims], 0, 0, *pads[dims:]]}
    groups = attributes.get("group", 1)
    made = _CONVOLUTIONS[dims - 1](
        weight.shape[1] * groups, weight.shape[0], weight.shape[2:], strides, padding, dilations, groups, len(weights) > 1
    )  # fmt: skip
    return Layer(_filled(made, weight=weight, bias=_second(weights)), inputs[:1], before, inputs[1])


def _transposed(inputs: tuple[str, ...], attributes: Mapping[str, Any], stored: Stored) -> Layer | None:
    weights = stored.floats([name for name in inputs[1:] if name])
    if (
        weights is None
        or not 3 <= weights[0].ndim <= 5
        or attributes.get("auto_pad", "NOTSET") != "NOTSET"
        or "output_shape" in attributes
    ):
        return None
    weight, dims = weights[0], weights[0].ndim - 2
    pads = tuple(attributes.get("pads", (0,) * 2 * dims))
    if pads[:dims] != pads[dims:]:
        return None
    groups = attributes.get("group", 1)
    made = _TRANSPOSED[dims - 1](
        weight.shape[0], weight.shape[1] * groups, weight.shape[2:], _sizes(attributes, "strides", dims), pads[:dims],
        tuple(attributes.get("output_padding", (0,) * dims)), groups, len(weights) > 1, _sizes(attributes, "dilations", dims),
    )  # fmt: skip
    return Layer(_filled(made, weight=weight, bias=_second(weights)), inputs[:1], None, inputs[1])


def _product(inputs: tuple[str, ...], attributes: Mapping[str, Any], stored: Stored) -> Layer | None:
    """Of a MatMul: its weight is (inputs, outputs)."""
    weights = stored.floats(inputs[1:])
    if weights is None or weights[0].ndim != 2 or inputs[0] in stored.constants:
        return None
    return Layer(_linear(weights[0].T, None), inputs[:1])


def _general_product(inputs: tuple[str, ...], attributes: Mapping[str, Any], stored: Stored) -> Layer | None:
    weights = stored.floats([name for name in inputs[1:] if name])
    scaled = attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0 or attributes.get("transA", 0)
    if weights is None or scaled or weights[0].ndim != 2:
        return None
    turned = bool(attributes.get("transB", 0))
    weight, bias = weights[0] if turned else weights[0].T, _second(weights)
    if bias is not None and bias.size not in (1, len(weight)):
        return None
    full = None if bias is None else np.broadcast_to(bias.reshape(-1), (len(weight),))
    return Layer(_linear(weight, full), inputs[:1], None, inputs[1] if turned else None)


def _linear(weight: np.ndarray, bias: np.ndarray | None) -> nn.Module:
    return _filled(nn.Linear(weight.shape[1], weight.shape[0], bias is not None), weight=weight, bias=bias)


def _batch_norm(inputs: tuple[str, ...], attributes: Mapping[str, Any], stored: Stored) -> Layer | None:
    parts, rank = stored.floats(inputs[1:]), stored.ranks.get(inputs[0])
    if parts is None or rank is None or not 2 <= rank <= 5:
        return None
    scale, shift, mean, variance = parts
    made = _BATCH_NORMS[rank - 1](len(scale), attributes.get("epsilon", 1e-5), 1.0 - attributes.get("momentum", 0.9))
    return Layer(_filled(made, weight=scale, bias=shift, running_mean=mean, running_var=variance), inputs[:1])


def _instance_norm(inputs: tuple[str, ...], attributes: Mapping[str, Any], stored: Stored) -> Layer | None:
    parts, rank = stored.floats(inputs[1:]), stored.ranks.get(inputs[0])
    if parts is None or rank is None or not 3 <= rank <= 5:
        return None
    made = _INSTANCE_NORMS[rank - 3](len(parts[0]), attributes.get("epsilon", 1e-5), affine=True)
    return Layer(_filled(made, weight=parts[0], bias=parts[1]), inputs[:1])


def _layer_norm(inputs: tuple[str, ...], attributes: Mapping[str, Any], stored: Stored) -> Layer | None:
    parts, rank = stored.floats([name for name in inputs[1:] if name]), stored.ranks.get(inputs[0])
    if parts is None or rank is None or len(inputs) < 2:
        return None
    axis = attributes.get("axis", -1) % rank
    if rank - axis != parts[0].ndim or any(part.shape != parts[0].shape for part in parts):
        return None
    made = nn.LayerNorm(parts[0].shape, attributes.get("epsilon", 1e-5), bias=len(parts) > 1)
    return Layer(_filled(made, weight=parts[0], bias=_second(parts)), inputs[:1])


def _table(inputs: tuple[str, ...], attributes: Mapping[str, Any], stored: Stored) -> Layer | None:
    """Of a Gather from stored rows."""
    table = stored.floats(inputs[:1])
    if table is None or table[0].ndim != 2 or attributes.get("axis", 0) != 0 or inputs[1] in stored.constants:
        return None
    made = nn.Embedding(*table[0].shape)
    return Layer(_filled(made, weight=table[0]), inputs[1:], ("Entries", {"count": len(table[0])}), inputs[0])


def _slopes(inputs: tuple[str, ...], attributes: Mapping[str, Any], stored: Stored) -> Layer | None:
    slope, rank = stored.floats(inputs[1:]), stored.ranks.get(inputs[0])
    if slope is None or rank is None or slope[0].ndim > rank:
        return None
    shape = (1,) * (rank - slope[0].ndim) + slope[0].shape
    if slope[0].size > 1 and (rank < 2 or shape[1] != slope[0].size):
        return None
    return Layer(_filled(nn.PReLU(slope[0].size), weight=slope[0].reshape(-1)), inputs[:1])


def _recurrent(op: str) -> Callable[[tuple[str, ...], Mapping[str, Any], Stored], Layer | None]:
    def made(inputs: tuple[str, ...], attributes: Mapping[str, Any], stored: Stored) -> Layer | None:
        weights = stored.floats([name for name in inputs[1:4] if name])
        states = inputs[5:7] if op == "LSTM" else inputs[5:6]
        has_all = len(states) == (2 if op == "LSTM" else 1) and all(states)
        if weights is None or any(inputs[4:5]) or any(inputs[7:]) or (any(states) and not has_all):
            return None
        module = recurrent(op, weights, attributes)
        return None if module is None else Layer(module, (inputs[0], *(states if has_all else ())))

    return made


def _activation(make: Callable[[Mapping[str, Any]], nn.Module]) -> Callable[..., Layer]:
    """A module of its own, so that another can take its place."""

    def made(inputs: tuple[str, ...], attributes: Mapping[str, Any], stored: Stored) -> Layer:
        return Layer(make(attributes), inputs[:1])

    return made


_ACTIVATIONS: Mapping[str, Callable[[Mapping[str, Any]], nn.Module]] = {
    "Relu": lambda attributes: nn.ReLU(),
    "HardSwish": lambda attributes: nn.Hardswish(),
    "Mish": lambda attributes: nn.Mish(),
    "Gelu": lambda attributes: nn.GELU(attributes.get("approximate", "none")),
    "Elu": lambda attributes: nn.ELU(attributes.get("alpha", 1.0)),
    "Celu": lambda attributes: nn.CELU(attributes.get("alpha", 1.0)),
    "LeakyRelu": lambda attributes: nn.LeakyReLU(attributes.get("alpha", 0.01)),
    "Softplus": lambda attributes: nn.Softplus(),
    "Softsign": lambda attributes: nn.Softsign(),
}


SPELLED: Mapping[Kind, tuple[str, Mapping[str, Any], Callable[[], nn.Module]]] = {
    "hard_swish": ("HardSwish", {}, nn.Hardswish),
    "hard_sigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}, nn.Hardsigmoid),
    "silu": ("Sigmoid", {}, nn.SiLU),
    "gelu": ("Gelu", {}, nn.GELU),
    "gelu_tanh": ("Gelu", {}, partial(nn.GELU, "tanh")),
    "mish": ("Mish", {}, nn.Mish),
}
"""Of activations in several nodes: the operator that means the same, its attributes, and the module."""


_MAKERS: Mapping[str, Callable[[tuple[str, ...], Mapping[str, Any], Stored], Layer | None]] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "MatMul": _product,
    "Gemm": _general_product,
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "Gather": _table,
    "PRelu": _slopes,
    "LSTM": _recurrent("LSTM"),
    "GRU": _recurrent("GRU"),
    **{op: _activation(make) for op, make in _ACTIVATIONS.items()},
}


def _sizes(attributes: Mapping[str, Any], name: str, dims: int) -> tuple[int, ...]:
    return tuple(attributes.get(name, (1,) * dims))


def _second(parts: Sequence[np.ndarray]) -> np.ndarray | None:
    return parts[1] if len(parts) > 1 else None


def _filled(module: nn.Module, **values: np.ndarray | None) -> nn.Module:
    """With these as its parameters and buffers."""
    with torch.no_grad():
        for name, value in values.items():
            if value is not None:
                getattr(module, name).copy_(torch.from_numpy(np.array(value, np.float32)))
    return module
