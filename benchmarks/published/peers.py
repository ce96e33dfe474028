"""What others make of a published model: ONNX Runtime's own quantizers and float16 conversion, and NNCF.

python benchmarks/published/peers.py NAME MODEL INPUTS 3,7,... OUTPUT       (each in a process of its own: some crash)
"""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx

LIMIT_SECONDS = 600


def attempt(name: str, model: Path, inputs: Path, calibration: list[int], output: Path) -> tuple[int, float, str]:
    """Exit code, seconds, and the last line that was printed, of one peer on one model in a child process."""
    output.unlink(missing_ok=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    positions = ",".join(map(str, calibration))
    command = [sys.executable, __file__, name, str(model), str(inputs), positions, str(output)]
    started = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return 124, time.monotonic() - started, f"no end after {LIMIT_SECONDS} s"
    lines = (done.stdout + done.stderr).rstrip().splitlines()
    return done.returncode, time.monotonic() - started, lines[-1] if lines and done.returncode else ""


def ort_static(model: Path, samples: list[dict[str, np.ndarray]], output: Path) -> None:
    """quantize_static after its own preprocessing, defaults: QDQ, int8 weights and activations per tensor, min-max."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left: Iterator[dict[str, np.ndarray]] = iter(samples)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.left, None)

    quantize_static(_prepared(model, output), output, Reader())


def ort_dynamic(model: Path, _samples: list[dict[str, np.ndarray]], output: Path) -> None:
    """quantize_dynamic after its own preprocessing, defaults."""
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(_prepared(model, output), output)


def ort_nbits(bits: int, model: Path, _samples: list[dict[str, np.ndarray]], output: Path) -> None:
    """MatMulNBits: products with constant weights, blocks of 32."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    loaded = onnx.load(model)
    quantizer = MatMulNBitsQuantizer(loaded, bits=bits, block_size=32)
    quantizer.process()
    made = quantizer.model.model
    if not any(node.op_type == "MatMulNBits" for node in made.graph.node):
        raise SystemExit("left as it is: no product with a constant weight")
    onnx.save(made, output)


def ort_float16(model: Path, _samples: list[dict[str, np.ndarray]], output: Path) -> None:
    """onnxconverter-common's conversion as ONNX Runtime ships it; inputs and outputs stay float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(model), keep_io_types=True), output)


def nncf_static(model: Path, samples: list[dict[str, np.ndarray]], output: Path) -> None:
    """nncf.quantize, defaults, on the ONNX file."""
    import nncf

    onnx.save(nncf.quantize(onnx.load(model), nncf.Dataset(samples), subset_size=len(samples)), output)


def nncf_weights(bits: int, model: Path, _samples: list[dict[str, np.ndarray]], output: Path) -> None:
    """nncf.compress_weights on the ONNX file: all layers in INT8, or INT4 in groups of 32 and the rest in INT8."""
    import nncf

    loaded = onnx.load(model)
    if bits == 8:
        made = nncf.compress_weights(loaded)
    else:
        made = nncf.compress_weights(loaded, mode=nncf.CompressWeightsMode.INT4_ASYM, group_size=32, ratio=1.0)
    if not any(node.op_type in ("DequantizeLinear", "MatMulNBits") for node in made.graph.node):
        raise SystemExit("left as it is: nothing that it compresses")
    onnx.save(made, output)


Make = Callable[[Path, list[dict[str, np.ndarray]], Path], None]

PEERS: dict[str, dict[str, Make]] = {
    "static": {"ORT": ort_static, "NNCF": nncf_static},
    "dynamic": {"ORT": ort_dynamic},
    "weights-8": {
        "ORT": lambda model, samples, output: ort_nbits(8, model, samples, output),
        "NNCF": lambda model, samples, output: nncf_weights(8, model, samples, output),
    },
    "weights-4": {
        "ORT": lambda model, samples, output: ort_nbits(4, model, samples, output),
        "NNCF": lambda model, samples, output: nncf_weights(4, model, samples, output),
    },
    "float16": {"ORT": ort_float16},
}
"""By our technique: whose result stands beside it."""


def _prepared(model: Path, output: Path) -> Path:
    """quant_pre_process, as ONNX Runtime's documentation asks; the file itself where that fails."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = output.with_name("prepared-" + output.name)
    try:
        quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
    except Exception as error:
        print(f"quant_pre_process failed, going on without: {error}")
        return model
    return prepared


def _main(technique: str, peer: str, model: Path, inputs: Path, calibration: list[int], output: Path) -> None:
    logging.disable(logging.WARNING)
    samples = []
    paths = sorted(inputs.glob("*.npz"))
    for position in calibration:
        with np.load(paths[position]) as opened:
            samples.append({name: opened[name] for name in opened.files})
    PEERS[technique][peer](model, samples, output)


if __name__ == "__main__":
    name, model, inputs, positions, output = sys.argv[1:]
    _main(*name.split("/"), Path(model), Path(inputs), [int(part) for part in positions.split(",")], Path(output))
