"""From a model and its quantization plan to an ONNX file in the dialect of the runtime that it is for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from compressctl import __version__
from compressctl.backends.releases import (
    ir_version,
    newest_opset,
    reads_blocks,
    reads_experts,
    reads_quantized_experts,
    refuse_newer,
)
from compressctl.core.errors import StageError, first_line
from compressctl.core.model import OnnxModel
from compressctl.core.target import Target
from compressctl.core.whole_files import FolderInWriting
from compressctl.graph.canonical import constants_beside_readers
from compressctl.graph.model_file import check_model, write_model
from compressctl.graph.opset import OLDEST_QUANTIZED_OPSET, close_initializers, converted, opset_of

if TYPE_CHECKING:
    from compressctl.backends.dialects.weight_only import Form as WeightForm
    from compressctl.core.backend import Artifact

OLDEST_BLOCKED_OPSET = 21
"""DequantizeLinear knows blocks and 4 bits from here on."""

_OLDEST_BITWISE_OPSET = 18
"""BitwiseAnd, which takes packed codes apart where there are no types of few bits."""


def to_onnx(model: OnnxModel, target: Target, weight_forms: Mapping[str, WeightForm] | None = None) -> onnx.ModelProto:
    """The graph with its quantization plan in the target's dialect, in an opset that runtimes read.

    IR version and opset are pinned, so that a file never depends on which onnx release wrote it. weight_forms: by node, how products
    with quantized weights alone are written; standard ONNX where it says nothing. Raises StageError where no such opset will do.
    """
    proto = _emit(replace(model, body=_in_supported_opset(model, target)), target, weight_forms or {})
    _stamp(proto, target)
    refuse_newer(proto, target)
    return proto


def opset_note(given: OnnxModel, artifact: Artifact) -> tuple[str, ...]:
    """Says when an ONNX file has another version of the standard operators than the model that was given."""
    before, after = opset_of(given.body), artifact.opset
    if not before or after is None or after == before:
        return ()
    change = "raised" if after > before else "lowered"
    why = "which the file's operators need" if after > before else "the newest that its runtimes are known to read"
    return (f"the model's opset {before} was {change} to {after}, {why}",)


def _in_supported_opset(model: OnnxModel, target: Target) -> onnx.ModelProto:
    """The body itself when its opset will do, converted otherwise. One that is newer than needed and known to onnx stays where it cannot be lowered."""
    body: onnx.ModelProto = model.body
    newest = newest_opset(target)
    current = opset_of(body) or newest
    oldest = OLDEST_QUANTIZED_OPSET if model.quant else 1
    if model.quant and any(quant.block or quant.dtype[-1] in "42" for quant in model.quant.weights.values()):
        oldest = OLDEST_BLOCKED_OPSET if reads_blocks(target) else _OLDEST_BITWISE_OPSET
    wanted = min(max(current, oldest), newest)
    if wanted == current:
        return body
    try:
        made = converted(body, wanted)
        check_model(made)
        return made
    except Exception as error:
        if target.oldest_onnxruntime is None and wanted < current <= onnx.defs.onnx_opset_version():
            return body
        raise StageError(
            f"the graph uses ONNX opset {current} and cannot be converted to opset {wanted}: {_why_not(error)}",
            hint=f"export the model with an opset between {max(oldest, OLDEST_QUANTIZED_OPSET)} and {newest}",
        ) from error


def _emit(model: OnnxModel, target: Target, weight_forms: Mapping[str, WeightForm]) -> onnx.ModelProto:
    from compressctl.backends.dialects import cpu, tensorrt
    from compressctl.backends.dialects.at_load import write_at_load
    from compressctl.backends.dialects.dynamic import without_dynamic, write_dynamic
    from compressctl.backends.dialects.experts import write_experts
    from compressctl.backends.dialects.lookup import share_dequantized, share_packed, share_turned, write_lookups
    from compressctl.backends.dialects.softmax import write_softmax
    from compressctl.backends.dialects.swish import write_swish
    from compressctl.backends.dialects.weight_only import weight_only_products, write_weight_only
    from compressctl.graph.branches import write_branches

    if target.backend == "tensorrt":
        emitted = tensorrt.emit(model, target)
        write_branches(emitted, gathers=target.batch_size > 1)
        return emitted
    if reads_experts(target):
        model = write_experts(model, packs=reads_quantized_experts(target))
    emitted = cpu.emit(model, target)
    at_rest = without_dynamic(model.quant, target)
    products = weight_only_products(model.body.graph, at_rest)
    if products:
        write_weight_only(emitted, products, weight_forms, target)
    if at_rest is not model.quant:
        write_dynamic(emitted, model.quant, weight_forms)
    write_lookups(emitted, model.quant, target)
    write_at_load(emitted, model.quant, target, weight_forms)
    if target.backend == "openvino":
        # It takes no packed weight that is not itself a constant.
        share_dequantized(emitted)
    if target.backend == "onnxruntime":
        share_packed(emitted)
        share_turned(emitted)
        if model.quant is not None:  # what is compared with stays as it came
            write_softmax(emitted)
            write_swish(emitted)
    write_branches(emitted, gathers=target.batch_size > 1)
    return emitted


def _stamp(proto: onnx.ModelProto, target: Target) -> None:
    proto.ir_version = ir_version(target)
    proto.producer_name = "compressctl"
    proto.producer_version = __version__
    close_initializers(proto)


def save_onnx(proto: onnx.ModelProto, folder: Path) -> tuple[Path, ...]:
    """Write model.onnx into folder and return its files, that first; over 1.5 GB the weights go to model.onnx.data beside it.

    Each file appears whole or not at all. The graph is checked, and changed: constants that one body alone reads move into it.
    """
    constants_beside_readers(proto.graph)
    check_written(proto)
    with FolderInWriting(folder) as scratch:
        written = reversed(write_model(proto, scratch))
        files = [file.replace(folder / file.name) for file in written]
    return tuple(reversed(files))


def check_written(proto: onnx.ModelProto) -> None:
    """Raises StageError that says what is wrong with a graph that was to be written, in its own names."""
    try:
        check_model(proto)
    except Exception as error:
        raise StageError(
            f"the graph that was to be written is not valid ONNX: {first_line(error)}",
            hint="check the model that went in with onnx.checker; if it passes, this is a bug in the stage before",
        ) from error


def _why_not(error: Exception) -> str:
    """The converter's reason without the place in its own source."""
    text = re.sub(r"^\S+:\d+: \w+: Assertion `[^`]*` failed: ?", "", first_line(error)).removeprefix("Warning: ")
    return text.strip() or type(error).__name__
