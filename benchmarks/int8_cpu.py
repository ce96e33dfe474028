"""INT8 beside ONNX Runtime's own quantizer: accuracy, speed and time to compress, all in one run.

python benchmarks/int8_cpu.py recipes/int8-cpu.yaml [--set ...] [--unset ...] [--rounds 3] [--json FILE]

The recipe is applied through the command line; its own fp32 export is then quantized by `onnxruntime.quantization` on the
same calibration samples, once with its defaults and once in the best configuration known (unsigned activations, signed
weights per channel, 7 bits where the processor needs it). All files are timed interleaved, each in its own process, on
one thread at batch 1, and scored on the recipe's test split through ONNX Runtime.
"""

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

from compressctl.backends.dialects.cpu import emit
from compressctl.backends.onnxruntime import BACKEND
from compressctl.core.backend import Artifact
from compressctl.core.data import Batch, Dataset
from compressctl.core.events import Events
from compressctl.core.machine import this_machine
from compressctl.core.model import Model, OnnxModel, Signature
from compressctl.core.target import Target, resolve_profile
from compressctl.core.technique import RunContext
from compressctl.measure.latency import compare, operating_point
from compressctl.measure.samples import Samples
from compressctl.measure.score import predict
from compressctl.recipe.loader import load
from compressctl.sources.load import load_dataset
from compressctl.sources.onnx_file import signature_of
from compressctl.techniques.quantize.params import StaticParams
from compressctl.techniques.quantize.static import apply


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--set", action="append", default=[], dest="sets")
    parser.add_argument("--unset", action="append", default=[], dest="unsets")
    parser.add_argument("--rounds", type=int, default=3, help="times that compressing is timed, in turn")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        found = _benchmark(asked, Path(folder))
    print(_table(found))
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


def _benchmark(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    files = _apply(asked, folder)
    recipe = load(asked.recipe, asked.sets, asked.unsets)
    assert recipe.data is not None, "the recipe names no data"
    data = load_dataset(recipe.data, recipe.base, recipe.seed)
    target = Target(
        "onnxruntime", threads=1, batch_size=1, profile=resolve_profile(recipe.target.profile, this_machine())
    )
    seconds = _time_compressing(files, data, target, folder, asked.rounds)
    signature = signature_of(onnx.load(files["fp32"]).graph, files["fp32"])
    artifacts = [Artifact("onnxruntime", path, (path,)) for path in files.values()]
    runs = compare(artifacts, [operating_point(target, Samples(signature))], signature, Events()).points[0]
    rows = []
    for (name, path), artifact, run in zip(files.items(), artifacts, runs, strict=True):
        predictions = predict(
            BACKEND.open(artifact, Target("onnxruntime", threads=0)), data.split("test"), signature, 64, None
        )
        rows.append(
            {
                "file": name,
                "bytes": path.stat().st_size,
                "top1": float((predictions.outputs.argmax(axis=1) == predictions.labels).mean() * 100),
                "p50_ms": run.latency.p50_ms,
                "speedup": run.speed.ratio if run.speed else 1.0,
                "interval": [run.speed.low, run.speed.high] if run.speed else None,
                "compress_seconds": seconds.get(name),
            }
        )
    return {"cpu": this_machine().cpu, "vnni": this_machine().has_vnni, "profile": target.profile, "rows": rows}


def _apply(asked: argparse.Namespace, folder: Path) -> dict[str, Path]:
    """Run the recipe as a user does; the fp32 and int8 files that it exported."""
    output = folder / "run"
    options = [part for value in asked.sets for part in ("--set", value)]
    options += [part for value in asked.unsets for part in ("--unset", value)]
    command = [
        sys.executable,
        "-m",
        "compressctl.cli.main",
        "apply",
        str(asked.recipe),
        "--output",
        str(output),
        *options,
    ]
    subprocess.run(command, check=False)
    exported = output / "artifacts" / "onnxruntime"
    return {"fp32": exported / "baseline" / "model.onnx", "compressctl": exported / "model.onnx"}


def _time_compressing(
    files: dict[str, Path], data: Dataset, target: Target, folder: Path, rounds: int
) -> dict[str, float]:
    """Median seconds from the fp32 file to the int8 file, in turn. Adds the other quantizer's files to `files`."""
    body = onnx.load(files["fp32"])
    model = OnnxModel(body, signature_of(body.graph, files["fp32"]))
    best = {
        "activation_type": QuantType.QUInt8,
        "weight_type": QuantType.QInt8,
        "per_channel": True,
        "reduce_range": target.saturates,
    }
    ways = {
        "compressctl": lambda: _ours(model, data, target, folder / "ours.onnx"),
        "onnxruntime defaults": lambda: _theirs(files["fp32"], folder / "defaults.onnx", model.signature, data, {}),
        "onnxruntime best": lambda: _theirs(files["fp32"], folder / "best.onnx", model.signature, data, best),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    files["onnxruntime defaults"] = folder / "defaults.onnx"
    files["onnxruntime best"] = folder / "best.onnx"
    return {name: float(np.median(times)) for name, times in seconds.items()}


def _ours(model: Model, data: Dataset, target: Target, path: Path) -> None:
    context = RunContext(seed=0, events=Events(), folder=path.parent, target=target, data=data)
    onnx.save(emit(apply(model, StaticParams(), context).model, target), path)


def _theirs(source: Path, path: Path, signature: Signature, data: Dataset, options: dict[str, Any]) -> None:
    quantize_static(source, path, _Reader(signature, data.split("calibration").batches(1)), **options)


class _Reader(CalibrationDataReader):
    """The same samples, one at a time as the quantizer asks for them."""

    def __init__(self, signature: Signature, batches: Iterator[Batch]) -> None:
        self._name = signature.inputs[0].name
        self._batches = batches

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {self._name: next(iter(batch.inputs.values()))}


def _table(found: dict[str, Any]) -> str:
    lines = [
        f"{found['cpu']}, VNNI {'yes' if found['vnni'] else 'no'}, compressed for {found['profile']}",
        "",
        "| file | top-1 | size | p50, 1 thread | speed against fp32 (95 % interval) | time to compress |",
        "|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        interval = f" ({row['interval'][0]:.2f} to {row['interval'][1]:.2f})" if row["interval"] else ""
        took = f"{row['compress_seconds']:.2f} s" if row["compress_seconds"] else ""
        lines.append(
            f"| {row['file']} | {row['top1']:.2f} % | {row['bytes'] / 1e6:.2f} MB | {row['p50_ms']:.3f} ms "
            f"| {row['speedup']:.2f}x{interval} | {took} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
