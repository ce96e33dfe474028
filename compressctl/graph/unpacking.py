"""Standard ONNX operators that make a constant from its packed form, all of constants, so that a runtime folds them at load.

Bytes are taken apart by looking them up: row b of the table for 4 bits holds the two codes in byte b. What runtimes fold decides
which operators are used: OpenVINO folds neither GatherElements nor CumSum, ONNX Runtime no NonZero, and TensorRT's parser knows no BitShift.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from compressctl.graph.tensors import from_array, message_bytes
from compressctl.numerics.bitpack import code_bits, pack_planes, planes, split_bits
from compressctl.numerics.codebook import Coded

PREFIX = "unpack."
"""Begins the name of every node and constant that unpacks, by which a reader knows them."""

MASK_ROW = 256
"""Places of a mask whose sum up to there is stored: 32 bits for 256."""

_INT32, _FLOAT = onnx.TensorProto.INT32, onnx.TensorProto.FLOAT


class Unpacking:
    """Nodes and constants that make one tensor, in order. shared: those that all tensors of a file use, by name.

    The node that makes the tensor says its type and shape, so that a reader need not run the nodes to know them.
    """

    def __init__(
        self, tensor: str, values: np.ndarray, number: int, shared: dict[str, onnx.TensorProto | onnx.NodeProto]
    ) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self._tensor = tensor
        self._says = f"{values.dtype.name} {'x'.join(map(str, values.shape))}"
        self._number = number
        self._shared = shared

    @property
    def size_bytes(self) -> int:
        """What they take in the file; what all tensors share is left out."""
        sizes = [node.ByteSize() for node in self.nodes] + [message_bytes(tensor) for tensor in self.tensors]
        return sum(size + 4 for size in sizes)

    def constant(self, value: np.ndarray) -> str:
        name = f"{PREFIX}{self._number}.{len(self.tensors)}c"
        self.tensors.append(from_array(np.asarray(value, order="C"), name))
        return name

    def node(
        self, op: str, inputs: Sequence[str], attributes: Mapping[str, Any] | None = None, *, last: bool = False
    ) -> str:
        """Add a node and return its output; the last one makes the tensor itself."""
        name = f"{PREFIX}{self._number}.{len(self.nodes)}"
        output = self._tensor if last else name
        says = self._says if last else None
        self.nodes.append(helper.make_node(op, list(inputs), [output], name, says, **(attributes or {})))
        return output

    def table(self, width: int) -> str:
        """(256, 8 / width) int32: the codes of every byte. One for all tensors of a file."""
        name = f"{PREFIX}table.{width}"
        if name not in self._shared:
            every = np.arange(256, dtype=np.uint8)[:, None]
            self._shared[f"{name}.bytes"] = from_array(split_bits(every, width), f"{name}.bytes")
            self._shared[name] = helper.make_node("Cast", [f"{name}.bytes"], [name], name, to=_INT32)
        return name

    def triangle(self) -> str:
        """(MASK_ROW, MASK_ROW) float32: ones where the column is not before the row. One for all tensors of a file."""
        name = f"{PREFIX}table.triangle"
        if name not in self._shared:
            parts: dict[str, np.ndarray] = {
                "count": np.arange(MASK_ROW, dtype=np.int32)[None],
                "column": np.array([-1, 1], np.int64),
            }
            for part, value in parts.items():
                self._shared[f"{name}.{part}"] = from_array(value, f"{name}.{part}")
            count, row, where = f"{name}.count", f"{name}.row", f"{name}.where"
            for op, inputs, output in (("Reshape", [count, f"{name}.column"], row), ("Less", [count, row], where)):
                self._shared[output] = helper.make_node(op, inputs, [output], output)
            before = f"{name}.not"
            self._shared[before] = helper.make_node("Not", [where], [before], before)
            self._shared[name] = helper.make_node("Cast", [before], [name], name, to=_FLOAT)
        return name


def unpack_dense(work: Unpacking, coded: Coded, *, turned: bool = False) -> None:
    """Every value is an index into a codebook. turned: the codes are those of the transposed matrix."""
    shape = _code_shape(work, coded)
    _look_up(work, coded, _codes(work, coded.indices, coded.bits, shape), turned=turned)


def unpack_masked(work: Unpacking, coded: Coded, *, turned: bool = False) -> None:
    """As unpack_dense, but only indices other than 0 are stored, and a mask that says where they are."""
    others = coded.indices.reshape(-1)
    others = others[others != 0] - np.uint8(1)
    minus, one = work.constant(np.array([-1], np.int32)), work.constant(np.array(1, np.int32))
    if others.size:
        flat = work.constant(np.array([-1], np.int64))
        stored = _codes(work, others, code_bits(max(1, coded.codebook.shape[1] - 1)), flat)
        stored = work.node("Concat", [minus, stored], {"axis": 0})
    else:
        stored = minus
    places = _places(work, coded.indices.reshape(-1) != 0)
    codes = work.node("Gather", [work.node("Add", [stored, one]), places])
    _look_up(work, coded, work.node("Reshape", [codes, _code_shape(work, coded)]), turned=turned)


def unpack_sparse(work: Unpacking, values: np.ndarray, kept: np.ndarray) -> None:
    """The values where the mask `kept`, of their shape, is true, and +0.0 elsewhere."""
    stored = np.concatenate([np.zeros(1, values.dtype), values[kept]])
    found = work.node("Gather", [work.constant(stored), _places(work, kept.reshape(-1))])
    work.node("Reshape", [found, work.constant(np.array(values.shape, np.int64))], last=True)


def _places(work: Unpacking, mask: np.ndarray) -> str:
    """int32, of the size of the mask: 0 where it is false, else how many are true up to there.

    Running sums within rows are products with a triangle of ones, since no runtime but one folds CumSum; sums up to each row
    are stored. All numbers are small integers, which float32 holds exactly.
    """
    rows = -(-mask.size // MASK_ROW)
    whole = np.zeros(rows * MASK_ROW, np.uint8)
    whole[: mask.size] = mask
    before = np.cumsum(whole.reshape(rows, MASK_ROW).sum(axis=1, dtype=np.int32)) - whole.reshape(rows, -1).sum(axis=1)
    bits = _codes(work, whole, 1, work.constant(np.array([rows, MASK_ROW], np.int64)))
    numbers = work.node("Cast", [bits], {"to": _FLOAT})
    within = work.node("Cast", [work.node("MatMul", [numbers, work.triangle()])], {"to": _INT32})
    total = work.node("Add", [within, work.constant(before.astype(np.int32)[:, None])])
    return _cut(work, work.node("Mul", [total, bits]), rows * MASK_ROW, mask.size)


def _codes(work: Unpacking, codes: np.ndarray, bits: int, shape: str) -> str:
    """int32 codes in the shape that a constant says. Planes are put together by powers of two."""
    parts, first = [], 0
    for plane, width in zip(pack_planes(codes, bits), planes(bits), strict=True):
        looked_up = work.node("Cast", [work.constant(plane)], {"to": _INT32})
        if width < 8:
            looked_up = work.node("Gather", [work.table(width), looked_up])
        looked_up = _cut(work, looked_up, plane.size * (8 // width), codes.size)
        part = work.node("Reshape", [looked_up, shape])
        parts.append(work.node("Mul", [part, work.constant(np.array(1 << first, np.int32))]) if first else part)
        first += width
    total = parts[0]
    for part in parts[1:]:
        total = work.node("Add", [total, part])
    return total


def _cut(work: Unpacking, tensor: str, has: int, wanted: int) -> str:
    """The first values: a last byte, or a mask's last row, may hold more than there are."""
    if has == wanted:
        return tensor
    flat = work.node("Reshape", [tensor, work.constant(np.array([-1], np.int64))])
    start, end = work.constant(np.array([0], np.int64)), work.constant(np.array([wanted], np.int64))
    return work.node("Slice", [flat, start, end])


def _books(coded: Coded) -> int:
    """How many books a file needs: scales make one for each row."""
    return coded.books if coded.scale is None else len(coded.scale)


def _code_shape(work: Unpacking, coded: Coded) -> str:
    """The shape in which indices are looked up: the tensor's own, or a row for each book."""
    books = _books(coded)
    return work.constant(np.array(coded.indices.shape if books == 1 else [books, -1], np.int64))


def _look_up(work: Unpacking, coded: Coded, codes: str, *, turned: bool) -> None:
    """The values of codes that come in `_code_shape`."""
    books, entries = _books(coded), coded.codebook.shape[1]
    if books == 1:
        values = work.node("Gather", [work.constant(coded.codebook[0]), codes], last=not turned)
        if turned:
            work.node("Transpose", [values], {"perm": [1, 0]}, last=True)
        return
    bounds = [work.constant(np.array(value, np.int32)) for value in (0, books * entries, entries)]
    column = work.constant(np.array([books, 1], np.int64))
    first = work.node("Reshape", [work.node("Range", bounds), column])
    values = work.node("Gather", [_table_of_books(work, coded), work.node("Add", [codes, first])])
    values = work.node("Reshape", [values, work.constant(np.array(coded.indices.shape, np.int64))], last=not turned)
    if turned:
        work.node("Transpose", [values], {"perm": [1, 0]}, last=True)


def _table_of_books(work: Unpacking, coded: Coded) -> str:
    """All books one after the other. Those of a scaled codebook are products, exact ones or rounded once from float64."""
    if coded.scale is None:
        return work.constant(coded.codebook.reshape(-1))
    products = work.node("Mul", [work.constant(coded.codebook), work.constant(coded.scale[:, None])])
    if coded.scale.dtype != coded.dtype:
        products = work.node("Cast", [products], {"to": helper.np_dtype_to_tensor_dtype(np.dtype(coded.dtype))})
    return work.node("Reshape", [products, work.constant(np.array([-1], np.int64))])
