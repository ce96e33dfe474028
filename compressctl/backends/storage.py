"""The export option `storage`: whether a file's constants are plain or compressed."""

from __future__ import annotations

from collections import Counter

import onnx

from compressctl.core.target import Target
from compressctl.graph.opset import opset_of
from compressctl.graph.pack_constants import OLDEST_OPSET, Folds, PackedTensor, pack_constants

_FOLDS = {
    "onnxruntime": Folds(),
    # OpenVINO turns float64 into float32 before it folds.
    "openvino": Folds(float64=False),
    # TensorRT computes in float32 too; the codes that it dequantizes must be constants (NvInfer.h, IDequantizeLayer).
    "tensorrt": Folds(float64=False, integers=False),
}


def as_stored(proto: onnx.ModelProto, target: Target) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The graph as the target's options want it stored, and what its user must know about that."""
    if target.options.get("storage") != "compressed":
        return proto, ()
    packed, ledger = pack_constants(proto, _FOLDS.get(target.backend, _FOLDS["openvino"]))
    return packed, (_note(ledger, proto),)


def _note(ledger: list[PackedTensor], proto: onnx.ModelProto) -> str:
    version = opset_of(proto)
    if version < OLDEST_OPSET:
        return f"storage: compressed does nothing below opset {OLDEST_OPSET}, and the graph's is {version}"
    if not ledger:
        return "storage: compressed made nothing smaller: no constant of the main graph has few values or many zeros"
    kinds = Counter(tensor.form.partition(" into ")[0] for tensor in ledger)
    before, after = (sum(getattr(tensor, size) for tensor in ledger) for size in ("plain_bytes", "packed_bytes"))
    forms = ", ".join(f"{count} as {kind}" for kind, count in kinds.most_common(4))
    return f"{len(ledger)} constants are packed, {before:,} bytes as {after:,} ({forms}); they are unpacked once, at loading"
