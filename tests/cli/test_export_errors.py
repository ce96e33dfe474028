"""What converters and runtimes refuse is told in one message: the node, the operator, what is wrong, and what to do."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from compressctl.cli.export import export
from compressctl.core.errors import CompressctlError, StageError, UsageError

BACKENDS = ["onnxruntime", "openvino", "tensorrt"]
NEEDS = {"openvino": "openvino"}


def _file(folder: Path, nodes: Sequence[NodeProto], shape: Sequence[object] = ("n", 4, 6, 6), **facts: int) -> Path:
    """A file with these nodes from x to y; w is an (8, 4, 3, 3) weight."""
    value = helper.make_tensor_value_info
    element = facts.get("dtype", TensorProto.FLOAT)
    weight = np.ones((8, 4, 3, 3), helper.tensor_dtype_to_np_dtype(element) if element != TensorProto.STRING else "f4")
    graph = helper.make_graph(
        list(nodes),
        "g",
        [value("x", element, shape)],
        [value("y", element, ["n", *[None] * (len(shape) - 1)])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array([7, 4]), "seven")],
    )
    opsets = [helper.make_opsetid("", facts.get("opset", 17)), helper.make_opsetid("acme", 1)]
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=facts.get("ir", 10)), path)
    return path


def _refused(path: Path, backend: str) -> CompressctlError:
    pytest.importorskip(NEEDS.get(backend, "onnxruntime"))
    output = path.parent / "exported"
    with pytest.raises(CompressctlError) as caught:
        export(path, [backend], output)
    assert not [file for file in output.rglob("*") if file.is_file()]
    assert caught.value.hint
    assert "\n" not in caught.value.message
    return caught.value


CONV = helper.make_node("Conv", ["x", "w"], ["y"], "entry")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("nodes", "shape", "says"),
    [
        ([CONV], ("n", 5, 6, 6), ["Conv", "'entry'", "5", "4"]),
        ([helper.make_node("MatMul", ["x", "w"], ["y"], "turn")], ("n", 4, 6, 6), ["MatMul", "'turn'"]),
        ([helper.make_node("Wobble", ["x"], ["y"], "odd", domain="acme")], ("n", 4, 6, 6), ["Wobble"]),
        ([helper.make_node("Wobble", ["x"], ["y"], "odd")], ("n", 4, 6, 6), ["Wobble", "'odd'"]),
        ([helper.make_node("Relu", ["ghost"], ["y"], "lost")], ("n", 4, 6, 6), ["Relu", "'lost'", "ghost"]),
    ],
    ids=["channels", "dimensions", "custom operator", "no operator", "no producer"],
)
def test_a_wrong_graph_names_the_node(
    tmp_path: Path, nodes: list[NodeProto], shape: tuple[object, ...], says: list[str], backend: str
) -> None:
    message = _refused(_file(tmp_path, nodes, shape), backend).message
    assert all(word in message for word in says), message


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_newer_than_what_is_installed_says_so(tmp_path: Path, backend: str) -> None:
    assert "opset 99" in _refused(_file(tmp_path, [CONV], opset=99), backend).message
    assert "ir_version 99" in _refused(_file(tmp_path, [CONV], ir=99), backend).message


@pytest.mark.parametrize("content", ["cut short", "text"])
def test_a_corrupt_file_is_no_model(tmp_path: Path, content: str) -> None:
    path = _file(tmp_path, [CONV])
    path.write_bytes(path.read_bytes()[:700] if content == "cut short" else b"# a model\n" * 90)
    with pytest.raises(UsageError, match=r"model\.onnx is not an ONNX model"):
        export(path, ["onnxruntime"], tmp_path / "out")


@pytest.mark.parametrize("backend", ["openvino", "tensorrt"])
def test_an_operator_that_one_runtime_lacks_is_named_with_its_node(tmp_path: Path, backend: str) -> None:
    node = helper.make_node("StringNormalizer", ["x"], ["y"], "lower")
    path = _file(tmp_path, [node], ("n",), dtype=TensorProto.STRING)
    message = _refused(path, backend).message
    assert "StringNormalizer" in message
    assert "lower" in message


def test_a_kernel_that_the_processor_lacks_is_named_and_openvino_still_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _file(tmp_path, [CONV], dtype=TensorProto.DOUBLE)
    error = _refused(path, "onnxruntime")
    assert isinstance(error, StageError)
    assert "no kernel for Conv" in error.message
    assert "'entry'" in error.message
    pytest.importorskip("openvino")
    export(path, ["openvino"], tmp_path / "exported")
    assert "not compared with the original: ONNX Runtime cannot run model.onnx" in capsys.readouterr().out


def test_a_graph_that_random_inputs_do_not_fit_is_delivered_uncompared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A length that is open in the file and fixed by a Reshape: 7 x 4 it takes, what random sizes give it does not."""
    path = _file(tmp_path, [helper.make_node("Reshape", ["x", "seven"], ["y"], "fixed")], ("n", "length"))
    export(path, ["onnxruntime"], tmp_path / "out", shape=["length=5"])
    assert "not compared with the original" in capsys.readouterr().out
    assert (tmp_path / "out" / "onnxruntime" / "model.onnx").is_file()


def test_what_is_no_number_is_compared_by_equality(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    node = helper.make_node("StringNormalizer", ["x"], ["y"], "same")
    export(_file(tmp_path, [node], ("n",), dtype=TensorProto.STRING), ["onnxruntime"], tmp_path / "out")
    assert "identical" in capsys.readouterr().out
