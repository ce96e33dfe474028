"""The ledger of stored weights, on files of every kind that we hand over."""

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from compressctl.graph.stored_weights import stored_weights


def _save(path: Path, nodes: list[onnx.NodeProto], tensors: dict[str, np.ndarray]) -> Path:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", onnx.TensorProto.FLOAT, ["n", 8])],
        [value("y", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), path)
    return path


def test_zeros_are_those_of_the_numbers_not_of_the_codes(tmp_path: Path) -> None:
    codes = np.full((8, 4), 3, np.uint8)
    codes[0] = 7
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["f"]),
        helper.make_node("MatMul", ["x", "f"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["y"]),
    ]
    tensors = {
        "w": codes, "s": np.array(0.1, np.float32), "z": np.array(7, np.uint8), "b": np.array([0, 1, 2, 3], np.float32),
    }  # fmt: skip
    found = {entry.dtype: entry for entry in stored_weights(_save(tmp_path / "m.onnx", nodes, tensors))}
    assert (found["uint8"].elements, found["uint8"].stored_bytes, found["uint8"].zeros) == (32, 32, 4)
    assert (found["float32"].elements, found["float32"].zeros) == (4, 1)


def test_packed_weights_count_each_weight(tmp_path: Path) -> None:
    packed = np.full((4, 1, 16), 0x88, np.uint8)
    packed[0, 0, 0] = 0x18
    node = helper.make_node(
        "MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", K=32, N=4, bits=4, block_size=32
    )
    tensors = {"w": packed, "s": np.ones(4, np.float32)}
    (found,) = stored_weights(_save(tmp_path / "m.onnx", [node], tensors))
    assert (found.dtype, found.elements, found.stored_bytes, found.zeros) == ("uint4 (packed)", 128, 64, 127)


def test_weights_in_constant_nodes_and_bodies_are_stored_too(tmp_path: Path) -> None:
    def branch(name: str) -> onnx.GraphProto:
        values = numpy_helper.from_array(np.eye(8, dtype=np.float32), "v")
        nodes = [
            helper.make_node("Constant", [], [f"{name}w"], value=values),
            helper.make_node("MatMul", ["x", f"{name}w"], [f"{name}o"]),
        ]
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(f"{name}o", 1, None)])

    nodes = [
        helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.ones(8, np.float16), "v")),
        helper.make_node("Cast", ["k"], ["kf"], to=onnx.TensorProto.FLOAT),
        helper.make_node("If", ["c"], ["chosen"], then_branch=branch("a"), else_branch=branch("b")),
        helper.make_node("Mul", ["chosen", "kf"], ["y"]),
    ]
    found = {entry.dtype: entry for entry in stored_weights(_save(tmp_path / "m.onnx", nodes, {"c": np.array(True)}))}
    assert (found["float32"].elements, found["float32"].zeros) == (128, 112)
    assert (found["float16"].elements, found["float16"].stored_bytes) == (8, 16)
