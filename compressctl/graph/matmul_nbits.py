"""Weights of 2, 4 and 8 bits as ONNX Runtime's MatMulNBits stores them.

Source: ONNX Runtime, contrib operator MatMulNBits-1: B is (N, blocks of K, bytes of a block), low bits first, codes unsigned,
scales (N, blocks), zero points packed along the blocks and 2^(bits - 1) where they are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx

from compressctl.core.quant import TensorQuant
from compressctl.graph.codes import spread, weight_codes
from compressctl.graph.index import GraphIndex, attribute
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
    codes, scale, point = (part.T for part in _unsigned(values, quant, bits, 0, block))
    filled = np.repeat(point, block, axis=1)
    filled[:, : codes.shape[1]] = codes
    return _packed(filled.reshape(*scale.shape, block), scale, point, bits, block)


def pack_table(values: np.ndarray, quant: TensorQuant, block: int) -> Packed:
    """values: (entries, columns) float32, quantized in blocks along the columns, by entry or as a whole.

    GatherBlockQuantized stores an entry's columns like MatMulNBits an output's inputs, but none beyond the last: codes are
    (entries, columns * bits / 8). block: that of quant, or one that reaches over a whole entry.
    """
    bits = bits_of(quant)
    if bits is None or values.shape[1] * bits % 8:
        raise ValueError(f"entries of {values.shape[1]} {quant.dtype} codes do not fill bytes")
    return _packed(*_unsigned(values, quant, bits, 1, block), bits, block)


def _unsigned(
    values: np.ndarray, quant: TensorQuant, bits: int, axis: int, block: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes of all values, and scale and zero point where each block along the axis begins; uint8 codes from 0 on."""
    scale, point = (_at_blocks(part, quant, values.shape, axis, block) for part in (quant.scale, quant.zero_point))
    return _from_zero(weight_codes(values, quant), bits), scale, _from_zero(point, bits)


def _at_blocks(part: np.ndarray, quant: TensorQuant, shape: tuple[int, ...], axis: int, block: int) -> np.ndarray:
    if quant.block is not None and quant.axis is not None and quant.axis % len(shape) == axis:
        return np.take(part, np.arange(0, shape[axis], block) // quant.block, axis=axis)
    whole = np.broadcast_to(spread(part, quant, shape), shape)
    return whole[(slice(None),) * axis + (slice(None, None, block),)]


def _from_zero(codes: np.ndarray, bits: int) -> np.ndarray:
    """uint8. Signed codes are moved up by half of what there are."""
    if np.dtype(codes.dtype).name.startswith("u"):
        return codes.astype(np.uint8)
    return codes.astype(np.int8).view(np.uint8) + np.uint8(1 << (bits - 1))


def _packed(codes: np.ndarray, scale: np.ndarray, point: np.ndarray, bits: int, block: int) -> Packed:
    points = None if np.all(point == 1 << (bits - 1)) else join_bits(point, bits)
    return Packed(bits, block, join_bits(codes, bits), np.ascontiguousarray(scale, np.float32), points)


def unpack_table(node: onnx.NodeProto, found: GraphIndex) -> tuple[np.ndarray, TensorQuant] | None:
    """A GatherBlockQuantized node's table, float32, and its quantization; None where it is not constant or not along rows."""
    codes, scale = found.array(node.input[0]), found.array(node.input[2])
    sizes = {"bits": 4, "block_size": 128, "gather_axis": 0, "quantize_axis": 1}
    sizes = {name: int(attribute(node, name, size)) for name, size in sizes.items()}  # type: ignore[call-overload]
    along_rows = (sizes["gather_axis"], sizes["quantize_axis"] % 2) == (0, 1)
    if codes is None or scale is None or codes.ndim != 2 or codes.dtype != np.uint8 or not along_rows:
        return None
    stored = None
    if len(node.input) > 3 and node.input[3]:
        stored = found.array(node.input[3])
        if stored is None:
            return None
    return _dequantized(_split(codes, sizes["bits"]), scale, stored, sizes["bits"], sizes["block_size"])


def unpack(node: onnx.NodeProto, found: GraphIndex) -> tuple[np.ndarray, TensorQuant] | None:
    """A MatMulNBits node's weight, (K, N) float32, and its quantization; None where it is not constant or is reordered."""
    size = {name: int(attribute(node, name, 0)) for name in ("K", "N", "bits", "block_size")}  # type: ignore[call-overload]
    codes, scale = found.array(node.input[1]), found.array(node.input[2])
    has = [len(node.input) > position and bool(node.input[position]) for position in range(5)]
    if codes is None or scale is None or has[4]:
        return None
    bits, stored = size["bits"] or 4, None
    if has[3]:
        stored = found.array(node.input[3])
        if stored is None or stored.dtype != np.uint8:
            return None
        stored = stored.reshape(size["N"], -1)
    numbers = _split(codes.reshape(size["N"], -1), bits)[:, : size["K"]]
    values, quant = _dequantized(numbers, scale.reshape(size["N"], -1), stored, bits, size["block_size"])
    scale, point = (np.ascontiguousarray(part.T) for part in (quant.scale, quant.zero_point))
    return np.ascontiguousarray(values.T), replace(quant, scale=scale, zero_point=point, axis=0)


def _dequantized(
    numbers: np.ndarray, scale: np.ndarray, stored: np.ndarray | None, bits: int, block: int
) -> tuple[np.ndarray, TensorQuant]:
    """numbers: (rows, columns), codes from 0 on. scale: (rows, blocks). stored: packed zero points, None for the middle."""
    middle = 1 << (bits - 1)
    point = np.full(scale.shape, middle) if stored is None else _split(stored, bits)[:, : scale.shape[1]]
    signed = bool(np.all(point == middle))
    dtype = f"int{bits}" if signed else f"uint{bits}"
    codes = (point - (middle if signed else 0)).astype(dtype)
    quant = TensorQuant(dtype, scale.astype(np.float32), codes, axis=1, block=block)
    points, scales = (np.repeat(part, block, axis=1)[:, : numbers.shape[1]] for part in (point, quant.scale))
    values = (numbers - points) * scales
    return np.ascontiguousarray(values, np.float32), quant


def _split(stored: np.ndarray, bits: int) -> np.ndarray:
    """int32, the last axis longer by 8 / bits."""
    return split_bits(stored, bits).astype(np.int32)
