"""Fewer tokens in MiniLM on texts of 100 tokens or more, and in a vision transformer of 196, in float and in 8 bits, on both runtimes.

    python benchmarks/dynamic_tokens.py [--network minilm vit] [--runs build/dynamic_tokens] [--json FILE]

COMPRESSCTL_MINILM names the folder that export_minilm.py wrote, COMPRESSCTL_TEXTS that of long_texts.py, COMPRESSCTL_FASHION that of train_vit.py. recipes/tokens-minilm.yaml and
tokens-vit.yaml make the files; MiniLM is taught by the whole encoder for five minutes, the vision transformer by itself for an epoch. Nothing is padded: one text a call. Times are of an
independent loop (dynamic_loop.py), over 2,000 passages of the test file and 2,000 test images in order.
"""

from __future__ import annotations

import argparse
import json
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
_INPUTS = 2_000
_FLOAT = ("--unset", "stages.int8")
_MERGED = (*_FLOAT, "--set", "stages.tokens.method=merge")
RUNS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "minilm": {
        "tokens": _FLOAT,
        "tokens and 8 bits": (),
        "8 bits": ("--unset", "stages.tokens"),
        "tokens, not trained": (*_FLOAT, "--unset", "stages.tokens.finetune"),
        "merged, not trained": (*_MERGED, "--unset", "stages.tokens.finetune"),
    },
    "vit": {
        "tokens": _FLOAT,
        "tokens and 8 bits": (),
        "8 bits": ("--unset", "stages.tokens"),
        "merged": _MERGED,
        "tokens, not trained": (*_FLOAT, "--unset", "stages.tokens.finetune"),
        "merged, not trained": (*_MERGED, "--unset", "stages.tokens.finetune"),
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="*", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--runs", type=Path, default=ROOT / "build" / "dynamic_tokens")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    machine = this_machine()
    print(f"{machine.cpu}, VNNI {'yes' if machine.has_vnni else 'no'}, one thread")
    found: dict[str, Any] = {}
    for network in asked.network:
        folders = {name: _run(network, name, asked.runs) for name in RUNS[network]}
        inputs = _inputs(network)
        for backend in ("onnxruntime", "openvino"):
            rows = found[f"{network}, {backend}"] = _backend(backend, folders, inputs)
            print(
                f"\n{network}, {backend}, {len(inputs):,} inputs\n\n| file | score | mean | against float |\n|---|---|---|---|"
            )
            for row in rows:
                print("| {file} | {score:.2f} | {mean_ms:.3f} ms | {speed} |".format(**row), flush=True)
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


def _run(network: str, name: str, runs: Path) -> Path:
    output = runs / network / name.replace(", ", "-").replace(" ", "-")
    if not is_finished(output):
        recipe = ROOT / "recipes" / f"tokens-{network}.yaml"
        command = [sys.executable, "-m", "compressctl", "apply", str(recipe), *RUNS[network][name]]
        ends = ["--output", str(output), "--measure", "untimed", "--unset", "budget"]
        subprocess.run([*command, *ends], cwd=ROOT, stdout=sys.stderr, check=False)
    return output


def _inputs(network: str) -> list[dict[str, np.ndarray]]:
    """Of the test split, in order; texts each in its own length."""
    recipe = load(ROOT / "recipes" / f"tokens-{network}.yaml", [], [])
    assert recipe.data is not None
    found: list[dict[str, np.ndarray]] = []
    for batch in load_dataset(recipe.data, recipe.base, recipe.seed).split("test").batches(2):
        arrays = {name: np.asarray(array) for name, array in batch.inputs.items()}
        for row in range(len(batch.indices)):
            mask = arrays.get("attention_mask")
            length = None if mask is None else int(mask[row].sum())
            found.append({name: array[row : row + 1, :length] for name, array in arrays.items()})
        if len(found) >= _INPUTS:
            break
    return found


def _backend(backend: str, folders: dict[str, Path], inputs: list[dict[str, np.ndarray]]) -> list[dict[str, Any]]:
    name = "model.onnx" if backend == "onnxruntime" else "model.xml"
    files = {"float": folders["tokens"] / "artifacts" / backend / "baseline" / name}
    files |= {run: folder / "artifacts" / backend / name for run, folder in folders.items()}
    found = timed(files, inputs)
    rows = []
    for file, one in found.items():
        report = folders["tokens" if file == "float" else file] / "report.json"
        part = next(entry for entry in json.loads(report.read_text())["backends"] if entry["backend"] == backend)
        score = part["baseline" if file == "float" else "compressed"]["score"]
        speed = "" if file == "float" else words(ratio(found["float"], one))
        rows.append({"file": file, "score": score["value"], "mean_ms": one.mean_ms, "speed": speed})
    return rows


if __name__ == "__main__":
    main()
