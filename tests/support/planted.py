"""Small networks with something planted in them, as files that a recipe names."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Network:
    """A graph of convolutions or products, node by node."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, values: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def node(self, op: str, sources: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, sources, [output], f"{output}_{op}", **attributes))
        return output

    def conv(self, source: str, output: str, weight: np.ndarray, bias: float = 0.0) -> str:
        names = [source, self.constant(f"{output}.weight", weight.astype(np.float32))]
        names.append(self.constant(f"{output}.bias", np.full(len(weight), bias, np.float32)))
        return self.node("Conv", names, output, pads=[weight.shape[2] // 2] * 4)

    def dense(self, source: str, output: str, weight: np.ndarray) -> str:
        return self.node("MatMul", [source, self.constant(f"{output}.weight", weight.astype(np.float32))], output)

    def weight(self, outputs: int, inputs: int, size: int = 3) -> np.ndarray:
        return self.rng.normal(size=(outputs, inputs, size, size)) / np.sqrt(inputs * size * size)

    def save(self, path: Path, output: str, shape: list[object], given: list[object]) -> None:
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            "network",
            [value("x", TensorProto.FLOAT, given)],
            [value(output, TensorProto.FLOAT, shape)],
            self.constants,
        )
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def convolutions(folder: Path, *, outlier: float = 1.0, faint: float = 1.0) -> None:
    """Four convolutions. outlier: how many times as large one channel of the first is. faint: what half of its channels are multiplied by.

    What follows undoes both, so that the network's output is the same.
    """
    network = Network()
    first, second = network.weight(8, 1), network.weight(16, 8)
    first[0] *= outlier
    second[:, 0] /= outlier
    first[4:] *= faint
    second[:, 4:] /= faint
    tensor = network.node("Relu", [network.conv("x", "c0", first)], "r0")
    tensor = network.node("Relu", [network.conv(tensor, "c1", second)], "r1")
    tensor = network.node("Relu", [network.conv(tensor, "c2", network.weight(16, 16))], "r2")
    network.conv(tensor, "y", network.weight(4, 16))
    network.save(folder / "net.onnx", "y", ["n", 4, 12, 12], ["n", 1, 12, 12])


def boxes_and_scores(folder: Path) -> None:
    """Boxes in pixels and scores below 1, joined, and a convolution behind the join that needs integers."""
    network = Network()
    trunk = network.node("Relu", [network.conv("x", "c0", network.weight(16, 1))], "r0")
    boxes = network.conv(trunk, "boxes", 100 * network.weight(4, 16, 1), bias=150)
    scores = network.node("Sigmoid", [network.conv(trunk, "logits", 2 * network.weight(3, 16, 1), bias=-5)], "scores")
    joined = network.node("Concat", [boxes, scores], "joined", axis=1)
    network.conv(joined, "y", np.eye(7).reshape(7, 7, 1, 1))
    network.save(folder / "net.onnx", "y", ["n", 7, 12, 12], ["n", 1, 12, 12])


def masked(folder: Path, constant: float) -> None:
    """A map to which a constant is added wherever the image is not positive, before the largest of each 4 x 4 values are taken."""
    network = Network()
    hidden = network.conv("x", "h", network.weight(16, 1))
    positive = network.node("Greater", ["x", network.constant("zero", np.float32(0))], "positive")
    mask = network.node("Where", [positive, "zero", network.constant("constant", np.float32(constant))], "mask")
    kept = network.node("Add", [hidden, mask], "kept")
    largest = network.node("MaxPool", [kept], "largest", kernel_shape=[4, 4], strides=[4, 4])
    network.conv(largest, "y", network.weight(4, 16))
    network.save(folder / "net.onnx", "y", ["n", 4, 3, 3], ["n", 1, 12, 12])


def images(folder: Path, samples: int = 120, scale: float = 1.0, **more: np.ndarray) -> None:
    """Noise, of which samples differ in loudness where `scale` is not 1: those in the first places are quiet."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(samples, 1, 12, 12)).astype(np.float32) * np.float32(scale)
    np.savez(folder / "data.npz", x=x, **more)
