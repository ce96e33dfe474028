"""Every technique that changes graphs, on random ones: the file is valid, runs and is near the original, or the refusal is true."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from support.random_graphs import SAMPLES, Drawn, graphs, run

from compressctl.backends.onnx_file import save_onnx, to_onnx
from compressctl.backends.onnxruntime.choose import choose_forms
from compressctl.backends.storage import as_stored
from compressctl.backends.tensorrt.build import build as build_tensorrt
from compressctl.core.data import Batch
from compressctl.core.errors import NothingToCompressError
from compressctl.core.events import Events
from compressctl.core.model import Model, OnnxModel
from compressctl.core.target import Target
from compressctl.core.technique import RunContext, techniques
from compressctl.graph.import_qdq import absorb
from compressctl.graph.requantize import fitted
from compressctl.graph.unpack_constants import unpack_constants
from compressctl.sources.onnx_file import load
from compressctl.sources.params import OnnxParams

EXAMPLES = int(os.environ.get("COMPRESSCTL_RANDOM_GRAPHS", "200"))


@dataclass(frozen=True)
class Stage:
    """least_db: of every output against the original, the worst of many thousand graphs and some decibels."""

    use: str
    least_db: float
    params: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        said = ",".join(f"{name}={value}" for name, value in self.params.items())
        return f"{self.use}({said})" if said else self.use


STAGES = (
    Stage("quantize.static", 8),
    Stage("quantize.static", 8, {"smoothquant_alpha": 0.5, "bias_correction": False}),
    Stage("quantize.static", 8, {"equalize": True}),
    Stage("quantize.dynamic", 10),
    Stage("quantize.dynamic", 8, {"embeddings": "int4", "smoothquant_alpha": 0.5}),
    Stage("quantize.weights", 20, {"bits": 8}),
    Stage("quantize.weights", 4, {"bits": 4, "granularity": "group", "group_size": 16}),
    Stage("quantize.weights", 4, {"bits": 4, "method": "awq"}),
    Stage("quantize.weights", 4, {"bits": 4, "method": "gptq"}),
    Stage("cast", 25, {"scope": "weights"}),
    Stage("cast", 20, {"scope": "all"}),
    Stage("cast", 20, {"scope": "all", "keep_io": False}),
    Stage("cast", 12, {"scope": "weights", "dtype": "bfloat16"}),
    Stage("share.kmeans", 8, {"clusters": 32}),
    Stage("prune.unstructured", 2, {"sparsity": 0.05, "first_and_last": "prune"}),
    Stage("prune.unstructured", 2, {"sparsity": 0.05, "first_and_last": "prune", "method": "wanda"}),
    Stage("factorize.svd", 20, {"rank": {"energy": 0.9999}, "skip_slower": False, "round_to": 1}),
)
QDQ = {"weight_form": "qdq"}
TARGETS = (
    Target("onnxruntime", profile="x86-vnni", options=QDQ),
    Target("onnxruntime", profile="x86-vnni", options={"weight_form": "matmul_nbits"}),
    Target("onnxruntime", profile="x86-vnni", options={**QDQ, "storage": "compressed"}),
    Target("onnxruntime", profile="arm64", options=QDQ),
    Target("openvino", profile="x86-vnni"),
    Target("tensorrt", profile="nvidia-sm80", options={"precision": "float32"}),
    Target("tensorrt", profile="nvidia-sm80", options={"precision": "float16"}),
)


@dataclass(frozen=True)
class _Calls:
    """One batch, which is every split."""

    feeds: Mapping[str, np.ndarray]
    classes: None = None
    fingerprint: str = ""

    def split(self, name: str) -> _Calls:
        return self

    def __len__(self) -> int:
        return SAMPLES

    def batches(self, size: int, *, shuffle_seed: int | None = None) -> Iterator[Batch]:
        shared = frozenset(name for name, value in self.feeds.items() if value.ndim == 0)
        for first in range(0, SAMPLES, size):
            part = {
                name: value if name in shared else value[first : first + size] for name, value in self.feeds.items()
            }
            yield Batch(part, None, np.arange(first, min(first + size, SAMPLES)), constants=shared)


def applied(model: Model, stage: Stage, target: Target, feeds: Mapping[str, np.ndarray], folder: Path) -> Model:
    import importlib

    spec = techniques.get(stage.use)
    module, name = spec.implementation.split(":")
    params = spec.params.model_validate(dict(stage.params))
    context = RunContext(0, Events(), folder, target, _Calls(feeds))  # type: ignore[arg-type]
    result: Model = getattr(importlib.import_module(module), name)(model, params, context).model
    return result


def written(model: Model, target: Target, folder: Path) -> onnx.ModelProto:
    if target.backend == "tensorrt":
        return onnx.load(build_tensorrt(model, target, folder).path)
    chosen = choose_forms(model, target)[0] if target.backend == "onnxruntime" else {}
    return onnx.load(save_onnx(as_stored(to_onnx(model, target, chosen), target)[0], folder)[0])


def level_for(proto: onnx.ModelProto, target: Target) -> str:
    """All that serves a target, the first where ONNX Runtime stands in for another. In float16 not the last one: there version 1.32
    ends the process over a product behind a Transpose."""
    if target.backend != "onnxruntime":
        return "BASIC"
    return "EXTENDED" if any(tensor.data_type == TensorProto.FLOAT16 for tensor in proto.graph.initializer) else "ALL"


def decibels(wanted: np.ndarray, found: np.ndarray) -> float:
    signal, noise = np.asarray(wanted, np.float64), np.asarray(found, np.float64) - wanted
    return float(10 * np.log10(((signal**2).mean() + 1e-6) / ((noise**2).mean() + 1e-12)))


def check(drawn: Drawn, stage: Stage | None, target: Target, then: Target | None = None) -> None:
    """Raises AssertionError where a property does not hold. then: what the file is read back and written again for."""
    wanted = run(drawn.model, drawn.feeds)
    with TemporaryDirectory() as name:
        folder = Path(name)
        onnx.save(drawn.model, folder / "m.onnx")
        model = load(OnnxParams(path="m.onnx"), folder, 0)
        try:
            model = model if stage is None else applied(model, stage, target, drawn.feeds, folder)
            proto = written(model, target, folder)
        except NothingToCompressError:
            if stage is not None and not drawn.treatable(stage.use):
                return
            raise
        if then is not None:
            found = absorb(unpack_constants(proto))
            read, _ = fitted(OnnxModel(found.model, model.signature, found.plan), then)
            proto, target = written(read, then, folder), then
    onnx.checker.check_model(proto, full_check=True)
    narrow = {spec.name: spec.dtype for spec in model.signature.inputs}
    feeds = {name: value.astype(narrow[name]) for name, value in drawn.feeds.items()}
    outputs = run(proto, feeds, level_for(proto, target))
    assert list(outputs) == list(wanted)
    for output, value in wanted.items():
        assert outputs[output].shape == value.shape
        nearness = decibels(value, outputs[output])
        assert nearness >= (stage.least_db if stage else 20), f"{output}: {nearness:.1f} dB"


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(graphs(), st.sampled_from([None, *STAGES]), st.sampled_from(TARGETS))
def test_what_comes_out_is_valid_runs_and_is_near(drawn: Drawn, stage: Stage | None, target: Target) -> None:
    check(drawn, stage, target)


@settings(max_examples=EXAMPLES // 2, deadline=None, suppress_health_check=list(HealthCheck))
@given(graphs(), st.sampled_from([None, *STAGES]), st.sampled_from(TARGETS), st.sampled_from(TARGETS))
def test_what_was_written_is_read_back_for_another_runtime(
    drawn: Drawn, stage: Stage | None, target: Target, then: Target
) -> None:
    check(drawn, stage, target, then)
