"""Zoos as their user meets them: one command, a row for whatever becomes of a job, and nothing done twice."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.shell import Shell

pytestmark = pytest.mark.slow

MANIFEST = """zoo: compressctl/v1
defaults: {measure: quick, recipe: eight.yaml, resources: {time: 5m, memory: 3GiB}}
recipes:
  - {when: {id: "loop*"}, use: eight.yaml, id: endless, resources: {time: 20s}}
models:
  - {glob: "models/*.onnx"}
  - {id: crash, model: {source: python, factory: ./poison.py:crash, input_shape: [8]}}
  - {id: loop, model: {source: python, factory: ./poison.py:loop, input_shape: [8]}}
"""
RECIPE = "recipe: compressctl/v1\ntask: custom\nstages: [{use: quantize.weights, bits: 8, if_slower: keep}]\n"
POISON = """import os, signal

def crash():
    os.kill(os.getpid(), signal.SIGSEGV)

def loop():
    while True:
        pass
"""


def network(seed: int) -> onnx.ModelProto:
    weight = np.random.default_rng(seed).normal(size=(64, 64)).astype(np.float32)
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 64]) for name in ("x", "y")]
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "mm")
    graph = helper.make_graph([node], "g", sides[:1], sides[1:], [numpy_helper.from_array(weight, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def zoo(shell: Shell) -> Shell:
    (shell.folder / "models").mkdir()
    for seed in range(2):
        onnx.save(network(seed), shell.folder / "models" / f"m{seed}.onnx")
    (shell.folder / "models" / "cut.onnx").write_bytes(network(0).SerializeToString()[:-9])
    (shell.folder / "zoo.yaml").write_text(MANIFEST)
    (shell.folder / "eight.yaml").write_text(RECIPE)
    (shell.folder / "poison.py").write_text(POISON)
    return shell


def run(zoo: Shell, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "compressctl", "zoo", *arguments],
        cwd=zoo.folder,
        env=environment(zoo),
        capture_output=True,
        text=True,
    )


def environment(zoo: Shell) -> dict[str, str]:
    import os

    return {**os.environ, **zoo.environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def results(zoo: Shell) -> dict[str, Any]:
    return {file.stem: json.loads(file.read_text()) for file in (zoo.folder / "runs/zoo-zoo/results").glob("*.json")}


def test_one_command_runs_all_and_names_each_cause(zoo: Shell) -> None:
    done = run(zoo, "apply", "zoo.yaml", "--jobs", "2")
    outcomes = {job: result["outcome"] for job, result in results(zoo).items()}
    assert outcomes == {"cut": "invalid", "m0": "good", "m1": "good", "crash": "crashed", "loop": "out of time"}, done
    assert done.returncode == 1
    folder = zoo.folder / "runs/zoo-zoo"
    report = json.loads((folder / "runs/m0/report.json").read_text())
    figures = results(zoo)["m0"]["figures"]
    assert figures["size_after"] == report["backends"][0]["compressed"]["total_bytes"]
    assert figures["size_after"] == sum(
        path.stat().st_size for path in (folder / "runs/m0/artifacts/onnxruntime").glob("model*")
    )
    assert not list((folder / "temporary").iterdir())
    assert (folder / "leaderboard.html").exists()

    before = results(zoo)
    again = run(zoo, "apply", "zoo.yaml", "--set", "exclude=[loop, crash]", "--set", "budget={at_most_failed: 3}")
    assert again.returncode == 0, again.stderr
    assert results(zoo) == before

    (zoo.folder / "other.yaml").write_text(RECIPE.replace("bits: 8", "bits: 4"))
    (zoo.folder / "zoo.yaml").write_text(
        MANIFEST.replace("recipes:\n", "recipes:\n  - {when: {id: m0}, use: other.yaml}\n")
    )
    run(zoo, "apply", "zoo.yaml", "--set", "exclude=[loop, crash]")
    after = results(zoo)
    assert [job for job in after if after[job] != before[job]] == ["m0"]


def test_a_driver_that_was_killed_goes_on_and_repeats_nothing(zoo: Shell) -> None:
    command = [
        sys.executable,
        "-m",
        "compressctl",
        "zoo",
        "apply",
        "zoo.yaml",
        "--jobs",
        "1",
        "--set",
        "exclude=[loop, crash, cut]",
    ]
    driver = subprocess.Popen(command, cwd=zoo.folder, env=environment(zoo), stdout=subprocess.DEVNULL)
    first = zoo.folder / "runs/zoo-zoo/results/m0.json"
    while not first.exists():
        assert driver.poll() is None
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    before = first.read_bytes()
    assert run(zoo, *command[4:]).returncode == 0
    assert first.read_bytes() == before
    assert results(zoo)["m1"]["outcome"] == "good"
    assert set(Path(zoo.folder / "runs/zoo-zoo/results").iterdir()) == {first, first.with_name("m1.json")}
