"""TensorRT without TensorRT: the dialect, the linter on what it must refuse, and the build script's names."""

import ast
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.graphs import residual_model

from compressctl.backends.params import TensorRtParams
from compressctl.backends.tensorrt import BACKEND
from compressctl.backends.tensorrt.rules import RULES, Graph, holds_two_of_four, lint, two_of_four
from compressctl.core.errors import StageError, UsageError
from compressctl.core.model import TensorSpec
from compressctl.core.target import Target

HERE = Path(__file__).parent
RNG = np.random.default_rng(0)


class Net:
    """A small Q/DQ graph under construction: two convolutions, a residual addition, a concatenation."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, value: np.ndarray | onnx.TensorProto) -> str:
        is_proto = isinstance(value, onnx.TensorProto)
        self.tensors[name] = value if is_proto else numpy_helper.from_array(np.asarray(value), name)
        return name

    def add(self, op: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], output, **attributes))
        return output

    def qdq(self, tensor: str, scale: float = 0.05, zero_point: np.ndarray | None = None) -> str:
        point = np.zeros((), np.int8) if zero_point is None else zero_point
        parameters = [self.constant(f"{tensor}_s", np.float32(scale)), self.constant(f"{tensor}_z", point)]
        self.add("QuantizeLinear", [tensor, *parameters], f"{tensor}_q")
        return self.add("DequantizeLinear", [f"{tensor}_q", *parameters], f"{tensor}_dq")

    def weight(self, name: str, shape: tuple[int, ...], axis: int = 0, codes: np.ndarray | None = None) -> str:
        stored = RNG.integers(-127, 127, shape).astype(np.int8) if codes is None else codes
        scale = np.full(stored.shape[axis], 0.01, np.float32)
        inputs = [
            self.constant(f"{name}_codes", stored),
            self.constant(f"{name}_ws", scale),
            self.constant(f"{name}_wz", np.zeros(scale.shape, np.int8)),
        ]
        return self.add("DequantizeLinear", inputs, f"{name}_dq", axis=axis)

    def model(self, output: str, opset: int = 21) -> onnx.ModelProto:
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            "net",
            [value("x", TensorProto.FLOAT, ["batch", 8, 6, 6])],
            [value(output, TensorProto.FLOAT, None)],
            list(self.tensors.values()),
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)],
            ir_version=10,
        )


def _good() -> Net:
    """conv1 -> Relu -> conv2 + Relu's output -> Relu: what the linter must pass."""
    net = Net()
    net.add("Conv", [net.qdq("x"), net.weight("w1", (8, 8, 3, 3))], "conv1", pads=[1, 1, 1, 1])
    net.add("Relu", ["conv1"], "relu1")
    entry = net.qdq("relu1")
    net.add("Conv", [entry, net.weight("w2", (8, 8, 3, 3))], "conv2", pads=[1, 1, 1, 1])
    net.add("Add", ["conv2", entry], "sum")
    net.add("Relu", ["sum"], "y")
    return net


def test_a_good_graph_breaks_no_rule() -> None:
    assert lint(_good().model("y")) == []


def _asymmetric(net: Net) -> None:
    net.constant("relu1_z", np.int8(3))


def _computed_zero_point(net: Net) -> None:
    del net.tensors["relu1_z"]
    net.constant("seed", np.float32(0))
    net.nodes.insert(0, helper.make_node("Cast", ["seed"], ["relu1_z"], "z_cast", to=TensorProto.INT8))


def _computed_scale(net: Net) -> None:
    del net.tensors["relu1_s"]
    net.constant("seed", np.float32(0.1))
    net.nodes.insert(0, helper.make_node("Abs", ["seed"], ["relu1_s"], "s_abs"))


def _negative_scale(net: Net) -> None:
    net.constant("relu1_s", np.float32(-0.1))


def _unsigned(net: Net) -> None:
    net.constant("relu1_z", np.uint8(0))


def _quantized_bias(net: Net) -> None:
    inputs = [net.constant("b", np.zeros(8, np.int32)), net.constant("bs", np.full(8, 0.1, np.float32))]
    node = helper.make_node("DequantizeLinear", inputs, ["b_dq"], "b_dq", axis=0)
    net.nodes.insert(0, node)
    next(node for node in net.nodes if node.name == "conv2").input.append("b_dq")


def _activation_per_channel(net: Net) -> None:
    net.constant("relu1_s", np.full(8, 0.05, np.float32))
    net.constant("relu1_z", np.zeros(8, np.int8))


def _wrong_axis(net: Net) -> None:
    node = next(node for node in net.nodes if node.name == "w2_dq")
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("axis", 1))


def _quantize_before_relu(net: Net) -> None:
    entry = net.qdq("conv1")
    next(node for node in net.nodes if node.name == "relu1").input[0] = entry
    _sorted(net)


def _output_quantized(net: Net) -> None:
    net.nodes = [node for node in net.nodes if node.name not in ("sum", "y")]
    entry = net.qdq("conv2")
    net.add("Sigmoid", [entry], "y")


def _concat_scales(net: Net) -> None:
    net.nodes = [node for node in net.nodes if node.name != "y"]
    net.add("Concat", [net.qdq("sum", 0.05), net.qdq("conv1", 0.5)], "y", axis=1)


def _blocked_matmul(net: Net, *, dtype: int, axis: int, zero_point: int = 0) -> None:
    net.nodes = [node for node in net.nodes if node.name != "y"]
    net.add("Flatten", ["sum"], "flat")
    rank_three = axis == 0
    shape = (64, 1, 288) if rank_three else (288, 4)
    scale_shape = tuple(size // 32 if place == axis else size for place, size in enumerate(shape))
    codes = helper.make_tensor("m_codes", dtype, shape, np.zeros(int(np.prod(shape)), np.int8))
    points = helper.make_tensor("m_z", dtype, scale_shape, np.full(int(np.prod(scale_shape)), zero_point, np.int8))
    inputs = [
        net.constant("m_codes", codes),
        net.constant("m_s", np.full(scale_shape, 0.1, np.float32)),
        net.constant("m_z", points),
    ]
    node = helper.make_node("DequantizeLinear", inputs, ["m_dq"], "m_dq", axis=axis, block_size=32)
    net.nodes.append(node)
    net.add("MatMul", ["flat", "m_dq"] if not rank_three else ["m_dq", "flat"], "y")


def _blocked_zero_point(net: Net) -> None:
    _blocked_matmul(net, dtype=TensorProto.INT4, axis=0, zero_point=2)


def _four_bit_conv(net: Net) -> None:
    codes = helper.make_tensor("w2_codes", TensorProto.INT4, (8, 8, 3, 3), np.zeros(576, np.int8))
    net.constant("w2_codes", codes)
    net.constant("w2_wz", helper.make_tensor("w2_wz", TensorProto.INT4, (8,), np.zeros(8, np.int8)))


def _custom_operator(net: Net) -> None:
    net.nodes = [node for node in net.nodes if node.name != "y"]
    node = helper.make_node("FusedConv", ["sum", "w1_dq"], ["y"], "y", domain="com.microsoft")
    net.nodes.append(node)


def _branch(
    net: Net, *, late: onnx.NodeProto | None, shape: list[int | str], name: str = "late", condition: str = "x_mean"
) -> None:
    """The last node in a branch that is taken where the mean of the input is not above 0."""
    end = next(node for node in net.nodes if node.output[0] == "y")
    net.nodes.remove(end)
    net.constant("zero", np.float32(0))
    net.add("ReduceMean", ["x"], "x_mean", keepdims=0)
    net.add("Greater", ["x_mean" if condition == "x_mean" else "x", "zero"], "is_early")
    end.output[0] = "late"
    early = helper.make_node("Identity", ["sum"], ["early"], "early")
    outputs = [helper.make_tensor_value_info("early", TensorProto.FLOAT, ["n", 8, 8, 8])]
    then = helper.make_graph([early], "then", [], outputs)
    last = end if late is None else late
    last.output[0] = name
    nodes = [*([] if late is None else [end]), last]
    otherwise = helper.make_graph(nodes, "else", [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)])
    net.nodes.append(helper.make_node("If", ["is_early"], ["y"], "y", then_branch=then, else_branch=otherwise))


def _ranks_differ(net: Net) -> None:
    _branch(net, late=helper.make_node("ReduceMean", ["late"], [""], "mean", keepdims=0), shape=[])


def _condition_of_many(net: Net) -> None:
    _branch(
        net,
        late=helper.make_node("Identity", ["late"], [""], "same"),
        shape=["n", 8, 8, 8],
        name="other",
        condition="x",
    )


def _branch_of_nothing(net: Net) -> None:
    _branch(net, late=None, shape=["n", 8, 8, 8])
    branch = next(entry.g for entry in net.nodes[-1].attribute if entry.name == "then_branch")
    del branch.node[:]
    branch.output[0].name = "sum"


def _unknown_in_a_branch(net: Net) -> None:
    unknown = helper.make_node("FusedConv", ["late"], [""], "unknown", domain="com.microsoft")
    _branch(net, late=unknown, shape=["n", 8, 8, 8], name="other")


def _half_quantized(net: Net) -> None:
    node = next(node for node in net.nodes if node.name == "conv2")
    node.input[1] = net.constant("w2_float", np.ones((8, 8, 3, 3), np.float32))


def _codes_read_directly(net: Net) -> None:
    net.add("Cast", ["relu1_q"], "codes_float", to=TensorProto.FLOAT)


def _both_branches(net: Net) -> None:
    node = next(node for node in net.nodes if node.name == "sum")
    node.input[0] = net.qdq("conv2")
    _sorted(net)


def _mixed_types(net: Net) -> None:
    node = next(node for node in net.nodes if node.name == "sum")
    net.nodes.insert(
        net.nodes.index(node), helper.make_node("Cast", ["conv2"], ["conv2_half"], "half", to=TensorProto.FLOAT16)
    )
    node.input[0] = "conv2_half"


def _sorted(net: Net) -> None:
    """Nodes in an order in which each tensor is made before it is read."""
    made, left, done = {"x", *net.tensors}, list(net.nodes), []
    while left:
        ready = next(node for node in left if all(name in made for name in node.input))
        left.remove(ready)
        done.append(ready)
        made.update(ready.output)
    net.nodes = done


@pytest.mark.parametrize(
    ("rule", "spoil"),
    [
        ("zero-point-zero", _asymmetric),
        ("zero-point-constant", _computed_zero_point),
        ("scale-constant", _computed_scale),
        ("scale-positive", _negative_scale),
        ("signed-codes", _unsigned),
        ("bias-float", _quantized_bias),
        ("no-int32", _quantized_bias),
        ("activation-per-tensor", _activation_per_channel),
        ("weight-axis", _wrong_axis),
        ("no-q-before-relu", _quantize_before_relu),
        ("no-output-q", _output_quantized),
        ("float-functions", _output_quantized),
        ("concat-scales", _concat_scales),
        ("block-zero-point", _blocked_zero_point),
        ("block-type", lambda net: _blocked_matmul(net, dtype=TensorProto.INT8, axis=0)),
        ("four-bit-blocks", lambda net: _blocked_matmul(net, dtype=TensorProto.INT4, axis=0)),
        ("block-axis", lambda net: _blocked_matmul(net, dtype=TensorProto.INT4, axis=0)),
        ("four-bit-weights", _four_bit_conv),
        ("imported-operators", _custom_operator),
        ("both-or-none", _half_quantized),
        ("codes-to-dq", _codes_read_directly),
        ("residual-branch", _both_branches),
        ("types-agree", _mixed_types),
        ("branches-agree", _ranks_differ),
        ("condition-scalar", _condition_of_many),
        ("branch-nodes", _branch_of_nothing),
        ("imported-operators", _unknown_in_a_branch),
    ],
)
def test_each_violation_is_found_by_its_own_rule(rule: str, spoil: Callable[[Net], None]) -> None:
    net = _good()
    spoil(net)
    found = lint(net.model("y"))
    assert rule in {finding.rule for finding in found}, found
    assert all(finding.message and finding.node for finding in found)


def test_branches_as_networks_that_decide_by_their_input_have_them_are_taken() -> None:
    net = _good()
    _branch(net, late=helper.make_node("Identity", ["late"], [""], "same"), shape=["n", 8, 8, 8], name="other")
    assert {finding.rule for finding in lint(net.model("y"))} == set()


def test_an_old_opset_and_a_wrong_sparse_flag_are_found() -> None:
    assert "opset" in {finding.rule for finding in lint(_good().model("y", opset=12))}
    assert "sparse-pattern" in {finding.rule for finding in lint(_good().model("y"), sparse=True)}
    pruned = RNG.integers(1, 127, (8, 8, 3, 3)).astype(np.int8)
    pruned[:, 1::2] = 0
    net = Net()
    net.add("Conv", [net.qdq("x"), net.weight("w1", (8, 8, 3, 3), codes=pruned)], "y")
    assert lint(net.model("y"), sparse=True) == []


def test_every_rule_is_tried_and_has_a_source() -> None:
    tried = {"opset", "sparse-pattern"}
    for mark in test_each_violation_is_found_by_its_own_rule.pytestmark:  # type: ignore[attr-defined]
        tried |= {case[0] for case in mark.args[1]}
    assert tried == {rule.name for rule in RULES}
    assert all(rule.source and rule.sentence for rule in RULES)


def test_two_of_four_is_counted_along_input_channels() -> None:
    weight = np.zeros((4, 8, 3, 3), np.int8)
    weight[:, [0, 3, 4, 5]] = 1
    assert holds_two_of_four(weight)
    weight[0, 1, 0, 0] = 1
    assert not holds_two_of_four(weight)


@pytest.mark.parametrize(("op", "transposed"), [("Gemm", 1), ("Gemm", 0), ("MatMul", 0)])
def test_two_of_four_is_counted_along_the_inputs_of_a_matrix(op: str, transposed: int) -> None:
    weight = np.ones((8, 8), np.float32)
    weight[:, 1::2] = 0  # (out, in)
    for values, holds in ((weight, True), (weight.T, False)):
        stored = values if transposed else values.T
        node = helper.make_node(op, ["x", "w"], ["y"], "product", **({"transB": transposed} if op == "Gemm" else {}))
        net = helper.make_graph(
            [node],
            "net",
            [helper.make_tensor_value_info("x", 1, ["batch", 8])],
            [helper.make_tensor_value_info("y", 1, ["batch", 8])],
            [numpy_helper.from_array(np.ascontiguousarray(stored), "w")],
        )
        assert bool(two_of_four(Graph.of(helper.make_model(net), sparse=False))) is holds


@pytest.mark.parametrize("precision", ["float16", "float32"])
def test_a_deliverable_passes_the_linter_and_computes_the_same(tmp_path: Path, precision: str) -> None:
    target = Target("tensorrt", batch_size=4, options=TensorRtParams(precision=precision).model_dump(mode="json"))
    artifact = BACKEND.build(residual_model(), target, tmp_path)
    assert [file.name for file in artifact.files] == ["model.onnx", "build_engine.py"]
    assert artifact.stand_in
    assert any("engine not built" in note for note in artifact.notes)
    proto = onnx.load(artifact.path)
    assert lint(proto) == []
    kinds = [node.op_type for node in proto.graph.node]
    assert kinds.count("Relu") == 2
    assert kinds.count("QuantizeLinear") == 2
    inputs = RNG.normal(0, 1, (4, 8, 6, 6)).astype(np.float32)
    found = BACKEND.open(artifact, target).run({"x": inputs})["y"]
    wanted = onnxruntime.InferenceSession(residual_model().body.SerializeToString()).run(None, {"x": inputs})[0]
    assert found.dtype == np.float32
    assert np.abs(found - wanted).max() < 0.06 * wanted.max()


def test_a_graph_that_breaks_a_rule_is_refused_with_the_node(tmp_path: Path) -> None:
    model = residual_model()
    model.body.graph.node.append(helper.make_node("FusedConv", ["y", "w1"], ["z"], "odd", domain="com.microsoft"))
    with pytest.raises(StageError, match="imported-operators: odd"):
        BACKEND.build(replace(model, quant=None), Target("tensorrt", options={"precision": "float32"}), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_two_of_four_kernels_are_allowed_where_a_weight_holds_the_pattern(tmp_path: Path) -> None:
    model = residual_model()
    for tensor in model.body.graph.initializer:
        if tensor.name.startswith("w"):
            values = numpy_helper.to_array(tensor).copy()
            values[:, 1::2] = 0
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    BACKEND.build(model, Target("tensorrt"), tmp_path)
    assert "'sparse': True" in (tmp_path / "build_engine.py").read_text()
    (tmp_path / "dense").mkdir()
    BACKEND.build(residual_model(), Target("tensorrt"), tmp_path / "dense")
    assert "'sparse': False" in (tmp_path / "dense" / "build_engine.py").read_text()


@pytest.mark.parametrize("version", [10, 11])
def test_the_build_script_names_only_what_the_bindings_have(tmp_path: Path, version: int) -> None:
    """Against the names in the real wheels, see tensorrt_names.py."""
    BACKEND.build(residual_model(), Target("tensorrt"), tmp_path)
    tree = ast.parse((tmp_path / "build_engine.py").read_text())
    objects = {"trt", "builder", "config", "network", "parser", "profile", "cache"}
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node).split(".")[0] in objects
    }
    used -= {"__version__", "add_argument", "parse_args", "split"}
    assert {"create_network", "set_shape", "OnnxParser", "SPARSE_WEIGHTS", "build_serialized_network"} <= used
    known = (HERE / f"names_of_tensorrt_{version}.txt").read_text().split()
    # A linker keeps "Builder" as the end of "IBuilder".
    assert {name for name in used if not any(other.endswith(name) for other in known)} == set()


def test_the_build_script_without_tensorrt_says_what_is_missing(tmp_path: Path) -> None:
    BACKEND.build(residual_model(), Target("tensorrt"), tmp_path)
    done = subprocess.run([sys.executable, tmp_path / "build_engine.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install tensorrt" in done.stderr
    assert "Traceback" not in done.stderr


def _settings_of(script: Path) -> dict[str, Any]:
    assigned = next(node for node in ast.parse(script.read_text()).body if isinstance(node, ast.Assign))
    found: dict[str, Any] = ast.literal_eval(assigned.value)
    return found


def test_profiles_come_from_the_models_open_axes_or_the_recipe(tmp_path: Path) -> None:
    model = residual_model()
    BACKEND.build(model, Target("tensorrt", batch_size=4), tmp_path)
    shapes = _settings_of(tmp_path / "build_engine.py")["profiles"]["x"]
    assert shapes == {"min": [1, 8, 6, 6], "opt": [4, 8, 6, 6], "max": [16, 8, 6, 6]}
    asked = {"x": {"min": [2, 8, 6, 6], "opt": [8, 8, 6, 6], "max": [64, 8, 6, 6]}}
    BACKEND.build(model, Target("tensorrt", options={"profiles": asked, "version_compatible": True}), tmp_path)
    settings = _settings_of(tmp_path / "build_engine.py")
    assert settings["profiles"] == asked
    assert settings["version_compatible"] is True


def test_open_axes_of_which_nothing_is_known_are_said(tmp_path: Path) -> None:
    model = residual_model()
    inputs = (TensorSpec("x", "float32", ("batch", 8, "height", "width")),)
    notes = BACKEND.build(
        replace(model, signature=replace(model.signature, inputs=inputs)), Target("tensorrt"), tmp_path
    ).notes
    assert any("1 to 16 along the axes height, width of x" in note for note in notes)


@pytest.mark.parametrize(
    ("name", "shapes", "says"),
    [
        ("z", ([1, 8, 6, 6], [1, 8, 6, 6], [1, 8, 6, 6]), "no such input"),
        ("x", ([4, 8, 6, 6], [2, 8, 6, 6], [8, 8, 6, 6]), "must grow, here 4, 2, 8"),
        ("x", ([1, 8, 6, 6], [1, 8, 6, 6], [1, 8, 7, 6]), "max: 1 x 8 x 7 x 6 does not fit batch x 8 x 6 x 6"),
        ("x", ([1, 8, 6], [1, 8, 6], [1, 8, 6]), "min: 1 x 8 x 6 does not fit"),
    ],
)
def test_profiles_that_do_not_fit_are_refused_here_and_not_on_the_gpu(
    tmp_path: Path, name: str, shapes: tuple[list[int], ...], says: str
) -> None:
    profile = dict(zip(("min", "opt", "max"), shapes, strict=True))
    with pytest.raises(UsageError, match=says):
        BACKEND.build(residual_model(), Target("tensorrt", options={"profiles": {name: profile}}), tmp_path)
    assert list(tmp_path.iterdir()) == []


class _Recorder:
    """Stands where TensorRT's objects do: notes each call, gives itself back, is falsy nowhere."""

    __version__ = "10.16.1"

    def __init__(self, calls: list[str], path: str = "trt") -> None:
        self.__dict__.update(calls=calls, path=path)

    def __getattr__(self, name: str) -> "_Recorder":
        return _Recorder(self.calls, f"{self.path}.{name}")

    def __setattr__(self, name: str, value: object) -> None:
        self.calls.append(f"{self.path}.{name} = {value}")

    def __call__(self, *arguments: object) -> "_Recorder":
        self.calls.append(f"{self.path}({', '.join(map(str, arguments))})")
        return self

    def __str__(self) -> str:
        return self.path

    def __int__(self) -> int:
        return 1

    def __bytes__(self) -> bytes:
        return b"bytes of " + self.path.encode()


def test_the_build_script_asks_for_what_the_recipe_says(tmp_path: Path) -> None:
    """Not that TensorRT would do it, which takes a GPU: that every setting reaches a call, and the files are written."""
    options = TensorRtParams(version_compatible=True, hardware_compatible=True, sparse_weights=None, workspace=1 << 28)
    model = residual_model()
    for tensor in model.body.graph.initializer:
        if tensor.name.startswith("w"):
            values = numpy_helper.to_array(tensor).copy()
            values[:, 1::2] = 0
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    BACKEND.build(model, Target("tensorrt", batch_size=2, options=options.model_dump(mode="json")), tmp_path)
    calls: list[str] = []
    namespace: dict[str, Any] = {"__name__": "build_engine", "__file__": str(tmp_path / "build_engine.py")}
    exec(compile((tmp_path / "build_engine.py").read_text(), "build_engine.py", "exec"), namespace)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tensorrt", _Recorder(calls))
        patch.setattr(sys, "argv", ["build_engine.py"])
        namespace["main"]()
    made = "\n".join(calls)
    assert "create_network(2)" in made
    assert "MemoryPoolType.WORKSPACE, 268435456" in made
    for flag in ("SPARSE_WEIGHTS", "VERSION_COMPATIBLE"):
        assert f"set_flag(trt.BuilderFlag.{flag})" in made
    assert "hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS" in made
    assert "set_shape(x, [1, 8, 6, 6], [2, 8, 6, 6], [16, 8, 6, 6])" in made
    assert (tmp_path / "model.engine").read_bytes().startswith(b"bytes of")
    assert (tmp_path / "timing.cache").is_file()
