"""What came of a technique on a model, in one word, by a rule that is printed with the table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx

GOOD_DB = 20.0
NOT_SLOWER = 0.98

RULE = f"""- **good**: the file runs, each output has an SQNR of {GOOD_DB:.0f} dB or more or decides the same in 100 % of cases, and it is
  not slower: ratio {NOT_SLOWER} or more, or the interval reaches 1. A packed file is good when it comes back byte by byte.
- **undone**: the tool measured that its file was slower and handed over the original; counts as good.
- **slower**: good outputs, but slower, and handed over all the same.
- **ruined**: some output is under {GOOD_DB:.0f} dB and decides differently.
- **refused**: nothing was handed over, with a message. **unchanged**: the file has as many bytes of float weights as before.
- **broken**: a file that ONNX Runtime does not open or run. **traceback**: an error without a readable message, or a crash.
- **nothing**: the model has no weights that the technique speaks of (under {{least}} numbers), so the pair does not count."""

LEAST_WEIGHTS = 256
_PRODUCTS = {"MatMul", "Gemm"}
_RECURRENT = {"LSTM", "GRU", "RNN"}
_CONVOLUTIONS = {"Conv", "ConvTranspose"}
_READ_BY: dict[str, set[str] | None] = {
    "static": _CONVOLUTIONS | _PRODUCTS,
    "dynamic": _PRODUCTS | _RECURRENT | {"Gather"},
    "weights-8": _CONVOLUTIONS | _PRODUCTS | _RECURRENT | {"Gather"},
    "weights-4": _CONVOLUTIONS | _PRODUCTS | _RECURRENT | {"Gather"},
    "float16": None,
    "kmeans": _CONVOLUTIONS | _PRODUCTS | _RECURRENT | {"Gather"},
    "pack": None,
}
RULE = RULE.format(least=LEAST_WEIGHTS)


def has_something(model: onnx.ModelProto, technique: str) -> bool:
    """Whether float32 weights are there that the technique speaks of: constants of any kind, in branches too."""
    if technique == "pack":
        return True
    readers = _READ_BY[technique]
    return (
        sum(size for op, size in _float_weights(model.graph, {}) if readers is None or op in readers) >= LEAST_WEIGHTS
    )


def _float_weights(graph: onnx.GraphProto, outer: dict[str, int]) -> Iterator[tuple[str, int]]:
    """(operator that reads it, numbers in it) for each float32 constant, through Identity, Transpose, Reshape and the like."""
    constants = dict(outer)
    for tensor in graph.initializer:
        constants[tensor.name] = _floats(tensor)
    for node in graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = sum(_floats(item.t) for item in node.attribute if item.name == "value")
        elif node.op_type in ("Identity", "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Flatten"):
            constants[node.output[0]] = constants.get(node.input[0], 0)
    for node in graph.node:
        yield from ((node.op_type, constants.get(name, 0)) for name in node.input)
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _float_weights(attribute.g, constants)


def _floats(tensor: onnx.TensorProto) -> int:
    return int(np.prod(tensor.dims)) if tensor.data_type == onnx.TensorProto.FLOAT else 0


def judge(result: dict[str, Any]) -> str:
    """The word for one result: see RULE. result: as third_party_onnx.py writes it."""
    if not result["something"]:
        return "nothing"
    if result["said"].startswith("Traceback") or result["code"] < 0 or result["code"] in (70, 124):
        return "traceback"
    if not result["has_file"]:
        return "refused"
    compared = result["compared"]
    if compared is None:
        return "broken"
    if result["technique"] == "pack":
        return "good" if all(part["sqnr_db"] == 200 for part in compared["outputs"].values()) else "ruined"
    if result["undone"]:
        return "undone"
    if not all(is_kept(part) for part in compared["outputs"].values()):
        return "ruined"
    if result["unchanged"]:
        return "unchanged"
    if compared["ratio"] < NOT_SLOWER and compared["high"] < 1:
        return "slower"
    return "good"


def is_kept(output: dict[str, float]) -> bool:
    """Whether one output is as good as the original's."""
    return output["sqnr_db"] >= GOOD_DB or output.get("agreement") == 100


def float_bytes(model: onnx.ModelProto) -> int:
    """Bytes of float32 constants, in branches and Constant nodes too."""
    return 4 * sum(_all_floats(model.graph))


def _all_floats(graph: onnx.GraphProto) -> Iterator[int]:
    yield from (_floats(tensor) for tensor in graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield _floats(attribute.t)
            elif attribute.type == onnx.AttributeProto.GRAPH:
                yield from _all_floats(attribute.g)
