"""A zoo as its user meets it whose models, results and cache lie in a store that speaks S3."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

pytestmark = pytest.mark.slow

MANIFEST = """zoo: compressctl/v1
name: z
defaults: {recipe: r.yaml, measure: untimed}
models: [{glob: "s3://team/models/**/*.onnx"}]
store: s3://team/zoo
shared_cache: s3://team/cache
"""
RECIPE = "recipe: compressctl/v1\ntask: custom\nstages: [{use: quantize.weights, bits: 8, if_slower: keep}]\n"


def network() -> bytes:
    weight = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 64]) for name in ("x", "y")]
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "mm")
    graph = helper.make_graph([node], "g", sides[:1], sides[1:], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def run(folder: Path, machine: str, *arguments: str, **more: str) -> str:
    """On a machine that shares nothing with others but the store."""
    environment = {
        **os.environ,
        "COMPRESSCTL_CACHE": str(folder / machine / "cache"),
        "COMPRESSCTL_TIMING_GROUP": "store",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        **more,
    }
    command = [sys.executable, "-m", "compressctl", "zoo", *arguments, "--output", f"{machine}/zoo"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "a-secret-key" not in done.stdout + done.stderr
    return done.stdout


def test_models_come_from_it_and_results_and_stages_go_there(s3: Any, tmp_path: Path) -> None:
    s3.pipe_file("team/models/deep/m.onnx", network())
    (tmp_path / "zoo.yaml").write_text(MANIFEST)
    (tmp_path / "r.yaml").write_text(RECIPE)
    assert "its model was not brought yet" in run(tmp_path, "one", "plan", "zoo.yaml")
    assert "1  good" in run(tmp_path, "one", "apply", "zoo.yaml")
    said = json.loads(s3.cat_file("team/zoo/results/deep-m.json"))
    artifact = f"team/zoo/{said['folder']}/runs/deep-m/artifacts/onnxruntime/model.onnx"
    onnx.checker.check_model(onnx.load_from_string(s3.cat_file(artifact)))
    assert len(s3.find("team/cache/stages")) == 1

    run(tmp_path, "two", "apply", "zoo.yaml")
    assert "1 job, 1 done" in run(tmp_path, "two", "plan", "zoo.yaml")
    assert (tmp_path / "two/zoo/runs/deep-m/report.html").exists()
    assert not (tmp_path / "two/zoo/runs/deep-m/events.jsonl").exists()

    (tmp_path / "zoo.yaml").write_text(MANIFEST.replace("s3://team/zoo", "s3://team/other"))
    run(tmp_path, "three", "apply", "zoo.yaml", COMPRESSCTL_SHARED_CACHE_MODE="read")
    events = (tmp_path / "three/zoo/runs/deep-m/events.jsonl").read_text()
    assert any(json.loads(line).get("cached") for line in events.splitlines())
    secrets = [path for path in tmp_path.rglob("*") if path.is_file() and b"a-secret-key" in path.read_bytes()]
    assert not secrets
