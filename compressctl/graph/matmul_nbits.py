"""Weights of 2, 4 and 8 bits as ONNX Runtime's MatMulNBits stores them.

Source: ONNX Runtime, contrib operator MatMulNBits-1: B is (N, blocks of K, bytes of a block), low bits first, codes unsigned,
scales (N, blocks), zero points packed along the blocks and 2^(bits - 1) where they are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from compressctl.core.quant import TensorQuant
from compressctl.graph.codes import spread, weight_codes
from compressctl.graph.index import GraphIndex, attribute
from compressctl.graph.tensors import from_array
from compressctl.numerics.bitpack import join_bits, split_bits

SMALLEST_BLOCK = 16
_USUAL_BLOCK = 128
_BITS = {"int2": 2, "uint2": 2, "int4": 4, "uint4": 4, "int8": 8, "uint8": 8}


@dataclass(frozen=True)
class Packed:
    """codes: (N, blocks, block * bits / 8) uint8. scale: (N, blocks) float32. zero_point: packed uint8, None for the middle."""

    bits: int
    block: int
    codes: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray | None


def bits_of(quant: TensorQuant) -> int | None:
    """2, 4 or 8; None for types that MatMulNBits does not know."""
    return _BITS.get(quant.dtype)


def packed_block(quant: TensorQuant, rows: int) -> int | None:
    """The block size along K (rows) in which a plan entry of a (K, N) weight can be packed, None where it cannot.

    Scales per channel or tensor are repeated in blocks of a usual size. ONNX Runtime takes powers of two from 16 on.
    """
    if bits_of(quant) is None:
        return None
    if quant.block is not None:
        fits = quant.axis == 0 and quant.block >= SMALLEST_BLOCK and quant.block & (quant.block - 1) == 0
        return quant.block if fits else None
    if quant.axis == 0:
        return None
    return _USUAL_BLOCK if rows >= _USUAL_BLOCK else SMALLEST_BLOCK


def pack(values: np.ndarray, quant: TensorQuant) -> Packed:
    """values: (K, N) float32, quant as `packed_block` accepts it. K is filled up to whole blocks with zeros."""
    bits, block = bits_of(quant), packed_block(quant, values.shape[0])
    if bits is None or block is None:
        raise ValueError(f"{quant.dtype} in blocks of {quant.block} along axis {quant.axis} cannot be packed")
    rows, columns = values.shape
    middle, blocks = 1 << (bits - 1), -(-rows // block)
    shift = 0 if quant.dtype.startswith("u") else middle
    codes = weight_codes(values, quant).astype(np.int32) + shift
    scale = np.broadcast_to(spread(quant.scale, quant, values.shape), values.shape)[::block].T
    point = (
        np.broadcast_to(spread(quant.zero_point, quant, values.shape), values.shape)[::block].T.astype(np.int32) + shift
    )
    filled = np.repeat(point, block, axis=1)
    filled[:, :rows] = codes.T
    return Packed(
        bits,
        block,
        join_bits(filled.reshape(columns, blocks, block), bits),
        np.ascontiguousarray(scale, np.float32),
        None if np.all(point == middle) else join_bits(point, bits),
    )


def pack_table(values: np.ndarray, quant: TensorQuant, block: int) -> Packed:
    """values: (entries, columns) float32, quantized in blocks along the columns, by entry or as a whole.

    GatherBlockQuantized stores an entry's columns like MatMulNBits an output's inputs, but none beyond the last: codes are
    (entries, columns * bits / 8). block: that of quant, or one that reaches over a whole entry.
    """
    bits = bits_of(quant)
    if bits is None or values.shape[1] * bits % 8:
        raise ValueError(f"entries of {values.shape[1]} {quant.dtype} codes do not fill bytes")
    middle = 1 << (bits - 1)
    shift = 0 if quant.dtype.startswith("u") else middle
    codes = weight_codes(values, quant).astype(np.int32) + shift
    scale, point = (
        np.broadcast_to(spread(part, quant, values.shape), values.shape)[:, ::block]
        for part in (quant.scale, quant.zero_point)
    )
    point = point.astype(np.int32) + shift
    return Packed(
        bits,
        block,
        join_bits(codes, bits),
        np.ascontiguousarray(scale, np.float32),
        None if np.all(point == middle) else join_bits(point, bits),
    )


def unpack_table(node: onnx.NodeProto, found: GraphIndex) -> tuple[np.ndarray, TensorQuant] | None:
    """A GatherBlockQuantized node's table, float32, and its quantization; None where it is not constant or not along rows."""
    codes, scale = found.array(node.input[0]), found.array(node.input[2])
    sizes = {"bits": 4, "block_size": 128, "gather_axis": 0, "quantize_axis": 1}
    sizes = {name: int(attribute(node, name, size)) for name, size in sizes.items()}  # type: ignore[call-overload]
    along_rows = (sizes["gather_axis"], sizes["quantize_axis"] % 2) == (0, 1)
    if codes is None or scale is None or codes.ndim != 2 or codes.dtype != np.uint8 or not along_rows:
        return None
    bits, blocks = sizes["bits"], scale.shape[1]
    middle = 1 << (bits - 1)
    point = np.full(scale.shape, middle, np.int32)
    if len(node.input) > 3 and node.input[3]:
        stored = found.array(node.input[3])
        if stored is None:
            return None
        point = _split(stored, bits)[:, :blocks]
    signed = bool(np.all(point == middle))
    quant = TensorQuant(
        f"int{bits}" if signed else f"uint{bits}",
        scale.astype(np.float32),
        (point - (middle if signed else 0)).astype(np.int8 if signed else np.uint8),
        axis=1,
        block=sizes["block_size"],
    )
    numbers = _split(codes, bits)
    shift = middle if signed else 0
    spread_point, spread_scale = (spread(part, quant, numbers.shape) for part in (quant.zero_point, quant.scale))
    values = (numbers - shift - spread_point.astype(np.int32)) * spread_scale
    return np.ascontiguousarray(values, np.float32), quant


def unpack(node: onnx.NodeProto, found: GraphIndex) -> tuple[np.ndarray, TensorQuant] | None:
    """A MatMulNBits node's weight, (K, N) float32, and its quantization; None where it is not constant or is reordered."""
    size = {name: int(attribute(node, name, 0)) for name in ("K", "N", "bits", "block_size")}  # type: ignore[call-overload]
    codes, scale = found.array(node.input[1]), found.array(node.input[2])
    has = [len(node.input) > position and bool(node.input[position]) for position in range(5)]
    if codes is None or scale is None or has[4]:
        return None
    bits = size["bits"] or 4
    blocks = -(-size["K"] // size["block_size"])
    middle = 1 << (bits - 1)
    point = np.full((size["N"], blocks), middle, np.int32)
    if has[3]:
        stored = found.array(node.input[3])
        if stored is None or stored.dtype != np.uint8:
            return None
        point = _split(stored.reshape(size["N"], -1), bits)[:, :blocks]
    numbers = _split(codes.reshape(size["N"], blocks, -1), bits)
    scale = scale.reshape(size["N"], blocks).astype(np.float32)
    values = ((numbers - point[..., None]) * scale[..., None]).reshape(size["N"], -1)[:, : size["K"]].T
    signed = bool(np.all(point == middle))
    dtype = f"int{bits}" if signed else f"uint{bits}"
    quant = TensorQuant(
        dtype,
        np.ascontiguousarray(scale.T),
        np.ascontiguousarray((point - (middle if signed else 0)).T).astype(dtype),
        axis=0,
        block=size["block_size"],
    )
    return np.ascontiguousarray(values, np.float32), quant


def _split(stored: np.ndarray, bits: int) -> np.ndarray:
    """int32, the last axis longer by 8 / bits."""
    return split_bits(stored, bits).astype(np.int32)


def stored(name: str, value: np.ndarray) -> onnx.TensorProto:
    return from_array(np.asarray(value, order="C"), name)
