"""What came of a technique on a model, in one word, by a rule that is printed with the table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx

GOOD_DB, EXACT_DB = 20.0, 200.0
NOT_SLOWER = 0.98

NO_GAIN = 1.02
LEAST_WEIGHTS = 256

RULE = f"""- **good**: the file runs; each output has an SQNR of {GOOD_DB:.0f} dB or more or decides the same in 100 % of cases; it is not
  slower (ratio {NOT_SLOWER} or more, or an interval that reaches 1) and it is smaller or faster. A packed file is good when what is
  unpacked is the same.
- **undone**: the tool measured that its file was slower and handed over the original; counts as good.
- **slower**: as good outputs, but slower, and handed over all the same. **no gain**: neither smaller nor faster by {NO_GAIN}.
- **ruined**: an output is under {GOOD_DB:.0f} dB and decides differently.
- **refused**: nothing was handed over, with a message. **failed**: the run ended with an error although it left a file.
- **broken**: a file that ONNX Runtime does not open or run. **traceback**: a traceback, a crash, or no end.
- **nothing**: the model has no float32 weights that the technique speaks of (under {LEAST_WEIGHTS} numbers); the pair does not count."""

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


def has_something(model: onnx.ModelProto, technique: str) -> bool:
    """Whether float32 weights are there that the technique speaks of: constants of any kind, in branches too."""
    if technique == "pack":
        return True
    readers = _READ_BY[technique]
    return (
        sum(size for op, size in _float_weights(model.graph, {}) if readers is None or op in readers) >= LEAST_WEIGHTS
    )


def _float_weights(graph: onnx.GraphProto, outer: dict[str, int]) -> Iterator[tuple[str, int]]:
    """(operator that reads it, numbers in it) for each float32 constant, or for what is computed of constants alone."""
    constants = dict(outer)
    for tensor in graph.initializer:
        constants[tensor.name] = _floats(tensor)
    for node in graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = sum(_floats(item.t) for item in node.attribute if item.name == "value")
        elif node.input and all(name in constants for name in node.input if name):
            constants.update(dict.fromkeys(node.output, sum(constants[name] for name in node.input if name)))
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
    if result["code"] not in (0, 1):
        return "failed"
    compared = result["compared"]
    if compared is None:
        return "broken"
    if result["technique"] == "pack":
        return "good" if all(part["sqnr_db"] >= EXACT_DB for part in compared["outputs"].values()) else "ruined"
    if result["undone"]:
        return "undone"
    if not all(is_kept(part) for part in compared["outputs"].values()):
        return "ruined"
    if compared["ratio"] < NOT_SLOWER and compared["high"] < 1:
        return "slower"
    smaller = compared["bytes"][0] / compared["bytes"][1]
    return "good" if smaller >= NO_GAIN or compared["low"] >= NO_GAIN else "no gain"


def is_kept(output: dict[str, float]) -> bool:
    """Whether one output is as good as the original's."""
    return output["sqnr_db"] >= GOOD_DB or output.get("agreement") == 100
