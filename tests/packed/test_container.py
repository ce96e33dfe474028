"""A packed file gives back the very bytes of the model, its tensors one by one, and needs numpy alone."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from support.every_tensor import SPARSE, WEIGHT, every_kind, model_of, stored

from compressctl import packed
from compressctl.core.errors import UsageError
from compressctl.packed import PackedError, PackedModel
from compressctl.packed.pack import pack


def test_the_very_bytes_come_back_whatever_the_tensors_are(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(WEIGHT))
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["t"], value=numpy_helper.from_array(SPARSE))], "g", [], []
    )
    choice = helper.make_node("If", ["flag"], ["y"], then_branch=branch, else_branch=branch)
    path = stored(model_of(every_kind(), [constant, choice]), tmp_path)
    pack(path, tmp_path / "m.cctl")
    packed.unpack(tmp_path / "m.cctl", tmp_path / "back.onnx")
    assert (tmp_path / "back.onnx").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("tensor", every_kind(), ids=lambda tensor: tensor.name)
def test_load_gives_what_onnx_reads(tensor: onnx.TensorProto, tmp_path: Path) -> None:
    pack(stored(model_of([tensor]), tmp_path), tmp_path / "m.cctl")
    found = packed.load(tmp_path / "m.cctl")
    if tensor.name == "texts":
        assert found == {}
        return
    expected = numpy_helper.to_array(tensor)
    if tensor.name in ("int4", "bf16"):
        expected = np.frombuffer(tensor.raw_data, found[tensor.name].dtype)
        expected = expected.reshape(found[tensor.name].shape)
    assert found[tensor.name].dtype == expected.dtype
    np.testing.assert_array_equal(found[tensor.name], expected)


def test_constants_of_nodes_are_tensors_too(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(SPARSE))
    pack(stored(model_of([], [constant]), tmp_path), tmp_path / "m.cctl")
    np.testing.assert_array_equal(packed.load(tmp_path / "m.cctl")["c.value"], SPARSE)


def test_external_data_come_back_beside_the_model(tmp_path: Path) -> None:
    model = model_of([numpy_helper.from_array(WEIGHT, "a"), numpy_helper.from_array(SPARSE, "b")])
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    ledger = pack(tmp_path / "m.onnx", tmp_path / "m.cctl")
    written = packed.unpack(tmp_path / "m.cctl", tmp_path / "there" / "m.onnx")
    assert written == [tmp_path / "there" / "m.onnx", tmp_path / "there" / "m.data"]
    assert [path.read_bytes() for path in written] == [(tmp_path / name).read_bytes() for name in ("m.onnx", "m.data")]
    assert [entry.name for entry in ledger.entries] == ["a", "b"]
    np.testing.assert_array_equal(packed.load(tmp_path / "m.cctl")["b"], SPARSE)


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../b", "", "c:\\x"])
def test_external_data_elsewhere_are_refused(location: str, tmp_path: Path) -> None:
    model = model_of([numpy_helper.from_array(WEIGHT, "a")])
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    proto = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    next(entry for entry in proto.graph.initializer[0].external_data if entry.key == "location").value = location
    with pytest.raises(UsageError, match="keeps weights in a second file"):
        pack(stored(proto, tmp_path), tmp_path / "m.cctl")


def test_equal_tensors_are_stored_once(tmp_path: Path) -> None:
    def packed_size(tensors: list[onnx.TensorProto]) -> int:
        pack(stored(model_of(tensors), tmp_path), tmp_path / "m.cctl")
        return (tmp_path / "m.cctl").stat().st_size

    once = packed_size([numpy_helper.from_array(WEIGHT, "a")])
    twice = packed_size([numpy_helper.from_array(WEIGHT, "a"), numpy_helper.from_array(WEIGHT, "b")])
    assert twice < once + 40
    np.testing.assert_array_equal(packed.load(tmp_path / "m.cctl")["b"], WEIGHT)


def test_a_small_network_costs_some_hundred_bytes_beside_its_weights(tmp_path: Path) -> None:
    pack(stored(model_of([numpy_helper.from_array(SPARSE, "w")]), tmp_path), tmp_path / "m.cctl")
    with PackedModel(tmp_path / "m.cctl") as model:
        assert model.head_bytes < 150


def test_the_ledger_adds_up_to_the_file(tmp_path: Path) -> None:
    pack(stored(model_of(every_kind()), tmp_path), tmp_path / "m.cctl")
    with PackedModel(tmp_path / "m.cctl") as model:
        lines = model.lines()
        total = sum(line.packed_bytes for line in lines) + model.head_bytes + 16
        assert abs(total - (tmp_path / "m.cctl").stat().st_size) <= len(lines)
    assert {line.name: line.dtype for line in lines}["int4"] == "int4"


def test_one_tensor_is_read_alone(tmp_path: Path) -> None:
    pack(stored(model_of(every_kind()), tmp_path), tmp_path / "m.cctl")
    with PackedModel(tmp_path / "m.cctl") as model:
        np.testing.assert_array_equal(model.tensor("raw"), WEIGHT)
        with pytest.raises(KeyError):
            model.tensor("nothing")


def test_more_than_was_allowed_is_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    pack(
        stored(model_of([numpy_helper.from_array(np.zeros((1000, 1000), np.float32), "w")]), tmp_path),
        tmp_path / "m.cctl",
    )
    assert (tmp_path / "m.cctl").stat().st_size < 300
    with pytest.raises(PackedError, match=r"4,000,\d+ bytes, and 1,000,000 are allowed"):
        packed.load(tmp_path / "m.cctl", max_bytes=1_000_000)


def test_packing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    path = stored(model_of(every_kind()), tmp_path)
    pack(path, tmp_path / "a.cctl")
    pack(path, tmp_path / "b.cctl")
    assert (tmp_path / "a.cctl").read_bytes() == (tmp_path / "b.cctl").read_bytes()


@pytest.mark.parametrize("content", [b"no model at all", b"\x3a\xff\xff\x03ab", b"\x0a\x05abc", b"\x3a\x02\x2a\x7f"])
def test_what_is_no_model_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(PackedError, match="not an ONNX model"):
        pack(tmp_path / "m.onnx", tmp_path / "m.cctl")
    assert not (tmp_path / "m.cctl").exists()


def test_reading_imports_numpy_and_no_framework(tmp_path: Path) -> None:
    pack(stored(model_of(every_kind()), tmp_path), tmp_path / "m.cctl")
    program = (
        "import sys; from compressctl import packed; packed.load(sys.argv[1]);"
        "print([name for name in ('torch', 'onnx', 'onnxruntime', 'pydantic', 'scipy', 'zstandard') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "m.cctl"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
