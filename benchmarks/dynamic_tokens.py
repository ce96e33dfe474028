"""Fewer tokens in MiniLM on texts of 100 tokens or more, in float and in 8 bits, on both runtimes, beside the whole encoder.

    python benchmarks/dynamic_tokens.py [--runs build/dynamic_tokens] [--json FILE]

COMPRESSCTL_MINILM names the folder that export_minilm.py wrote, COMPRESSCTL_TEXTS that of long_texts.py. recipes/tokens-minilm.yaml makes the files: tokens go behind the first and the third layer,
and the whole encoder teaches the rest on 2,600 passages, a quarter of an hour. Nothing is padded: one text a call. Times
are of an independent loop (dynamic_loop.py) over 2,000 passages of the test file.
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
_PASSAGES = 2_000
_RECIPE = "tokens-minilm.yaml"
RUNS = {
    "tokens": ["--unset", "stages.int8"],
    "tokens-int8": [],
    "int8": ["--unset", "stages.tokens"],
    "merged, not trained": [
        "--unset",
        "stages.int8",
        "--unset",
        "stages.tokens.finetune",
        "--set",
        "stages.tokens.method=merge",
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=ROOT / "build" / "dynamic_tokens")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    for name in ("COMPRESSCTL_MINILM", "COMPRESSCTL_TEXTS"):
        if name not in os.environ:
            parser.error(f"set {name}; see benchmarks/README.md")
    folders = {name: _run(name, asked.runs) for name in RUNS}
    texts = _texts()
    found = {backend: _backend(backend, folders, texts) for backend in ("onnxruntime", "openvino")}
    machine = this_machine()
    lengths = [one["input_ids"].shape[1] for one in texts]
    print(
        f"{machine.cpu}, VNNI {'yes' if machine.has_vnni else 'no'}, one thread, {len(texts):,} passages of {min(lengths)} to {max(lengths)} tokens in order"
    )
    for backend, rows in found.items():
        print(f"\n{backend}\n\n| file | Spearman on the test pairs | mean | against float |\n|---|---|---|---|")
        for row in rows:
            print("| {file} | {spearman:.2f} | {mean_ms:.3f} ms | {speed} |".format(**row))
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


def _run(name: str, runs: Path) -> Path:
    output = runs / name.replace(", ", "-").replace(" ", "-")
    if not (output / "report.json").is_file():
        command = [sys.executable, "-m", "compressctl", "apply", str(ROOT / "recipes" / _RECIPE), *RUNS[name]]
        ends = ["--output", str(output), "--measure", "untimed", "--unset", "budget"]
        subprocess.run([*command, *ends], cwd=ROOT, stdout=sys.stderr, check=False)
    return output


def _texts() -> list[dict[str, np.ndarray]]:
    """Passages of the test file, each in its own length."""
    recipe = load(ROOT / "recipes" / _RECIPE, [], [])
    assert recipe.data is not None
    found: list[dict[str, np.ndarray]] = []
    for batch in load_dataset(recipe.data, recipe.base, recipe.seed).split("test").batches(2):
        for row in range(len(batch.indices)):
            length = int(np.asarray(batch.inputs["attention_mask"])[row].sum())
            found.append({name: np.asarray(array)[row : row + 1, :length] for name, array in batch.inputs.items()})
        if len(found) >= _PASSAGES:
            break
    return found


def _backend(backend: str, folders: dict[str, Path], texts: list[dict[str, np.ndarray]]) -> list[dict[str, Any]]:
    name = "model.onnx" if backend == "onnxruntime" else "model.xml"
    files = {"float": folders["tokens"] / "artifacts" / backend / "baseline" / name}
    files |= {run: folder / "artifacts" / backend / name for run, folder in folders.items()}
    found = timed(files, texts)
    rows = []
    for file, one in found.items():
        report = folders["tokens" if file == "float" else file] / "report.json"
        part = next(one for one in json.loads(report.read_text())["backends"] if one["backend"] == backend)
        score = part["baseline" if file == "float" else "compressed"]["score"]
        speed = "" if file == "float" else words(ratio(found["float"], one))
        rows.append({"file": file, "spearman": score["value"], "mean_ms": one.mean_ms, "speed": speed})
    return rows


if __name__ == "__main__":
    main()
