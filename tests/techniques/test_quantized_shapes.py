"""What quantizing must leave as it was: heads that a pattern keeps float, free axes, and weights beside the file."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.digit_network import Digits, accuracy, context, digits, fitted_network
from support.recipes import recipe_of

from compressctl.backends.onnx_file import save_onnx, to_onnx
from compressctl.backends.onnxruntime import BACKEND as ONNXRUNTIME
from compressctl.core.model import Model, OnnxModel, Signature, TensorSpec
from compressctl.core.target import Target
from compressctl.graph.execute import ActivationRecorder
from compressctl.pipeline.serialization import read_model, write_model
from compressctl.techniques.quantize.params import StaticOverride, StaticParams
from compressctl.techniques.quantize.static import apply

VNNI = Target("onnxruntime", profile="x86-vnni")


@pytest.fixture(scope="module")
def data() -> Digits:
    return digits()


@pytest.fixture(scope="module")
def model(data: Digits) -> Model:
    return fitted_network(data)


def detector() -> Model:
    """A backbone, and a head on each of two resolutions whose scores and boxes a Concat joins; every axis but channels is free."""
    rng = np.random.default_rng(0)
    nodes, constants = [], {}

    def conv(source: str, name: str, channels: tuple[int, int], stride: int, relu: bool = True) -> str:
        constants[f"{name}.weight"] = rng.normal(0, 0.3, (channels[1], channels[0], 3, 3)).astype(np.float32)
        made = f"{name}.out"
        nodes.append(
            helper.make_node("Conv", [source, f"{name}.weight"], [made], name, pads=[1] * 4, strides=[stride] * 2)
        )
        if relu:
            nodes.append(helper.make_node("Relu", [made], [f"{name}.relu"], f"{name}.act"))
        return f"{name}.relu" if relu else made

    fine = conv("image", "backbone.0", (1, 8), 1)
    coarse = conv(fine, "backbone.1", (8, 16), 2)
    flat = []
    for level, (source, channels) in enumerate(((fine, 8), (coarse, 16))):
        for part, wide in (("scores", 3), ("boxes", 4)):
            out = conv(source, f"head.{level}.{part}", (channels, wide), 1, relu=False)
            nodes.append(
                helper.make_node("Reshape", [out, f"{part}_shape"], [f"{out}.flat"], f"head.{level}.{part}.flat")
            )
            flat.append(f"{out}.flat")
            constants[f"{part}_shape"] = np.array([0, wide, -1], np.int64)
    nodes.append(helper.make_node("Concat", flat[0::2], ["scores"], "head.scores", axis=2))
    nodes.append(helper.make_node("Concat", flat[1::2], ["boxes"], "head.boxes", axis=2))
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, "height", "width"])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", n, "places"])
            for name, n in (("scores", 3), ("boxes", 4))
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    signature = Signature(
        (TensorSpec("image", "float32", ("batch", 1, "height", "width")),),
        (
            TensorSpec("scores", "float32", ("batch", 3, "places")),
            TensorSpec("boxes", "float32", ("batch", 4, "places")),
        ),
    )
    body = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return OnnxModel(body, signature)


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_a_detectors_heads_stay_float_by_one_pattern(data: Digits, tmp_path: Path, weights: str) -> None:
    network = detector()
    params = StaticParams(
        weights=weights,  # type: ignore[arg-type]
        rounding="adaround" if weights == "int4" else "nearest",
        rounding_steps=20,
        overrides=(StaticOverride(match="head.*", weights="float"),),
    )
    result = apply(network, params, context(data, network))
    nodes = ONNXRUNTIME.explain(ONNXRUNTIME.build(result.model, VNNI, tmp_path), VNNI)
    precisions = {node.name.removesuffix(".out"): node.precision for node in nodes if "Conv" in node.op}
    assert {name for name, precision in precisions.items() if precision == "int8"} == {"backbone.0", "backbone.1"}
    assert {name for name, precision in precisions.items() if precision == "float32"} == {
        f"head.{level}.{part}" for level in (0, 1) for part in ("scores", "boxes")
    }
    stored = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(tmp_path / "model.onnx").graph.initializer
    }
    original = {tensor.name: numpy_helper.to_array(tensor) for tensor in network.body.graph.initializer}
    assert np.array_equal(stored["head.0.boxes.weight"], original["head.0.boxes.weight"])


def test_axes_that_were_free_stay_free(data: Digits) -> None:
    network = detector()
    written = to_onnx(apply(network, StaticParams(), context(data, network)).model, VNNI)
    (given,) = written.graph.input
    assert [part.dim_param or part.dim_value for part in given.type.tensor_type.shape.dim] == [
        "batch",
        1,
        "height",
        "width",
    ]
    session = onnxruntime.InferenceSession(written.SerializeToString(), providers=["CPUExecutionProvider"])
    for size in ((1, 1, 8, 8), (5, 1, 8, 8), (2, 1, 12, 10)):
        images = np.random.default_rng(0).uniform(0, 1, size).astype(np.float32)
        found = dict(zip(("scores", "boxes"), session.run(None, {"image": images}), strict=True))
        wanted = ActivationRecorder(network.body, ["scores", "boxes"]).run({"image": images})
        for name in wanted:
            assert found[name].shape == wanted[name].shape
            assert np.abs(found[name] - wanted[name]).mean() < 0.05 * np.abs(wanted[name]).mean()


@pytest.fixture
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if protobuf ended at a thousand bytes: what a model of more than 2 GB meets."""
    monkeypatch.setattr("compressctl.graph.model_file.LARGEST_SINGLE_FILE", 1000)
    monkeypatch.setattr("compressctl.graph.session._LARGEST_MESSAGE", 1000)
    monkeypatch.setattr("compressctl.graph.tensors.LARGE", 1000)


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("rounding", ["nearest", "adaround"])
def test_a_model_too_large_for_one_file_goes_all_the_way(
    data: Digits, model: Model, tmp_path: Path, rounding: str
) -> None:
    params = StaticParams(weights="int4", rounding=rounding, rounding_steps=20)  # type: ignore[arg-type]
    result = apply(model, params, context(data, model)).model
    kept, made = tmp_path / "kept", tmp_path / "made"
    kept.mkdir()
    made.mkdir()
    before = result.body.SerializeToString()
    write_model(result, kept, None)
    assert (kept / "model.onnx.data").exists()
    assert result.body.SerializeToString() == before
    again = read_model(kept, lambda: model, recipe_of(tmp_path))
    files = save_onnx(to_onnx(again, VNNI), made)
    assert [path.name for path in files] == ["model.onnx", "model.onnx.data"]
    assert files[0].stat().st_size < files[1].stat().st_size
    session = onnxruntime.InferenceSession(str(files[0]), providers=["CPUExecutionProvider"])
    test = data.split("test")
    right = session.run(None, {"image": test.images})[0].argmax(axis=1) == test.labels
    assert 100 * right.mean() == pytest.approx(accuracy(result, test))
    assert 100 * right.mean() > accuracy(model, test) - 3
