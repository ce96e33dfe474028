"""The classes that a description may ask for, and how each is called to make another like it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from compressctl.core.registry import Registry

_TORCH = (
    "Identity", "Sequential", "ModuleList", "Flatten", "Unflatten",
    "Linear", "Bilinear", "Embedding", "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d",
    "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d", "LayerNorm",
    "GroupNorm", "LocalResponseNorm", "RMSNorm",
    "ReLU", "ReLU6", "LeakyReLU", "PReLU", "ELU", "SELU", "CELU", "GELU", "SiLU", "Mish", "Softplus", "Softsign", "Sigmoid",
    "Tanh", "Hardswish", "Hardsigmoid", "Hardtanh", "LogSigmoid", "Softmax", "LogSoftmax",
    "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout",
    "MaxPool1d", "MaxPool2d", "MaxPool3d", "AvgPool1d", "AvgPool2d", "AvgPool3d", "AdaptiveAvgPool1d", "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d", "AdaptiveMaxPool1d", "AdaptiveMaxPool2d", "AdaptiveMaxPool3d",
    "ZeroPad2d", "ReflectionPad1d", "ReflectionPad2d", "ReplicationPad1d", "ReplicationPad2d", "Upsample", "PixelShuffle",
    "PixelUnshuffle", "ChannelShuffle", "MultiheadAttention",
)  # fmt: skip
"""Of torch.nn. None of them runs code that an argument names, and none makes more modules than a few."""

modules: Registry[type[nn.Module]] = Registry(
    "module",
    "compressctl.modules",
    {
        "PassThrough": "compressctl.sources.modules.pass_through:PassThrough",
        "Skip": "compressctl.sources.modules.pass_through:PassThrough",  # its name in files that were written before
        "ProjectedRecurrent": "compressctl.sources.modules.projected_recurrent:ProjectedRecurrent",
        "EarlyExits": "compressctl.sources.modules.early_exits:EarlyExits",
        "ConvHead": "compressctl.sources.modules.exit_heads:ConvHead",
        "Experts": "compressctl.sources.modules.experts:Experts",
        "FewerTokens": "compressctl.sources.modules.fewer_tokens:FewerTokens",
        "GatedBlock": "compressctl.sources.modules.gated_block:GatedBlock",
        "PooledHead": "compressctl.sources.modules.exit_heads:PooledHead",
        "Select": "compressctl.sources.modules.select:Select",
        "SmallerImages": "compressctl.sources.modules.smaller_images:SmallerImages",
        "SplitAttention": "compressctl.sources.modules.split_attention:SplitAttention",
    },
)
"""Modules of our own and of other packages. Such a class has a method `constructor_arguments()` that gives plain values."""


def name_of(module: nn.Module) -> str | None:
    """What a description calls the module's class, None when it may not ask for it."""
    kind = type(module)
    name: str = kind.__name__
    if name in _TORCH and kind is getattr(nn, name):
        return name
    return next((name for name in modules.names() if modules.get(name) is kind), None)


def class_of(name: str) -> type[nn.Module] | None:
    """The class that a description calls so, None when there is none."""
    if name in _TORCH:
        kind: type[nn.Module] = getattr(nn, name)
        return kind
    return modules.get(name) if name in modules else None


def arguments(module: nn.Module) -> Mapping[str, Any]:
    """Keyword arguments with which the module's class makes one of the same shape.

    torch's modules keep each argument under its own name; `bias` alone is the parameter itself there.
    """
    own = getattr(module, "constructor_arguments", None)
    if callable(own):
        return dict(own())
    if isinstance(module, nn.Sequential | nn.ModuleList | nn.Identity):
        return {}
    if isinstance(module, nn.MultiheadAttention):
        return _attention_arguments(module)
    found = {}
    for name in accepted(type(module)):
        value = getattr(module, name, None)
        found[name] = value is not None and value is not False if name == "bias" else value
    return found


def accepted(kind: type[nn.Module]) -> list[str]:
    """The keyword arguments that a description may give; those on memory are ours to choose."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    given = inspect.signature(kind).parameters.values()
    return [each.name for each in given if each.kind in named and each.name not in _OURS]


_OURS = ("device", "dtype", "_weight", "_freeze", "modules")


def _attention_arguments(module: nn.MultiheadAttention) -> Mapping[str, Any]:
    plain = ("embed_dim", "num_heads", "dropout", "add_zero_attn", "kdim", "vdim", "batch_first")
    found = {name: getattr(module, name) for name in plain}
    return {**found, "bias": module.in_proj_bias is not None, "add_bias_kv": module.bias_k is not None}
