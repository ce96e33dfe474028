"""A zoo whose models, results and cache lie in a store that speaks S3, and uploads that are killed.

    python benchmarks/zoo_store.py [--models 6] [--kills 10] [--layers 5] [--seed 0] [--folder FOLDER]

Starts moto's server (`pip install 'moto[s3]' flask flask-cors s3fs`), puts generated models into a bucket, and runs their zoo with `store` and
`shared_cache` there; then the same on a machine that has nothing: once with the results, once with the cache alone. Then a driver and a run are killed
with SIGKILL when a random number of bytes of their uploads has passed. After each kill boto3, and none of our code but the reader of cache entries, looks at the
bucket. Exits with 1 where anything half can be seen.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from compressctl.store.archive import DamagedError, unpack

BUCKET, ZOO, CACHE = "team", "zoo", "cache"
_RECIPE = """recipe: compressctl/v1
task: custom
stages:
  - {id: int8, use: quantize.weights, bits: 8, if_slower: keep}
"""
_MANIFEST = f"""zoo: compressctl/v1
defaults: {{recipe: recipe.yaml, measure: untimed, resources: {{cores: 1, memory: 6GiB}}}}
models:
  - {{glob: "s3://{BUCKET}/models/**/*.onnx"}}
"""
_LARGE = f"""zoo: compressctl/v1
name: large
defaults: {{recipe: recipe.yaml, measure: untimed, resources: {{cores: 1, memory: 6GiB}}}}
models:
  - {{path: "s3://{BUCKET}/large/large.onnx"}}
store: s3://{BUCKET}/large-zoo
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=6)
    parser.add_argument("--kills", type=int, default=10, help="of each of the two")
    parser.add_argument("--layers", type=int, default=5, help="of the large model, 16.8 MB each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work [default: a temporary folder]")
    chosen = parser.parse_args()
    folder = (chosen.folder or Path(tempfile.mkdtemp(prefix="zoo-store-"))).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(chosen.seed)
    with _server() as port, _Proxy(port) as proxy:
        bench = Bench(folder, port, proxy)
        bench.prepare(chosen.models, chosen.layers)
        held = [
            _in_and_out(bench, chosen.models),
            _killed_drivers(bench, chosen.kills, draw),
            _killed_runs(bench, chosen.kills, draw),
        ]
    return int(not all(held))


class Bench:
    """A bucket, and machines that share nothing else: each has its own cache and its own folder for results."""

    def __init__(self, folder: Path, port: int, proxy: _Proxy) -> None:
        self.folder, self.proxy = folder, proxy
        self._keys = {"AWS_ACCESS_KEY_ID": "an-access-key", "AWS_SECRET_ACCESS_KEY": "a-secret-key"}
        self.s3 = boto3.client(
            "s3", endpoint_url=f"http://127.0.0.1:{port}", aws_access_key_id="an-access-key", aws_secret_access_key="a-secret-key",
            region_name="us-east-1",
        )  # fmt: skip

    def prepare(self, models: int, layers: int) -> None:
        self.s3.create_bucket(Bucket=BUCKET)
        for number in range(models):
            self._put_model(_perceptron(3, 512, number), f"models/part-{number % 2}/m{number}", external=number == 0)
        self._put_model(_perceptron(layers, 2048, 99), "large/large", external=True)
        for name, text in (("zoo.yaml", _MANIFEST), ("large.yaml", _LARGE), ("recipe.yaml", _RECIPE)):
            (self.folder / name).write_text(text)

    def start(self, machine: str, *arguments: str, through: int | None = None, **more: str) -> subprocess.Popen[bytes]:
        """through: the server's port, where it is not the proxy's."""
        environment = {
            **os.environ,
            **self._keys,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{through or self.proxy.port}",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "COMPRESSCTL_TIMING_GROUP": "zoo_store",  # nothing is timed, and nothing waits for who times
            "COMPRESSCTL_CACHE": str(self.folder / machine / "cache"),
            **more,
        }
        command = [sys.executable, "-m", "compressctl", *arguments]
        log = (self.folder / f"{machine}.log").open("ab")
        return subprocess.Popen(
            command, cwd=self.folder, env=environment, stdout=log, stderr=subprocess.STDOUT, process_group=0
        )

    def run(self, machine: str, *arguments: str, **more: str) -> tuple[int, float]:
        """The exit code, and seconds."""
        started = time.monotonic()
        code = self.start(machine, *arguments, **more).wait()
        return code, time.monotonic() - started

    def keys(self, prefix: str) -> dict[str, int]:
        """Objects of the bucket, and their bytes."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return {entry["Key"]: entry["Size"] for page in pages for entry in page.get("Contents", ())}

    def read(self, key: str) -> bytes:
        return bytes(self.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())

    def unfinished(self) -> int:
        return len(self.s3.list_multipart_uploads(Bucket=BUCKET).get("Uploads", ()))

    def _put_model(self, model: onnx.ModelProto, key: str, *, external: bool) -> None:
        name = key.rpartition("/")[2]
        with tempfile.TemporaryDirectory() as made:
            where = {"save_as_external_data": True, "location": f"{name}.data", "size_threshold": 0} if external else {}
            onnx.save(model, Path(made) / f"{name}.onnx", **where)
            for file in Path(made).iterdir():
                self.s3.upload_file(str(file), BUCKET, f"{key.rpartition('/')[0]}/{file.name}")


@dataclass(frozen=True)
class Seen:
    """What a reader of a zoo's store sees. whole: jobs of which all is there. half: of which a file is missing or another. orphans: objects of no result."""

    whole: list[str]
    half: list[str]
    orphans: int


def seen(bench: Bench, place: str) -> Seen:
    found = bench.keys(f"{place}/")
    whole, half, named = [], [], set()
    for key in (key for key in found if key.startswith(f"{place}/results/")):
        said = json.loads(bench.read(key))
        files = {f"{place}/{said['folder']}/{file['name']}": file["sha256"] for file in said["files"]}
        named |= files.keys()
        good = all(
            name in found and hashlib.sha256(bench.read(name)).hexdigest() == digest for name, digest in files.items()
        )
        (whole if good else half).append(said["result"]["job"])
    runs = {key for key in found if key.startswith(f"{place}/runs/")}
    return Seen(sorted(whole), sorted(half), len(runs - named))


def _in_and_out(bench: Bench, models: int) -> bool:
    shared = {"COMPRESSCTL_SHARED_CACHE": f"s3://{BUCKET}/{CACHE}"}
    store = ("--store", f"s3://{BUCKET}/{ZOO}")
    before = bench.proxy.down
    bench.run("first", "zoo", "plan", "zoo.yaml")
    planned = bench.proxy.down - before
    code, seconds = bench.run("first", "zoo", "apply", "zoo.yaml", "--output", "first/zoo", *store, **shared)
    first = seen(bench, ZOO)
    files = {
        key: bench.read(key) for key in bench.keys(f"{ZOO}/runs/") if key.endswith("artifacts/onnxruntime/model.onnx")
    }
    opened = sum(_opens(content) for content in files.values())
    entries = bench.keys(f"{CACHE}/stages/")
    print("## Models in, results, artifacts and cache out\n")
    print(
        f"{models} models of 3.1 MB, one with external data, in a bucket; `store` and `shared_cache` in the same one.\n"
    )
    print(
        f"- `zoo plan`: {planned / 1e3:,.0f} kB came from the store for {sum(bench.keys('models/').values()) / 1e6:,.1f} MB of models"
    )
    print(
        f"- `zoo apply`: exit code {code}, {seconds:.0f} s; {len(first.whole)} results whole by boto3's reading, {len(first.half)} half, {first.orphans} objects without a result"
    )
    print(
        f"- {opened} of {len(files)} artifacts, read from the store, compute in ONNX Runtime; {len(entries)} cache entries, {sum(entries.values()) / 1e6:,.1f} MB"
    )

    code, seconds = bench.run("second", "zoo", "apply", "zoo.yaml", "--output", "second/zoo", *store)
    repeated = len(list((bench.folder / "second/zoo/runs").glob("*/events.jsonl")))
    taken = len(list((bench.folder / "second/zoo/results").glob("*.json")))
    print(
        f"- another machine, with an empty cache and folder, the same store: {taken} results taken, {repeated} jobs run, {seconds:.0f} s, exit code {code}"
    )

    code, seconds = bench.run(
        "third", "zoo", "apply", "zoo.yaml", "--output", "third/zoo", **shared, COMPRESSCTL_SHARED_CACHE_MODE="read"
    )
    stages = [_from_cache(events) for events in sorted((bench.folder / "third/zoo/runs").glob("*/events.jsonl"))]
    equal = sum(
        _artifact(bench.folder / "third/zoo" / "runs" / job) == _artifact(bench.folder / "first/zoo" / "runs" / job)
        for job in first.whole
    )
    same = bench.keys(f"{CACHE}/stages/") == entries
    print(
        f"- a third one, with the shared cache alone, which it may only read: {sum(stages)} of {len(stages)} jobs took their stage from it, {equal} of {len(stages)} artifacts equal to the byte (the clock decides which form a product gets), {seconds:.0f} s; the store's entries are {'as they were' if same else 'OTHERS'}"
    )
    held = len(first.whole) == opened == taken == models == sum(stages) and not first.half and not repeated and same
    print(f"\n**{'All of it holds' if held else 'NOT all of it holds'}.**")
    return held


def _killed_drivers(bench: Bench, kills: int, draw: random.Random) -> bool:
    """The job is done before the first kill: each driver finds that its result is not in the store, and begins the upload anew."""
    zoo = ("zoo", "apply", "large.yaml", "--output", "driver/zoo")
    bench.run("driver", *zoo, "--store", f"s3://{BUCKET}/rehearsal")
    total = sum(bench.keys("rehearsal/").values())
    moments, halves, most_unfinished, most_orphans = [], 0, 0, 0
    for _ in range(kills):
        moments.append(_killed(bench, "driver", zoo, draw.randrange(1, total)))
        found = seen(bench, "large-zoo")
        halves += len(found.half)
        most_unfinished, most_orphans = max(most_unfinished, bench.unfinished()), max(most_orphans, found.orphans)
        if found.whole:  # it was through before the kill
            for key in bench.keys("large-zoo/results/"):
                bench.s3.delete_object(Bucket=BUCKET, Key=key)
    code, _ = bench.run("driver", *zoo)
    last, left = seen(bench, "large-zoo"), bench.unfinished()
    print("\n## A driver that is killed while it puts a job's files\n")
    print(
        f"{total / 1e6:,.0f} MB in {len(bench.keys('rehearsal/runs/'))} files; SIGKILL to the driver and all that it started when so many MB of its upload had passed: {_list(moments)}.\n"
    )
    print(f"- results of which a reader saw half: **{halves}** in {kills} looks")
    print(
        f"- in between, unseen by readers: at most {most_orphans} objects without a result, at most {most_unfinished} unfinished uploads"
    )
    print(
        f"- left to its end: exit code {code}, {len(last.whole)} result whole, {last.orphans} objects without a result, {left} unfinished uploads"
    )
    held = not halves and last.whole == ["large"] and not last.orphans and not left
    print(f"\n**{'Nothing half' if held else 'SOMETHING HALF'}.**")
    return held


def _killed_runs(bench: Bench, kills: int, draw: random.Random) -> bool:
    """Each begins with an empty cache of its own. What is in the shared one after a kill is read as every machine reads it."""
    apply = (
        "apply", "recipe.yaml", "--set", f"model={{source: onnx, path: 's3://{BUCKET}/large/large.onnx'}}", "--measure", "untimed",
        "--output", "run/out", "--shared-cache", f"s3://{BUCKET}/run-cache",
    )  # fmt: skip
    bench.run("run", *apply)
    total = sum(bench.keys("run-cache/").values())
    moments, damaged, most_unfinished = [], 0, 0
    for _ in range(kills):
        for key in bench.keys("run-cache/"):
            bench.s3.delete_object(Bucket=BUCKET, Key=key)
        shutil.rmtree(bench.folder / "run" / "cache" / "shared", ignore_errors=True)
        moments.append(_killed(bench, "run", apply, draw.randrange(1, total)))
        damaged += sum(not _is_entry(bench, key) for key in bench.keys("run-cache/"))
        most_unfinished = max(most_unfinished, bench.unfinished())
    code, _ = bench.run("run", *apply)
    whole = [_is_entry(bench, key) for key in bench.keys("run-cache/")]
    bench.run("run", "cache", "trim", "--shared", f"s3://{BUCKET}/run-cache", "--limit", "100GB")
    left = bench.unfinished()
    print("\n## A run that is killed while it puts an entry into the shared cache\n")
    print(f"{total / 1e6:,.0f} MB; SIGKILL when so many MB had passed: {_list(moments)}.\n")
    print(
        f"- entries that were half: **{damaged}** in {kills} looks; at most {most_unfinished} unfinished uploads, which no reader sees"
    )
    print(
        f"- left to its end: exit code {code}, {sum(whole)} of {len(whole)} entries whole; after `cache trim --shared`, {left} unfinished uploads"
    )
    held = not damaged and whole != [] and all(whole) and not left
    print(f"\n**{'Nothing half' if held else 'SOMETHING HALF'}.**")
    return held


def _killed(bench: Bench, machine: str, arguments: tuple[str, ...], passed: int) -> float:
    """Start it, and kill it and all of its group when so many bytes of its uploads have passed; how many MB had."""
    done = threading.Event()
    with bench.proxy.after(passed, done.set):
        process = bench.start(machine, *arguments)
        while not done.wait(0.02) and process.poll() is None:
            pass
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return bench.proxy.up / 1e6


def _is_entry(bench: Bench, key: str) -> bool:
    with tempfile.TemporaryDirectory() as room:
        (Path(room) / "archive").write_bytes(bench.read(key))
        (Path(room) / "into").mkdir()
        try:
            unpack(Path(room) / "archive", key.rpartition("/")[2], Path(room) / "into")
        except DamagedError:
            return False
    return True


class _Proxy:
    """Between the machines and the server. up, down: bytes of requests and of answers so far."""

    def __init__(self, server: int) -> None:
        self._server, self.up, self.down = server, 0, 0
        self._alarm: tuple[int, Callable[[], None]] | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    @contextmanager
    def after(self, passed: int, ring: Callable[[], None]) -> Iterator[None]:
        """Count from here on, and ring when so many bytes have gone up: what comes after them is not passed on."""
        self.up, self._alarm = 0, (passed, ring)
        try:
            yield
        finally:
            self._alarm = None

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._server))
            except OSError:
                return
            threading.Thread(target=self._pass_on, args=(near, far, True), daemon=True).start()
            threading.Thread(target=self._pass_on, args=(far, near, False), daemon=True).start()

    def _pass_on(self, come: socket.socket, go: socket.socket, is_up: bool) -> None:
        with suppress(OSError):
            while block := come.recv(1 << 16):
                self._count(len(block), is_up)
                if self._alarm is not None and is_up and self.up >= self._alarm[0]:
                    self._alarm[1]()
                    break
                go.sendall(block)
        for one in (come, go):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _count(self, size: int, is_up: bool) -> None:
        self.up, self.down = self.up + size * is_up, self.down + size * (not is_up)

    def __enter__(self) -> _Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()


@contextmanager
def _server() -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], **quiet)
    try:
        while process.poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.1)
        yield port
    finally:
        process.kill()
        process.wait()


def _perceptron(layers: int, width: int, seed: int) -> onnx.ModelProto:
    draw = np.random.default_rng(seed)
    weights = [
        numpy_helper.from_array(draw.normal(size=(width, width)).astype(np.float32) / width**0.5, f"w{number}")
        for number in range(layers)
    ]
    nodes, at = [], "x"
    for number in range(layers):
        nodes.append(helper.make_node("MatMul", [at, f"w{number}"], [f"m{number}"], f"product{number}"))
        at = f"m{number}"
        if number < layers - 1:
            nodes.append(helper.make_node("Relu", [at], [f"r{number}"]))
            at = f"r{number}"
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width]) for name in ("x", at)]
    graph = helper.make_graph(nodes, "perceptron", sides[:1], sides[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _opens(content: bytes) -> bool:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {session.get_inputs()[0].name: np.ones((2, 512), np.float32)})
    return bool(np.isfinite(result).all())


def _from_cache(events: Path) -> bool:
    found: list[Mapping[str, Any]] = [json.loads(line) for line in events.read_text().splitlines()]
    return any(
        event.get("kind") == "step.finished" and event.get("step") == "int8" and event.get("cached") for event in found
    )


def _artifact(run: Path) -> bytes:
    return (run / "artifacts" / "onnxruntime" / "model.onnx").read_bytes()


def _list(moments: list[float]) -> str:
    return ", ".join(f"{moment:.1f}" for moment in moments)


if __name__ == "__main__":
    sys.exit(main())
