"""An independent loop over exported files: every test input in order, one at a time, one thread, the files in turns of a hundred inputs.

It knows nothing of compressctl's measuring: ONNX Runtime's and OpenVINO's own Python calls, and a clock.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_TURN = 100
_DRAWS = 2_000


@dataclass(frozen=True)
class Timed:
    """seconds: (inputs,) of each call. outputs: of each call, the first one."""

    seconds: np.ndarray
    outputs: list[np.ndarray]

    @property
    def mean_ms(self) -> float:
        return 1e3 * float(self.seconds.mean())


def opened(file: Path) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
    """A call on one thread."""
    if file.suffix == ".onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = 1, 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        return lambda inputs: np.asarray(session.run(None, dict(inputs))[0])
    import openvino

    compiled = openvino.Core().compile_model(
        file, "CPU", {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    )
    request = compiled.create_infer_request()
    return lambda inputs: np.array(request.infer(dict(inputs), share_inputs=True)[0])


def timed(files: Mapping[str, Path], inputs: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Timed]:
    """All files on all inputs."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])
    calls = {name: opened(file) for name, file in files.items()}
    for call in calls.values():
        for one in inputs[:_TURN]:
            call(one)
    seconds: dict[str, list[float]] = {name: [] for name in files}
    outputs: dict[str, list[np.ndarray]] = {name: [] for name in files}
    for start in range(0, len(inputs), _TURN):
        names = list(files) if (start // _TURN) % 2 == 0 else list(reversed(list(files)))
        for name in names:
            call = calls[name]
            call(inputs[start])  # fetches back what the others pushed out of the caches
            for one in inputs[start : start + _TURN]:
                began = time.perf_counter()
                found = call(one)
                seconds[name].append(time.perf_counter() - began)
                outputs[name].append(found)
        print(f"{start + _TURN}/{len(inputs)}", end="\r", file=sys.stderr)
    return {name: Timed(np.array(seconds[name]), outputs[name]) for name in files}


def ratio(before: Timed, after: Timed) -> tuple[float, float, float]:
    """Times as fast in the mean over inputs, with a 95 % interval over turns, drawn with replacement."""
    count = len(before.seconds) // _TURN * _TURN
    first, second = (one.seconds[:count].reshape(-1, _TURN).sum(1) for one in (before, after))
    drawn = np.random.default_rng(0).integers(0, len(first), (_DRAWS, len(first)))
    spread = first[drawn].sum(1) / second[drawn].sum(1)
    low, high = np.percentile(spread, [2.5, 97.5])
    return float(first.sum() / second.sum()), float(low), float(high)


def words(found: tuple[float, float, float]) -> str:
    return f"{found[0]:.2f}x ({found[1]:.2f} to {found[2]:.2f})"
