"""Files that strangers published, without their training code: half of the multiply-accumulates pruned, taught by the file itself, in INT8.

    python benchmarks/architecture_published.py [--models orientation ...] [--epochs 15] [--keep 0.5] [--samples 1500] [--relu] [--folder FOLDER]

Each model is trained on inputs such as its package gives it (benchmarks/published/), without labels; speed is against the float file on one thread,
agreement on 500 inputs that nothing has seen. Each is one `compressctl apply`, which goes on where it was stopped. Exits with 1 where a file is not
at least 3x as fast as float with 97 % equal decisions.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import zlib
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from published.inputs import _SOURCES
from published.packages import MODELS, PACKAGES, Published, fetch, model_path

ROOT = Path(__file__).parent.parent
_TEST = 500
_FASTER, _AGREES = 3.0, 0.97


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["orientation"])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--keep", type=float, default=0.5, help="share of the multiply-accumulates")
    parser.add_argument("--samples", type=int, default=1500, help="inputs to learn from")
    parser.add_argument("--rate", type=float, default=0.05)
    parser.add_argument("--relu", action="store_true", help="in the place of HardSwish and SiLU")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "architecture")
    asked = parser.parse_args()
    models = [next(model for model in MODELS if model.name == name) for name in asked.models]
    fetch([one for one in PACKAGES if one.name in {"scikit-image", *(model.package for model in models)}])
    print(
        "| file | multiply-accumulates | file size | speed against float | equal decisions on 500 inputs |\n|---|---|---|---|---|"
    )
    kept = [_row(model, asked) for model in models]
    return int(not all(kept))


def _row(model: Published, asked: argparse.Namespace) -> bool:
    folder = asked.folder.resolve() / model.name
    data = _data(model, folder, asked.samples)
    recipe = folder / "recipe.json"
    recipe.write_text(json.dumps(_recipe(model, data, asked), indent=1))
    output = folder / f"run-{asked.keep}-{asked.epochs}{'-relu' if asked.relu else ''}"
    subprocess.run(
        [sys.executable, "-m", "compressctl", "apply", str(recipe), "--output", str(output), "--measure", "headline"],
        cwd=ROOT, stdout=sys.stderr, check=False,
    )  # fmt: skip
    part = json.loads((output / "report.json").read_text())["backends"][0]
    found, base = part["compressed"], part["baseline"]
    speed = found["speed"]
    agreement = min(one["agreement"] for one in found["fidelity"]["outputs"] if one["agreement"] is not None)
    print(
        f"| {model.name} | {base['macs'] / found['macs']:.2f}x fewer | {base['total_bytes'] / 1e6:.2f} -> {found['total_bytes'] / 1e6:.2f} MB "
        f"| {speed['ratio']:.2f}x ({speed['low']:.2f} to {speed['high']:.2f}) | {agreement:.1%} |",
        flush=True,
    )
    return bool(speed["ratio"] >= _FASTER and agreement >= _AGREES)


def _data(model: Published, folder: Path, count: int) -> Path:
    """Inputs to learn from, and others to test on, which come last from one generator."""
    path = folder / f"inputs-{count}.npz"
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    made = _SOURCES[model.name](np.random.default_rng(zlib.crc32(model.name.encode())))
    samples = list(islice(made, count + _TEST))
    arrays: dict[str, Any] = {}
    for name in samples[0]:
        stacked = np.concatenate([sample[name] for sample in samples])
        arrays |= {name: stacked[:count], f"test_{name}": stacked[count:]}
    np.savez(path, **arrays)
    return path


def _recipe(model: Published, data: Path, asked: argparse.Namespace) -> dict[str, Any]:
    with np.load(data) as arrays:
        names = [name for name in arrays.files if not name.startswith("test_")]
    training = {"epochs": asked.epochs, "learning_rate": asked.rate, "batch_size": 32}
    return {
        "recipe": "compressctl/v1",
        "name": model.name,
        "task": "classification",
        "model": {"source": "onnx", "path": str(model_path(model)), "trainable": True},
        "data": {
            "source": "npz", "path": str(data), "inputs": {name: name for name in names}, "test_inputs": {name: f"test_{name}" for name in names},
            "labels": None, "calibration": 200, "validation": 100,
        },
        "target": {"backend": "onnxruntime", "threads": 1, "batch_size": 1},
        "stages": [
            {"id": "norms", "use": "unfold"},
            *([{"id": "relu", "use": "replace.activations"}] if asked.relu else []),
            {"id": "narrow", "use": "prune.channels", "keep": asked.keep, "scope": "isomorphic", "if_slower": "keep"},
            {"id": "taught", "use": "distill.logits", "teacher": "original", **training},
            {"id": "int8", "use": "quantize.static", "placement": "measured"},
        ],
        "export": ["onnxruntime"],
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
