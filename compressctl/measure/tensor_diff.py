"""Where two files of one model part: how near each tensor that both have is, in the order of the first file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from compressctl.core.backend import Artifact
from compressctl.core.errors import CompressctlError
from compressctl.core.target import Target
from compressctl.graph.index import reads
from compressctl.graph.model_file import read_model, write_model
from compressctl.measure.fidelity import Comparison
from compressctl.measure.results import OutputFidelity
from compressctl.measure.session_host import SessionHost

_AT_ONCE = 64
"""Tensors that are taken out in one run: each is kept whole in memory."""

_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "MatMulInteger", "ConvInteger", "QLinearConv", "QLinearMatMul")


@dataclass(frozen=True)
class Tensor:
    """One tensor that both files have. layer: the node that makes it in the first file."""

    layer: str
    found: OutputFidelity


def tensor_fidelity(
    files: tuple[Path, Path], calls: Sequence[tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]], folder: Path
) -> list[Tensor]:
    """files: two ONNX files, or OpenVINO's .xml. calls: inputs of each. folder: scratch. In the first file's order.

    Tensors belong together by their names; the outputs of products also by their nodes' names, which quantizing keeps, where
    neither's name is in the other file and what reads them is in both: a product that a batch norm was folded into is another.
    Both run in child processes with the tensors as outputs; what cannot be taken out is left out.
    """
    pairs = _pairs(*(_layers(file) for file in files))
    found: list[Tensor] = []
    with SessionHost() as host:
        for start in range(0, len(pairs), _AT_ONCE):
            found += _compared(host, files, pairs[start : start + _AT_ONCE], calls, folder)
    return found


@dataclass(frozen=True)
class _Layer:
    """readers: names of the nodes that take the tensor."""

    node: str
    op: str
    tensor: str
    readers: frozenset[str] = frozenset()


def _pairs(first: Sequence[_Layer], other: Sequence[_Layer]) -> list[tuple[_Layer, _Layer]]:
    theirs = {layer.tensor: layer for layer in other}
    ours = {layer.tensor for layer in first}
    products = {layer.node: layer for layer in other if layer.op in _PRODUCTS and layer.tensor not in ours}
    nodes = {layer.node for layer in other}
    pairs = []
    for layer in first:
        match = theirs.get(layer.tensor)
        if match is None and layer.op in _PRODUCTS and layer.readers <= nodes:
            match = products.get(layer.node)
        if match is not None:
            pairs.append((layer, match))
    return pairs


def _compared(
    host: SessionHost,
    files: tuple[Path, Path],
    pairs: Sequence[tuple[_Layer, _Layer]],
    calls: Sequence[tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]],
    folder: Path,
) -> list[Tensor]:
    from compressctl.core.model import Signature

    try:
        sessions = [
            host.open(_tapped(file, [pair[side].tensor for pair in pairs], folder / f"side{side}"), _target(file))
            for side, file in enumerate(files)
        ]
        comparison = Comparison(Signature((), ()))
        for given in calls:
            first, other = (session.run(inputs) for session, inputs in zip(sessions, given, strict=True))
            comparison.add(
                {left.tensor: first[left.tensor] for left, _ in pairs},
                {left.tensor: other[right.tensor] for left, right in pairs},
                1,
            )
    except CompressctlError:
        if len(pairs) == 1:
            return []
        middle = len(pairs) // 2
        halves = (pairs[:middle], pairs[middle:])
        return [tensor for half in halves for tensor in _compared(host, files, half, calls, folder)]
    return [Tensor(left.node, output) for (left, _), output in zip(pairs, comparison.result(), strict=True)]


def _target(file: Path) -> Target:
    return Target("openvino" if file.suffix == ".xml" else "onnxruntime", threads=0)


def _layers(file: Path) -> list[_Layer]:
    if file.suffix == ".xml":
        from compressctl.backends.openvino.tapped import layers

        return [_Layer(*found) for found in layers(file)]
    model = read_model(file)
    readers: dict[str, set[str]] = {}
    for node in model.graph.node:
        for name in reads(node):
            readers.setdefault(name, set()).add(_name(node))
    return [
        _Layer(_name(node), node.op_type, name, frozenset(readers.get(name, ())))
        for node in model.graph.node
        if node.op_type != "Constant"
        for name in node.output
        if name
    ]


def _name(node: onnx.NodeProto) -> str:
    return node.name or next((name for name in node.output if name), "")


def _tapped(file: Path, tensors: Sequence[str], folder: Path) -> Artifact:
    """A copy with these tensors as its outputs, and no others."""
    folder.mkdir(exist_ok=True)
    names = list(dict.fromkeys(tensors))
    if file.suffix == ".xml":
        from compressctl.backends.openvino.tapped import write_tapped

        return write_tapped(file, names, folder)
    model = read_model(file)
    known = {value.name: value for value in (*model.graph.output, *model.graph.value_info)}
    del model.graph.output[:]
    model.graph.output.extend(known.get(name, onnx.ValueInfoProto(name=name)) for name in names)
    files = write_model(model, folder)
    return Artifact("onnxruntime", files[0], files)
