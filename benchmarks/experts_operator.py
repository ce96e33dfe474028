"""A feed-forward layer of which a quarter is computed, in ONNX Runtime: its own operator for experts, in float and in 8 bits, and looked-up weights, beside the whole layer, by rows in a call.

    python benchmarks/experts_operator.py [--experts 16] [--chosen 4]

One thread; medians of calls in turn. Weights and inputs are random, so that every expert is chosen about equally often.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from compressctl.backends.onnx_file import to_onnx
from compressctl.core.events import Events
from compressctl.core.machine import this_machine
from compressctl.core.model import OnnxModel, Signature, TensorSpec, TorchModel
from compressctl.core.target import Target
from compressctl.core.technique import RunContext
from compressctl.graph.lower import lower
from compressctl.graph.session import open_graph
from compressctl.sources.modules.experts import Experts
from compressctl.techniques.quantize import dynamic
from compressctl.techniques.quantize.params import DynamicParams

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
    print("| width, hidden, activation | rows | whole | whole, 8 bits | operator | operator, 8 bits | looked up |")
    print("|---|---|---|---|---|---|---|")
    for width, hidden in WIDTHS:
        for activation, module in _ACTIVATIONS.items():
            whole = nn.Sequential(nn.Linear(width, hidden), module(), nn.Linear(hidden, width))
            experts = Experts(width, width, asked.experts, asked.chosen, hidden // asked.experts, activation)
            for parameter in experts.parameters():
                nn.init.normal_(parameter, std=width**-0.5)
            models = [form for one in (whole, experts) for form in _forms(_lowered(one, width))]
            files = [to_onnx(model, Target("onnxruntime")) for model in models]
            files.append(to_onnx(models[2], Target("onnxruntime", oldest_onnxruntime=(1, 22))))
            for rows in ROWS:
                first, *others = _timed(files, rows, width)
                shown = " | ".join(f"{took:.3f} ms, {first / took:.2f}x" for took in others)
                print(f"| {width}, {hidden}, {activation} | {rows} | {first:.3f} ms | {shown} |", flush=True)


def _forms(model: OnnxModel) -> list[OnnxModel]:
    """In float and in 8 bits."""
    run = RunContext(0, Events(), Path(), Target("onnxruntime"))
    quantized = dynamic.apply(model, DynamicParams(), run).model
    assert isinstance(quantized, OnnxModel)
    return [model, quantized]


def _lowered(module: nn.Module, width: int) -> OnnxModel:
    specs = [TensorSpec(name, "float32", ("batch", width)) for name in "xy"]
    return lower(TorchModel(module.eval(), Signature((specs[0],), (specs[1],))))


def _timed(files: list[onnx.ModelProto], rows: int, width: int) -> list[float]:
    """Milliseconds by file."""
    sessions = [open_graph(file, _one_thread()) for file in files]
    x = torch.randn(rows, width, generator=torch.Generator().manual_seed(0)).numpy()
    seconds: list[list[float]] = [[] for _ in files]
    for _ in range(_CALLS):
        for kept, session in zip(seconds, sessions, strict=True):
            session.run(None, {"x": x})  # fetches back what the others pushed out of the caches
            began = time.perf_counter()
            session.run(None, {"x": x})
            kept.append(time.perf_counter() - began)
    return [1e3 * float(np.median(kept)) for kept in seconds]


def _one_thread() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return options


if __name__ == "__main__":
    main()
