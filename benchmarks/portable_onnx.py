"""A plain ONNX file beside its packed form: bytes, time and memory to load, latency; in ONNX Runtime and OpenVINO.

python benchmarks/portable_onnx.py MODEL.onnx [--clusters 16] [--granularity scaled] [--quick]

The model's weights are shared first (share.kmeans, not trained, so that only sizes and times mean something). Both files hold
the same numbers; they run in fresh processes, in turns, on one thread at batch 1. Outputs are compared bit by bit.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from compressctl.core.backend import Artifact, Backend, backends
from compressctl.core.events import Events
from compressctl.core.model import Model
from compressctl.core.registry import load as load_object
from compressctl.core.target import Target
from compressctl.core.technique import RunContext
from compressctl.measure.latency import QUICK, STANDARD, compare, operating_point
from compressctl.measure.samples import Samples, random_inputs
from compressctl.sources.onnx_file import load
from compressctl.sources.params import OnnxParams
from compressctl.techniques.share.kmeans import apply
from compressctl.techniques.share.params import KmeansParams


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--clusters", type=int, default=16)
    parser.add_argument("--granularity", default="scaled")
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    model = load(OnnxParams(path=str(asked.model.resolve())), Path(), 0)
    params = KmeansParams(clusters=asked.clusters, granularity=asked.granularity)
    print("| runtime | file | bytes | load, ms | peak memory of loading, MB | latency, ms | speed | same outputs |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        shared = apply(model, params, RunContext(0, Events(), Path(folder), Target("onnxruntime"))).model
        for name in ("onnxruntime", "openvino"):
            _beside(name, shared, Path(folder) / name, quick=asked.quick)


def _beside(name: str, model: Model, folder: Path, *, quick: bool) -> None:
    backend: Backend = load_object(backends.get(name).implementation)
    artifacts = {storage: _built(backend, name, model, storage, folder / storage) for storage in ("plain", "packed")}
    target = Target(name, threads=1, batch_size=1)
    inputs = random_inputs(model.signature, 1)
    outputs = [backend.open(artifact, target).run(inputs) for artifact in artifacts.values()]
    same = all(np.array_equal(outputs[0][key], outputs[1][key]) for key in outputs[0])
    timing = compare(
        list(artifacts.values()),
        [operating_point(target, Samples(model.signature))],
        model.signature,
        Events(),
        QUICK if quick else STANDARD,
    )
    for (storage, artifact), run in zip(artifacts.items(), timing.points[0], strict=True):
        size = sum(path.stat().st_size for path in artifact.files)
        memory = (run.memory.load_peak_bytes - run.memory.before_bytes) / 1e6
        speed = "" if run.speed is None else f"{run.speed.ratio:.2f}x ({run.speed.low:.2f} to {run.speed.high:.2f})"  # fmt: skip
        print(
            f"| {name} | {storage} | {size:,} | {run.load_ms:.0f} | {memory:.0f} | {run.latency.p50_ms:.2f} | {speed} | {same} |",
            flush=True,
        )


def _built(backend: Backend, name: str, model: Model, storage: str, folder: Path) -> Artifact:
    folder.mkdir(parents=True)
    return backend.build(model, Target(name, threads=1, options={"storage": storage}), folder)


if __name__ == "__main__":
    main()
