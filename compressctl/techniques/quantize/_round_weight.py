"""One weight on its grid: the values that a runtime will compute with, and how they are stored."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from compressctl.core.quant import TensorQuant
from compressctl.graph.weight_nodes import WeightNode
from compressctl.numerics.gptq import gptq, output_error
from compressctl.numerics.grid import Grid, fit_grid, one_grid, row_chunks
from compressctl.numerics.half_quadratic import half_quadratic
from compressctl.techniques.quantize._moments import Moments
from compressctl.techniques.quantize.params import Bits, Granularity, WeightMethod

_COPIED_NUMBERS = 1 << 24
"""Numbers of a weight that is turned around before it is rounded, since strided reads take longer. A larger one is read as it lies."""


@dataclass(frozen=True)
class Treatment:
    """How a weight is rounded; see `quantize.weights`. splits_convolutions: whether groups were asked for of this very layer, so that
    a convolution's kernel is split into them too. signed: whether scales may be below zero."""

    bits: Bits
    method: WeightMethod
    symmetric: bool
    granularity: Granularity
    group_size: int
    clip_search: bool
    splits_convolutions: bool = False
    signed: bool = False


@dataclass(frozen=True)
class Rounded:
    """values: as the graph stores the weight, each on the grid of quant. method: what was done in the end.

    error: root of the squared error against the weight's own size, of the outputs where moments are known, of the weight
    otherwise. bits: in the file, for codes, scales and zero points together.
    """

    values: np.ndarray
    quant: TensorQuant
    method: str
    error: float
    bits: int


def round_weight(
    values: np.ndarray,
    node: WeightNode,
    treatment: Treatment,
    moments: Moments | None,
    damping: float,
    *,
    act_order: bool,
) -> Rounded:
    """values: as stored. moments: of the node's inputs, None when nothing is known about them."""
    treatment = _of_chosen(treatment, node, values.shape)
    along = _split_axis(values.shape, node, treatment)
    if along is not None:
        return _in_groups_along(values, along, treatment)
    matrix = _matrix(values, node)
    usable = moments if moments is not None and len(moments.magnitude) == matrix.shape[1] else None
    grid = _grid(matrix, node, treatment, None if usable is None else np.diag(usable.second))
    method: str = treatment.method
    if method in ("gptq", "awq") and usable is None:
        method = "rtn"
    if method == "gptq" and usable is not None:
        rounded = gptq(matrix, usable.second, grid, damping=damping, act_order=act_order)
    else:
        rounded = grid.values(matrix)
    quant = _as_quant(grid, node, treatment, values.shape)
    hessian = np.eye(1) if usable is None else usable.second
    if usable is None:
        error = _square(matrix, rounded) / max(_square(matrix), 1e-30)
    else:
        nothing = np.broadcast_to(np.float32(0), matrix.shape)
        error = output_error(matrix, rounded, hessian) / max(output_error(nothing, matrix, hessian), 1e-30)
    del matrix  # perhaps a copy, and what is stored may be another
    return Rounded(
        node.stored(rounded, values.shape), quant, method, max(error, 0.0) ** 0.5, _stored_bits(quant, values)
    )


_SHORTEST_GROUP = 16
"""Of weights of experts in ONNX Runtime."""


def _of_chosen(treatment: Treatment, node: WeightNode, shape: tuple[int, ...]) -> Treatment:
    """Matrices that are looked up, as of experts: ONNX Runtime's operator wants scales above zero, no zero points, and groups of a power of two that fill rows; or each row has one."""
    if node.op != "Gather" or not node.stacked:
        return treatment
    group = math.gcd(shape[node.column_axis], 1 << (treatment.group_size.bit_length() - 1))
    in_groups = treatment.granularity == "group" and group >= _SHORTEST_GROUP
    granularity: Granularity = "group" if in_groups else "channel"
    return replace(treatment, symmetric=True, signed=False, granularity=granularity, group_size=group)


def _matrix(values: np.ndarray, node: WeightNode) -> np.ndarray:
    """The node's matrix in float32, with its rows one after the other in memory, but where it is so large that a copy counts."""
    matrix = node.matrix(values)
    return np.asarray(matrix, np.float32) if matrix.size > _COPIED_NUMBERS else np.ascontiguousarray(matrix, np.float32)


def _square(matrix: np.ndarray, other: np.ndarray | None = None) -> float:
    """The sum of the squares, of the difference where there are two. They overflow in float32 from 2e19 on."""
    total = 0.0
    for part in row_chunks(*matrix.shape):
        rows = matrix[part] if other is None else other[part] - matrix[part]
        total += float(np.einsum("rk,rk->", rows, rows, dtype=np.float64))
    return total


def rounded_values(matrix: np.ndarray, power: np.ndarray, treatment: Treatment) -> np.ndarray:
    """A matrix product's (rows, columns) weight rounded to nearest; power: (columns,), mean square of its inputs.

    Whole ranges: this is tried for many scales of the inputs, and ranges are searched once for the one that is taken.
    """
    plain = replace(treatment, clip_search=False)
    return _fitted(matrix, plain, power, treatment.granularity).values(matrix)


def _grid(matrix: np.ndarray, node: WeightNode, treatment: Treatment, power: np.ndarray | None) -> Grid:
    return _fitted(matrix, treatment, power, _granularity(node, treatment))


def _granularity(node: WeightNode, treatment: Treatment) -> Granularity:
    """Kernels for blocks read matrices; a convolution's columns are too short, and too mixed, for groups."""
    is_convolution = node.op in ("Conv", "ConvTranspose")
    return "channel" if is_convolution and treatment.granularity == "group" else treatment.granularity


def _split_axis(shape: tuple[int, ...], node: WeightNode, treatment: Treatment) -> int | None:
    """The axis of a convolution's weight that is split into groups: its input channels, or the kernel where that is longer."""
    if node.op != "Conv" or not treatment.splits_convolutions or treatment.granularity != "group":
        return None
    axis = 1 + int(np.argmax(shape[1:]))
    return axis if shape[axis] > treatment.group_size else None


def _in_groups_along(values: np.ndarray, axis: int, treatment: Treatment) -> Rounded:
    """To nearest, a scale for each group of neighbours along the axis."""
    turned = np.ascontiguousarray(np.moveaxis(values, axis, -1), np.float32)
    matrix = turned.reshape(-1, turned.shape[-1])
    grid = _fitted(matrix, treatment, None, "group")
    rounded = grid.values(matrix)
    sizes = (*turned.shape[:-1], grid.scale.shape[1])
    dtype, point_dtype, limits = _stored_type(treatment, grid)
    parts = grid.scale, grid.zero_point.astype(point_dtype)
    scale, point = (np.ascontiguousarray(np.moveaxis(part.reshape(sizes), -1, axis)) for part in parts)
    quant = TensorQuant(dtype, scale, point, axis, grid.group, *limits)
    error = float(np.sum((rounded - matrix) ** 2) / max(float(np.sum(matrix**2)), 1e-30))
    stored = np.ascontiguousarray(np.moveaxis(rounded.reshape(turned.shape), -1, axis))
    return Rounded(stored, quant, "rtn", error**0.5, _stored_bits(quant, values))


def _fitted(matrix: np.ndarray, treatment: Treatment, power: np.ndarray | None, granularity: Granularity) -> Grid:
    search = treatment.clip_search and treatment.method != "hqq"
    # 8 bits gain next to nothing by one code more, and integer kernels, which take positive scales, may read them later.
    signed = treatment.signed and treatment.bits < 8
    if granularity == "tensor":
        return one_grid(
            matrix, treatment.bits, symmetric=treatment.symmetric, signed=signed, search=search, importance=power
        )
    group = treatment.group_size if granularity == "group" else matrix.shape[1]
    grid = fit_grid(
        matrix, treatment.bits, group, symmetric=treatment.symmetric, signed=signed, search=search, importance=power
    )
    return half_quadratic(matrix, grid) if treatment.method == "hqq" else grid


def _as_quant(grid: Grid, node: WeightNode, treatment: Treatment, shape: tuple[int, ...]) -> TensorQuant:
    dtype, point_dtype, limits = _stored_type(treatment, grid)
    scale, point = grid.scale, grid.zero_point.astype(point_dtype)
    if treatment.granularity == "tensor":
        return TensorQuant(dtype, scale[0, 0].reshape(()), point[0, 0].reshape(()), None, None, *limits)
    if _granularity(node, treatment) == "channel" and not node.stacked:
        axis, block, scale, point = node.row_axis, None, scale[:, 0], point[:, 0]
    else:
        # Rows of stacked matrices lie along two axes, so that a row's one scale is that of a block as long as the row.
        axis, block = node.column_axis, grid.group
        sizes = [scale.shape[1] if place == axis else size for place, size in enumerate(shape)]
        scale, point = node.stored(scale, sizes), node.stored(point, sizes)
    return TensorQuant(dtype, np.ascontiguousarray(scale), np.ascontiguousarray(point), axis, block, *limits)


def _stored_type(treatment: Treatment, grid: Grid) -> tuple[str, type[np.generic], tuple[int | None, int | None]]:
    """Of codes, of zero points, and the codes in use where they are fewer than the type has."""
    stored_bits = 4 if treatment.bits == 3 else treatment.bits
    dtype = f"{'' if treatment.symmetric else 'u'}int{stored_bits}"
    limits = (grid.low, grid.high) if treatment.bits == 3 else (None, None)
    return dtype, np.int8 if treatment.symmetric else np.uint8, limits


def _stored_bits(quant: TensorQuant, values: np.ndarray) -> int:
    width = int(quant.dtype.removeprefix("u").removeprefix("int"))
    points = 0 if not np.any(quant.zero_point) else width * np.size(quant.zero_point)
    return int(values.size * width + 32 * np.size(quant.scale) + points)
