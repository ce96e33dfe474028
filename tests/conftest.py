"""A third-party package with techniques, really installed, and the command line that finds it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.shell import Shell

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the cores: more threads in each would wait for each other, and they spin while they wait.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

_PACKAGE = {
    "pyproject.toml": """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "compressctl-example-plugin"
version = "1.0"
[project.entry-points."compressctl.techniques"]
"example.scale" = "example_plugin.specs:SCALE"
"example.wait" = "example_plugin.specs:WAIT"
"example.fail" = "example_plugin.specs:FAIL"
"example.split" = "example_plugin.specs:SPLIT"
"example.peek" = "example_plugin.specs:PEEK"
"example.seen" = "example_plugin.specs:SEEN"
""",
    "example_plugin/__init__.py": "",
    "example_plugin/specs.py": '''
"""Techniques of another package, as its author would write them."""
from pydantic import BaseModel, ConfigDict, Field
from compressctl.core.model import Form
from compressctl.core.needs import Need, Needs, TechniqueParams
from compressctl.core.technique import TechniqueSpec

class ScaleParams(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    factor: float = Field(1.0, description="what the last bias is multiplied by", gt=0)

class NoParams(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

class SeenParams(TechniqueParams):
    def needs(self):
        return super().needs() | Needs.of(Need.CALIBRATION_DATA)

def _spec(name, params, function, form=Form.ONNX):
    return TechniqueSpec(name=name, version=1, summary="an example", params=params, takes=form, gives=form,
                         implementation=f"example_plugin.work:{function}")

SCALE = _spec("example.scale", ScaleParams, "scale")
WAIT = _spec("example.wait", NoParams, "wait")
FAIL = _spec("example.fail", NoParams, "fail")
SPLIT = _spec("example.split", NoParams, "split", Form.TORCH)
PEEK = _spec("example.peek", NoParams, "peek")
SEEN = _spec("example.seen", SeenParams, "peek")
''',
    "example_plugin/work.py": """
import os, time
import onnx
from dataclasses import replace
from onnx import numpy_helper
from compressctl.core.technique import StageResult

def scale(model, params, run):
    body = onnx.ModelProto()
    body.CopyFrom(model.body)
    tensor = next(t for t in body.graph.initializer if t.name.endswith("bias"))
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * params.factor, tensor.name))
    return StageResult(replace(model, body=body), {"scaled": tensor.name})

def wait(model, params, run):
    run.events.emit("note", message="waiting")
    if os.environ.get("EXAMPLE_WAIT"):
        time.sleep(60)
    return StageResult(model)

def split(model, params, run):
    import copy
    import torch
    from torch import nn
    body = copy.deepcopy(model.body)
    u, s, v = torch.linalg.svd(body.classifier.weight.detach(), full_matrices=False)
    first, second = nn.Linear(64, 8, bias=False), nn.Linear(8, 10)
    with torch.no_grad():
        first.weight.copy_(v[:8])
        second.weight.copy_(u[:, :8] * s[:8])
        second.bias.copy_(body.classifier.bias)
    body.classifier, body.block2 = nn.Sequential(first, second), nn.Identity()
    return StageResult(replace(model, body=body.eval()))

def peek(model, params, run):
    return StageResult(model, {"samples": len(run.data.split("calibration"))})

def fail(model, params, run):
    raise ZeroDivisionError("on purpose")
""",
}


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the package was installed into."""
    source, target = tmp_path_factory.mktemp("plugin"), tmp_path_factory.mktemp("site")
    for name, text in _PACKAGE.items():
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(text)
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        target,
        source,
    ]
    subprocess.run(command, check=True, capture_output=True)
    return target


@pytest.fixture
def shell(tmp_path: Path, plugin: Path) -> Shell:
    paths = os.pathsep.join([str(plugin), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths, "COMPRESSCTL_CACHE": str(tmp_path / "cache")}
    return Shell(tmp_path, environment)


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    import time

    def wait(holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not holds():
            assert time.monotonic() < deadline, "waited two minutes"
            time.sleep(0.05)

    return wait
