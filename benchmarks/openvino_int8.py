"""compressctl's INT8 in OpenVINO beside NNCF's own post-training quantization, same graph, same calibration set, one run.

python benchmarks/openvino_int8.py RECIPE [--set PATH=VALUE ...]      (pip install nncf openvino)

Prints top-1, size, latency against the float IR (interleaved, one thread, batch 1), the share of multiply-accumulates in
integers, and seconds from the ONNX file to the quantized IR.
"""

import argparse
import logging
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import onnx
import openvino

from compressctl.backends.openvino import BACKEND
from compressctl.core.backend import Artifact
from compressctl.core.data import bind
from compressctl.core.target import Target
from compressctl.measure.latency import compare, operating_point
from compressctl.measure.samples import Samples
from compressctl.measure.score import predict
from compressctl.recipe.loader import load
from compressctl.sources.load import load_dataset
from compressctl.sources.onnx_file import signature_of

TARGET = Target("openvino", threads=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--set", action="append", default=[], dest="sets")
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as place:
        _benchmark(asked, Path(place))


def _benchmark(asked: argparse.Namespace, folder: Path) -> None:
    sets = [*asked.sets, "export=[openvino, onnxruntime]", "budget={}"]
    command = [
        sys.executable,
        "-m",
        "compressctl.cli.main",
        "apply",
        str(asked.recipe),
        "--output",
        str(folder / "run"),
    ]
    command += [part for value in sets for part in ("--set", value)]
    subprocess.run([*command, "--measure", "quick", "--no-cache"], check=True, stdout=subprocess.DEVNULL)
    recipe = load(asked.recipe, asked.sets, [])
    assert recipe.data is not None
    data = load_dataset(recipe.data, recipe.base, recipe.seed)
    exported = folder / "run" / "artifacts"
    source = exported / "onnxruntime" / "baseline" / "model.onnx"
    signature = signature_of(onnx.load(source).graph, source)
    batches = [bind(batch, signature) for batch in data.split("calibration").batches(1)]
    files = {
        "float": exported / "openvino" / "baseline" / "model.xml",
        "compressctl": exported / "openvino" / "model.xml",
    }
    for preset in ("performance", "mixed"):
        started = time.perf_counter()
        model = openvino.convert_model(str(source))
        quantized = nncf.quantize(
            model, nncf.Dataset(batches), preset=nncf.QuantizationPreset(preset), subset_size=len(batches)
        )
        files[f"NNCF {nncf.__version__}, {preset}"] = folder / f"nncf_{preset}.xml"
        openvino.save_model(quantized, folder / f"nncf_{preset}.xml", compress_to_fp16=False)
        print(f"NNCF {preset}: {time.perf_counter() - started:.1f} s", file=sys.stderr)
    _print(files, signature, data, recipe.name)


def _print(files: dict[str, Path], signature: Any, data: Any, name: str) -> None:
    artifacts = [Artifact("openvino", path, (path, path.with_suffix(".bin"))) for path in files.values()]
    runs = compare(artifacts, [operating_point(TARGET, Samples(signature))], signature, None).points[0]
    print(
        f"{name}\n\n| file | top-1 | size | p50 | speed against float (95 %) | integer layers |\n|---|---|---|---|---|---|"
    )
    for (label, path), artifact, run in zip(files.items(), artifacts, runs, strict=True):
        found = predict(BACKEND.open(artifact, Target("openvino", threads=0)), data.split("test"), signature, 64)
        right = found.outputs.argmax(axis=1) == np.asarray(found.labels)
        bytes_ = sum(file.stat().st_size for file in artifact.files)
        speed = run.speed
        words = "1.00x" if speed is None else f"{speed.ratio:.2f}x ({speed.low:.2f} to {speed.high:.2f})"
        print(
            f"| {label} | {right.mean() * 100:.2f} % | {bytes_ / 1e6:.2f} MB | {run.latency.p50_ms:.3f} ms | {words} | "
            f"{_integer_layers(path)} |"
        )


def _integer_layers(path: Path) -> str:
    """Convolutions and matrix products that run on integers, of all."""
    nodes = BACKEND.explain(Artifact("openvino", path, ()), TARGET)
    products = [node for node in nodes if node.op in ("Convolution", "FullyConnected", "MatMul", "GroupConvolution")]
    return f"{sum(node.precision == 'int8' for node in products)} of {len(products)}"


if __name__ == "__main__":
    main()
