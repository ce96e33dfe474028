"""Weights of 4 bits beside activations of 8, by how they are rounded and which layers have them: ways beside each other in one run.

python benchmarks/four_bits.py [--json FILE]        (COMPRESSCTL_DATA: README.md beside this file)

recipes/w4a8-resnet20.yaml is applied in each way. All exported files are then timed interleaved, each in its own process, on one
thread at batch 1, and scored on the recipe's test split through ONNX Runtime. "Transport" is the file after Zstandard, level 19.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import onnx
import zstandard

from compressctl.backends.onnxruntime import BACKEND
from compressctl.core.backend import Artifact
from compressctl.core.events import Events
from compressctl.core.machine import this_machine
from compressctl.core.target import Target
from compressctl.measure.latency import compare, operating_point
from compressctl.measure.samples import Samples
from compressctl.measure.score import predict
from compressctl.recipe.loader import load
from compressctl.sources.load import load_dataset
from compressctl.sources.onnx_file import signature_of

RECIPE = Path(__file__).parent.parent / "recipes" / "w4a8-resnet20.yaml"
LEARNED = "rounding: adaround"
MIXED = "use: quantize.mixed, id: int8, if_slower: keep, size: 0.16"

WAYS = {
    "8 bits, nearest": "use: quantize.static, id: int8",
    "4 bits, nearest": "use: quantize.static, id: int8, weights: int4",
    "4 bits, AdaRound": f"use: quantize.static, id: int8, weights: int4, {LEARNED}",
    "mixed by KL within 16 % of float's bytes, nearest": MIXED,
    "mixed by the Hessian's trace, the same bytes, nearest": f"{MIXED}, sensitivity: hessian",
    "mixed by KL, AdaRound": f"{MIXED}, static: {{{LEARNED}}}",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = _measure(*_apply(Path(folder)))
    print(_table(found))
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


def _apply(folder: Path) -> tuple[dict[str, Path], dict[str, float]]:
    """The recipe as a user runs it, once for each way: exported files, the float one first, and seconds of the stage."""
    files: dict[str, Path] = {}
    seconds: dict[str, float] = {}
    for number, (way, stage) in enumerate(WAYS.items()):
        output = folder / str(number)
        command = [
            sys.executable,
            "-m",
            "compressctl.cli.main",
            "apply",
            str(RECIPE),
            "--output",
            str(output),
            "--no-cache",
        ]
        started = time.perf_counter()
        done = subprocess.run(
            [*command, "--measure", "quick", "--set", f"stages=[{{{stage}}}]"],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode not in (0, 1):
            raise SystemExit(done.stderr)
        report = json.loads((output / "report.json").read_text())
        seconds[way] = next(part["seconds"] for part in report["stages"] if part["id"] == "int8")
        exported = output / "artifacts" / "onnxruntime"
        files.setdefault("float", exported / "baseline" / "model.onnx")
        files[way] = exported / "model.onnx"
        print(f"{way}: {time.perf_counter() - started:.0f} s with measuring", file=sys.stderr, flush=True)
    return files, seconds


def _measure(files: dict[str, Path], seconds: dict[str, float]) -> dict[str, Any]:
    recipe = load(RECIPE, [], [])
    assert recipe.data is not None
    test = load_dataset(recipe.data, recipe.base, recipe.seed).split("test")
    signature = signature_of(onnx.load(files["float"]).graph, files["float"])
    artifacts = [Artifact("onnxruntime", path, (path,)) for path in files.values()]
    runs = compare(
        artifacts,
        [operating_point(Target("onnxruntime", threads=1, batch_size=1), Samples(signature))],
        signature,
        Events(),
    ).points[0]
    rows = []
    for (name, path), artifact, run in zip(files.items(), artifacts, runs, strict=True):
        predictions = predict(BACKEND.open(artifact, Target("onnxruntime", threads=0)), test, signature, 64, None)
        rows.append(
            {
                "file": name,
                "top1": float((predictions.outputs.argmax(axis=1) == predictions.labels).mean() * 100),
                "bytes": path.stat().st_size,
                "transport_bytes": len(zstandard.ZstdCompressor(level=19).compress(path.read_bytes())),
                "seconds": seconds.get(name),
                "speedup": run.speed.ratio if run.speed else 1.0,
                "interval": [run.speed.low, run.speed.high] if run.speed else None,
            }
        )
    return {"cpu": this_machine().cpu, "rows": rows}


def _table(found: dict[str, Any]) -> str:
    lines = [
        found["cpu"],
        "",
        "| weights | top-1 | file | transport | speed against float (95 % interval) | time of the stage |",
        "|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        interval = f" ({row['interval'][0]:.2f} to {row['interval'][1]:.2f})" if row["interval"] else ""
        took = f"{row['seconds']:.0f} s" if row["seconds"] is not None else ""
        lines.append(
            f"| {row['file']} | {row['top1']:.2f} % | {row['bytes'] / 1e3:,.0f} kB | {row['transport_bytes'] / 1e3:,.0f} kB "
            f"| {row['speedup']:.2f}x{interval} | {took} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
