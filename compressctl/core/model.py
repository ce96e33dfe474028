"""What flows between stages: a model in one of two forms, and what it promises to take and give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compressctl.core.quant import QuantPlan


class Form(StrEnum):
    """torch: an nn.Module that can be trained. onnx: a graph, for what happens after training."""

    TORCH = "torch"
    ONNX = "onnx"


@dataclass(frozen=True)
class TensorSpec:
    """One input or output. dtype is numpy's name; a str in shape is a named dynamic axis, as in ("batch", 3, 32, 32)."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Signature:
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class StageRecord:
    """One stage that was applied. facts: what it found out, ready for JSON (layers left in float, ranks chosen, ...).

    pinned: what a recipe would say to get the same without a search, `use` and params, where the stage searched.
    """

    id: str
    use: str
    params: Mapping[str, Any]
    seconds: float
    facts: Mapping[str, Any] = field(default_factory=dict)
    cached: bool = False
    pinned: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Factory:
    """A function of the recipe's author that makes a network, as a recipe names it: relative to the recipe's folder."""

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """form says what body is: an nn.Module (in eval mode) or an onnx.ModelProto in float, which quant describes.

    sparse: names of parameters whose zeros a stage put there on purpose; training keeps them zero. factory: what makes the
    module's architecture, where a stage took another one than the recipe's model.
    """

    form: Form
    body: Any
    signature: Signature
    quant: QuantPlan | None = None
    history: tuple[StageRecord, ...] = ()
    sparse: tuple[str, ...] = ()
    factory: Factory | None = None
