"""What the scripts of dynamic.py share: runs of recipes that are kept, and their files side by side in a loop of their own (dynamic_loop.py)."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from dynamic_loop import ratio, timed, words
from finished import is_finished

from compressctl.core.machine import this_machine
from compressctl.recipe.loader import load
from compressctl.sources.load import load_dataset

ROOT = Path(__file__).parent.parent
Runs = Mapping[str, tuple[str, tuple[str, ...]]]
"""By name, a recipe and what is changed in it."""


def side_by_side(about: str, runs: Runs, folder: str) -> None:
    """A command that makes the files where they are not there, and prints a table for each runtime. The first run's baseline is float, and its data are everybody's."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    first = next(iter(runs))
    parser.add_argument(
        "--file", nargs="*", choices=list(runs), default=list(runs), help=f"{first} is always among them"
    )
    parser.add_argument("--runs", type=Path, default=ROOT / "build" / folder)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    if "COMPRESSCTL_DATA" not in os.environ:
        parser.error("set COMPRESSCTL_DATA to the folder with the data; see benchmarks/README.md")
    folders = {name: _run(*runs[name], asked.runs / name) for name in runs if name in {first, *asked.file}}
    images, labels = _test_images(runs[first][0])
    found = {backend: _backend(backend, folders, images, labels) for backend in ("onnxruntime", "openvino")}
    machine = this_machine()
    print(f"{machine.cpu}, VNNI {'yes' if machine.has_vnni else 'no'}, one thread, {len(images):,} images in order")
    for backend, rows in found.items():
        print(
            f"\n{backend}\n\n| file | right | mean | against float | report's mean | ways |\n|---|---|---|---|---|---|"
        )
        for row in rows:
            print("| {file} | {right:.2f} % | {mean_ms:.3f} ms | {speed} | {reported} | {ways} |".format(**row))
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


def _run(recipe: str, more: tuple[str, ...], output: Path) -> Path:
    if not is_finished(output):
        command = [sys.executable, "-m", "compressctl", "apply", str(ROOT / "recipes" / recipe), *more]
        ends = ["--output", str(output), "--measure", "headline", "--unset", "budget"]
        subprocess.run([*command, *ends], cwd=ROOT, stdout=sys.stderr, check=False)
    return output


def _test_images(recipe_name: str) -> tuple[np.ndarray, np.ndarray]:
    recipe = load(ROOT / "recipes" / recipe_name, [], [])
    assert recipe.data is not None
    batches = list(load_dataset(recipe.data, recipe.base, recipe.seed).split("test").batches(500))
    return np.concatenate([np.asarray(one.inputs["input"]) for one in batches]), np.concatenate(
        [np.asarray(one.labels) for one in batches]
    )


def _backend(backend: str, folders: dict[str, Path], images: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    name = "model.onnx" if backend == "onnxruntime" else "model.xml"
    files = {"float": next(iter(folders.values())) / "artifacts" / backend / "baseline" / name}
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
