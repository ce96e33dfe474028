"""Accuracy of exported files on a processor without VNNI, which valgrind emulates (AVX2; exact, only slower).

python benchmarks/without_vnni.py RECIPE [--set ...] --samples 700 MODEL.onnx [MODEL.onnx ...]

The recipe names the data; each model is scored on the same test samples, natively and emulated. Needs `valgrind`.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from compressctl.core.machine import this_machine
from compressctl.recipe.loader import load
from compressctl.sources.load import load_dataset

_PREDICT = """
import sys, numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
name = session.get_inputs()[0].name
inputs = numpy.load(sys.argv[2], mmap_mode="r")
outputs = [session.run(None, {name: numpy.ascontiguousarray(inputs[i : i + 1])})[0] for i in range(len(inputs))]
numpy.save(sys.argv[3], numpy.concatenate(outputs))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--set", action="append", default=[], dest="sets")
    parser.add_argument("--unset", action="append", default=[], dest="unsets")
    parser.add_argument("--samples", type=int, default=700)
    asked = parser.parse_args()
    if shutil.which("valgrind") is None:
        sys.exit("valgrind is not installed (apt-get install valgrind)")
    recipe = load(asked.recipe, asked.sets, asked.unsets)
    assert recipe.data is not None, "the recipe names no data"
    test = load_dataset(recipe.data, recipe.base, recipe.seed).split("test")
    batch = next(test.batches(min(asked.samples, len(test))))
    assert batch.labels is not None, "the data has no labels"
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs.npy"
        np.save(inputs, next(iter(batch.inputs.values())))
        for model in asked.models:
            native = _accuracy(model, inputs, batch.labels, [])
            emulated = _accuracy(model, inputs, batch.labels, ["valgrind", "--tool=none", "-q"])
            row = {
                "model": str(model),
                "samples": len(batch.labels),
                "native_has_vnni": this_machine().has_vnni,
                "native_top1": round(native, 2),
                "without_vnni_top1": round(emulated, 2),
            }
            print(json.dumps(row), flush=True)


def _accuracy(model: Path, inputs: Path, labels: np.ndarray, emulator: list[str]) -> float:
    output = inputs.with_name("outputs.npy")
    command = [*emulator, sys.executable, "-c", _PREDICT, str(model), str(inputs), str(output)]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return float((np.load(output).argmax(axis=1) == labels).mean() * 100)


if __name__ == "__main__":
    main()
