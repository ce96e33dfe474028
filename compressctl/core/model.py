"""What flows between stages: a model in one of two forms, and what it promises to take and give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import onnx
    from torch import nn

    from compressctl.core.quant import QuantPlan


class Form(StrEnum):
    """torch: an nn.Module that can be trained. onnx: a graph, for what happens after training."""

    TORCH = "torch"
    ONNX = "onnx"


@dataclass(frozen=True)
class TensorSpec:
    """One input or output. dtype is numpy's name; a str in shape is a named open axis, as in ("batch", 3, 32, 32).

    batch_axis: the axis that counts samples, None where there is none: a sampling rate, a table, a length of the whole call.
    fed_by: of a state, the output that is its value at the next step. value: of an input that has the same one in every call.
    argument: of a torch network's input, the argument of forward that it goes to, a dotted way where that holds several; None: by name or place.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    batch_axis: int | None = 0
    fed_by: str | None = None
    value: float | None = None
    argument: str | None = None

    def __post_init__(self) -> None:
        if self.batch_axis is not None and self.batch_axis >= len(self.shape):
            object.__setattr__(self, "batch_axis", None)

    @property
    def batch(self) -> int | str | None:
        """The size along the batch axis: a number where the model fixes it, a name where it is open, None without one."""
        return None if self.batch_axis is None else self.shape[self.batch_axis]

    def is_open(self, axis: int) -> bool:
        """Whether the axis has no size of its own and counts something else than samples."""
        return isinstance(self.shape[axis], str) and axis != self.batch_axis


def fits(ours: Sequence[int | str], theirs: Sequence[int | str]) -> bool:
    """Whether two shapes agree wherever both say a size."""
    known = [(a, b) for a, b in zip(ours, theirs, strict=False) if isinstance(a, int) and isinstance(b, int)]
    return len(ours) == len(theirs) and all(a == b for a, b in known)


@dataclass(frozen=True)
class Signature:
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def fixed_batch(self) -> int | None:
        """How many samples a call takes where the model says so; 1 where no input has a batch axis; None where any number."""
        sizes = [spec.batch for spec in self.inputs if spec.batch is not None]
        fixed = [size for size in sizes if isinstance(size, int)]
        return fixed[0] if fixed else None if sizes else 1

    @property
    def states(self) -> dict[str, str]:
        """By input, the output that is its value at the next step; empty for a model that remembers nothing between calls."""
        return {spec.name: spec.fed_by for spec in self.inputs if spec.fed_by is not None}

    @property
    def open_axes(self) -> dict[str, str]:
        """Axes whose size only a sample tells: `input.axis` to the name that the model gives it."""
        return {
            f"{spec.name}.{axis}": str(spec.shape[axis])
            for spec in self.inputs
            for axis in range(len(spec.shape))
            if spec.is_open(axis)
        }


def one_at_a_time(signature: Signature) -> Signature:
    """The same with every batch fixed to one sample."""

    def fixed(spec: TensorSpec) -> TensorSpec:
        sizes = [1 if axis == spec.batch_axis else size for axis, size in enumerate(spec.shape)]
        return replace(spec, shape=tuple(sizes))

    return Signature(tuple(map(fixed, signature.inputs)), tuple(map(fixed, signature.outputs)))


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
class TorchModel:
    """A network that can be trained. body: in eval mode.

    sparse: names of parameters whose zeros a stage put there on purpose; training keeps them zero. factory: what makes the
    module's architecture, where a stage took another one than the recipe's model.
    """

    body: nn.Module
    signature: Signature
    history: tuple[StageRecord, ...] = ()
    sparse: tuple[str, ...] = ()
    factory: Factory | None = None
    form: ClassVar = Form.TORCH


@dataclass(frozen=True)
class OnnxModel:
    """A graph in float, for what happens after training. quant: what of it shall run on integers, as data beside it."""

    body: onnx.ModelProto
    signature: Signature
    quant: QuantPlan | None = None
    history: tuple[StageRecord, ...] = ()
    form: ClassVar = Form.ONNX


Model = TorchModel | OnnxModel
