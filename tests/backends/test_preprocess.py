"""Files that take images as bytes: what prepares them inside computes what the data prepared outside."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from support.graphs import residual_model

from compressctl.backends.onnxruntime import BACKEND as ONNXRUNTIME
from compressctl.backends.params import OnnxRuntimeParams, OpenVinoParams, Preprocess, TensorRtParams
from compressctl.backends.preprocess import KEY, called_signature, file_signature, images_of, prepared, read_steps
from compressctl.backends.tensorrt import BACKEND as TENSORRT
from compressctl.core.backend import Artifact, Backend
from compressctl.core.errors import UsageError
from compressctl.core.model import OnnxModel, Signature, TensorSpec
from compressctl.core.quant import QuantPlan, TensorQuant
from compressctl.core.target import Target

HEIGHT, WIDTH, OUT = 6, 5, 4
MODELS = ("conv", "quantized", "half", "flat", "branch", "two inputs")


def target(backend: str = "onnxruntime", **options: Any) -> Target:
    params = {"onnxruntime": OnnxRuntimeParams, "openvino": OpenVinoParams, "tensorrt": TensorRtParams}[backend]
    return Target(backend, options=params(**options).model_dump(mode="json"))


def network(kind: str, layout: str = "NCHW", channels: int = 3) -> OnnxModel:
    """Images to (n, 4): a convolution, in integers or 16-bit floats; a product; a branch that reads the input; beside another input."""
    rng = np.random.default_rng(0)
    shape = (channels, HEIGHT, WIDTH) if layout == "NCHW" else (HEIGHT, WIDTH, channels)
    weight = rng.normal(0, 0.3, (OUT, channels, 3, 3)).astype(np.float32)
    dense = rng.normal(0, 0.1, (channels * HEIGHT * WIDTH, OUT)).astype(np.float32)
    value, node = helper.make_tensor_value_info, helper.make_node
    floats = TensorProto.FLOAT16 if kind == "half" else TensorProto.FLOAT
    inputs = [value("x", floats, ["batch", *shape])]
    convolved = [
        *([node("Transpose", ["x"], ["t"], "turn", perm=[0, 3, 1, 2])] if layout == "NHWC" else []),
        node("Conv", ["t" if layout == "NHWC" else "x", "w"], ["c"], "conv", pads=[1, 1, 1, 1]),
        node("GlobalAveragePool", ["c"], ["p"], "pool"),
        node("Flatten", ["p"], ["y"], "flat"),
    ]
    if kind in ("conv", "quantized", "half"):
        nodes = convolved
    elif kind == "branch":
        then = helper.make_graph(
            [node("Flatten", ["x"], ["f"], "f"), node("MatMul", ["f", "d"], ["a"], "m")],
            "then",
            [],
            [value("a", floats, None)],
        )
        other = helper.make_graph(
            [node("Flatten", ["x"], ["g"], "g"), node("MatMul", ["g", "e"], ["b"], "n")],
            "else",
            [],
            [value("b", floats, None)],
        )
        nodes = [node("If", ["always"], ["y"], "if", then_branch=then, else_branch=other)]
    else:
        nodes = [node("Flatten", ["x"], ["f"], "flat"), node("MatMul", ["f", "d"], ["m"], "product")]
        nodes.append(
            node("Add", ["m", "v"], ["y"], "add") if kind == "two inputs" else node("Identity", ["m"], ["y"], "same")
        )
    if kind == "two inputs":
        inputs.append(value("v", TensorProto.FLOAT, ["batch", OUT]))
    stored = {"w": weight, "d": dense, "e": -dense, "always": np.array(True)}
    read = {name for made in nodes for name in made.input} | ({"d", "e"} if kind == "branch" else set())
    constants = [
        numpy_helper.from_array(
            array.astype(np.float16) if kind == "half" and array.dtype == np.float32 else array, name
        )
        for name, array in stored.items()
        if name in read
    ]
    graph = helper.make_graph(nodes, "net", inputs, [value("y", floats, ["batch", OUT])], constants)
    body = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    dtype = "float16" if kind == "half" else "float32"
    specs = [TensorSpec("x", dtype, ("batch", *shape))]
    if kind == "two inputs":
        specs.append(TensorSpec("v", "float32", ("batch", OUT)))
    plan = _plan(weight, layout) if kind == "quantized" else None
    return OnnxModel(body, Signature(tuple(specs), (TensorSpec("y", dtype, ("batch", OUT)),)), plan)


def _plan(weight: np.ndarray, layout: str) -> QuantPlan:
    def activation(scale: float) -> TensorQuant:
        return TensorQuant("uint8", np.asarray(scale, np.float32), np.asarray(128, np.uint8))

    scale = (np.abs(weight).reshape(OUT, -1).max(axis=1) / 127).astype(np.float32)
    activations = {name: activation(0.05) for name in (("x", "t") if layout == "NHWC" else ("x",))}
    return QuantPlan(
        {**activations, "c": activation(0.1)}, {"w": TensorQuant("int8", scale, np.zeros(OUT, np.int8), axis=0)}
    )


@st.composite
def steps(draw: st.DrawFn) -> Preprocess:
    gray = draw(st.booleans())
    values = st.integers(1, 9).map(lambda number: number / 10)
    numbers = st.none() | st.tuples(values) | (st.tuples(values) if gray else st.tuples(values, values, values))
    return Preprocess(
        layout=draw(st.sampled_from(["NCHW", "NHWC"])),
        color=draw(st.sampled_from(["rgb", "bgr"])),
        scale=draw(st.sampled_from([1 / 255, 1 / 128, 0.017])),
        mean=draw(numbers),
        std=draw(numbers),
        model_layout=draw(st.sampled_from(["NCHW", "NHWC"])),
        model_color="gray" if gray else draw(st.sampled_from(["rgb", "bgr"])),
    )


def built(model: OnnxModel, wanted: Target, folder: Path, backend: Backend = ONNXRUNTIME) -> Artifact:
    folder.mkdir(exist_ok=True, parents=True)
    return backend.build(model, wanted, folder)


def images(wanted: Preprocess, samples: int = 3) -> np.ndarray:
    channels = 1 if wanted.model_color == "gray" else 3
    shape = (channels, HEIGHT, WIDTH) if wanted.layout == "NCHW" else (HEIGHT, WIDTH, channels)
    return np.random.default_rng(1).integers(0, 256, (samples, *shape), np.uint8)


@pytest.mark.parametrize("kind", MODELS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wanted=steps())
def test_bytes_in_the_file_are_prepared_arrays_in_the_model(kind: str, wanted: Preprocess, tmp_path: Path) -> None:
    given_images = images(wanted)
    channels = 1 if wanted.model_color == "gray" else 3
    model = network(kind, str(wanted.model_layout), channels)
    plain = ONNXRUNTIME.open(built(model, target(), tmp_path / "plain"), target())
    folded = ONNXRUNTIME.open(built(model, target(preprocess=wanted), tmp_path / "folded"), target())
    floats = prepared(given_images, wanted)
    more = {"v": np.ones((3, OUT), np.float32)} if kind == "two inputs" else {}
    dtype = np.float16 if kind == "half" else np.float32
    before = plain.run({"x": floats.astype(dtype), **more})["y"].astype(np.float32)
    after = folded.run({"x": given_images, **more})["y"].astype(np.float32)
    # A value on the border of two codes may fall into the other one: one step of the input, through the weights.
    tolerance = {"half": 0.02, "quantized": 0.03}.get(kind, 2e-5)
    assert np.abs(after - before).max() <= tolerance * max(1, float(np.abs(before).max()))
    assert np.array_equal(folded.run({"x": floats.astype(dtype), **more})["y"].astype(np.float32), after)


@given(wanted=steps())
def test_turning_back_gives_the_images(wanted: Preprocess) -> None:
    named = wanted.model_copy(update={"input": "x"})
    assert np.array_equal(images_of({"x": prepared(images(named), named)}, named)["x"], images(named))


def test_the_image_is_prepared_before_anything_is_quantized(tmp_path: Path) -> None:
    wanted = target(preprocess={"mean": (0.5,), "model_color": "bgr"})
    artifact = built(network("quantized"), wanted, tmp_path)
    graph = onnx.load(artifact.path).graph
    kinds = [node.op_type for node in graph.node]
    assert kinds[:6] == ["Transpose", "Gather", "Cast", "Mul", "Add", "QuantizeLinear"]
    executed = ONNXRUNTIME.explain(artifact, wanted, {"x": (1, 3, HEIGHT, WIDTH)})
    assert [node.precision for node in executed if node.macs] == ["int8"]
    assert sum(node.macs or 0 for node in executed) == OUT * 3 * 9 * HEIGHT * WIDTH
    assert not [node for node in executed if node.rule and node.name.startswith("preprocess/")]


def test_what_a_file_takes_and_what_its_user_is_told(tmp_path: Path) -> None:
    wanted = target(preprocess=True, io_dtype="float16")
    artifact = built(network("two inputs"), wanted, tmp_path)
    session = ONNXRUNTIME.open(artifact, wanted)
    taken = file_signature(network("two inputs").signature, wanted)
    assert [(spec.name, spec.dtype, spec.shape) for spec in taken.inputs] == [
        ("x", "uint8", ("batch", HEIGHT, WIDTH, 3)),
        ("v", "float16", ("batch", OUT)),
    ]
    assert session.signature.inputs == taken.inputs  # type: ignore[attr-defined]
    given_images = images(Preprocess())
    assert session.run({"x": given_images, "v": np.ones((3, OUT), np.float16)})["y"].dtype == np.float16
    assert any("takes x as images of bytes (uint8, NHWC, rgb)" in note for note in artifact.notes)
    assert "float inputs and outputs are float16" in artifact.notes


def test_float16_in_and_out_changes_nothing_inside(tmp_path: Path) -> None:
    model, wanted = network("conv"), target(io_dtype="float16")
    half = ONNXRUNTIME.open(built(model, wanted, tmp_path / "half"), wanted)
    plain = ONNXRUNTIME.open(built(model, target(), tmp_path / "plain"), target())
    inputs = np.random.default_rng(2).normal(size=(3, 3, HEIGHT, WIDTH)).astype(np.float16)
    found = half.run({"x": inputs})["y"]
    assert np.array_equal(found, plain.run({"x": inputs.astype(np.float32)})["y"].astype(np.float16))
    assert {spec.dtype for spec in called_signature(model.signature, wanted).inputs} == {"float16"}


@pytest.mark.parametrize("storage", ["plain", "compressed"])
@pytest.mark.parametrize("kind", ["conv", "quantized"])
def test_openvino_computes_the_same_from_bytes(kind: str, storage: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    from compressctl.backends.openvino import BACKEND as OPENVINO

    model = network(kind, "NHWC")
    wanted = Preprocess(layout="NCHW", color="bgr", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.2), model_layout="NHWC")
    options = {"io_dtype": "float16", "storage": storage}
    plain = OPENVINO.open(built(model, target("openvino"), tmp_path / "plain", OPENVINO), target("openvino"))
    artifact = built(model, target("openvino", preprocess=wanted, **options), tmp_path / "folded", OPENVINO)
    folded = OPENVINO.open(artifact, target("openvino"))
    given_images = images(wanted)
    before, after = plain.run({"x": prepared(given_images, wanted)})["y"], folded.run({"x": given_images})["y"]
    assert after.dtype == np.float16
    assert np.abs(after - before).max() <= 0.05
    assert np.array_equal(folded.run({"x": prepared(given_images, wanted)})["y"], after)
    macs = sum(node.macs or 0 for node in OPENVINO.explain(artifact, target("openvino"), {"x": (1, HEIGHT, WIDTH, 3)}))
    assert macs == OUT * 3 * 9 * HEIGHT * WIDTH


@pytest.mark.parametrize("precision", ["float16", "float32"])
@pytest.mark.parametrize("kind", ["conv", "quantized"])
def test_tensorrt_reads_bytes_by_a_cast_and_builds_for_their_shape(kind: str, precision: str, tmp_path: Path) -> None:
    wanted = target("tensorrt", preprocess=True, precision=precision)
    artifact = built(network(kind), wanted, tmp_path / "folded", TENSORRT)
    graph = onnx.load(artifact.path).graph
    assert [node.op_type for node in graph.node if "x" in node.input] == ["Cast"]
    assert "'max': [16, 6, 5, 3]" in (tmp_path / "folded" / "build_engine.py").read_text()
    plain = TENSORRT.open(
        built(network(kind), target("tensorrt", precision=precision), tmp_path / "plain", TENSORRT), target("tensorrt")
    )
    folded = TENSORRT.open(artifact, wanted)
    before = plain.run({"x": prepared(images(Preprocess()), Preprocess())})["y"]
    assert np.abs(folded.run({"x": images(Preprocess())})["y"] - before).max() <= 0.02


@pytest.mark.parametrize(
    ("asked", "kind", "words"),
    [
        ({"mean": (0.1, 0.2)}, "conv", "mean has 2 numbers, and x has 3 channels"),
        ({"input": "z"}, "conv", "one input takes images"),
        ({"input": "v"}, "two inputs", "one input takes images"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(asked: dict[str, Any], kind: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        built(network(kind), target(preprocess=asked), tmp_path)


def test_of_two_inputs_of_images_one_has_to_be_named(tmp_path: Path) -> None:
    model = residual_model()
    other = replace(model.signature.inputs[0], name="z")
    with pytest.raises(UsageError, match="name it, as in"):
        file_signature(Signature((*model.signature.inputs, other), model.signature.outputs), target(preprocess=True))


def test_arrays_that_were_prepared_otherwise_are_refused(tmp_path: Path) -> None:
    wanted = target(preprocess={"scale": 1 / 128})
    session = ONNXRUNTIME.open(built(network("conv"), wanted, tmp_path), wanted)
    floats = prepared(images(Preprocess()), Preprocess())
    with pytest.raises(UsageError, match="preprocess does not fit the data"):
        session.run({"x": floats})
    with pytest.raises(UsageError, match="was given"):
        session.run({"x": floats[0]})
    session.repeat({"x": floats})()


@pytest.mark.parametrize("text", ["[", "{}x", '{"layout": "HWC"}', "null"])
def test_notes_about_preprocessing_that_nobody_wrote_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_steps(text, Path())


def test_a_file_says_what_it_holds(tmp_path: Path) -> None:
    artifact = built(network("conv"), target(preprocess=True), tmp_path)
    said = {entry.key: entry.value for entry in onnx.load(artifact.path).metadata_props}
    assert read_steps(said[KEY], artifact.path) == Preprocess(input="x")
