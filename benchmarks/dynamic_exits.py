"""ResNet-20 (JPEG CIFAR) that answers early where it is sure, in float and in INT8, on both runtimes, beside the original and the best static files.

    python benchmarks/dynamic_exits.py [--file exits exits-int8 int8 pruned pruned-int8] [--runs build/dynamic] [--json FILE]

COMPRESSCTL_DATA names the folder with the data (benchmarks/README.md). recipes/exits-resnet20.yaml makes the files: two heads, eight epochs with the original as teacher, thresholds on
2,000 images of the test split, of at most 0.5 points; the other 8,000 report. Static files with ten epochs too: recipes/prune-resnet20.yaml (half of the arithmetic) in
float and recipes/small-resnet20.yaml in INT8, and INT8 alone. Runs are kept and not made again. Times are of an independent loop (dynamic_loop.py) over all 8,000 images.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from dynamic_loop import ratio, timed, words

from compressctl.core.machine import this_machine
from compressctl.recipe.loader import load
from compressctl.sources.load import load_dataset

ROOT = Path(__file__).parent.parent
RUNS = {
    "exits": ("exits-resnet20.yaml", ["--unset", "stages.int8"]),
    "exits-int8": ("exits-resnet20.yaml", []),
    "int8": ("exits-resnet20.yaml", ["--unset", "stages.exits"]),
    "pruned": ("prune-resnet20.yaml", ["--set", "export=[onnxruntime, openvino]"]),
    "pruned-int8": ("small-resnet20.yaml", ["--set", "export=[onnxruntime, openvino]"]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", nargs="*", choices=list(RUNS), default=list(RUNS), help="exits is always among them")
    parser.add_argument("--runs", type=Path, default=ROOT / "build" / "dynamic")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    if "COMPRESSCTL_DATA" not in os.environ:
        parser.error("set COMPRESSCTL_DATA to the folder with the data; see benchmarks/README.md")
    folders = {name: _run(name, asked.runs) for name in RUNS if name in {"exits", *asked.file}}
    images, labels = _test_images()
    found = {backend: _backend(backend, folders, images, labels) for backend in ("onnxruntime", "openvino")}
    machine = this_machine()
    print(f"{machine.cpu}, VNNI {'yes' if machine.has_vnni else 'no'}, one thread, {len(images):,} images in order")
    for backend, rows in found.items():
        print(
            f"\n{backend}\n\n| file | right | mean | against float | report's mean | leaves at |\n|---|---|---|---|---|---|"
        )
        for row in rows:
            print("| {file} | {right:.2f} % | {mean_ms:.3f} ms | {speed} | {reported} | {ways} |".format(**row))
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


def _run(name: str, runs: Path) -> Path:
    recipe, more = RUNS[name]
    output = runs / name
    if not (output / "report.json").is_file():
        command = [sys.executable, "-m", "compressctl", "apply", str(ROOT / "recipes" / recipe), *more]
        subprocess.run(
            [*command, "--output", str(output), "--measure", "headline", "--unset", "budget"],
            cwd=ROOT,
            stdout=sys.stderr,
            check=False,
        )
    return output


def _test_images() -> tuple[np.ndarray, np.ndarray]:
    recipe = load(ROOT / "recipes" / "exits-resnet20.yaml", [], [])
    assert recipe.data is not None
    batches = list(load_dataset(recipe.data, recipe.base, recipe.seed).split("test").batches(500))
    return np.concatenate([np.asarray(one.inputs["input"]) for one in batches]), np.concatenate(
        [np.asarray(one.labels) for one in batches]
    )


def _backend(backend: str, folders: dict[str, Path], images: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    name = "model.onnx" if backend == "onnxruntime" else "model.xml"
    files = {"float": folders["exits"] / "artifacts" / backend / "baseline" / name}
    files |= {run: folder / "artifacts" / backend / name for run, folder in folders.items()}
    found = timed(files, [{"input": image[None]} for image in images])
    rows = []
    for file, one in found.items():
        part = {} if file == "float" else _reported(folders[file], backend)
        ways = part.get("paths") or {"paths": []}
        latency = part.get("latency") or {}
        rows.append(
            {
                "file": file,
                "right": 100
                * float(np.mean([row[0].argmax() == label for row, label in zip(one.outputs, labels, strict=True)])),
                "mean_ms": one.mean_ms,
                "speed": "" if file == "float" else words(ratio(found["float"], one)),
                "reported": f"{latency['mean_ms']:.3f} ms" if latency.get("inputs", 1) > 1 else "",
                "ways": ", ".join(f"{way['name']} {way['share']:.0%}" for way in ways["paths"]),
            }
        )
    return rows


def _reported(folder: Path, backend: str) -> dict[str, Any]:
    report = json.loads((folder / "report.json").read_text())
    return next((part["compressed"] for part in report["backends"] if part["backend"] == backend), {})


if __name__ == "__main__":
    main()
