"""A feed-forward layer of which a quarter is computed, in ONNX Runtime: its own operator for experts, and looked-up weights, beside the whole layer, by rows in a call.

    python benchmarks/experts_operator.py [--experts 16] [--chosen 4]

One thread; medians of calls in turn. Weights and inputs are random, so that every expert is chosen about equally often.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from compressctl.backends.onnx_file import to_onnx
from compressctl.core.machine import this_machine
from compressctl.core.model import OnnxModel, Signature, TensorSpec, TorchModel
from compressctl.core.target import Target
from compressctl.graph.lower import lower
from compressctl.graph.session import open_graph
from compressctl.sources.modules.experts import Experts

WIDTHS = ((384, 1536), (1024, 4096))
ROWS = (1, 16, 128)
_ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU}
_CALLS = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, default=16)
    parser.add_argument("--chosen", type=int, default=4)
    asked = parser.parse_args()
    machine = this_machine()
    print(
        f"{machine.cpu}, ONNX Runtime {onnxruntime.__version__}, one thread, {asked.chosen} of {asked.experts} experts\n"
    )
    print(
        "| width, hidden, activation | rows | whole layer | operator | against the whole | looked up | against the whole |"
    )
    print("|---|---|---|---|---|---|---|")
    for width, hidden in WIDTHS:
        for activation, module in _ACTIVATIONS.items():
            whole = nn.Sequential(nn.Linear(width, hidden), module(), nn.Linear(hidden, width))
            experts = Experts(width, width, asked.experts, asked.chosen, hidden // asked.experts, activation)
            for parameter in experts.parameters():
                nn.init.normal_(parameter, std=width**-0.5)
            lowered = [_lowered(one, width) for one in (whole, experts)]
            newest, old = Target("onnxruntime"), Target("onnxruntime", oldest_onnxruntime=(1, 22))
            files = [to_onnx(lowered[0], newest), to_onnx(lowered[1], newest), to_onnx(lowered[1], old)]
            for rows in ROWS:
                first, operator, looked_up = _timed(files, rows, width)
                print(
                    f"| {width}, {hidden}, {activation} | {rows} | {first:.3f} ms | {operator:.3f} ms | {first / operator:.2f}x | {looked_up:.3f} ms | {first / looked_up:.2f}x |",
                    flush=True,
                )


def _lowered(module: nn.Module, width: int) -> OnnxModel:
    specs = [TensorSpec(name, "float32", ("batch", width)) for name in "xy"]
    return lower(TorchModel(module.eval(), Signature((specs[0],), (specs[1],))))


def _timed(files: list[onnx.ModelProto], rows: int, width: int) -> list[float]:
    """Milliseconds by file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = [open_graph(file, options) for file in files]
    x = torch.randn(rows, width, generator=torch.Generator().manual_seed(0)).numpy()
    seconds: list[list[float]] = [[] for _ in files]
    for _ in range(_CALLS):
        for kept, session in zip(seconds, sessions, strict=True):
            session.run(None, {"x": x})  # fetches back what the others pushed out of the caches
            began = time.perf_counter()
            session.run(None, {"x": x})
            kept.append(time.perf_counter() - began)
    return [1e3 * float(np.median(kept)) for kept in seconds]


if __name__ == "__main__":
    main()
