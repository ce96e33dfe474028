"""ONNX files that are no models, or whose parts do not belong together: one message, from every look at them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hostile._in_process import ends, refused, refuses
from hostile._models import WEIGHT, network
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

from compressctl.sources.onnx_file import signature_of


def nested(depth: int) -> bytes:
    """Messages in messages: a graph in an attribute of a node of a graph, and so on."""
    content = b""
    for _ in range(depth):
        for field in (6, 5, 1):
            content = bytes([field << 3 | 2]) + _length(len(content)) + content
    return b"\x3a" + _length(len(content)) + content


def _length(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


BYTES: dict[str, bytes] = {
    "nothing": b"",
    "text": b"hello, this is no model",
    "zeros": bytes(1000),
    "a length beyond the file": b"\x3a\xff\xff\xff\xff\x0f",
    "a length of ten bytes": b"\x3a" + b"\xff" * 10,
    "a group that never ends": b"\x3b" * 500,
    "a field of number 0": b"\x02\x00",
    "messages in messages": nested(200),
    "cut in half": network().SerializeToString()[: len(network().SerializeToString()) // 2],
    "one byte less": network().SerializeToString()[:-1],
    "a packed file": b"CCTL\1" + bytes(50),
    "an archive": b"PK\3\4" + bytes(50),
    "a pickle": b"\x80\x04cos\nsystem\n.",
    "no nodes": ModelProto(ir_version=8, graph=GraphProto(name="g")).SerializeToString(),
    "no graph": ModelProto(ir_version=8).SerializeToString(),
}


@pytest.mark.parametrize("content", BYTES.values(), ids=BYTES)
def test_bytes_that_are_no_model(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.onnx").write_bytes(content)
    refuses(tmp_path, "inspect", "m.onnx", says="m.onnx")


def a_field(path: str, value: object) -> Callable[[ModelProto], None]:
    """The model with another value at a path such as `graph.initializer.0.data_type`."""

    def change(model: ModelProto) -> None:
        *steps, last = path.split(".")
        node: object = model
        for step in steps:
            node = node[int(step)] if step.isdecimal() else getattr(node, step)  # type: ignore[index]
        setattr(node, last, value)

    return change


def dims(*sizes: int) -> Callable[[ModelProto], None]:
    def change(model: ModelProto) -> None:
        del model.graph.initializer[0].dims[:]
        model.graph.initializer[0].dims.extend(sizes)

    return change


def twice(part: str) -> Callable[[ModelProto], None]:
    def change(model: ModelProto) -> None:
        parts = getattr(model.graph, part)
        parts.add().CopyFrom(parts[0])

    return change


def circle(model: ModelProto) -> None:
    model.graph.node[0].input[0] = "y"


def constant_of_nothing(model: ModelProto) -> None:
    del model.graph.initializer[0]
    model.graph.node.insert(0, helper.make_node("Constant", [], ["W"]))


def in_a_branch(*nodes: onnx.NodeProto) -> Callable[[ModelProto], None]:
    """The model with an If whose branches are these nodes."""

    def change(model: ModelProto) -> None:
        condition = numpy_helper.from_array(np.bool_(True), "c")
        body = helper.make_graph(list(nodes), "body", [], [helper.make_empty_tensor_value_info("inner")])
        model.graph.initializer.append(condition)
        model.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=body, else_branch=body))

    return change


def many_names(model: ModelProto) -> None:
    model.graph.node[0].name = "x" * 1_000_000
    model.graph.node[0].op_type = "y" * 1_000_000


REFUSED: dict[str, Callable[[ModelProto], None]] = {
    "no opset": lambda model: model.ClearField("opset_import"),
    "an opset of the future": a_field("opset_import.0.version", 1 << 40),
    "a negative opset": a_field("opset_import.0.version", -1),
    "an opset of 0": a_field("opset_import.0.version", 0),
    "an IR version of the future": a_field("ir_version", 1 << 40),
    "a negative IR version": a_field("ir_version", -5),
    "an operator that there is not": a_field("graph.node.0.op_type", "Frobnicate\x1b[31m"),
    "no operator": a_field("graph.node.0.op_type", ""),
    "a weight of a type that there is not": a_field("graph.initializer.0.data_type", 99),
    "a weight of a negative type": a_field("graph.initializer.0.data_type", -1),
    "a weight of no type": a_field("graph.initializer.0.data_type", 0),
    "a weight of text": a_field("graph.initializer.0.data_type", TensorProto.STRING),
    "a weight of fewer bytes": a_field("graph.initializer.0.raw_data", b"abc"),
    "a weight of no bytes": a_field("graph.initializer.0.raw_data", b""),
    "a weight of negative size": dims(-8, 4),
    "a weight of two negative sizes": dims(-8, -4),
    "a weight of a size that overflows": dims(1 << 40, 1 << 40),
    "a weight of more than its bytes": dims(1 << 30, 4),
    "an input of a type that there is not": a_field("graph.input.0.type.tensor_type.elem_type", 65),
    "an input without a type": lambda model: model.graph.input[0].ClearField("type"),
    "an input without a shape": lambda model: model.graph.input[0].type.tensor_type.ClearField("shape"),
    "an output that nothing makes": a_field("graph.output.0.name", "nowhere"),
    "an output of no name": a_field("graph.output.0.name", ""),
    "a node that makes what is there": lambda model: model.graph.node[1].output.__setitem__(0, "m"),
    "a node that needs what nobody makes": lambda model: model.graph.node[0].input.__setitem__(0, "nowhere"),
    "a node of too few inputs": lambda model: model.graph.node[0].input.pop(),
    "a node of too many inputs": lambda model: model.graph.node[0].input.extend(["x"] * 1000),
    "a circle": circle,
    "two inputs of one name": twice("input"),
    "two weights of one name": twice("initializer"),
    "a node twice": twice("node"),
    "names of a megabyte": many_names,
    "a weight elsewhere that is not there": lambda model: model.graph.initializer[0].CopyFrom(
        TensorProto(name="W", data_type=1, dims=[8, 4], data_location=1)
    ),
    "attributes of another kind": lambda model: model.graph.node[0].attribute.append(
        helper.make_attribute("nonsense", 3)
    ),
}


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED)
def test_a_model_that_is_refused(
    change: Callable[[ModelProto], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = network()
    change(model)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    refuses(tmp_path, "inspect", "m.onnx", says="m.onnx")


@pytest.mark.parametrize("name", ["mm", "add", "MatMul"])
def test_a_name_that_is_no_text(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a node or an operator: the checker of onnx does not look at them, and protobuf hands out bytes."""
    monkeypatch.chdir(tmp_path)
    broken = b"\xff" + name.encode()[1:]
    (tmp_path / "m.onnx").write_bytes(network().SerializeToString().replace(name.encode(), broken))
    refuses(tmp_path, "inspect", "m.onnx", says="m.onnx is not a valid ONNX model")


ODD: dict[str, Callable[[ModelProto], None]] = {
    "a type that is a sequence": lambda model: model.graph.input[0].type.sequence_type.elem_type.tensor_type.CopyFrom(
        model.graph.input[0].type.tensor_type
    ),
    "a constant of nothing": constant_of_nothing,
    "an output of no type": a_field("graph.output.0.type.tensor_type.elem_type", 0),
    "an input of negative size": lambda model: a_field("graph.input.0.type.tensor_type.shape.dim.0.dim_value", -7)(
        model
    ),
    "an input of 200 million samples": a_field("graph.input.0.type.tensor_type.shape.dim.0.dim_value", 200_000_000),
    "an input of more than can be counted": a_field(
        "graph.input.0.type.tensor_type.shape.dim.0.dim_value", (1 << 63) - 1
    ),
    "a constant of nothing in a branch": in_a_branch(helper.make_node("Constant", [], ["inner"])),
    "a constant of another domain": lambda model: (
        model.opset_import.add(domain="custom", version=1),
        model.graph.node.append(helper.make_node("Constant", [], ["z"], domain="custom")),
    )[0],
    "a node of another domain": lambda model: (
        model.opset_import.add(domain="custom", version=1),
        model.graph.node.append(helper.make_node("MatMul", [], [], domain="custom")),
    )[0],
    "no weights": lambda model: model.graph.node.insert(0, helper.make_node("Identity", ["x"], ["x2"])),
    "metadata twice": lambda model: [model.metadata_props.add(key="a", value="b" * 1000) for _ in range(1000)] and None,
    "a weight that nothing reads": lambda model: model.graph.initializer.append(
        numpy_helper.from_array(WEIGHT, "unused")
    ),
    "a function of nothing": lambda model: model.functions.add(name="f", domain="d") and None,
}


@pytest.mark.parametrize("change", ODD.values(), ids=ODD)
def test_a_model_that_is_only_odd(
    change: Callable[[ModelProto], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shown or refused, as it may be: never a bug, and never for long."""
    from typer.testing import CliRunner

    from compressctl.cli.main import app

    monkeypatch.chdir(tmp_path)
    model = network()
    change(model)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    done = CliRunner().invoke(app, ["inspect", "m.onnx"])
    assert done.exit_code in (0, 2), done.stderr
    assert len(done.stderr.encode()) <= 2000


def functions_that_call_twice(model: ModelProto) -> None:
    """Thirty of them, each calling the one before two times: 2^29 nodes where they are written out."""
    opset = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    for number in range(30):
        names = ("Relu", "Neg") if number == 0 else (f"F{number - 1}",) * 2
        domain = "" if number == 0 else "f"
        nodes = [
            helper.make_node(names[0], ["a"], ["b"], domain=domain),
            helper.make_node(names[1], ["b"], ["c"], domain=domain),
        ]
        model.functions.append(helper.make_function("f", f"F{number}", ["a"], ["c"], nodes, opset))
    model.opset_import.add(domain="f", version=1)
    model.graph.node.append(helper.make_node("F29", ["x"], ["z"], domain="f"))


@pytest.mark.parametrize("command", ["inspect", "init"])
def test_functions_that_multiply_are_counted_before_they_are_written_out(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = network()
    functions_that_call_twice(model)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    refuses(tmp_path, command, "m.onnx", says="functions are 1,073,741,826 nodes")


def test_the_model_itself_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.onnx").write_bytes(network().SerializeToString())
    assert "mm" in ends(tmp_path, "inspect", "m.onnx").out


OPTIONS = {
    "brackets": "openvino.precision=" + "[" * 10_000,
    "an alias bomb": "openvino.precision=[&a [x], *a, *a]",
    "a date that there is not": "openvino.precision=2001-99-99",
    "an object": "openvino.precision=!!python/object/apply:os.system [id]",
    "not a number": "openvino.streams=.nan",
    "streams without end": "openvino.streams=99999999999999999999",
    "a value of 100,000 letters": "openvino.precision=" + "x" * 100_000,
    "a key of 100,000 letters": "openvino." + "x" * 100_000 + "=1",
    "no backend": "=1",
}


@pytest.mark.parametrize("option", OPTIONS.values(), ids=OPTIONS)
def test_an_option_of_a_backend(option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.onnx").write_bytes(network().SerializeToString())
    refuses(tmp_path, "export", "m.onnx", "--to", "openvino", "--option", option, says="--option")


@pytest.mark.parametrize("size", [200_000_000, (1 << 63) - 1])
def test_a_batch_that_no_memory_holds(size: int) -> None:
    model = network()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = size
    refused(lambda: signature_of(model.graph, Path("m.onnx")), "more than the 1,073,741,824 that are tried")
