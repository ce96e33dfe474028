"""What somebody who had not seen the code broke, each as it was found."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from hostile._case import Case
from onnx import TensorProto, helper, numpy_helper

from compressctl.core.failures import chain

RECIPE = """recipe: compressctl/v1
task: custom
model: {{source: onnx, path: net.onnx}}
data: {data}
stages: [{{use: quantize.weights, if_slower: keep}}]
"""


@pytest.fixture
def net(case: Case) -> Case:
    weight = numpy_helper.from_array(np.random.default_rng(0).standard_normal((32, 16)).astype(np.float32), "w")
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size]) for name, size in (("x", 32), ("y", 16))
    )
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"], "m")], "g", [x], [y], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, case.folder / "net.onnx")
    return case


def _recipe(case: Case, data: str, code: str = "") -> None:
    (case.folder / "r.yaml").write_text(RECIPE.format(data=data))
    (case.folder / "own.py").write_text(code)


@pytest.mark.parametrize(
    ("raises", "says"),
    [
        ("try:\n        int('x')\n    except ValueError as error:\n        raise error from error", "invalid literal"),
        ("import asyncio\n    raise asyncio.CancelledError('stop')", "CancelledError"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("class Own(BaseException): ...\n    raise Own('mine')", "Own: mine"),
    ],
    ids=["its own cause", "cancelled", "generator", "own base"],
)
def test_whatever_author_code_raises_is_its_failure(net: Case, raises: str, says: str) -> None:
    _recipe(net, '{source: python, factory: "own.py:data"}', f"def data():\n    {raises}\n")
    net.refuses("apply", "r.yaml", "--output", "out", code=2, says=says, leaves=["out"])
    assert (net.folder / "out" / "report.json").is_file()


def test_a_chain_that_ends_nowhere_ends() -> None:
    one, two = ValueError("one"), KeyError("two")
    one.__cause__, two.__cause__ = two, one
    assert list(chain(one)) == [one, two]


@pytest.mark.parametrize(
    "text",
    ['"\\U00110000"', '"\\UFFFFFFFF"', '"\\U0FFFFFFF tail"'],
    ids=["beyond Unicode", "beyond 32 bits", "in the middle"],
)
def test_a_character_that_there_is_not(net: Case, text: str) -> None:
    _recipe(net, "{source: random}")
    recipe = net.folder / "r.yaml"
    recipe.write_text(recipe.read_text().replace("net.onnx", text))
    net.refuses("validate", "r.yaml", code=2, says=["r.yaml:3", "not valid YAML"])


def test_a_version_of_many_digits(case: Case) -> None:
    (case.folder / "r.yaml").write_text(f"%YAML {'1' * 5000}.1\n---\nrecipe: compressctl/v1\n")
    case.refuses("validate", "r.yaml", code=2, says="r.yaml:1")


@pytest.mark.parametrize(
    ("given", "code", "says"),
    [
        ("shape: [2147483647, 2147483647], dtype: float32", 5, "more than this machine has"),
        ("shape: [32], dtype: uint64, low: -1, high: 1.0e+30", 2, "does not have all values"),
        ("shape: [32], dtype: int8, low: 0, high: 1000", 2, "draw from -128 to 127"),
    ],
    ids=["huge", "wide", "narrow"],
)
def test_random_values_that_cannot_be_drawn(net: Case, given: str, code: int, says: str) -> None:
    _recipe(net, f"{{source: random, inputs: {{x: {{{given}}}}}}}")
    net.refuses("plan", "--check", "r.yaml", code=code, says=says)


def test_a_file_that_is_no_recipe_is_not_quoted(case: Case) -> None:
    (case.folder / "id_key").write_text("TOKEN=\x01quoted-nowhere\n")
    (case.folder / "r.yaml").write_text("recipe: compressctl/v1\nextends: [id_key]\n")
    done = case.refuses("validate", "r.yaml", code=2, says="id_key:1")
    assert "quoted-nowhere" not in done.err + done.out


@pytest.mark.parametrize("written", ["٣s", "１m"])
def test_digits_of_other_scripts_are_no_duration(net: Case, written: str) -> None:
    _recipe(net, "{source: random, inputs: {x: {shape: [32]}}}")
    net.refuses("apply", "r.yaml", "--time-limit", written, code=2, says="not a duration")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_while_the_command_line_starts(number: signal.Signals, tmp_path: Path) -> None:
    """Sent as soon as the process has taken signals over, long before a command runs."""
    hook = "import compressctl.__main__ as line, os, signal, sys\n"
    script = f"{hook}os.environ['PYTHONSTARTUP'] = ''\nprint('ready', flush=True)\nsys.argv = ['compressctl', 'list']\n"
    wait = "import time, compressctl.cli\nline_main = line.main\nsys.modules['compressctl.cli.main'] = None\n"
    slow = (
        "import importlib.abc\nclass Slow(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'compressctl.cli.main':\n            print('loading', flush=True); [time.sleep(0.05) for _ in range(1200)]\n"
        "sys.meta_path.insert(0, Slow())\ndel sys.modules['compressctl.cli.main']\nline.main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script + wait + slow],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert process.stdout is not None
    while "loading" not in process.stdout.readline():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said.strip()) == (130, "interrupted")
