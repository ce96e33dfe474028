"""The saturation guard, on a processor without VNNI: this one if it has none, else one that valgrind emulates (AVX2)."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from compressctl.backends.dialects.cpu import emit
from compressctl.core.machine import this_machine
from compressctl.core.model import OnnxModel, Signature, TensorSpec
from compressctl.core.quant import QuantPlan, TensorQuant
from compressctl.core.target import Target
from compressctl.graph.codes import weight_values
from compressctl.numerics.int8_weights import Guard, quantize_weight
from compressctl.techniques.quantize._pairs import Largest

EMULATOR = shutil.which("valgrind")
needs_processor = pytest.mark.skipif(
    this_machine().has_vnni and EMULATOR is None, reason="this processor has VNNI and valgrind is not installed"
)

# (input channels, output channels, kernel, groups): pointwise, image input, odd channels, grouped, depthwise.
SHAPES = [(64, 32, 1, 1), (3, 32, 3, 1), (17, 16, 3, 1), (33, 40, 1, 1), (32, 16, 3, 2), (64, 64, 3, 64)]
DEPTHWISE = SHAPES[-1:]

_RUN = """
import json, sys, numpy, onnxruntime
for model, inputs, output in json.loads(sys.argv[1]):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    numpy.save(output, session.run(None, {"x": numpy.load(inputs)})[0])
"""


@needs_processor
@pytest.mark.slow
def test_guarded_weights_lose_nothing_where_full_ones_overflow(tmp_path: Path) -> None:
    cases = [
        *((shape, "pairs") for shape in SHAPES),
        *((shape, "calibrated") for shape in SHAPES),
        *((shape, "reduce_range") for shape in SHAPES),
        *((shape, "off") for shape in SHAPES),
    ]
    jobs = [_prepare(shape, guard, tmp_path / f"{i}") for i, (shape, guard) in enumerate(cases)]
    _run_without_vnni(jobs)
    errors = [_error_in_steps(tmp_path / f"{i}") for i in range(len(cases))]
    lost = {case: error for case, error in zip(cases, errors, strict=True) if error > 1}
    assert set(lost) == {(shape, "off") for shape in SHAPES if shape not in DEPTHWISE}


def _prepare(shape: tuple[int, int, int, int], guard: Guard, folder: Path) -> list[str]:
    """A convolution with the largest weights of mostly one sign on the largest inputs, and what it should give."""
    channels, filters, kernel, groups = shape
    rng = np.random.default_rng(0)
    folder.mkdir()
    signs = rng.choice([1.0, -1.0], size=(filters, channels // groups, kernel, kernel), p=[0.8, 0.2])
    weight = (signs * rng.uniform(0.7, 1.0, size=signs.shape)).astype(np.float32)
    x = rng.uniform(0.8, 1.0, size=(1, channels, 9, 9)).astype(np.float32)
    body = _convolution(weight, groups)
    largest = float(np.abs(weight).sum(axis=(1, 2, 3)).max())
    quant, seen = _quant(1 / 255, 0), None
    if guard == "calibrated" and groups == 1:
        seen = Largest.of(x, 1).codes(quant, kernel * kernel)
    plan = QuantPlan(
        activations={"x": quant, "y": _quant(2 * largest / 255, 128)},
        weights={"w": quantize_weight(weight, 0, per_channel=True, guard=guard, seen=seen)},
    )
    signature = Signature((TensorSpec("x", "float32", x.shape),), (TensorSpec("y", "float32", (1, filters, 9, 9)),))
    onnx.save(emit(OnnxModel(body, signature, plan), Target("onnxruntime")), folder / "model.onnx")
    np.save(folder / "x.npy", x)
    codes = np.rint(x.astype(np.float64) * 255)
    exact = _convolve(codes / 255, weight_values(weight, plan.weights["w"]).astype(np.float64), groups)
    np.save(folder / "exact.npy", exact)
    np.save(folder / "step.npy", np.float64(2 * largest / 255))
    return [str(folder / name) for name in ("model.onnx", "x.npy", "y.npy")]


def _run_without_vnni(jobs: list[list[str]]) -> None:
    emulate = [EMULATOR, "--tool=none", "-q"] if this_machine().has_vnni and EMULATOR else []
    done = subprocess.run(
        [*emulate, sys.executable, "-c", _RUN, json.dumps(jobs)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def _error_in_steps(folder: Path) -> float:
    found, exact, step = (np.load(folder / name) for name in ("y.npy", "exact.npy", "step.npy"))
    return float(np.abs(found - exact).max() / step)


def _convolution(weight: np.ndarray, groups: int) -> onnx.ModelProto:
    pad = weight.shape[2] // 2
    node = helper.make_node("Conv", ["x", "w"], ["y"], "conv", group=groups, pads=[pad] * 4)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, weight.shape[1] * groups, 9, 9])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, weight.shape[0], 9, 9])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _convolve(x: np.ndarray, weight: np.ndarray, groups: int) -> np.ndarray:
    """Direct summation in float64, same padding."""
    filters, per_group, kernel, _ = weight.shape
    pad = kernel // 2
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    out = np.zeros((1, filters, 9, 9))
    for filter_ in range(filters):
        first = filter_ // (filters // groups) * per_group
        for row in range(kernel):
            for column in range(kernel):
                window = padded[0, first : first + per_group, row : row + 9, column : column + 9]
                out[0, filter_] += np.tensordot(weight[filter_, :, row, column], window, axes=1)
    return out


def _quant(scale: float, zero_point: int) -> TensorQuant:
    return TensorQuant("uint8", np.asarray(np.float32(scale)), np.asarray(np.uint8(zero_point)))
