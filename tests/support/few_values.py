"""Two convolutions whose weights have few values, in every way that a file can store."""

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compressctl.core.model import Model, OnnxModel, Signature, TensorSpec
from compressctl.core.quant import QuantPlan, TensorQuant

_SHAPES = {"w1": (32, 16, 3, 3), "w2": (32, 32, 3, 3)}


def _few(rng: np.random.Generator, shape: tuple[int, ...], entries: int) -> np.ndarray:
    return rng.choice(rng.normal(0, 0.1, entries).astype(np.float32), shape)


def _scales(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.normal(size=(shape[0], 1, 1, 1)).astype(np.float32)


def _sparse(rng: np.random.Generator, shape: tuple[int, ...], values: np.ndarray) -> np.ndarray:
    return np.where(rng.random(shape) < 0.1, values, np.float32(0))


def _by_run(rng: np.random.Generator, shape: tuple[int, ...], runs: int, entries: int) -> np.ndarray:
    size = int(np.prod(shape))
    return np.concatenate([_few(rng, (size // runs,), entries) for _ in range(runs)]).reshape(shape)


_MAKE: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "sixteen": lambda rng, shape: _few(rng, shape, 16),
    "seven": lambda rng, shape: _few(rng, shape, 7),
    "forty": lambda rng, shape: _few(rng, shape, 40),
    "binary": lambda rng, shape: rng.choice(np.array([-1, 1], np.float32), shape) * abs(_scales(rng, shape)),
    "ternary": lambda rng, shape: rng.choice(np.array([-0.3, 0, 0.4], np.float32), shape),
    "sparse": lambda rng, shape: _sparse(rng, shape, rng.normal(size=shape).astype(np.float32)),
    "sparse codes": lambda rng, shape: _sparse(rng, shape, _few(rng, shape, 16)),
    "scaled": lambda rng, shape: _few(rng, shape, 16) * _scales(rng, shape),
    "by channel": lambda rng, shape: _by_run(rng, shape, shape[0], 16),
    "by group": lambda rng, shape: _by_run(rng, shape, int(np.prod(shape)) // 32, 4),
}
FORMS = sorted(_MAKE)


def network(form: str) -> onnx.ModelProto:
    """x -> Conv -> Relu -> Conv. form: one of FORMS, or dense."""
    rng = np.random.default_rng(2)
    make = _MAKE.get(form, lambda rng, shape: rng.normal(size=shape).astype(np.float32))
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["y"], "conv2", pads=[1, 1, 1, 1]),
    ]
    value = helper.make_tensor_value_info
    weights = {name: make(rng, shape) for name, shape in _SHAPES.items()}
    graph = helper.make_graph(
        nodes,
        "net",
        [value("x", TensorProto.FLOAT, ["batch", 16, 6, 6])],
        [value("y", TensorProto.FLOAT, ["batch", 32, 6, 6])],
        [numpy_helper.from_array(array, name) for name, array in {**weights, "b1": np.ones(32, np.float32)}.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def model(form: str) -> Model:
    """The network without a plan."""
    signature = Signature(
        (TensorSpec("x", "float32", ("batch", 16, 6, 6)),), (TensorSpec("y", "float32", ("batch", 32, 6, 6)),)
    )
    return OnnxModel(network(form), signature)


def four_bit_codes() -> Model:
    """The dense network with a plan that rounds weights to 15 of the 8-bit codes, and activations to 8 bits."""
    plain = model("dense")

    def weight(name: str) -> TensorQuant:
        stored = next(tensor for tensor in plain.body.graph.initializer if tensor.name == name)
        largest = np.abs(numpy_helper.to_array(stored)).reshape(32, -1).max(axis=1)
        return TensorQuant(
            "int8", (largest / 7).astype(np.float32), np.zeros(32, np.int8), axis=0, quantized_min=-7, quantized_max=7
        )

    def activation(scale: float, point: int) -> TensorQuant:
        return TensorQuant("uint8", np.asarray(scale, np.float32), np.asarray(point, np.uint8))

    activations = {"x": activation(8 / 255, 128), "r1": activation(0.3, 0), "y": activation(3.0, 128)}
    plan = QuantPlan(activations, {name: weight(name) for name in _SHAPES})
    return OnnxModel(plain.body, plain.signature, plan)
