"""Packed constants: smaller files that hold the same graph, bit by bit, in every form."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from support.costs import total_macs, total_parameters
from support.few_values import FORMS, network

from compressctl.graph.pack_constants import Folds, pack_constants
from compressctl.graph.stored_weights import stored_weights
from compressctl.graph.summary import summarize
from compressctl.graph.unpack_constants import is_packed, unpack_constants
from compressctl.numerics.codebook import same_bits
from compressctl.sources.onnx_file import load
from compressctl.sources.params import OnnxParams

SAFE = Folds()


def _arrays(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("form", FORMS)
def test_constants_come_back_bit_by_bit(form: str) -> None:
    plain = network(form)
    packed, ledger = pack_constants(plain, SAFE)
    onnx.checker.check_model(packed, full_check=True)
    again = unpack_constants(packed)
    before, after = _arrays(plain), _arrays(again)
    assert before.keys() == after.keys()
    assert all(same_bits(before[name], after[name]) for name in before)
    assert [node.op_type for node in again.graph.node] == [node.op_type for node in plain.graph.node]
    assert {tensor.name for tensor in ledger} == {"w1", "w2"}


@pytest.mark.parametrize(
    ("form", "words", "at_most"),
    [
        ("sixteen", "4-bit indices into 16 values", 0.16),
        ("seven", "3-bit indices into 7 values", 0.14),
        ("forty", "6-bit indices into 40 values", 0.24),
        ("binary", "1-bit indices into 32 times 2 values", 0.08),
        ("ternary", "2-bit indices into 3 values", 0.11),
        ("sparse", "a mask and float32 values", 0.19),
        ("sparse codes", "a mask and 4-bit indices into 16 values", 0.1),
        ("scaled", "4-bit indices into 16 values times a scale per channel", 0.18),
        ("by channel", "4-bit indices into 32 times 16 values", 0.27),
        ("by group", "2-bit indices into 288 times 4 values", 0.25),
    ],
)
def test_the_smallest_form_is_taken(form: str, words: str, at_most: float) -> None:
    plain = network(form)
    packed, ledger = pack_constants(plain, SAFE)
    (second,) = [tensor for tensor in ledger if tensor.name == "w2"]
    assert second.form == words
    assert second.packed_bytes < at_most * second.plain_bytes
    assert packed.ByteSize() < 0.5 * plain.ByteSize()


def test_what_has_many_values_stays_as_it_is() -> None:
    plain = network("dense")
    packed, ledger = pack_constants(plain, SAFE)
    assert packed is plain
    assert ledger == []


def test_the_model_that_goes_in_is_not_changed() -> None:
    plain = network("sixteen")
    before = plain.SerializeToString()
    pack_constants(plain, SAFE)
    assert plain.SerializeToString() == before


def test_shapes_and_costs_are_those_of_the_plain_file(tmp_path: Path) -> None:
    plain = network("sparse codes")
    packed, ledger = pack_constants(plain, SAFE)
    assert total_macs(packed) == total_macs(plain) > 0
    assert total_parameters(packed) == total_parameters(plain) > 0
    layers = {layer.name: layer for layer in summarize(packed).layers}
    assert layers.keys() == {node.name for node in plain.graph.node}
    stored = {tensor.name: tensor.packed_bytes for tensor in ledger}
    assert layers["conv2"].parameter_bytes <= stored["w2"] < 4 * layers["conv2"].parameters
    onnx.save(packed, tmp_path / "packed.onnx")
    weights = next(entry for entry in stored_weights(tmp_path / "packed.onnx") if "packed" in entry.dtype)
    arrays = _arrays(plain)
    assert weights.dtype == "float32 (packed)"
    assert weights.elements == arrays["w1"].size + arrays["w2"].size
    assert weights.zeros == sum(int((arrays[name] == 0).sum()) for name in ("w1", "w2"))


def test_a_packed_file_is_a_model_like_any_other(tmp_path: Path) -> None:
    packed, _ = pack_constants(network("scaled"), SAFE)
    onnx.save(packed, tmp_path / "packed.onnx")
    assert is_packed(packed.graph)
    loaded = load(OnnxParams(path="packed.onnx"), tmp_path, 0)
    assert not is_packed(loaded.body.graph)
    assert same_bits(_arrays(loaded.body)["w2"], _arrays(network("scaled"))["w2"])


@settings(max_examples=25)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 260),
    st.floats(0, 1),
    st.sampled_from(["float32", "float16", "int8"]),
)
def test_any_shape_comes_back(seed: int, rows: int, columns: int, entries: int, zeros: float, dtype: str) -> None:
    rng = np.random.default_rng(seed)
    values = rng.choice(rng.normal(0, 40, entries).astype(dtype), (rows, columns))
    values[rng.random(values.shape) < zeros] = 0
    found = _through(values, lambda model: unpack_constants(pack_constants(model, SAFE)[0]))
    assert same_bits(found, values)


@pytest.mark.parametrize("zeros", [0.0, 0.9])
def test_columns_may_have_codebooks_of_their_own(zeros: float) -> None:
    """MatMul reads (in, out): output channels are columns."""
    rng = np.random.default_rng(0)
    values = _scaled(rng, zeros).T.copy()
    model = _reading(values)
    packed, (ledger,) = pack_constants(model, SAFE)
    assert ledger.packed_bytes < 0.2 * ledger.plain_bytes
    assert ledger.form.endswith("16 values times a scale per channel" if not zeros else "per channel")
    assert same_bits(_arrays(unpack_constants(packed))["w"], values)
    assert "Transpose" in {node.op_type for node in packed.graph.node}


def _scaled(rng: np.random.Generator, zeros: float) -> np.ndarray:
    codebook = rng.normal(size=16).astype(np.float32)
    codes = codebook[rng.integers(0, 16, (80, 300))] * (rng.random((80, 300)) >= zeros)
    return np.asarray(codes * np.exp(rng.normal(size=(80, 1))), np.float32)


@pytest.mark.parametrize("value", [-0.0, np.nan, np.inf])
def test_strange_values_come_back(value: float) -> None:
    values = np.zeros((64, 64), np.float32)
    values[::7, 3] = value
    values[5, ::3] = -1.5
    found = _through(values, lambda model: unpack_constants(pack_constants(model, SAFE)[0]))
    assert same_bits(found, values)


def _through(values: np.ndarray, change: Callable[[onnx.ModelProto], onnx.ModelProto]) -> np.ndarray:
    return _arrays(change(_reading(values)))["w"]


def _reading(values: np.ndarray) -> onnx.ModelProto:
    kind = helper.np_dtype_to_tensor_dtype(values.dtype)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"], "add")],
        "one",
        [helper.make_tensor_value_info("x", kind, [1])],
        [helper.make_tensor_value_info("y", kind, list(values.shape))],
        [numpy_helper.from_array(values, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def test_an_old_opset_is_left_alone() -> None:
    plain = network("sixteen")
    plain.opset_import[0].version = 12
    assert pack_constants(plain, SAFE) == (plain, [])


def test_integers_that_may_be_shapes_or_indices_stay() -> None:
    shape = np.ones(400, np.int64)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "table"], ["y"], "add")],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, [400])],
        [numpy_helper.from_array(shape, "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    assert pack_constants(model, SAFE)[1] == []


def test_nodes_of_others_that_are_called_alike_are_left_alone() -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"], "unpack.0.0")],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    assert unpack_constants(model) is model
