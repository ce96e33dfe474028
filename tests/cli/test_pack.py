"""compressctl pack, unpack and inspect of a packed file."""

import json
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper
from support.every_tensor import SPARSE, WEIGHT, model_of, stored
from support.shell import Shell


@pytest.fixture
def model(shell: Shell) -> Path:
    return stored(
        model_of([numpy_helper.from_array(SPARSE, "sparse"), numpy_helper.from_array(WEIGHT, "dense")]), shell.folder
    )


def test_a_model_is_packed_and_comes_back(shell: Shell, model: Path) -> None:
    done = shell.run("pack", "model.onnx", "-o", "small.cctl")
    assert done.code == 0, done.err
    assert "x smaller" in done.out
    done = shell.run("unpack", "small.cctl", "-o", "back.onnx")
    assert done.code == 0, done.err
    assert (shell.folder / "back.onnx").read_bytes() == model.read_bytes()


def test_names_follow_from_the_model(shell: Shell, model: Path) -> None:
    content = model.read_bytes()
    assert shell.run("pack", "model.onnx").code == 0
    model.unlink()
    assert shell.run("unpack", "model.cctl").code == 0
    assert model.read_bytes() == content


def test_nothing_is_written_over_unasked(shell: Shell, model: Path) -> None:
    shell.run("pack", "model.onnx")
    packed = (shell.folder / "model.cctl").read_bytes()
    for command in (("pack", "model.onnx"), ("unpack", "model.cctl")):
        done = shell.run(*command)
        assert done.code == 2
        assert "is there already" in done.err
        assert "--force" in done.err
        assert shell.run(*command, "--force").code == 0
    assert (shell.folder / "model.cctl").read_bytes() == packed


def test_inspect_shows_the_ledger(shell: Shell, model: Path) -> None:
    shell.run("pack", "model.onnx")
    done = shell.run("inspect", "model.cctl")
    assert done.code == 0, done.err
    assert "the graph" in done.out
    found = json.loads(shell.run("inspect", "model.cctl", "--json").out)
    assert found["packed_bytes"] == (shell.folder / "model.cctl").stat().st_size
    assert found["raw_bytes"] == model.stat().st_size
    lines = {line["name"]: line for line in found["tensors"]}
    assert lines["dense"]["coding"] == "float planes"
    assert lines["sparse"]["packed_bytes"] < lines["sparse"]["raw_bytes"] / 80
    assert {line["name"]: line["raw_bytes"] for line in found["tensors"]} == {
        "sparse": 64 * 48 * 4,
        "dense": 64 * 48 * 4,
    }


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["pack", "missing.onnx"], "cannot read missing.onnx"),
        (["pack", "text.onnx"], "text.onnx: not an ONNX model"),
        (["pack", "model.onnx", "-o", "no/folder/m.cctl"], "cannot write no/folder/m.cctl"),
        (["unpack", "text.onnx", "-o", "x.onnx"], "text.onnx: not a packed model"),
        (["inspect", "broken.cctl"], "broken.cctl: not a packed model"),
        (["unpack", "missing.cctl"], "cannot read missing.cctl"),
        (["unpack", "text.onnx", "--limit", "much"], "--limit much"),
    ],
)
def test_bad_input_is_one_message(shell: Shell, model: Path, arguments: list[str], says: str) -> None:
    (shell.folder / "text.onnx").write_text("this is no model")
    (shell.folder / "broken.cctl").write_text("this is no packed model")
    done = shell.run(*arguments)
    assert done.code == 2
    assert says in done.err
    assert "Traceback" not in done.err


def test_a_model_that_would_be_too_large_is_refused(shell: Shell, model: Path) -> None:
    shell.run("pack", "model.onnx")
    done = shell.run("unpack", "model.cctl", "-o", "x.onnx", "--limit", "10kB")
    assert done.code == 2
    assert "10,000 are allowed" in done.err


def test_external_data_are_packed_too(shell: Shell) -> None:
    proto = model_of([numpy_helper.from_array(WEIGHT, "w")])
    onnx.save(proto, shell.folder / "big.onnx", save_as_external_data=True, location="big.data", size_threshold=0)
    assert "its external data" in shell.run("pack", "big.onnx").out
    done = shell.run("unpack", "big.cctl", "-o", "out/big.onnx")
    assert done.code == 0, done.err
    assert (shell.folder / "out" / "big.data").read_bytes() == (shell.folder / "big.data").read_bytes()
