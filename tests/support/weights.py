"""A small text-like classifier whose table is its head too, and a run context for techniques, without a pipeline."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from compressctl.core.data import Batch
from compressctl.core.events import Events
from compressctl.core.model import Model, OnnxModel, Signature, TensorSpec
from compressctl.core.target import Target
from compressctl.core.technique import RunContext

WORDS, WIDTH, HIDDEN, LENGTH = 96, 64, 128, 6


@dataclass(frozen=True)
class Sentences:
    ids: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def batches(self, size: int, *, shuffle_seed: int | None = None) -> Iterator[Batch]:
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield Batch({"ids": self.ids[part]}, self.labels[part], np.arange(len(self))[part])


@dataclass(frozen=True)
class Text:
    splits: dict[str, Sentences]
    classes: tuple[str, ...] | None = None

    def split(self, name: str) -> Sentences:
        return self.splits[name]


def language_model(*, tied: str = "gemm", seed: int = 0) -> Model:
    """ids (batch, 6) -> table -> LayerNorm -> two products around a Relu, + residual, mean -> scores of every word.

    tied: how the table is the head too: "gemm" reads the same initializer, "matmul" a transposed copy, "no" other numbers.
    Channels have very different sizes, as in trained transformers, so that where rounding errors go matters.
    """
    rng = np.random.default_rng(seed)
    table = rng.normal(0, 0.2, (WORDS, WIDTH)).astype(np.float32)
    spread = np.exp(rng.normal(0, 1, WIDTH)).astype(np.float32)
    mixed = (np.eye(HIDDEN) + rng.normal(0, 0.2, (HIDDEN, HIDDEN))).astype(np.float32)
    constants = {
        "table": table,
        "norm.scale": spread,
        "norm.bias": rng.normal(0, 0.1, WIDTH).astype(np.float32),
        "up.weight": (rng.standard_t(5, (WIDTH, HIDDEN)) * 0.1 / spread[:, None]).astype(np.float32) @ mixed,
        "up.bias": rng.normal(0, 0.1, HIDDEN).astype(np.float32),
        "down.weight": (rng.standard_t(5, (HIDDEN, WIDTH)) * 0.1).astype(np.float32),
    }
    head = helper.make_node("Gemm", ["pooled", "table"], ["scores"], "head", transB=1)
    if tied != "gemm":
        constants["head.weight"] = np.ascontiguousarray(table.T if tied == "matmul" else table.T[::-1])
        head = helper.make_node("MatMul", ["pooled", "head.weight"], ["scores"], "head")
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["words"], "lookup"),
        helper.make_node("LayerNormalization", ["words", "norm.scale", "norm.bias"], ["normed"], "norm"),
        helper.make_node("MatMul", ["normed", "up.weight"], ["u"], "up"),
        helper.make_node("Add", ["u", "up.bias"], ["ub"], "up_bias"),
        helper.make_node("Relu", ["ub"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "down.weight"], ["d"], "down"),
        helper.make_node("Add", ["d", "words"], ["res"], "residual"),
        helper.make_node("ReduceMean", ["res"], ["pooled"], "pool", axes=[1], keepdims=0),
        head,
    ]
    graph = helper.make_graph(
        nodes,
        "words",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", LENGTH])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", WORDS])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    body = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    signature = Signature(
        (TensorSpec("ids", "int64", ("batch", LENGTH)),), (TensorSpec("scores", "float32", ("batch", WORDS)),)
    )
    return OnnxModel(body, signature)


def sentences(count: int = 256, seed: int = 1) -> Sentences:
    rng = np.random.default_rng(seed)
    return Sentences(rng.integers(0, WORDS, (count, LENGTH)), rng.integers(0, WORDS, count))


def context(data: object, folder: Path, target: Target | None = None) -> RunContext:
    return RunContext(0, Events(), folder, target or Target("onnxruntime"), data)  # type: ignore[arg-type]


def text() -> Text:
    names = ("train", "validation", "calibration", "test")
    return Text({name: sentences(seed=position) for position, name in enumerate(names)})
