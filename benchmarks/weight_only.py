"""How fast ONNX Runtime multiplies with weights of 2, 4 and 8 bits on this machine, by form, beside float weights.

python benchmarks/weight_only.py [K N]      default 1024 1024, one thread

Each cell is the speed against float weights in the same turn (more is faster); in brackets the outputs' error against the
exact numbers of the stored weights, which is not that of rounding the weights.
"""

import sys

import numpy as np
from onnx import helper

from compressctl.backends.dialects.weight_only import Form, Product, forms
from compressctl.backends.onnxruntime.choose import time_forms
from compressctl.backends.onnxruntime.standing import Standing
from compressctl.core.quant import TensorQuant
from compressctl.core.target import Target
from compressctl.graph.tensors import from_array

FORMS = {
    "MatMulNBits, float activations": Form.NBITS,
    "MatMulNBits, 8-bit activations": Form.NBITS_INT8,
    "DequantizeLinear": Form.QDQ,
    "unpacked at load": Form.AT_LOAD,
}


def main() -> None:
    shape = tuple(int(size) for size in sys.argv[1:3]) or (1024, 1024)
    values = np.random.default_rng(0).normal(0, 0.05, shape).astype(np.float32)
    print(f"| weights ({shape[0]} x {shape[1]}) | rows | {' | '.join(FORMS)} |\n|---|---|{'---|' * len(FORMS)}")
    for bits in (2, 4, 8):
        for block in (32, 128):
            quant = _quant(values, bits, block)
            target = Target("onnxruntime", threads=1)
            possible = forms(Product("product", "w", False, quant), len(values), target)
            node = helper.make_node("MatMul", ["x", "w"], ["y"], "product")
            product = Standing((node,), {"w": from_array(values, "w")}, "w", quant)
            for rows in (1, 64):
                plain, timed = time_forms(product, possible, rows, target)
                cells = [
                    f"{plain / timed[form].seconds:.2f}x ({timed[form].error:.1%})" if form in timed else "cannot"
                    for form in FORMS.values()
                ]
                print(f"| {bits} bits, blocks of {block} | {rows} | {' | '.join(cells)} |", flush=True)


def _quant(values: np.ndarray, bits: int, block: int) -> TensorQuant:
    parts = values.reshape(-1, block, values.shape[1])
    scale = (np.abs(parts).max(axis=1) / max(2 ** (bits - 1) - 1, 1)).astype(np.float32)
    return TensorQuant(f"int{bits}", scale, np.zeros(scale.shape, f"int{bits}"), axis=0, block=block)


if __name__ == "__main__":
    main()
