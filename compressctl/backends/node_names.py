"""A runtime's names for nodes traced back to the names in the file."""

from __future__ import annotations

import re
from pathlib import Path

import onnx

from compressctl.graph.model_file import parse

RENAMED = re.compile(r"^InsertedPrecisionFreeCast_|(_token_\d+|_nchwc|/\w+Fusion\w*)+$")
"""What ONNX Runtime puts around the name, or an output's name, of what it fuses, lays out anew, or computes in float32 where
the file has float16 and the processor no kernel for it."""


def node_name(told: str, path: Path) -> str:
    """The name of the node in the ONNX file at path that is called so, or that makes a tensor called so; else what was told."""
    base = RENAMED.sub("", told)
    meant = next((node for node in _nodes(path) if {told, base} & {node.name, *node.output}), None)
    return told if meant is None else meant.name or meant.output[0]


def first_of(operator: str, path: Path) -> str | None:
    """The name of the first node in the ONNX file at path with that operator."""
    first = next((node for node in _nodes(path) if node.op_type == operator), None)
    return None if first is None else first.name or first.output[0]


def _nodes(path: Path) -> list[onnx.NodeProto]:
    try:
        return list(parse(path).model.graph.node) if path.suffix == ".onnx" else []
    except Exception:
        # It is told about because it could not be read.
        return []
