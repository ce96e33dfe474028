"""cast: a float32 ONNX graph in 16-bit floats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import onnx
from onnx import TensorProto

from compressctl.core.errors import UsageError
from compressctl.core.model import OnnxModel, Signature, TensorSpec
from compressctl.core.patterns import matching
from compressctl.core.target import Target
from compressctl.core.technique import RunContext, StageResult
from compressctl.graph.float16 import store_half, to_half
from compressctl.graph.quantized import already_quantized
from compressctl.graph.simplify import simplify
from compressctl.graph.untouched import Untouched
from compressctl.techniques.cast.params import CastParams


def apply(model: OnnxModel, params: CastParams, run: RunContext) -> StageResult:
    """Raises UsageError for a pattern of the blocklist that matches nothing, and for a type of input that the scope keeps."""
    body = simplify(model.body)
    before = [f"already quantized: {part}" for part in already_quantized(model.body)]
    for sentence in before:
        run.events.warn(f"{sentence}; its codes stay as they are")
    _check_patterns(body.graph, params)
    kind = TensorProto.FLOAT16 if params.dtype == "float16" else TensorProto.BFLOAT16
    scope = _scope(params, run.target)
    if scope == "weights":
        if not params.keep_io:
            raise UsageError("keep_io: false needs `scope: all`: with scope weights the graph computes in float32")
        made, kept = store_half(body, params.exclude, kind=kind)
        signature = model.signature
    else:
        made, kept = to_half(body, params.exclude, kind=kind, keep_io=params.keep_io)
        signature = model.signature if params.keep_io else _narrow(model.signature, params.dtype)
    result = replace(model, body=made, signature=signature)
    narrow = {tensor.name for tensor in made.graph.initializer if tensor.data_type in _NARROW}
    reads = "constants of the main graph, of 16 numbers and more"
    left = Untouched("cast", reads, narrow, _by_node(made.graph, kept)).facts(result, run.events)
    facts = {"dtype": params.dtype, "scope": scope, "left_in_float32": kept, **left}
    return StageResult(result, {**facts, **({"already_quantized": before} if before else {})})


_NARROW = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def _by_node(graph: onnx.GraphProto, kept: Mapping[str, str]) -> dict[str, str]:
    """Reasons by node, and by constant for the node that reads it."""
    read = {node.name: next((kept[name] for name in node.input if name in kept), None) for node in graph.node}
    return {**{name: reason for name, reason in read.items() if reason is not None}, **kept}


def _scope(params: CastParams, target: Target) -> str:
    if params.scope != "auto":
        return params.scope
    return "weights" if target.device == "cpu" else "all"


def _check_patterns(graph: onnx.GraphProto, params: CastParams) -> None:
    tensors = [tensor.name for tensor in graph.initializer]
    for pattern in params.exclude:
        matching(pattern, graph.node, lambda node: (node.name, node.op_type), key="exclude", what="node", also=tensors)


def _narrow(signature: Signature, dtype: str) -> Signature:
    def narrowed(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(replace(spec, dtype=dtype) if spec.dtype == "float32" else spec for spec in specs)

    return Signature(narrowed(signature.inputs), narrowed(signature.outputs))
