"""Files for an older ONNX Runtime: opset, IR version and operators that it reads, and the same numbers.

What each release reads was tried on its wheel (see releases.py); here files are held against the table that came of it.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper, version_converter
from support.graphs import residual_model
from support.weights import context, language_model, sentences
from typer.testing import CliRunner

from compressctl.backends import releases
from compressctl.backends.onnx_file import to_onnx
from compressctl.backends.onnxruntime import BACKEND
from compressctl.cli.main import app
from compressctl.core.errors import StageError
from compressctl.core.model import OnnxModel, Signature, TensorSpec
from compressctl.core.quant import QuantPlan, TensorQuant
from compressctl.core.target import Release, Target
from compressctl.graph.codes import weight_values
from compressctl.techniques.cast import cast
from compressctl.techniques.cast.params import CastParams
from compressctl.techniques.quantize import dynamic, weights
from compressctl.techniques.quantize.params import DynamicParams, WeightsParams

IDS = np.array([[1, 2, 3, 4, 5, 0]], np.int64)
HEAD = "recipe: compressctl/v1\nmodel: {source: builtin, name: digits-resnet}\n"


def _target(oldest: Release | None) -> Target:
    return Target("onnxruntime", oldest_onnxruntime=oldest)


def _run(proto: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    # The runtime would round the activations of products behind a DequantizeLinear to 8 bits.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    return np.asarray(onnxruntime.InferenceSession(proto.SerializeToString(), options).run(None, inputs)[0])


def _opsets(proto: onnx.ModelProto) -> dict[str, int]:
    return {entry.domain: entry.version for entry in proto.opset_import}


COMPRESSED = {
    "weights in 4 bits": lambda model, run: weights.apply(model, WeightsParams(), run),
    "weights in 3 bits": lambda model, run: weights.apply(model, WeightsParams(bits=3, symmetric=True), run),
    "weights in 8 bits by channel": lambda model, run: weights.apply(model, WeightsParams(bits=8, granularity="channel"), run),
    "dynamic": lambda model, run: dynamic.apply(model, DynamicParams(), run),
    "dynamic, tables of 4 bits": lambda model, run: dynamic.apply(model, DynamicParams(embeddings="int4"), run),
    "float16": lambda model, run: cast.apply(model, CastParams(scope="all"), run),
    "stored as bfloat16": lambda model, run: cast.apply(model, CastParams(dtype="bfloat16", scope="weights"), run),
}  # fmt: skip


@pytest.mark.parametrize("oldest", [(1, 17), (1, 18), (1, 19), (1, 24)], ids=str)
@pytest.mark.parametrize("how", COMPRESSED)
def test_a_language_model_for_an_older_release_computes_the_same(how: str, oldest: Release, tmp_path: Path) -> None:
    model = COMPRESSED[how](language_model(), context(sentences(), tmp_path)).model
    written, usual = (to_onnx(model, _target(release)) for release in (oldest, None))
    inputs = {model.signature.inputs[0].name: IDS}
    assert np.allclose(_run(written, inputs), _run(usual, inputs), atol=2e-2 if how == "float16" else 1e-4)
    assert _opsets(written)[""] <= (20 if oldest == (1, 17) else 21)
    assert written.ir_version == (9 if oldest == (1, 17) else 10)
    onnx.checker.check_model(written)


def test_nothing_changes_where_no_release_is_named(tmp_path: Path) -> None:
    model = weights.apply(language_model(), WeightsParams(), context(sentences(), tmp_path)).model
    newest = to_onnx(model, _target((1, 32)))
    assert newest.SerializeToString(deterministic=True) == to_onnx(model, _target(None)).SerializeToString(
        deterministic=True
    )


def test_a_graph_of_a_newer_opset_is_converted() -> None:
    model = residual_model()
    newer = replace(model, body=version_converter.convert_version(model.body, 21), quant=None)
    (spec,) = model.signature.inputs
    x = {spec.name: np.random.default_rng(0).normal(size=(2, *spec.shape[1:])).astype(np.float32)}
    written = to_onnx(newer, _target((1, 17)))
    assert _opsets(written)[""] == 20
    assert np.allclose(_run(written, x), _run(model.body, x), atol=1e-5)


def _table(bits: int, block: int | None, *, asymmetric: bool, columns: int = 48) -> tuple[OnnxModel, np.ndarray]:
    """A lookup in a quantized table, and the table's values under its plan, computed by definition."""
    table = np.random.default_rng(bits).normal(size=(20, columns)).astype(np.float32)
    parts = np.split(table, range(block, columns, block), axis=1) if block else [table]
    most = 2**bits - 1 if asymmetric else 2 ** (bits - 1) - 1
    if asymmetric:
        scale = np.stack([(np.maximum(part.max(1), 0) - np.minimum(part.min(1), 0)) / most for part in parts], 1)
        point = np.rint(-np.stack([np.minimum(part.min(1), 0) for part in parts], 1) / scale)
    else:
        scale = np.stack([np.abs(part).max(1) / most for part in parts], 1)
        point = np.zeros(scale.shape)
    dtype = f"{'uint' if asymmetric else 'int'}{bits}"
    scale, point = scale.astype(np.float32), point.astype(dtype)
    quant = (
        TensorQuant(dtype, scale, point, axis=1, block=block)
        if block
        else TensorQuant(dtype, scale[:, 0], point[:, 0], axis=0)
    )
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["y"], "look up")],
        "net",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "n", columns])],
        [numpy_helper.from_array(table, "table")],
    )
    body = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    signature = Signature(
        (TensorSpec("ids", "int64", ("batch", "n")),), (TensorSpec("y", "float32", ("batch", "n", columns)),)
    )
    return OnnxModel(body, signature, QuantPlan({}, {"table": quant})), weight_values(table, quant)


@pytest.mark.parametrize("columns", [48, 64])
@pytest.mark.parametrize("asymmetric", [True, False])
@pytest.mark.parametrize("block", [None, 16, 32])
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_entries_of_a_table_are_computed_from_its_codes(
    bits: int, block: int | None, asymmetric: bool, columns: int
) -> None:
    model, values = _table(bits, block, asymmetric=asymmetric, columns=columns)
    written = to_onnx(model, _target((1, 17)))
    assert {node.domain for node in written.graph.node} == {""}
    assert np.allclose(_run(written, {"ids": IDS}), values[IDS], atol=1e-6)
    codes = next(tensor for tensor in written.graph.initializer if tensor.name == "table_table")
    assert len(codes.raw_data) == values.size * bits // 8


@pytest.mark.parametrize("asymmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 2])
def test_weights_of_a_convolution_in_few_bits_are_packed_in_bytes(bits: int, asymmetric: bool) -> None:
    weight = np.random.default_rng(3).normal(size=(6, 5, 3, 3)).astype(np.float32)
    flat = weight.reshape(6, -1)
    if asymmetric:
        scale = ((flat.max(1) - flat.min(1)) / (2**bits - 1)).astype(np.float32)
        point = np.rint(-flat.min(1) / scale)
    else:
        scale, point = (np.abs(flat).max(1) / (2 ** (bits - 1) - 1)).astype(np.float32), np.zeros(6)
    dtype = f"{'uint' if asymmetric else 'int'}{bits}"
    quant = TensorQuant(dtype, scale, point.astype(dtype), axis=0)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], "conv")],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 5, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 6, 6, 6])],
        [numpy_helper.from_array(weight, "w")],
    )
    body = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    signature = Signature(
        (TensorSpec("x", "float32", ("batch", 5, 8, 8)),), (TensorSpec("y", "float32", ("batch", 6, 6, 6)),)
    )
    written = to_onnx(OnnxModel(body, signature, QuantPlan({}, {"w": quant})), _target((1, 17)))
    x = {"x": np.random.default_rng(4).normal(size=(1, 5, 8, 8)).astype(np.float32)}
    body.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight_values(weight, quant).astype(np.float32), "w"))
    assert np.allclose(_run(written, x), _run(body, x), atol=1e-4)
    assert sum(len(tensor.raw_data) for tensor in written.graph.initializer) < weight.size * bits / 8 + 200


@pytest.mark.parametrize(
    ("stage", "release", "place", "says"),
    [
        ("bits: 2", "1.23", "5:35", "2-bit weights of matrix products in groups are read from ONNX Runtime 1.24 on"),
        ("bits: 8", "1.18", "5:35", "8-bit weights of matrix products in groups are read from ONNX Runtime 1.19 on"),
        ("overrides: [{match: 'head*', bits: 2}]", "1.17", "5:64", "use 4 bits"),
        ("bits: 8, granularity: channel", "1.17", "", ""),
        ("bits: 4", "1.17", "", ""),
        ("bits: 3", "1.17", "", ""),
        ("bits: 2", "1.24", "", ""),
        ("bits: 8", "1.19.2", "", ""),
        ("bits: 2, overrides: [{match: MatMul, bits: 4}]", "1.17", "", ""),
        ("overrides: [{match: Conv, bits: 2}]", "1.17", "", ""),
    ],
)
def test_validate_refuses_what_the_oldest_release_cannot_hold(
    tmp_path: Path, stage: str, release: str, place: str, says: str
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f'{HEAD}target: {{onnxruntime: ">={release}"}}\nstages:\n  - {{use: quantize.weights, {stage}}}\n'
    )
    done = CliRunner().invoke(app, ["validate", str(recipe)])
    assert done.exit_code == (2 if says else 0), done.output
    assert says in done.output
    assert f"{recipe}:{place}" in done.output


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ('{onnxruntime: ">=1.16"}', "1.17 is the oldest"),
        ("{onnxruntime: 1.17}", 'as in ">=1.17"'),
        ('{onnxruntime: "<1.20"}', 'as in ">=1.17"'),
        ("{onnxruntime: >=1.17}", "put quotes around the value"),
        ('{onnxruntime: ">=1.17", backend: openvino}', "add onnxruntime to `export`"),
    ],
)
def test_a_release_that_makes_no_sense_is_refused(tmp_path: Path, target: str, says: str) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"{HEAD}target: {target}\n")
    done = CliRunner().invoke(app, ["validate", str(recipe)])
    assert done.exit_code == 2
    assert says in done.output


def _alone(node: onnx.NodeProto, *tensors: onnx.TensorProto, opset: int = 20) -> OnnxModel:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 32])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "net", [value], [result], tensors)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    spec = TensorSpec("x", "float32", ("batch", 32))
    return OnnxModel(helper.make_model(graph, opset_imports=imports, ir_version=9), Signature((spec,), ()))


@pytest.mark.parametrize(
    ("node", "oldest", "says"),
    [
        (helper.make_node("LinearAttention", ["x"], ["y"], "attend", domain="com.microsoft"), (1, 24), r"LinearAttention \(attend\) from 1\.25 on"),
        (helper.make_node("MatMulNBits", ["x", "w", "s"], ["y"], "multiply", domain="com.microsoft", bits=8, K=32, N=1, block_size=32), (1, 22), r"MatMulNBits of 8 bits \(multiply\) from 1\.23 on"),
    ],
)  # fmt: skip
def test_a_file_whose_own_operators_are_too_new_is_refused_by_name(
    node: onnx.NodeProto, oldest: Release, says: str
) -> None:
    with pytest.raises(StageError, match=says):
        to_onnx(_alone(node), _target(oldest))
    to_onnx(_alone(node), _target((oldest[0], oldest[1] + 1)))


def test_groups_that_no_operator_of_the_release_holds_are_refused() -> None:
    weight = np.ones((24, 4), np.float32)
    quant = TensorQuant("int4", np.ones((3, 4), np.float32), np.zeros((3, 4), np.int8), axis=0, block=8)
    model = _alone(helper.make_node("MatMul", ["x", "w"], ["y"], "multiply"), numpy_helper.from_array(weight, "w"))
    with pytest.raises(StageError, match=r"multiply: ONNX Runtime 1\.18 shall serve .* int4 weights in groups of 8"):
        to_onnx(replace(model, quant=QuantPlan({}, {"w": quant})), _target((1, 18)))


def test_the_artifact_says_its_opset_and_what_was_avoided(tmp_path: Path) -> None:
    model = weights.apply(language_model(), WeightsParams(), context(sentences(), tmp_path)).model
    said = BACKEND.build(model, _target((1, 17)), tmp_path).notes[-1]
    assert said.startswith("for ONNX Runtime 1.17 and later: opset 18, IR version 9; avoided: ")
    assert "GatherBlockQuantized of 4 bits (1.27)" in said
    assert "DequantizeLinear in blocks and constants of 4 bits (1.19)" in said
    assert not any("IR version" in words for words in BACKEND.build(model, _target(None), tmp_path).notes)


def test_operators_that_releases_brought_are_known_to_the_one_installed_here() -> None:
    state = onnxruntime.capi.onnxruntime_pybind11_state
    known = {schema.name for schema in state.get_all_operator_schema() if schema.domain == "com.microsoft"}
    installed = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
    brought = {name for release, names in releases._OPERATORS.items() if release <= installed for name in names}
    assert brought <= known
