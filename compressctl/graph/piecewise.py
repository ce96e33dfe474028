"""A graph run over the same batches piece by piece, in graph order: what later pieces read waits in files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from compressctl.core.errors import StageError
from compressctl.graph.execute import ActivationRecorder
from compressctl.graph.index import names_read, reads, store_what_is_read

_IN_MEMORY = 1 << 20
"""Bytes of an array up to which a file would not be worth it."""

Arrays = Mapping[str, np.ndarray]


class PiecewiseRun:
    """Looks at a graph's inner tensors, some of them at a time. Each look computes what lies between the one before and this one, so
    that looking at all layers in turn costs one run of the graph, and memory for the constants of one piece.

    Between two looks the graph's constants may change, its nodes may not: as in layer after layer being quantized, each behind those that
    are already. A look at what lies before the last one, and one at another graph, begins at the graph's inputs again.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="compressctl-calibration-")
        self._nodes: list[str] = []
        self._done = 0  # of the nodes
        self._kept: list[dict[str, np.ndarray]] = []  # by batch, what nodes after those read
        self._written = 0

    def look(self, model: onnx.ModelProto, tensors: Sequence[str], batches: Iterable[Arrays]) -> Iterator[Arrays]:
        """The tensors' values by batch: views that are good until the next one. batches: the same at every look, in the same order.

        tensors: inner tensors or inputs of the graph. Raises StageError where ONNX Runtime cannot run a piece.
        """
        piece = self._piece(model, tensors)
        recorder: ActivationRecorder | None = None
        kept: list[dict[str, np.ndarray]] = []
        for number, inputs in enumerate(batches):
            known = {**inputs, **(self._kept[number] if piece.begin else {})}
            asked = list(dict.fromkeys([*(name for name in tensors if name not in known), *piece.made]))
            if recorder is None:
                recorder = ActivationRecorder(_cut(model, piece, known), asked)
            values = {**known, **recorder.run({name: known[name] for name in piece.read if name in known})}
            yield {name: values[name] for name in tensors}
            kept.append({name: self._stored(values[name], name in known) for name in piece.later})
        self._nodes, self._done, self._kept = piece.nodes, piece.end, kept

    def _piece(self, model: onnx.ModelProto, tensors: Sequence[str]) -> _Piece:
        names = [_identity(node) for node in model.graph.node]
        known = {name for batch in self._kept[:1] for name in batch}
        made_at = {name: place for place, node in enumerate(model.graph.node) for name in node.output}
        given = {tensor.name for tensor in model.graph.input}
        missing = [name for name in tensors if name not in made_at and name not in given]
        if missing:
            raise StageError(f"the graph has no tensor {missing[0]}")
        is_behind = names == self._nodes and all(
            made_at.get(name, -1) >= self._done or name in known or name in given for name in tensors
        )
        begin = self._done if is_behind else 0
        end = max([begin, *(made_at[name] + 1 for name in tensors if name in made_at)])
        after = names_read(model.graph.node[end:])
        made = {name for node in model.graph.node[begin:end] for name in node.output if name}
        read = {name for node in model.graph.node[begin:end] for name in reads(node)}
        later = after & (made | (known if begin else set()))
        return _Piece(names, begin, end, tuple(sorted(read)), tuple(sorted(later & made)), tuple(sorted(later)))

    def _stored(self, values: np.ndarray, is_kept: bool) -> np.ndarray:
        if is_kept:
            return values
        if values.nbytes <= _IN_MEMORY:
            return values.copy()
        file = Path(self._folder.name) / f"{self._written}.npy"
        self._written += 1
        np.save(file, values)
        found: np.ndarray = np.load(file, mmap_mode="r")
        file.unlink()  # the mapping holds it as long as somebody reads it
        return found


@dataclass(frozen=True)
class _Piece:
    """nodes: of the whole graph. begin, end: places of the piece's. read: what these read. made: what they make and later nodes read.
    later: all that later nodes read of what was made so far."""

    nodes: list[str]
    begin: int
    end: int
    read: tuple[str, ...]
    made: tuple[str, ...]
    later: tuple[str, ...]


def _identity(node: onnx.NodeProto) -> str:
    return f"{node.op_type} {','.join(node.input)} {','.join(node.output)}"


def _cut(model: onnx.ModelProto, piece: _Piece, known: Arrays) -> onnx.ModelProto:
    """The piece as a graph of its own. known: arrays of one batch, which say the types of its inputs."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    graph = onnx.GraphProto(name="piece")
    graph.node.extend(model.graph.node[piece.begin : piece.end])
    store_what_is_read(graph, constants.values())
    for name in piece.read:
        if name in known and name not in constants:
            kind = helper.np_dtype_to_tensor_dtype(known[name].dtype)
            graph.input.append(helper.make_tensor_value_info(name, kind, [None] * known[name].ndim))
    made = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    made.graph.CopyFrom(graph)
    return made
