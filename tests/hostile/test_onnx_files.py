"""ONNX files and their external data, for every command alike: what a file says is checked before anything is opened."""

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hostile._case import Case
from hostile._models import WEIGHT, network, outside, written
from onnx import TensorProto, helper, numpy_helper

COMMANDS = {
    "inspect": ["inspect", "model.onnx"],
    "init": ["init", "model.onnx", "--output", "made.yaml"],
    "plan": ["plan", "recipe.yaml"],
    "plan --check": ["plan", "recipe.yaml", "--check"],
    "apply": ["apply", "recipe.yaml", "--output", "out"],
    "pack": ["pack", "model.onnx"],
    "export": ["export", "model.onnx", "--to", "onnxruntime", "--output", "out"],
    "diff": ["diff", "good.onnx", "model.onnx"],
    "bench": ["bench", "good.onnx", "model.onnx"],
    "evaluate": ["evaluate", "model.onnx", "--data", "data.yaml"],
}
"""Every command that reads an ONNX file."""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_data_outside_the_folder(command: str, case: Case) -> None:
    written(case, network(outside(location="../w.bin")))
    shutil.copy(case.folder / "w.bin", case.root / "w.bin")
    case.refuses(*COMMANDS[command], code=2, says="'../w.bin', which is outside the model's folder")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_a_device_as_data(command: str, case: Case) -> None:
    """A device that never ends, reached by a link inside the folder."""
    written(case, network(outside()))
    (case.folder / "w.bin").unlink()
    (case.folder / "w.bin").symlink_to("/dev/zero")
    case.refuses(*COMMANDS[command], code=2, says="keeps weights in a second file", seconds=30)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_a_pipe_as_the_model(command: str, case: Case) -> None:
    written(case, network())
    (case.folder / "model.onnx").unlink()
    os.mkfifo(case.folder / "model.onnx")
    case.refuses(*COMMANDS[command], code=2, says="model.onnx is a pipe, not a file", seconds=30)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_numbers_behind_the_end_of_the_file(command: str, case: Case) -> None:
    written(case, network(outside(offset="4")))
    case.refuses(*COMMANDS[command], code=2, says="w.bin does not hold them where the model says")


def _pipe(file: Path) -> None:
    os.mkfifo(file)


def _socket(file: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        here = Path.cwd()
        os.chdir(file.parent)  # a socket's path is at most 108 bytes long
        listening.bind(file.name)
        os.chdir(here)


def _link_in_a_circle(file: Path) -> None:
    file.symlink_to(file.name)


def _link_out(file: Path) -> None:
    (file.parent.parent / "theirs.bin").write_bytes(WEIGHT.tobytes())
    file.symlink_to("../theirs.bin")


def _absolute_link_out(file: Path) -> None:
    file.symlink_to("/etc/hostname")


def _link_to_nothing(file: Path) -> None:
    file.symlink_to("gone.bin")


def _link_to_open_files(file: Path) -> None:
    file.symlink_to("/proc/self/fd/0")


@pytest.mark.parametrize(
    ("put", "says"),
    [
        (_pipe, "w.bin is a pipe, not a file"),
        (_socket, "w.bin is a socket, not a file"),
        (Path.mkdir, "Is a directory"),
        (_link_in_a_circle, "Too many levels of symbolic links"),
        (_link_out, "a link to a file outside the model's folder"),
        (_absolute_link_out, "a link to a file outside the model's folder"),
        (_link_to_nothing, "w.bin does not exist"),
        (_link_to_open_files, "a link to a file outside the model's folder"),
        (lambda file: None, "w.bin does not exist"),
        (lambda file: file.write_bytes(b""), "w.bin does not hold them"),
        (lambda file: file.write_bytes(bytes(127)), "w.bin does not hold them"),
    ],
    ids=[
        "pipe", "socket", "folder", "circle", "link out", "absolute link", "broken link", "open file", "missing", "empty",
        "a byte short",
    ],
)  # fmt: skip
def test_what_lies_where_external_data_should(put: Callable[[Path], object], says: str, case: Case) -> None:
    written(case, network(outside()))
    (case.folder / "w.bin").unlink()
    put(case.folder / "w.bin")
    case.refuses("inspect", "model.onnx", code=2, says=says, seconds=30)


def test_a_folder_on_the_way_that_leads_out(case: Case) -> None:
    written(case, network(outside(location="sub/w.bin")))
    (case.root / "theirs").mkdir()
    shutil.copy(case.folder / "w.bin", case.root / "theirs")
    (case.folder / "sub").symlink_to("../theirs")
    case.refuses("pack", "model.onnx", code=2, says="outside the model's folder")


def test_a_file_on_the_way(case: Case) -> None:
    written(case, network(outside(location="w.bin/w.bin")))
    case.refuses("inspect", "model.onnx", code=2, says="Not a directory")


def test_a_link_inside_the_folder_is_followed(case: Case) -> None:
    written(case, network(outside()))
    (case.folder / "w.bin").rename(case.folder / "v2.bin")
    (case.folder / "w.bin").symlink_to("v2.bin")
    case.ends("inspect", "model.onnx", code=0)
    case.ends("pack", "model.onnx", code=0, leaves=["model.cctl"])


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("/dev/zero", "'/dev/zero', which is outside the model's folder"),
        ("", "'', which is no path of a file"),
        (".", "which is no path of a file"),
        ("sub/../../w.bin", "outside the model's folder"),
        ("w.bin\0.png", "which is no path of a file"),
        ("..\\w.bin", "which is no path of a file"),
        ("x" * 300, "File name too long"),
        ("~/w.bin", "w.bin does not exist"),
        ("file:///etc/passwd", "does not exist"),
        ("\x1b[2J\n::error::pwned", "\\u001b"),
    ],
    ids=["device", "empty", "dot", "up and down", "nul", "backslash", "long", "home", "address", "escape"],
)
def test_a_location_that_is_none(location: str, says: str, case: Case) -> None:
    written(case, network(outside(location=location)))
    case.refuses("plan", "recipe.yaml", code=2, says=says, seconds=30)


@pytest.mark.parametrize(
    "said",
    [
        {"offset": "-1"},
        {"offset": "abc"},
        {"offset": "1e1"},
        {"offset": "0x0"},
        {"offset": "\u0660"},
        {"offset": " 0"},
        {"offset": "9" * 5000},
        {"offset": str(2**64)},
        {"length": "-128"},
        {"length": "0"},
        {"length": "64"},
        {"length": str(2**63)},
    ],
    ids=lambda said: "-".join(f"{key} {value[:12]}" for key, value in said.items()),
)
def test_an_offset_or_length_that_is_none(said: dict[str, str], case: Case) -> None:
    written(case, network(outside(**said)))
    case.refuses("pack", "model.onnx", code=2, says="w.bin does not hold them where the model says")
    case.refuses("inspect", "model.onnx", code=2, says="w.bin does not hold them where the model says")


def test_offsets_that_overlap_are_the_files_own_matter(case: Case) -> None:
    """Two tensors of the same bytes: nothing is read that the model may not read."""
    model = network(outside())
    second = model.graph.initializer.add()
    second.CopyFrom(outside())
    second.name = "W2"
    written(case, model)
    case.ends("inspect", "model.onnx", code=0)


def _of_type(number: int) -> TensorProto:
    tensor = numpy_helper.from_array(WEIGHT, "W")
    tensor.data_type = number
    return tensor


def _of_shape(*dims: int) -> TensorProto:
    tensor = numpy_helper.from_array(WEIGHT, "W")
    tensor.dims[:] = dims
    return tensor


@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        (_of_type(99), "of a type that onnx does not know, 99"),
        (_of_type(-1), "of a type that onnx does not know, -1"),
        (_of_shape(-8, -4), "W has an axis of a negative size, -8"),
        (_of_shape(2**62, 4), "W"),
        (_of_shape(8, 5), "W"),
        (_of_shape(0), "W"),
    ],
    ids=["type 99", "type -1", "negative", "huge", "another", "empty"],
)
def test_a_tensor_that_cannot_be(tensor: TensorProto, says: str, case: Case) -> None:
    written(case, network(tensor))
    case.refuses("inspect", "model.onnx", code=2, says=says)
    case.refuses("apply", "recipe.yaml", "--output", "out", code=2, says=says, leaves=["out"])


def test_a_huge_tensor_in_another_file(case: Case) -> None:
    tensor = outside()
    tensor.dims[:] = [2**31, 2**31]
    written(case, network(tensor))
    case.refuses("pack", "model.onnx", code=2, says="does not hold them")
    case.refuses("inspect", "model.onnx", code=2, says="does not hold them")


def test_a_body_keeps_its_data_inside_too(case: Case) -> None:
    """A constant in the branch of an If."""
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["W"], value=outside(location="/etc/passwd"))],
        "then",
        [],
        [helper.make_tensor_value_info("W", TensorProto.FLOAT, [8, 4])],
    )
    model = network()
    del model.graph.initializer[0]
    condition = numpy_helper.from_array(np.array(True), "flag")
    model.graph.initializer.append(condition)
    model.graph.node.insert(0, helper.make_node("If", ["flag"], ["W"], then_branch=branch, else_branch=branch))
    written(case, model)
    for command in ("inspect", "pack", "apply"):
        case.refuses(*COMMANDS[command], code=2, says="outside the model's folder")


def test_a_function_keeps_its_data_inside_too(case: Case) -> None:
    model = network()
    node = helper.make_node("Constant", [], ["W"], value=outside(location="../w.bin"))
    model.functions.append(helper.make_function("mine", "Weights", [], ["W"], [node], [helper.make_opsetid("", 17)]))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    model.graph.node.insert(0, helper.make_node("Weights", [], ["W"], domain="mine"))
    del model.graph.initializer[0]
    written(case, model)
    for command in ("inspect", "pack"):
        case.refuses(*COMMANDS[command], code=2, says="outside the model's folder")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not an ONNX model"),
        (b"\x00" * 64, "not an ONNX model"),
        (b"PK\x03\x04" + bytes(60), "not an ONNX model"),
        (network().SerializeToString()[:-40], "model.onnx"),
        (b"recipe: compressctl/v1\n", "not an ONNX model"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "not an ONNX model"),
        (b"\xff" * 4096, "not an ONNX model"),
    ],
    ids=["empty", "zeros", "archive", "cut", "recipe", "pointer", "ones"],
)
def test_bytes_that_are_no_model(content: bytes, says: str, case: Case) -> None:
    written(case, content)
    case.refuses("inspect", "model.onnx", code=2, says=says)
    case.refuses("diff", "good.onnx", "model.onnx", code=2, says=says)
