"""A zoo of generated models with poison among them, and a driver that is killed with SIGKILL on the way.

    python benchmarks/zoo_poison.py [--models 1000] [--poison 30] [--kill-at 300] [--jobs 2] [--seed 0] [--folder FOLDER]

Small perceptrons and convolutional nets as ONNX files, 8-bit weights for each, nothing timed. The poison, spread by the seed: network code that crashes with
SIGSEGV, that never returns, that takes 5 GB; a file that is cut off, one with an operator that nobody has, one that computes for hours.
When so many results are there, the driver is killed, what is left of its processes is looked for, and it is started again.
Exits with 1 where another model is not good, a poison has another cause than expected, or a finished job is repeated. `--models 18 --poison 6 --kill-at 5` tries it.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import psutil
from onnx import TensorProto, helper, numpy_helper

from compressctl.zoo.results import JobResult, Outcome

_RECIPE = """recipe: compressctl/v1
task: custom
stages:
  - {id: int8, use: quantize.weights, bits: 8, if_slower: keep}
"""
_MANIFEST = """zoo: compressctl/v1
defaults:
  recipe: recipe.yaml
  measure: untimed
  resources: {cores: 1, memory: 2GiB, time: 90s, disk: 1GiB}
budget: {at_most_failed: 3 %}
models:
"""
_AT_MOST_FAILED = 0.03
_HARM = '''"""Network code that does harm."""

import ctypes


def segfault() -> None:
    ctypes.string_at(0)


def loop() -> None:
    while True:
        pass


def memory() -> None:
    held = [bytes([1]) * (1 << 28) for _ in range(20)]
    loop()
    print(len(held))
'''
_OPERATOR = "Frobnicate"
_HALFWAY = 0.5


@dataclass(frozen=True)
class Poison:
    """expected: how its job may end. says: what its message must hold."""

    expected: frozenset[Outcome]
    says: str = ""


POISON = {
    "segfault": Poison(frozenset({Outcome.CRASHED}), "SIGSEGV"),
    "loop": Poison(frozenset({Outcome.TIME})),
    "memory": Poison(frozenset({Outcome.MEMORY})),
    "truncated": Poison(frozenset({Outcome.INVALID})),
    "unsupported": Poison(frozenset({Outcome.INVALID, Outcome.FAILED}), _OPERATOR),
    "slow": Poison(frozenset({Outcome.TIME})),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--poison", type=int, default=30, help="of them")
    parser.add_argument("--kill-at", type=int, default=300, help="results that are there when the driver is killed")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work [default: a temporary folder]")
    chosen = parser.parse_args()
    folder = (chosen.folder or Path(tempfile.mkdtemp(prefix="zoo-poison-"))).absolute()
    kinds = generate(folder, chosen.models, chosen.poison, random.Random(chosen.seed))
    first = Driver(folder, chosen.jobs)
    first.watch(until=lambda done: done >= chosen.kill_at)
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in first.result_files()}
    code, left = first.kill()
    second = Driver(folder, chosen.jobs)
    second.watch(until=lambda done: False)
    kept = sum(_is_as_it_was(folder / "run/results" / name, was) for name, was in before.items())
    results = {file.stem: JobResult.model_validate_json(file.read_text()) for file in second.result_files()}
    print(
        f"{chosen.models} models, {chosen.poison} of them poison; {chosen.jobs} jobs at a time, one core and 2 GiB each.\n"
    )
    return int(
        not all(
            [
                _causes(kinds, results),
                _killed(len(before), code, left, kept, len(results) - len(before), first, second),
                _gated(second, chosen.poison / chosen.models),
                _memory(first, second),
            ]
        )
    )


def generate(folder: Path, count: int, poisoned: int, draw: random.Random) -> dict[str, str]:
    """Models, recipe and manifest. The kind of poison of each job, "" for the others."""
    (folder / "models").mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(_RECIPE)
    (folder / "harm.py").write_text(_HARM)
    numbers = draw.sample(range(count), poisoned)
    of = {number: list(POISON)[position % len(POISON)] for position, number in enumerate(numbers)}
    kinds, lines = {}, []
    for number in range(count):
        kind = of.get(number, "")
        name = f"m{number:04}"
        kinds[name] = kind
        if kind in ("segfault", "loop", "memory"):
            where = f"model: {{source: python, factory: './harm.py:{kind}', input_shape: [8]}}"
        else:
            _write(folder / "models" / f"{name}.onnx", kind, number)
            where = f"path: models/{name}.onnx"
        lines.append(f"  - {{id: {name}, {where}}}\n")
    (folder / "zoo.yaml").write_text(_MANIFEST + "".join(lines))
    return kinds


def _write(file: Path, kind: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    model = {"unsupported": _unsupported, "slow": _slow}.get(kind, _perceptron if seed % 2 else _convolutions)(random)
    content = model.SerializeToString()
    file.write_bytes(content[: len(content) * 2 // 3] if kind == "truncated" else content)


def _tensor(random: np.random.Generator, name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array((random.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32), name)


def _model(
    nodes: list[onnx.NodeProto], width: int, shape: list[int], weights: list[onnx.TensorProto], *domains: str
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "generated",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", width])],
        weights,
    )
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def _perceptron(random: np.random.Generator) -> onnx.ModelProto:
    width, depth = int(random.integers(4, 13)) * 16, int(random.integers(2, 5))
    nodes, weights, at = [], [], "x"
    for layer in range(depth):
        weights += [_tensor(random, f"w{layer}", width, width), _tensor(random, f"b{layer}", width)]
        nodes += [
            helper.make_node("MatMul", [at, f"w{layer}"], [f"m{layer}"]),
            helper.make_node("Add", [f"m{layer}", f"b{layer}"], [f"a{layer}"]),
        ]
        at = f"a{layer}"
        if layer < depth - 1:
            nodes.append(helper.make_node(str(random.choice(["Relu", "Tanh", "Sigmoid"])), [at], [f"r{layer}"]))
            at = f"r{layer}"
    nodes[-1].output[0] = "y"
    return _model(nodes, width, [width], weights)


def _convolutions(random: np.random.Generator) -> onnx.ModelProto:
    width, depth = int(random.integers(1, 5)) * 8, int(random.integers(2, 4))
    nodes, weights, at, channels = [], [], "x", 3
    for layer in range(depth):
        weights += [_tensor(random, f"w{layer}", width, channels, 3, 3), _tensor(random, f"b{layer}", width)]
        nodes += [
            helper.make_node("Conv", [at, f"w{layer}", f"b{layer}"], [f"c{layer}"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]),
        ]
        at, channels = f"r{layer}", width
    weights.append(_tensor(random, "w", 10, width))
    nodes += [
        helper.make_node("GlobalAveragePool", [at], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w"], ["y"], transB=1),
    ]
    return _model(nodes, 10, [3, 16, 16], weights)


def _unsupported(random: np.random.Generator) -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node(_OPERATOR, ["m"], ["y"], domain="com.example"),
    ]
    return _model(nodes, 64, [64], [_tensor(random, "w", 64, 64)], "com.example")


def _slow(random: np.random.Generator) -> onnx.ModelProto:
    """A matrix product, 10^12 times."""
    one = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("MatMul", ["state", "w"], ["next"]), helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [
            one("i", TensorProto.INT64, []),
            one("go", TensorProto.BOOL, []),
            one("state", TensorProto.FLOAT, ["batch", 64]),
        ],
        [one("on", TensorProto.BOOL, []), one("next", TensorProto.FLOAT, ["batch", 64])],
    )
    weights = [
        _tensor(random, "w", 64, 64),
        numpy_helper.from_array(np.array(10**12, np.int64), "times"),
        numpy_helper.from_array(np.array(True), "always"),
    ]
    return _model([helper.make_node("Loop", ["times", "always", "x"], ["y"], body=body)], 64, [64], weights)


@dataclass
class Driver:
    """One `compressctl zoo apply`. memory: (results that were there, resident bytes of the driver alone), one a second."""

    folder: Path
    jobs: int
    memory: list[tuple[int, int]] = field(default_factory=list)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        command = [
            sys.executable,
            "-m",
            "compressctl",
            "zoo",
            "apply",
            "zoo.yaml",
            "--output",
            "run",
            "--no-cache",
            "--jobs",
            str(self.jobs),
        ]
        variables = {**os.environ, "COMPRESSCTL_CACHE": str(self.folder / "cache")}
        with (self.folder / "driver.log").open("ab") as log:
            self.process = psutil.Popen(
                command, cwd=self.folder, env=variables, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def result_files(self) -> list[Path]:
        return sorted((self.folder / "run/results").glob("*.json"))

    def watch(self, until: Callable[[int], bool]) -> None:
        """Until so many results are there, or the driver has ended."""
        began = time.monotonic()
        while self.process.poll() is None:
            done = len(self.result_files())
            self.memory.append((done, self.process.memory_info().rss))
            if until(done):
                break
            time.sleep(1)
        self.seconds = time.monotonic() - began

    def kill(self) -> tuple[int, int]:
        """Its exit code, and how many of its processes are there five seconds later."""
        children = self.process.children(recursive=True)
        self.process.send_signal(signal.SIGKILL)
        code = self.process.wait()
        _, alive = psutil.wait_procs(children, timeout=5)
        return code, len(alive)


def _is_as_it_was(file: Path, was: tuple[bytes, int]) -> bool:
    return file.is_file() and (file.read_bytes(), file.stat().st_mtime_ns) == was


def _causes(kinds: dict[str, str], results: dict[str, JobResult]) -> bool:
    print("| poison | jobs | ended as | of them as they should, with the cause named |\n|---|---|---|---|")
    named = 0
    for kind, poison in POISON.items():
        found = [results.get(job) for job, its in kinds.items() if its == kind]
        fine = [
            one
            for one in found
            if one and one.outcome in poison.expected and poison.says in one.message and one.message
        ]
        ended = Counter(str(one.outcome) if one else "no result" for one in found)
        named += len(fine)
        print(
            f"| {kind} | {len(found)} | {', '.join(f'{word}: {count}' for word, count in ended.items())} | {len(fine)} |"
        )
        for one in found:
            if one not in fine:
                print(f"unexpected: {kind} {one}", file=sys.stderr)
    others = [results.get(job) for job, kind in kinds.items() if not kind]
    good = sum(one is not None and one.outcome is Outcome.GOOD for one in others)
    for one in others:
        if one is None or one.outcome is not Outcome.GOOD:
            print(f"unexpected: not good: {one}", file=sys.stderr)
    poisoned = sum(bool(kind) for kind in kinds.values())
    print(f"\n**{good} of {len(others)} others good, {named} of {poisoned} poisoned named by their cause.**\n")
    return good == len(others) and named == poisoned


def _killed(before: int, code: int, left: int, kept: int, later: int, first: Driver, second: Driver) -> bool:
    print(
        f"- SIGKILL of the driver after {first.seconds:.0f} s with {before} results (it ended with {code}): {left} of its processes left "
        f"after five seconds; started again, it ran {later} jobs in {second.seconds:.0f} s and repeated {before - kept} of {before}, exit code {second.process.returncode}"
    )
    return code == -signal.SIGKILL and left == 0 and kept == before


def _gated(second: Driver, poisoned: float) -> bool:
    """Whether the driver's exit code says what the manifest's budget does: 0 within `at_most_failed`, else 1."""
    return second.process.returncode == int(poisoned > _AT_MOST_FAILED)


def _memory(first: Driver, second: Driver) -> bool:
    """Whether the driver that was started again holds in the end what it held half way, give or take 10 %."""
    parts = []
    for driver in (first, second):
        most = driver.memory[-1][0]
        least = driver.memory[0][0]
        at = [least + round((most - least) * share) for share in (0.1, _HALFWAY, 1.0)]
        held = [max((size for done, size in driver.memory if done <= limit), default=0) for limit in at]
        parts.append(held)
        said = ", ".join(f"{size / 1e6:.0f} MB at {limit} results" for limit, size in zip(at, held, strict=True))
        print(f"- resident memory of the {'first' if driver is first else 'second'} driver, most until then: {said}")
    _, half, end = parts[1]
    return end <= half * 1.1


if __name__ == "__main__":
    sys.exit(main())
