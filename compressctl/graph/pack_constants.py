"""A file that is small on disk: every constant of few values, or of many zeros, in the smallest exact form."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import onnx

from compressctl.graph.edit import names_in
from compressctl.graph.opset import opset_of
from compressctl.graph.tensors import copy_of, message_bytes, to_array
from compressctl.graph.unpacking import PREFIX, Unpacking, unpack_dense, unpack_masked, unpack_sparse
from compressctl.numerics.bitpack import code_bits
from compressctl.numerics.codebook import Coded, shared
from compressctl.numerics.scaled_codebook import scaled

_TYPES = {
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.INT8,
    onnx.TensorProto.UINT8,
}
_SMALLEST = 256
"""Bytes. The nodes that unpack take some 400."""

_GROUPS = (256, 128, 64, 32)
"""Values that may share a codebook where a whole channel has too many."""

_GROUP_ENTRIES = 16
_REPEATED = 0.3
"""Share of one value, or of zeros, from which a mask may pay."""

OLDEST_OPSET = 13
"""Slice, Range and the rest with the inputs and types that are written here."""


@dataclass(frozen=True)
class Folds:
    """What a runtime folds at load beyond float32 and indices. float64: products in float64.

    integers: it takes 8-bit codes that are computed from constants.
    """

    float64: bool = True
    integers: bool = True


@dataclass(frozen=True)
class PackedTensor:
    """form: in words, as in "4-bit indices into 16 values". plain_bytes, packed_bytes: in the file, before and after."""

    name: str
    form: str
    plain_bytes: int
    packed_bytes: int


def pack_constants(model: onnx.ModelProto, folds: Folds) -> tuple[onnx.ModelProto, list[PackedTensor]]:
    """The same function in fewer bytes, and what was packed. The model itself is given back where nothing pays.

    Every constant comes out of the runtime's folding with the bits that it had. Constants of subgraphs stay.
    """
    version = opset_of(model)
    if version < OLDEST_OPSET:
        return model, []
    shared_parts: dict[str, onnx.TensorProto | onnx.NodeProto] = {}
    done: dict[str, Unpacking] = {}
    ledger: list[PackedTensor] = []
    outputs = {output.name for output in model.graph.output}
    first = _first_number(model.graph)
    for tensor in model.graph.initializer:
        if not _is_candidate(tensor, folds) or tensor.name in outputs:
            continue
        values = to_array(tensor)
        best = _smallest(values, tensor.name, first + len(done), folds)
        plain = message_bytes(tensor)
        if best is None or best[0].size_bytes >= plain:
            continue
        done[tensor.name] = work = Unpacking(tensor.name, values, first + len(done), shared_parts)
        best[1].write(work)
        ledger.append(PackedTensor(tensor.name, best[1].words, plain, work.size_bytes))
    return (_rewritten(model, done, shared_parts), ledger) if done else (model, [])


def _first_number(graph: onnx.GraphProto) -> int:
    """From which on no name of the graph looks like one of those that are written here."""
    parts = (name.removeprefix(PREFIX).partition(".")[0] for name in names_in(graph) if name.startswith(PREFIX))
    return max((int(part) + 1 for part in parts if part.isdigit()), default=0)


def _is_candidate(tensor: onnx.TensorProto, folds: Folds) -> bool:
    if tensor.data_type not in _TYPES or message_bytes(tensor) < _SMALLEST:
        return False
    return folds.integers or tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)


@dataclass(frozen=True)
class _Form:
    """words: what it is. write: adds the nodes that unpack it."""

    words: str
    write: Callable[[Unpacking], None]


def _smallest(values: np.ndarray, name: str, number: int, folds: Folds) -> tuple[Unpacking, _Form] | None:
    """The form that takes the fewest bytes, written once to see how many."""
    found: tuple[Unpacking, _Form] | None = None
    for form in _forms(values, folds):
        work = Unpacking(name, values, number, {})
        form.write(work)
        if found is None or work.size_bytes < found[0].size_bytes:
            found = work, form
    return found


def _forms(values: np.ndarray, folds: Folds) -> Iterator[_Form]:
    coded_ways = [(coded, False) for coded in _coded(values, folds)]
    if values.ndim == 2 and not any(coded.books == 1 and coded.scale is None for coded, _ in coded_ways):
        # A product's weight has its output channels along the second axis.
        coded_ways += [(coded, True) for coded in _coded(np.ascontiguousarray(values.T), folds)]
    for coded, turned in coded_ways:
        yield _Form(_words(coded), partial(unpack_dense, coded=coded, turned=turned))
        first = _most_frequent_first(coded)
        if np.count_nonzero(first.indices == 0) > _REPEATED * values.size:
            words = f"a mask and {_words(coded, masked=True)}"
            yield _Form(words, partial(unpack_masked, coded=first, turned=turned))
    kept = _bits_set(values)
    if np.count_nonzero(kept) < (1 - _REPEATED) * values.size:
        yield _Form(f"a mask and {values.dtype.name} values", partial(unpack_sparse, values=values, kept=kept))


def _words(coded: Coded, *, masked: bool = False) -> str:
    count = max(1, coded.codebook.shape[1] - masked)
    entries = f"{count} values"
    if coded.scale is not None:
        entries += " times a scale per channel"
    elif coded.books > 1:
        entries = f"{coded.books} times {entries}"
    return f"{code_bits(count)}-bit indices into {entries}"


def _coded(values: np.ndarray, folds: Folds) -> Iterator[Coded]:
    """Codebooks of all kinds that hold every value."""
    whole = shared(values)
    if whole is not None:
        yield whole
    if values.ndim < 2 or len(values) < 2 or (whole is not None and whole.bits <= 2):
        return
    product = scaled(values)
    if product is not None and (folds.float64 or product.codebook.dtype == values.dtype):
        yield product
    by_row = shared(values, len(values))
    if by_row is not None:
        yield by_row
    if whole is not None or (by_row is not None and by_row.bits <= 4):
        return
    columns = values.size // len(values)
    for group in _GROUPS:
        if columns % group == 0 and columns > group:
            by_group = shared(values, values.size // group, _GROUP_ENTRIES)
            if by_group is not None:
                yield by_group


def _bits_set(values: np.ndarray) -> np.ndarray:
    """Where a value is not +0.0: -0.0 is one that must be kept."""
    contiguous = np.asarray(values, order="C")
    return np.asarray(contiguous.view(f"u{contiguous.dtype.itemsize}") != 0)


def _most_frequent_first(coded: Coded) -> Coded:
    """The same codes with the index that occurs most often as 0, in every book alike."""
    most = int(np.argmax(np.bincount(coded.indices.reshape(-1), minlength=coded.codebook.shape[1])))
    order = np.argsort(np.arange(coded.codebook.shape[1]) != most, kind="stable")
    rank = np.argsort(order).astype(np.uint8)
    return replace(coded, indices=rank[coded.indices], codebook=coded.codebook[:, order])


def _rewritten(
    model: onnx.ModelProto, done: dict[str, Unpacking], shared_parts: dict[str, onnx.TensorProto | onnx.NodeProto]
) -> onnx.ModelProto:
    """A copy whose packed constants are made by nodes at the beginning of the graph."""
    packed = copy_of(model)
    graph = packed.graph
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in done]
    first: list[onnx.NodeProto] = []
    for part in shared_parts.values():
        if isinstance(part, onnx.TensorProto):
            kept.append(part)
        else:
            first.append(part)
    for work in done.values():
        kept += work.tensors
        first += work.nodes
    nodes = list(model.graph.node)
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend([*first, *nodes])
    # What is said about a constant's shape there still holds; graph inputs of that name do not exist any more.
    free = [value for value in model.graph.input if value.name not in done]
    if len(free) < len(model.graph.input):
        del graph.input[:]
        graph.input.extend(free)
    return packed
