"""cast end to end: sizes, numbers, what stays float32, and what the file computes in plain ONNX Runtime."""

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper
from support.graphs import residual_model
from support.weights import context, language_model, sentences

from compressctl.backends.onnx_file import to_onnx
from compressctl.core.data import Batch, bind
from compressctl.core.errors import UsageError
from compressctl.core.model import Form, Model, OnnxModel, Signature, TensorSpec
from compressctl.core.target import Target
from compressctl.core.technique import ModelFacts
from compressctl.techniques.cast.cast import apply
from compressctl.techniques.cast.params import CastParams

IDS = sentences(40, seed=9).ids
ORT = Target("onnxruntime")


def _run(proto: onnx.ModelProto, name: str = "ids", values: np.ndarray = IDS) -> np.ndarray:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {name: values})[0])


def _applied(tmp_path: Path, **params: object) -> tuple[Model, dict[str, object]]:
    result = apply(language_model(), CastParams(**params), context(None, tmp_path))  # type: ignore[arg-type]
    return result.model, dict(result.facts)


@pytest.mark.parametrize(("dtype", "kind"), [("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16)])
def test_stored_weights_are_rounded_once_and_computed_in_float32(tmp_path: Path, dtype: str, kind: type) -> None:
    model, facts = _applied(tmp_path, dtype=dtype)
    written = to_onnx(model, ORT)
    onnx.checker.check_model(written)
    by_hand = onnx.ModelProto()
    by_hand.CopyFrom(language_model().body)
    for tensor in by_hand.graph.initializer:
        rounded = numpy_helper.to_array(tensor).astype(kind).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
    assert np.allclose(_run(written), _run(by_hand), atol=1e-5)
    sizes = [sum(len(t.raw_data) for t in proto.graph.initializer) for proto in (language_model().body, written)]
    assert sizes[1] == sizes[0] / 2
    assert facts["scope"] == "weights"


def test_onnxruntime_widens_the_weights_when_it_loads_the_file(tmp_path: Path) -> None:
    from compressctl.backends.onnxruntime import BACKEND

    artifact = BACKEND.build(_applied(tmp_path)[0], ORT, tmp_path)
    assert "Cast" not in {node.op for node in BACKEND.explain(artifact, ORT)}


def test_a_graph_in_float16_computes_nearly_the_same(tmp_path: Path) -> None:
    model, facts = _applied(tmp_path, scope="all")
    found, wanted = _run(to_onnx(model, ORT)), _run(language_model().body)
    assert found.dtype == np.float32
    assert 0 < np.abs(found - wanted).mean() < 0.01 * np.abs(wanted).mean()
    assert facts["left_in_float32"] == {}


def test_inputs_and_outputs_may_become_float16_too(tmp_path: Path) -> None:
    model, _ = _applied(tmp_path, scope="all", keep_io=False)
    assert [spec.dtype for spec in (*model.signature.inputs, *model.signature.outputs)] == ["int64", "float16"]
    assert _run(to_onnx(model, ORT)).dtype == np.float16
    images = OnnxModel(residual_model().body, residual_model().signature)
    narrow = apply(images, CastParams(scope="all", keep_io=False), context(None, tmp_path)).model
    x = np.random.default_rng(0).normal(0, 1, (2, 8, 6, 6)).astype(np.float32)
    bound = bind(Batch({"x": x}, None, np.arange(2)), narrow.signature)
    assert bound["x"].dtype == np.float16
    assert np.allclose(_run(to_onnx(narrow, ORT), "x", bound["x"]), _run(images.body, "x", x), atol=0.02)


@pytest.mark.parametrize("scope", ["weights", "all"])
def test_a_blocklist_keeps_nodes_in_float32(tmp_path: Path, scope: str) -> None:
    model, facts = _applied(tmp_path, scope=scope, exclude=["down", "LayerNormalization"])
    kept = {"weights": {"down.weight", "norm.scale", "norm.bias"}, "all": {"down", "norm"}}[scope]
    assert set(facts["left_in_float32"]) == kept  # type: ignore[call-overload]
    stored = {tensor.name: tensor.data_type for tensor in to_onnx(model, ORT).graph.initializer}
    assert stored["down.weight"] == TensorProto.FLOAT
    # For scope all nothing reads it in float32, and it has its own name.
    assert stored["up.weight_half" if scope == "weights" else "up.weight"] == TensorProto.FLOAT16


@pytest.mark.parametrize("scope", ["weights", "all"])
def test_what_float16_cannot_hold_stays(tmp_path: Path, scope: str) -> None:
    model = language_model()
    tensor = next(t for t in model.body.graph.initializer if t.name == "up.bias")
    large = numpy_helper.to_array(tensor).copy()
    large[0] = 1e5
    tensor.CopyFrom(numpy_helper.from_array(large, "up.bias"))
    result = apply(model, CastParams(scope=scope), context(None, tmp_path))  # type: ignore[arg-type]
    (reason,) = result.facts["left_in_float32"].values()
    assert "beyond float16's range" in reason
    assert np.isfinite(_run(to_onnx(result.model, ORT))).all() or scope == "all"


def test_a_pattern_that_matches_nothing_names_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'decoder' matches no node") as caught:
        _applied(tmp_path, exclude=["decoder"])
    assert "lookup" in str(caught.value)


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"dtype": "bfloat16", "scope": "all"}, "no bfloat16 kernels"),
        ({"keep_io": False, "scope": "weights"}, "scope: all"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_loaded(params: dict[str, object], says: str) -> None:
    facts = ModelFacts(Form.ONNX, ORT, Signature((TensorSpec("x", "float32", (1,)),), ()))
    (problem,) = CastParams(**params).problems(facts)  # type: ignore[arg-type]
    assert says in problem.message
