"""Multiply-accumulates of a file's nodes at the shapes of a real sample, as OpenVINO infers them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path

import openvino


def macs_at(path: Path, inputs: Mapping[str, Sequence[int]]) -> Iterator[tuple[str, int | None]]:
    """Name and MACs of each operator that multiplies, None where its shapes stay unknown. Nothing where the shapes do not fit.

    inputs: shapes by name of the input; those that the file does not have are left out.
    """
    model = openvino.Core().read_model(path)
    wanted = {
        port: openvino.PartialShape([int(size) for size in inputs[name]])
        for port in model.inputs
        for name in port.get_names()
        if name in inputs
    }
    try:
        model.reshape(wanted)
    except RuntimeError:
        # Sizes that a Reshape in the file does not take; what the file was built with stays.
        return
    for node in model.get_ordered_ops():
        count = _COUNTERS.get(node.get_type_name())
        if count is not None:
            yield node.get_friendly_name(), count(node)


def _convolution(skipped: int) -> Callable[[openvino.Node], int | None]:
    """Each output element sums over the weight's axes behind the first: (groups,) out, in, kernel."""

    def count(node: openvino.Node) -> int | None:
        made, weight = _shape(node.get_output_partial_shape(0)), _shape(node.get_input_partial_shape(1))
        return None if made is None or weight is None else prod(made) * prod(weight[skipped:])

    return count


def _transposed(skipped: int) -> Callable[[openvino.Node], int | None]:
    """Each input element is spread over the weight's axes behind the first: (groups,) in, out, kernel."""

    def count(node: openvino.Node) -> int | None:
        given, weight = _shape(node.get_input_partial_shape(0)), _shape(node.get_input_partial_shape(1))
        return None if given is None or weight is None else prod(given) * prod(weight[skipped:])

    return count


def _product(node: openvino.Node) -> int | None:
    made, left = _shape(node.get_output_partial_shape(0)), _shape(node.get_input_partial_shape(0))
    if made is None or left is None:
        return None
    swapped = bool(node.get_attributes().get("transpose_a", False)) and len(left) > 1
    return prod(made) * left[-2 if swapped else -1]


_COUNTERS: Mapping[str, Callable[[openvino.Node], int | None]] = {
    "Convolution": _convolution(1),
    "GroupConvolution": _convolution(2),
    "ConvolutionBackpropData": _transposed(1),
    "GroupConvolutionBackpropData": _transposed(2),
    "MatMul": _product,
}
"""Recurrent layers and Einsum keep what the ONNX graph says: OpenVINO takes them apart."""


def _shape(found: openvino.PartialShape) -> list[int] | None:
    return [int(size) for size in found.to_shape()] if found.is_static else None
