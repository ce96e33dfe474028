from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressctl.core.errors import UsageError
from compressctl.core.model import Form
from compressctl.sources.onnx_file import FIXED_BATCH_NOTE, fingerprint, load
from compressctl.sources.params import OnnxParams

PARAMS = OnnxParams(path="model.onnx")
WEIGHT = np.random.default_rng(0).normal(size=(6, 40)).astype(np.float32)


def linear(batch: int | str | None, nodes: list[onnx.NodeProto] | None = None, **extra: np.ndarray) -> onnx.ModelProto:
    nodes = nodes or [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")]
    tensors = {"w": WEIGHT, **extra}
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 40])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    domains = {node.domain for node in nodes} - {""}
    opsets = [helper.make_opsetid("", 20), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def loaded(folder: Path, model: onnx.ModelProto):
    onnx.save(model, folder / "model.onnx")
    return load(PARAMS, folder, 0)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize(("batch", "shape"), [("N", ("N", 6)), (None, ("batch", 6)), (1, ("batch", 6)), (3, (3, 6))])
def test_the_signature_says_what_the_file_says_and_a_batch_of_one_is_freed(tmp_path, batch, shape):
    model = loaded(tmp_path, linear(batch))
    assert model.form == Form.ONNX
    assert [(spec.name, spec.dtype, spec.shape) for spec in model.signature.inputs] == [("x", "float32", shape)]
    assert [spec.name for spec in model.signature.outputs] == ["y"]


def test_a_batch_fixed_to_several_stays_and_the_reason_is_kept(tmp_path):
    notes = {entry.key: entry.value for entry in loaded(tmp_path, linear(3)).body.metadata_props}
    assert "only a batch of 1 can be freed" in notes[FIXED_BATCH_NOTE]


def test_constants_among_the_inputs_are_no_inputs(tmp_path):
    model = linear("N")
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [6, 40]))
    assert [spec.name for spec in loaded(tmp_path, model).signature.inputs] == ["x"]


def test_external_data_is_read_and_part_of_the_fingerprint(tmp_path):
    onnx.save(
        linear("N"), tmp_path / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    x = np.ones((2, 6), np.float32)
    assert (tmp_path / "weights.bin").stat().st_size >= WEIGHT.nbytes
    np.testing.assert_allclose(run(load(PARAMS, tmp_path, 0).body, x), x @ WEIGHT, rtol=1e-5)
    before = fingerprint(PARAMS, tmp_path)
    data = bytearray((tmp_path / "weights.bin").read_bytes())
    data[0] ^= 1
    (tmp_path / "weights.bin").write_bytes(data)
    assert fingerprint(PARAMS, tmp_path) != before


def test_missing_external_data_is_a_clear_error(tmp_path):
    onnx.save(
        linear("N"), tmp_path / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(UsageError, match=r"weights\.bin does not exist"):
        load(PARAMS, tmp_path, 0)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname"])
def test_external_data_outside_the_models_folder_is_refused(tmp_path, location):
    (tmp_path / "secret.bin").write_bytes(bytes(WEIGHT.nbytes))
    folder = tmp_path / "models"
    folder.mkdir()
    model = linear("N")
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UsageError):
        load(PARAMS, folder, 0)


@pytest.mark.parametrize("content", [b"", b"not an onnx file at all", bytes(100)])
def test_a_file_that_is_no_model_is_a_clear_error(tmp_path, content):
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(UsageError, match=r"model\.onnx is not an ONNX model"):
        load(PARAMS, tmp_path, 0)


def test_a_packed_file_is_called_one(tmp_path):
    (tmp_path / "model.cctl").write_bytes(b"CCTL\x01")
    with pytest.raises(UsageError, match=r"model\.cctl is a packed file") as caught:
        load(OnnxParams(path="model.cctl"), tmp_path, 0)
    assert "compressctl unpack" in caught.value.hint


def test_an_invalid_graph_is_a_clear_error(tmp_path):
    broken = linear("N", [helper.make_node("MatMul", ["x", "nowhere"], ["y"])])
    with pytest.raises(UsageError, match="is not a valid ONNX model"):
        loaded(tmp_path, broken)


def test_a_missing_file_is_a_clear_error(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        load(PARAMS, tmp_path, 0)


def test_operators_that_nothing_can_run_are_named(tmp_path):
    with pytest.raises(UsageError, match=r"acme\.Sparkle"):
        loaded(tmp_path, linear("N", [helper.make_node("Sparkle", ["x", "w"], ["y"], domain="acme")]))


def test_onnx_runtimes_own_operators_are_welcome(tmp_path):
    fused = linear("N", [helper.make_node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft")])
    x = np.ones((2, 6), np.float32)
    np.testing.assert_allclose(run(loaded(tmp_path, fused).body, x), x @ WEIGHT, rtol=1e-5)


def test_operators_that_the_file_itself_defines_are_welcome(tmp_path):
    model = linear("N", [helper.make_node("Product", ["x", "w"], ["y"], domain="acme")])
    body = [helper.make_node("MatMul", ["a", "b"], ["c"])]
    model.functions.append(
        helper.make_function("acme", "Product", ["a", "b"], ["c"], body, [helper.make_opsetid("", 20)])
    )
    x = np.ones((2, 6), np.float32)
    np.testing.assert_allclose(run(loaded(tmp_path, model).body, x), x @ WEIGHT, rtol=1e-5)


def test_outputs_that_are_no_tensors_are_named_as_what_they_are(tmp_path: Path) -> None:
    """A classifier of scikit-learn as it is converted by default: labels, and a sequence of maps."""
    make = onnx.helper.make_node
    settings = {"coefficients": [0.1] * 8, "intercepts": [0.0, 0.0], "classlabels_ints": [0, 1]}
    nodes = [
        make("LinearClassifier", ["x"], ["label", "p"], domain="ai.onnx.ml", **settings),
        make("ZipMap", ["p"], ["probabilities"], domain="ai.onnx.ml", classlabels_int64s=[0, 1]),
    ]
    floats, whole = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    maps = onnx.helper.make_map_type_proto(whole, onnx.helper.make_tensor_type_proto(floats, None))
    outputs = [
        onnx.helper.make_tensor_value_info("label", whole, ["N"]),
        onnx.helper.make_value_info("probabilities", onnx.helper.make_sequence_type_proto(maps)),
    ]
    inputs = [onnx.helper.make_tensor_value_info("x", floats, ["N", 4])]
    graph = onnx.helper.make_graph(nodes, "g", inputs, outputs)
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="probabilities is a sequence of map from int64 to float32") as caught:
        load(OnnxParams(path="m.onnx"), tmp_path, 0)
    assert "zipmap" in str(caught.value)
