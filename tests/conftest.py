"""A third-party package with techniques, really installed, and the command line that finds it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from support.s3_server import s3_server
from support.shell import Shell

from compressctl.core.secrets import forget_secrets

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the cores: more threads in each would wait for each other, and they spin while they wait.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Nor do they wait for each other's timings, which no test relies on.
    os.environ["COMPRESSCTL_TIMING_GROUP"] = os.environ["PYTEST_XDIST_WORKER"]

# No law depends on how busy the machine is, and every machine tries the same examples; `--hypothesis-profile explore` tries others.
settings.register_profile(
    "compressctl",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.register_profile("explore", settings.get_profile("compressctl"), derandomize=False)
settings.load_profile("compressctl")

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
"example.linger" = "example_plugin.specs:LINGER"
"example.refuse" = "example_plugin.specs:REFUSE"
"example.greedy" = "example_plugin.specs:GREEDY"
"example.buggy" = "example_plugin.specs:BUGGY"
"example.in_place" = "example_plugin.specs:IN_PLACE"
"example.nothing" = "example_plugin.specs:NOTHING"
"example.numpy" = "example_plugin.specs:NUMPY"
[project.entry-points."compressctl.metrics"]
"example.broken" = "example_plugin.specs:BROKEN"
""",
    "example_plugin/__init__.py": "",
    "example_plugin/specs.py": '''
"""Techniques of another package, as its author would write them."""
from pydantic import BaseModel, ConfigDict, Field
import os, time
from compressctl.core.errors import Problem
from compressctl.core.model import Form
from compressctl.core.needs import Need, Needs, TechniqueParams
from compressctl.core.source import MetricSpec
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

class BuggyParams(TechniqueParams):
    def problems(self, facts):
        raise ZeroDivisionError("in a check")

class RefusingParams(TechniqueParams):
    def problems(self, facts):
        """The leader takes a moment longer than the others to find what is wrong."""
        if os.environ.get("RANK") == "0":
            time.sleep(1)
        return [Problem("refused on purpose")]

SCALE = _spec("example.scale", ScaleParams, "scale")
WAIT = _spec("example.wait", NoParams, "wait")
FAIL = _spec("example.fail", NoParams, "fail")
SPLIT = _spec("example.split", NoParams, "split", Form.TORCH)
PEEK = _spec("example.peek", NoParams, "peek")
SEEN = _spec("example.seen", SeenParams, "peek")
LINGER = _spec("example.linger", NoParams, "linger", Form.TORCH)
GREEDY = _spec("example.greedy", NoParams, "greedy")
BUGGY = _spec("example.buggy", BuggyParams, "fail")
IN_PLACE = _spec("example.in_place", NoParams, "in_place")
NOTHING = _spec("example.nothing", NoParams, "nothing")
NUMPY = _spec("example.numpy", NoParams, "numpy_facts")
BROKEN = MetricSpec("example.broken", "an example", ("classification",), True, "%", "example_plugin.work:broken")
REFUSE = _spec("example.refuse", RefusingParams, "fail", Form.TORCH)
''',
    "example_plugin/work.py": """
import atexit, os, time
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
        while True:  # a signal ends it; one between the last look and a long sleep would not
            time.sleep(0.05)
    return StageResult(model)

def linger(model, params, run):
    if os.environ.get("RANK") == os.environ.get("EXAMPLE_LINGERS"):
        atexit.register(time.sleep, 1)
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
def greedy(model, params, run):
    import numpy as np
    return np.ones(2**60, np.uint8)

def in_place(model, params, run):
    for tensor in model.body.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 0, tensor.name))
    return StageResult(model)

def nothing(model, params, run):
    pass

def numpy_facts(model, params, run):
    import numpy as np
    return StageResult(model, {"share": np.float32(0.5), "counts": {3: np.array([1, 2])}})

def broken(outputs, labels):
    # One batch, which is tried before everything else, does not show the mistake.
    if len(labels) > 100:
        raise ZeroDivisionError("in a metric")
    return 50.0

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


@pytest.fixture(scope="session")
def environment(plugin: Path) -> dict[str, str]:
    """With the plugin installed."""
    paths = os.pathsep.join([str(plugin), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": paths}


@pytest.fixture(scope="session")
def cache(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds the built-in network as a graph: most tests begin with it, and the export takes two seconds."""
    folder = tmp_path_factory.mktemp("lowered")
    shell = Shell(folder, {**environment, "COMPRESSCTL_CACHE": str(folder / "cache")})
    done = shell.run("apply", shell.recipe("lower.yaml", "  - {use: example.fail}"))
    assert "on purpose" in done.err, done.err
    shutil.rmtree(folder / "cache" / "unfinished", ignore_errors=True)
    return folder / "cache"


@pytest.fixture
def shell(tmp_path: Path, environment: dict[str, str], cache: Path) -> Shell:
    shutil.copytree(cache, tmp_path / "cache")
    return Shell(tmp_path, {**environment, "COMPRESSCTL_CACHE": str(tmp_path / "cache")})


@pytest.fixture(autouse=True)
def _no_secrets() -> Iterator[None]:
    """What one test takes from the environment is no secret of the next."""
    yield
    forget_secrets()


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What lies at memory:// addresses, empty at first, and a cache of the test's own."""
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setenv("COMPRESSCTL_CACHE", str(tmp_path / "cache"))
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()


@pytest.fixture(scope="session")
def s3_environment() -> Iterator[dict[str, str]]:
    """A server that speaks S3, for processes that are started with this environment."""
    pytest.importorskip("moto")
    with s3_server() as environment:
        yield environment


@pytest.fixture
def s3(s3_environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What lies at s3:// addresses, with the empty bucket `team`; for this process."""
    from compressctl.store import objects

    for name, value in {**s3_environment, "COMPRESSCTL_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    fsspec = pytest.importorskip("fsspec")
    objects._system_of.cache_clear()
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    system = fsspec.filesystem("s3", use_listings_cache=False)
    if system.exists("team"):
        system.rm("team", recursive=True)
    system.mkdir("team")
    yield system
    objects._system_of.cache_clear()
    fsspec.get_filesystem_class("s3").clear_instance_cache()
