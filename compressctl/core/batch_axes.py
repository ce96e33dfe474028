"""Which axis of each input and output counts samples, from shapes and the names of their open axes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from compressctl.core.model import Signature, TensorSpec

_SAMPLES = re.compile(r"^(n|b|bs|nb|batch|.*batch.*|num_samples|bsz)$", re.IGNORECASE)
_NO_SAMPLES = re.compile(
    r"^(h|w|c|t|l|s|d|height|width|channels?|time|times?teps?|frames?|length|.*len(gth)?|seq.*|.*seq.*|tokens?|audio.*|rows|cols|"
    r"columns|num_(boxes|tokens|frames|points)|.*(height|width).*)$",
    re.IGNORECASE,
)
"""Names that exporters and people give to axes that do not count samples."""


_GENERATED = re.compile(r"^(unk__\d+|.*DynamicDimension\.\d+|dynamic_axes_\d+)$")
"""Names that converters number: another one for each axis, whatever the axes have in common."""


def with_batch_axes(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], declared: Mapping[str, int | None] | None = None
) -> Signature:
    """The signature with every tensor's batch axis.

    declared: what somebody said, by input name; it decides. An open axis named like a batch (`N`, `batch`, ...) is one wherever
    it stands; else the first axis is, unless its name says otherwise. A state whose first axis is fixed has its batch on
    axis 1, as recurrent layers have (num_layers, batch, hidden). Where every size is fixed, the first input's first axis counts
    samples, and so does the axis of that size in the others.
    """
    known = declared or {}
    symbol = _symbol([spec for spec in inputs if spec.name not in known])
    for spec in inputs:
        axis = known.get(spec.name)
        if axis is not None and isinstance(spec.shape[axis], str):
            symbol = str(spec.shape[axis])
    fixed = None if symbol else _fixed(inputs)
    placed = tuple(
        replace(spec, batch_axis=known[spec.name] if spec.name in known else _axis(spec, symbol, fixed))
        for spec in inputs
    )
    named = symbol or fixed is not None or any(spec.batch_axis is not None for spec in placed)
    return Signature(
        placed,
        tuple(replace(spec, batch_axis=_output_axis(spec, symbol, fixed) if named else None) for spec in outputs),
    )


def _symbol(inputs: Sequence[TensorSpec]) -> str | None:
    """The name of the axis that counts samples; None where no open axis does."""
    named = Counter(axis for spec in inputs for axis in spec.shape if isinstance(axis, str) and _SAMPLES.match(axis))
    if named:
        return named.most_common(1)[0][0]
    leading = [spec.shape[0] for spec in sorted(inputs, key=lambda spec: len(spec.shape) < 2) if spec.shape]
    return next((axis for axis in leading if isinstance(axis, str) and not _NO_SAMPLES.match(axis)), None)


def _fixed(inputs: Sequence[TensorSpec]) -> int | None:
    """The number of samples that a graph takes in which the batch is a number; None where its first axis is something else.

    A vector of a fixed size alone is one sample: nothing says that its entries are several.
    """
    ranked = [spec for spec in inputs if len(spec.shape) > 1]
    first = ranked[0].shape[0] if ranked else None
    return first if isinstance(first, int) else None


def _axis(spec: TensorSpec, symbol: str | None, fixed: int | None) -> int | None:
    if symbol is not None:
        if symbol in spec.shape:
            return spec.shape.index(symbol)
        if _GENERATED.match(symbol) and spec.shape and _GENERATED.match(str(spec.shape[0])):
            return 0
        # A recurrent state whose exporter gave its batch another name than the input's, or none.
        is_state = len(spec.shape) > 2 and isinstance(spec.shape[0], int) and isinstance(spec.shape[1], str)
        return 1 if is_state and not _NO_SAMPLES.match(str(spec.shape[1])) else None
    if fixed is None:
        return None
    return next((axis for axis in (0, 1) if len(spec.shape) > axis and spec.shape[axis] == fixed), None)


def _output_axis(spec: TensorSpec, symbol: str | None, fixed: int | None) -> int | None:
    if not spec.shape:
        return None
    if symbol is not None and symbol in spec.shape:
        return spec.shape.index(symbol)
    if symbol is None and fixed is not None:
        return next((axis for axis in (0, 1) if len(spec.shape) > axis and spec.shape[axis] == fixed), None)
    # Exporters call one axis by several names: an open first axis counts samples unless its name says otherwise.
    first = spec.shape[0]
    return 0 if isinstance(first, str) and not _NO_SAMPLES.match(first) else None
