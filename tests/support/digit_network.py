"""A small real classifier: fixed convolution features of digits under a fitted linear head, and its data."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from sklearn.datasets import load_digits

from compressctl.backends.dialects.cpu import emit
from compressctl.core.data import Batch
from compressctl.core.events import Events
from compressctl.core.model import Model, OnnxModel, Signature, TensorSpec
from compressctl.core.target import Target
from compressctl.core.technique import RunContext
from compressctl.graph.execute import ActivationRecorder
from compressctl.graph.session import open_graph
from compressctl.tasks.metric_specs import ACCURACY

SIGNATURE = Signature(
    (TensorSpec("image", "float32", ("batch", 1, 8, 8)),), (TensorSpec("logits", "float32", ("batch", 10)),)
)


@dataclass(frozen=True)
class Samples:
    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, size: int, *, shuffle_seed: int | None = None) -> Iterator[Batch]:
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield Batch({"image": self.images[part]}, self.labels[part], np.arange(start, min(start + size, len(self))))


@dataclass(frozen=True)
class Digits:
    splits: dict[str, Samples]
    classes: tuple[str, ...] = tuple("0123456789")

    def split(self, name: str) -> Samples:
        return self.splits[name]


def digits() -> Digits:
    """Four splits of scikit-learn's digits, 8 x 8 pixels."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    images = (images[order].reshape(-1, 1, 8, 8) / 16).astype(np.float32)
    labels = labels[order]
    bounds = {"train": (0, 900), "calibration": (900, 1100), "validation": (1100, 1400), "test": (1400, 1797)}
    return Digits({name: Samples(images[a:b], labels[a:b]) for name, (a, b) in bounds.items()})


def fitted_network(data: Digits) -> Model:
    """Two convolutions with random filters, a residual addition, and a head that least squares fits to the train split."""
    rng = np.random.default_rng(1)
    weights = {
        "stem.weight": rng.normal(size=(16, 1, 3, 3), scale=0.5),
        "stem.bias": rng.normal(size=16, scale=0.1),
        "body.weight": rng.normal(size=(16, 16, 3, 3), scale=0.1),
        "body.bias": rng.normal(size=16, scale=0.1),
        "head.weight": np.zeros((10, 256)),
        "head.bias": np.zeros(10),
    }
    float_model = _network({name: value.astype(np.float32) for name, value in weights.items()})
    train = data.split("train")
    features = ActivationRecorder(float_model, ["features"]).run({"image": train.images})["features"].astype(np.float64)
    targets = np.eye(10)[train.labels] - 0.1
    fitted = np.linalg.solve(features.T @ features + 1e-1 * np.eye(256), features.T @ targets)
    weights["head.weight"] = fitted.T
    return as_model(_network({name: value.astype(np.float32) for name, value in weights.items()}))


def _network(weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["image", "stem.weight", "stem.bias"], ["s"], "stem", pads=[1] * 4),
        helper.make_node("Relu", ["s"], ["sr"], "stem_relu"),
        helper.make_node("Conv", ["sr", "body.weight", "body.bias"], ["b"], "body", pads=[1] * 4),
        helper.make_node("Add", ["b", "sr"], ["a"], "residual"),
        helper.make_node("Relu", ["a"], ["ar"], "residual_relu"),
        helper.make_node("MaxPool", ["ar"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["features"], "flatten"),
        helper.make_node("Gemm", ["features", "head.weight", "head.bias"], ["logits"], "head", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def as_model(body: onnx.ModelProto) -> Model:
    return OnnxModel(body, SIGNATURE)


@dataclass(frozen=True)
class Opened:
    session: onnxruntime.InferenceSession

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"logits": self.session.run(["logits"], dict(inputs))[0]}


def open_model(model: Model) -> Opened:
    return Opened(open_graph(emit(model, Target("onnxruntime"))))


def accuracy(model: Model, samples: Samples) -> float:
    logits = open_model(model).run({"image": samples.images})["logits"]
    return float((logits.argmax(axis=1) == samples.labels).mean() * 100)


def context(data: Digits, original: Model, **changes: object) -> RunContext:
    def score(model: Model, split: str) -> float:
        return accuracy(model, data.split(split))

    context = RunContext(
        seed=0,
        events=Events(),
        folder=Path(),
        target=Target("onnxruntime"),
        data=data,
        score=score,
        baseline_score=lambda: score(original, "validation"),
        open=open_model,
        metric=ACCURACY,
    )
    return replace(context, **changes)  # type: ignore[arg-type]
