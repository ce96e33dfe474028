"""What ONNX Runtime's releases read, for files that an older one shall serve: `target: {onnxruntime: ">=1.17"}`. Light.

Source: the releases themselves. The wheels 1.17.3, 1.18.1, 1.19.2, 1.20.1, 1.21.1, 1.22.1, 1.23.2, 1.24.4, 1.25.1, 1.26.0, 1.27.0, 1.30.0
and 1.32.0 were asked for their operators (get_all_operator_schema) and opened graphs of every opset, IR version and form of weight
below; each output was compared with numpy's. onnxruntime.ai/docs/reference/compatibility.html says that a release reads the opsets up
to its own, github.com/microsoft/onnxruntime/issues/20559 that 1.17 reads IR versions up to 9.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from compressctl.core.backend import ProductWeights
from compressctl.core.errors import StageError
from compressctl.core.model import OnnxModel
from compressctl.core.quant import QuantPlan, TensorQuant
from compressctl.core.target import Release, Target

if TYPE_CHECKING:
    import onnx

NEWEST_OPSET = 21
"""Brings 4-bit weights. Newer sets bring nothing that a processor runs faster, and older runtimes refuse them."""

IR_VERSION = 10
"""What ONNX 1.16 wrote. The onnx package's default moves with each release, past what installed runtimes read."""

_OLDEST: Release = (1, 17)
"""The oldest release whose opset, 20, is what networks are exported in."""

_READS_OPSET_21: Release = (1, 18)
"""Together with IR version 10; 1.17 reads opset 20 and IR version 9."""

_READS_BLOCKS: Release = (1, 19)
"""DequantizeLinear in blocks, and 4-bit types: 1.18 has the opset and no kernel."""

_PRODUCTS: dict[int, Release] = {4: (1, 17), 8: (1, 23), 2: (1, 24)}
"""MatMulNBits by bits. 1.16 misreads zero points of 4 bits."""

_LOOKUPS: dict[int, Release] = {8: (1, 23), 4: (1, 27), 2: (1, 27)}
"""GatherBlockQuantized by bits, in bytes as they are written here. 1.23 to 1.26 misread zero points of 4 bits in one block."""

_EXPERTS: Release = (1, 23)
"""MoE on the processor; the operator itself is older."""

_QUANTIZED_EXPERTS: Release = (1, 24)
"""QMoE as it is written here: 1.23 asks for the two parts of a gated layer whatever the activation."""

_OPERATORS: dict[Release, tuple[str, ...]] = {
    (1, 18): ("GemmaRotaryEmbedding", "SparseAttention"),
    (1, 20): ("GatherBlockQuantized",),
    _EXPERTS: ("MoE", "PagedAttention"),
    _QUANTIZED_EXPERTS: ("QMoE",),
    (1, 25): ("CausalConvWithState", "LinearAttention"),
    (1, 27): ("MatMulNBitsMlp", "MatMulNBitsQkv"),
    (1, 30): (
        *("EngramGate", "GatedAdd", "GatedDeltaNet", "GatedRMSNorm", "LinearAttentionGate", "MRotaryEmbedding", "NGramHashMapping"),
        *("MatMulBlockQuantizedFp4Weight", "MatMulBlockQuantizedFp8Weight", "VarlenCausalConvWithState"),
    ),
}  # fmt: skip
"""Operators of com.microsoft by the release that brought them; all others are older."""


def newest_opset(target: Target) -> int:
    return NEWEST_OPSET if _serves(target, _READS_OPSET_21) else NEWEST_OPSET - 1


def ir_version(target: Target) -> int:
    return IR_VERSION if _serves(target, _READS_OPSET_21) else IR_VERSION - 1


def reads_blocks(target: Target) -> bool:
    """Whether constants of 4 bits, and DequantizeLinear in blocks, can be written."""
    return _serves(target, _READS_BLOCKS)


def reads_packed_product(bits: int, target: Target) -> bool:
    """Whether MatMulNBits of so many bits can be written."""
    return _serves(target, _PRODUCTS[bits])


def reads_packed_table(bits: int, target: Target) -> bool:
    """Whether GatherBlockQuantized of so many bits can be written."""
    return _serves(target, _LOOKUPS[bits])


def reads_experts(target: Target) -> bool:
    """Whether MoE can be written."""
    return target.backend == "onnxruntime" and target.device == "cpu" and _serves(target, _EXPERTS)


def reads_quantized_experts(target: Target) -> bool:
    """Whether QMoE can be written."""
    return reads_experts(target) and _serves(target, _QUANTIZED_EXPERTS)


def refusal(target: Target, weights: ProductWeights | None = None) -> tuple[str, str] | None:
    """What the target's oldest release cannot serve, and what helps. weights: of a product; None asks about the release itself."""
    oldest = _oldest(target)
    if oldest is None:
        return None
    if weights is None:
        old = f"files for ONNX Runtime {_words(oldest)} are not written: {_words(_OLDEST)} is the oldest whose opset networks are exported in"
        return (old, f'write ">={_words(_OLDEST)}" or newer') if oldest < _OLDEST else None
    forms = [_PRODUCTS[weights.bits]] if weights.bits in _PRODUCTS else []
    forms += [_READS_BLOCKS] if weights.bits > 2 else []
    if (weights.bits == 8 and not weights.in_groups) or any(oldest >= release for release in forms):
        return None
    needed = min(forms)
    kind = f"{weights.bits}-bit weights of matrix products{' in groups' if weights.in_groups else ''}"
    others = ["4 bits", *(["granularity: channel"] if weights.bits == 8 else [])]
    return (
        f"{kind} are read from ONNX Runtime {_words(needed)} on, and {_words(oldest)} shall serve the file",
        f'use {" or ".join(others)}, or set target.onnxruntime to ">={_words(needed)}"',
    )


def refused_product(node: str, quant: TensorQuant, target: Target) -> StageError:
    """No form that the target's oldest release reads holds a product's weights."""
    oldest = _oldest(target)
    assert oldest is not None
    kind = f"{quant.dtype} weights{f' in groups of {quant.block}' if quant.block else ''}"
    return StageError(
        f"{node}: ONNX Runtime {_words(oldest)} shall serve the file, and reads no operator that holds {kind}",
        hint="use 4 bits in groups of 16, 32, 64 or 128, or 8 bits with granularity: channel, or set target.onnxruntime to a newer release",
    )


def refuse_newer(proto: onnx.ModelProto, target: Target) -> None:
    """Raises StageError where a graph holds what the target's oldest release does not read."""
    oldest = _oldest(target)
    if oldest is None:
        return
    newer = [(release, words) for release, words in _needs(proto) if oldest < release]
    if newer:
        named = "; ".join(f"{words} from {_words(release)} on" for release, words in newer[:4])
        release = max(release for release, _ in newer)
        raise StageError(
            f"ONNX Runtime {_words(oldest)} shall serve the file, and does not read all of it: {named}",
            hint=f'set target.onnxruntime to ">={_words(release)}", or leave those parts in float with `overrides`',
        )


def note(model: OnnxModel, proto: onnx.ModelProto, target: Target) -> tuple[str, ...]:
    """What the file is written in, and what was not used, where an older release shall serve it."""
    from compressctl.graph.opset import opset_of

    oldest = _oldest(target)
    if oldest is None:
        return ()
    avoided = list(dict.fromkeys(_avoided(model, target)))
    words = f"for ONNX Runtime {_words(oldest)} and later: opset {opset_of(proto)}, IR version {proto.ir_version}"
    return (f"{words}; avoided: {', '.join(avoided) or 'nothing'}",)


def _avoided(model: OnnxModel, target: Target) -> Iterator[str]:
    from compressctl.graph.index import all_nodes
    from compressctl.graph.matmul_nbits import bits_of
    from compressctl.graph.opset import opset_of

    if opset_of(model.body) > newest_opset(target):
        yield f"opset {opset_of(model.body)} ({_words(_READS_OPSET_21)})"
    plan = model.quant or QuantPlan()
    for node in all_nodes(model.body.graph):
        quant = next((plan.weights[name] for name in node.input if name in plan.weights), None)
        bits = None if quant is None else bits_of(quant)
        is_integer = node.name in plan.dynamic or node.input[0] in plan.activations
        if quant is None or bits is None or is_integer:
            continue
        if node.op_type == "Gather" and not reads_packed_table(bits, target):
            yield f"GatherBlockQuantized of {bits} bits ({_words(_LOOKUPS[bits])})"
        elif node.op_type in ("MatMul", "Gemm") and not reads_packed_product(bits, target):
            yield f"MatMulNBits of {bits} bits ({_words(_PRODUCTS[bits])})"
        if (quant.block or bits == 4) and not reads_blocks(target):
            yield f"DequantizeLinear in blocks and constants of 4 bits ({_words(_READS_BLOCKS)})"


def _needs(proto: onnx.ModelProto) -> Iterator[tuple[Release, str]]:
    """What a graph holds that some release does not read: since which one it is read, and what it is."""
    from compressctl.graph.index import all_graphs, attribute
    from compressctl.graph.opset import opset_of

    if opset_of(proto) >= NEWEST_OPSET:
        yield _READS_OPSET_21, f"opset {opset_of(proto)}"
    since = {name: release for release, names in _OPERATORS.items() for name in names}
    by_bits = {"MatMulNBits": _PRODUCTS, "GatherBlockQuantized": _LOOKUPS}
    for graph in all_graphs(proto.graph):
        for tensor in graph.initializer:
            if tensor.data_type in (tensor.UINT4, tensor.INT4):
                yield _READS_BLOCKS, f"constants of 4 bits ({tensor.name})"
        for node in graph.node:
            if node.op_type == "DequantizeLinear" and attribute(node, "block_size", 0):
                yield _READS_BLOCKS, f"DequantizeLinear in blocks ({node.name})"
            if node.domain != "com.microsoft":
                continue
            bits = int(attribute(node, "bits", 4))  # type: ignore[call-overload]
            release = by_bits.get(node.op_type, {}).get(bits, since.get(node.op_type, _OLDEST))
            yield release, f"{node.op_type}{f' of {bits} bits' if node.op_type in by_bits else ''} ({node.name})"


def _serves(target: Target, release: Release) -> bool:
    oldest = _oldest(target)
    return oldest is None or oldest >= release


def _oldest(target: Target) -> Release | None:
    return target.oldest_onnxruntime if target.backend == "onnxruntime" else None


def _words(release: Release) -> str:
    return f"{release[0]}.{release[1]}"
