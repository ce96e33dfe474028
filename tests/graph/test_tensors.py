"""Large constants stay in files: while graphs are copied and run, and when models are read and written."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressctl.core.errors import StageError, UsageError
from compressctl.graph import model_file
from compressctl.graph.model_file import read_model, write_model
from compressctl.graph.opset import converted
from compressctl.graph.session import open_graph
from compressctl.graph.simplify import simplify
from compressctl.graph.tensors import all_tensors, copy_of, from_array, is_in_file, move_to_files, refer, to_array

WIDTH = 260
X = np.random.default_rng(1).normal(size=(3, WIDTH)).astype(np.float32)


def weight(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(WIDTH, WIDTH)).astype(np.float32)


def model(*, in_branch: bool = False, make=from_array) -> onnx.ModelProto:
    """x @ w, or in a branch x @ w with a weight of the branch."""
    product = helper.make_node("MatMul", ["x", "w"], ["y"], "product")
    stored = [make(weight(), "w")]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", WIDTH])
    if in_branch:
        body = helper.make_graph([product], "branch", [], [y], stored)
        product = helper.make_node("If", ["always"], ["z"], "if", then_branch=body, else_branch=body)
        stored = [numpy_helper.from_array(np.array(True), "always")]
    graph = helper.make_graph(
        [product],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info(product.output[0], TensorProto.FLOAT, ["batch", WIDTH])],
        stored,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def outputs(given: onnx.ModelProto) -> np.ndarray:
    return open_graph(given, onnxruntime.SessionOptions()).run(None, {"x": X})[0]


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int8", "uint8", "int64", "bool"])
def test_large_arrays_come_back_from_their_files(dtype: str) -> None:
    values = np.random.default_rng(0).integers(0, 2, (600, 1000)).astype(dtype)
    tensor = from_array(values, "w")
    assert is_in_file(tensor)
    found = to_array(tensor)
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("dtype", [ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
def test_types_that_numpy_does_not_have_come_back_too(dtype: type) -> None:
    values = np.random.default_rng(0).integers(0, 4, (900, 1001)).astype(dtype)
    tensor = from_array(values, "w")
    assert is_in_file(tensor)
    np.testing.assert_array_equal(to_array(tensor).astype(np.float32), values.astype(np.float32))


def test_small_arrays_stay_in_the_graph() -> None:
    assert not is_in_file(from_array(np.zeros(8, np.float32), "b"))


def test_equal_numbers_take_one_file() -> None:
    assert from_array(weight(), "a").external_data == from_array(weight(), "b").external_data


def test_a_copy_of_a_graph_holds_no_weights_of_its_own() -> None:
    assert copy_of(model()).ByteSize() < 1000


def test_numbers_are_mapped_and_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="read-only"):
        to_array(from_array(weight()))[0, 0] = 1


@pytest.mark.parametrize("in_branch", [False, True])
def test_a_graph_runs_whose_weights_stand_in_files(in_branch: bool) -> None:
    np.testing.assert_allclose(outputs(model(in_branch=in_branch)), X @ weight(), rtol=1e-4, atol=1e-4)


def test_simplifying_keeps_weights_where_they_are() -> None:
    given = model()
    kept = next(tensor for tensor in simplify(given).graph.initializer if tensor.name == "w")
    assert kept.external_data == given.graph.initializer[0].external_data


def test_another_opset_keeps_weights_where_they_are() -> None:
    given = model()
    assert converted(given, 20).graph.initializer[0].external_data == given.graph.initializer[0].external_data


@pytest.mark.parametrize("in_branch", [False, True])
@pytest.mark.parametrize("largest", [0, 10**9])
def test_a_written_model_is_an_onnx_file_like_any_other(
    largest: int, in_branch: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_file, "LARGEST_SINGLE_FILE", largest)
    files = write_model(model(in_branch=in_branch), tmp_path)
    assert [file.name for file in files] == ["model.onnx", "model.onnx.data"][: len(files)]
    assert len(files) == (2 if largest == 0 else 1)
    onnx.checker.check_model(str(files[0]))
    found = onnx.load(files[0])
    for tensor in all_tensors(found):
        tensor.ClearField("data_location")
    assert found == model(in_branch=in_branch, make=numpy_helper.from_array)


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    first = write_model(model(), tmp_path)[0].read_bytes()
    assert write_model(model(), tmp_path)[0].read_bytes() == first


@pytest.mark.parametrize("beside", [False, True])
def test_a_model_is_read_without_its_weights(beside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_file, "_READ_WHOLE", 0)
    path = tmp_path / "m.onnx"
    onnx.save(model(make=numpy_helper.from_array), path, save_as_external_data=beside, location="m.data")
    found = read_model(path)
    assert found.ByteSize() < 1000
    assert found.graph.initializer[0].external_data[0].value.endswith("m.data" if beside else "m.onnx")
    np.testing.assert_array_equal(to_array(found.graph.initializer[0]), weight())


def test_numbers_that_do_not_lie_at_a_multiple_of_their_size_are_run(tmp_path: Path) -> None:
    file = tmp_path / "w"
    file.write_bytes(b"odd" + weight().tobytes())
    given = model()
    refer(given.graph.initializer[0], file, 3, weight().nbytes)
    np.testing.assert_allclose(outputs(given), X @ weight(), rtol=1e-4, atol=1e-4)


def _beside(folder: Path, **said: str) -> Path:
    """A model with external data, of which something else is said."""
    path = folder / "m.onnx"
    onnx.save(model(make=numpy_helper.from_array), path, save_as_external_data=True, location="m.data")
    proto = onnx.load(path, load_external_data=False)
    for entry in proto.graph.initializer[0].external_data:
        entry.value = said.get(entry.key, entry.value)
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"location": "../elsewhere"}, "outside the model's folder"),
        ({"location": "/dev/zero"}, "outside the model's folder"),
        ({"location": "gone"}, "gone does not exist"),
        ({"offset": "4"}, "m.data does not hold them"),
        ({"offset": "-4"}, "m.data does not hold them"),
        ({"offset": "first"}, "m.data does not hold them"),
        ({"length": "8"}, "m.data does not hold them"),
    ],
)
def test_external_data_that_is_not_all_there_is_refused(said: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        read_model(_beside(tmp_path, **said))


def test_a_file_that_is_changed_while_it_is_in_use_is_named(tmp_path: Path) -> None:
    given = read_model(_beside(tmp_path))
    with (tmp_path / "m.data").open("ab") as file:
        file.write(b"more")
    with pytest.raises(StageError, match=r"m\.data was changed"):
        to_array(given.graph.initializer[0])
    with pytest.raises(StageError, match=r"m\.data was changed"):
        outputs(given)


def test_a_tensor_of_numbers_one_by_one_is_moved_too() -> None:
    given = model(make=lambda values, name: helper.make_tensor(name, TensorProto.FLOAT, values.shape, values.ravel()))
    assert move_to_files(given).ByteSize() < 1000
    np.testing.assert_array_equal(to_array(given.graph.initializer[0]), weight())


_ALONE = """
import numpy as np, os, sys, time
from compressctl.graph.tensors import from_array, numbers, ROOT
tensor = from_array(np.zeros(100_000, np.float32), "w")
print(ROOT / tensor.external_data[0].value, flush=True)
sys.stdin.readline()
"""


def _process(folder: Path) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", _ALONE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_files_live_as_long_as_their_process(tmp_path: Path) -> None:
    first, kept = _process(tmp_path)
    second, _ = _process(tmp_path)
    assert kept.exists()
    for process in (first, second):
        process.communicate("\n")
    assert list(tmp_path.iterdir()) == []


def test_files_of_a_process_that_was_killed_are_removed_by_the_next(tmp_path: Path) -> None:
    killed, left = _process(tmp_path)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert left.exists()
    following, _ = _process(tmp_path)
    assert not left.exists()
    following.communicate("\n")


@pytest.mark.parametrize("beside", [False, True])
def test_weights_that_lay_beside_a_model_are_written_beside_it(
    beside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_file, "_READ_WHOLE", 0)
    onnx.save(model(make=numpy_helper.from_array), tmp_path / "m.onnx", save_as_external_data=beside, location="m.data")
    (tmp_path / "written").mkdir()
    assert len(write_model(read_model(tmp_path / "m.onnx"), tmp_path / "written")) == 1 + beside
