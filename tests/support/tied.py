"""Small graphs whose layers share weights and read them in different ways."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from compressctl.core.data import Batch
from compressctl.core.model import Model, OnnxModel, Signature, TensorSpec

WIDTH = 16
SAMPLES = 64


@dataclass(frozen=True)
class Step:
    """One layer. op: how it reads weight `weight` of the pool. relu: behind it. scaled: Gemm with alpha and beta."""

    op: str
    weight: int
    relu: bool = False
    bias: bool = False
    scaled: bool = False


OPS = ("matmul", "gemm", "gemm_transposed", "gather", "gather_columns", "plain", "conv_groups", "conv_part")
_CONVS = ("conv_groups", "conv_part")


def steps() -> st.SearchStrategy[list[Step]]:
    one = st.builds(
        Step,
        st.sampled_from(OPS),
        st.integers(0, 1),
        st.booleans(),
        st.booleans(),
        st.sampled_from([False, False, False, True]),
    )
    multiplies = ("matmul", "gemm", "gemm_transposed")
    return st.lists(one, min_size=2, max_size=5).filter(lambda found: any(step.op in multiplies for step in found))


def tied_model(layers: Sequence[Step], seed: int = 0) -> Model:
    """x (batch, 16), ids (batch,) -> y (batch, 16). Matrices are (16, 16), so that a wrong axis goes unnoticed by shapes."""
    rng = np.random.default_rng(seed)
    spread = np.logspace(-1.5, 0, WIDTH)
    constants: dict[str, np.ndarray] = {
        **{f"w{n}": rng.standard_normal((WIDTH, WIDTH)) * spread * 0.4 for n in range(2)},
        **{f"k{n}": rng.standard_normal((WIDTH, 4, 1, 1)) * spread[:, None, None, None] * 0.6 for n in range(2)},
        "b": rng.standard_normal(WIDTH) * 0.1,
    }
    nodes: list[onnx.NodeProto] = []
    tensor = "x"
    for position, step in enumerate(layers):
        out = f"t{position}"
        nodes += _nodes(step, tensor, out, position)
        if step.relu:
            nodes.append(helper.make_node("Relu", [out], [f"{out}r"], f"relu{position}"))
            out = f"{out}r"
        tensor = out
    nodes.append(helper.make_node("Add", [tensor, "x"], ["y"], "last"))
    floats = {name: numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()}
    shape = {"feature": [-1, WIDTH, 1, 1], "flat": [-1, WIDTH], "first": [0], "four": [4], "channels": [1]}
    sizes = {name: numpy_helper.from_array(np.array(value, np.int64), name) for name, value in shape.items()}
    read = {name for node in nodes for name in node.input}
    value = helper.make_tensor_value_info
    inputs = [value("x", TensorProto.FLOAT, ["batch", WIDTH])]
    specs = [TensorSpec("x", "float32", ("batch", WIDTH))]
    if "ids" in read:
        inputs.append(value("ids", TensorProto.INT64, ["batch"]))
        specs.append(TensorSpec("ids", "int64", ("batch",)))
    graph = helper.make_graph(
        nodes,
        "tied",
        inputs,
        [value("y", TensorProto.FLOAT, ["batch", WIDTH])],
        [tensor for name, tensor in {**floats, **sizes}.items() if name in read],
    )
    body = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(body, full_check=True)
    return OnnxModel(body, Signature(tuple(specs), (TensorSpec("y", "float32", ("batch", WIDTH)),)))


def _nodes(step: Step, given: str, out: str, position: int) -> list[onnx.NodeProto]:
    make, name = helper.make_node, f"{step.op}{position}"
    weight = f"{'k' if step.op in _CONVS else 'w'}{step.weight}"
    if step.op == "matmul":
        return [make("MatMul", [given, weight], [out], name)]
    if step.op in ("gemm", "gemm_transposed"):
        bias = ["b"] if step.bias else []
        settings = {"alpha": 0.5, "beta": 2.0} if step.scaled else {}
        return [make("Gemm", [given, weight, *bias], [out], name, transB=int(step.op == "gemm_transposed"), **settings)]
    if step.op == "gather":
        return [make("Gather", [weight, "ids"], [f"{out}e"], name), make("Add", [given, f"{out}e"], [out], f"{name}a")]
    if step.op == "gather_columns":
        return [
            make("Gather", [weight, "ids"], [f"{out}e"], name, axis=1),
            make("Transpose", [f"{out}e"], [f"{out}t"], f"{name}t"),
            make("Add", [given, f"{out}t"], [out], f"{name}a"),
        ]
    if step.op == "plain":
        return [
            make("ReduceMean", [weight], [f"{out}m"], name, axes=[0], keepdims=0),
            make("Add", [given, f"{out}m"], [out], f"{name}a"),
        ]
    reshape = make("Reshape", [given, "feature"], [f"{out}f"], f"{name}f")
    if step.op == "conv_groups":
        conv = [make("Conv", [f"{out}f", weight], [f"{out}c"], name, group=4)]
    else:
        conv = [
            make("Slice", [f"{out}f", "first", "four", "channels"], [f"{out}s"], f"{name}s"),
            make("Conv", [f"{out}s", weight], [f"{out}c"], name),
        ]
    return [reshape, *conv, make("Reshape", [f"{out}c", "flat"], [out], f"{name}r")]


def samples(model: Model, seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    found: dict[str, np.ndarray] = {
        "x": rng.standard_normal((SAMPLES, WIDTH)).astype(np.float32),
        "ids": rng.integers(0, WIDTH, SAMPLES),
    }
    return {spec.name: found[spec.name] for spec in model.signature.inputs}


@dataclass(frozen=True)
class Samples:
    """The same samples as every split."""

    inputs: dict[str, np.ndarray]
    classes: tuple[str, ...] | None = None

    def split(self, name: str) -> "Samples":
        return self

    def __len__(self) -> int:
        return SAMPLES

    def batches(self, size: int, *, shuffle_seed: int | None = None) -> Iterator[Batch]:
        for start in range(0, SAMPLES, size):
            part = slice(start, start + size)
            yield Batch({name: array[part] for name, array in self.inputs.items()}, None, np.arange(SAMPLES)[part])


def run(proto: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, inputs)[0]
    return found


def decibels(wanted: np.ndarray, found: np.ndarray) -> float:
    """Signal to noise."""
    error = float(np.sum((wanted.astype(np.float64) - found) ** 2))
    return float(10 * np.log10(np.sum(wanted.astype(np.float64) ** 2) / max(error, 1e-30)))
