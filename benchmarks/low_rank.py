"""Low rank where it pays, and where it does not: parameters, accuracy and measured speed, ways beside each other in one run.

python benchmarks/low_rank.py [--json FILE]        (COMPRESSCTL_DATA: README.md beside this file; benchmarks/train_mlp.py first)

The recipe recipes/factorize-mlp.yaml is applied with its ranks found in different ways, among them the plain truncated SVD of
other tools (one ratio for all layers, no calibration). All exported files are then timed interleaved, each in its own process,
on one thread at batch 1, and scored on the recipe's test split through ONNX Runtime.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import onnx

from compressctl.backends.onnxruntime import BACKEND
from compressctl.core.backend import Artifact
from compressctl.core.events import Events
from compressctl.core.machine import this_machine
from compressctl.core.target import Target
from compressctl.graph.cost import costs, count_macs
from compressctl.measure.latency import compare, operating_point
from compressctl.measure.samples import Samples
from compressctl.measure.score import predict
from compressctl.recipe.loader import load
from compressctl.sources.load import load_dataset
from compressctl.sources.onnx_file import signature_of

RECIPE = Path(__file__).parent.parent / "recipes" / "factorize-mlp.yaml"

WAYS = {
    "0.2 points on the validation split": [],
    "a third, shared": ["stages.thin.rank={global_ratio: 0.33}"],
    "a third of each layer": ["stages.thin.rank={ratio: 0.33}"],
    "a third of each layer, without whitening": ["stages.thin.rank={ratio: 0.33}", "stages.thin.whitening=false"],
    "a tenth, shared": ["stages.thin.rank={global_ratio: 0.1}"],
    "a tenth of each layer, without whitening": ["stages.thin.rank={ratio: 0.1}", "stages.thin.whitening=false"],
    "EVBMF": ["stages.thin.rank=evbmf"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = _measure(_apply(Path(folder)))
    print(_table(found))
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


def _apply(folder: Path) -> dict[str, Path]:
    """The recipe as a user runs it, once for each way; the files that were exported, the float one first."""
    files: dict[str, Path] = {}
    for number, (way, sets) in enumerate(WAYS.items()):
        output = folder / str(number)
        options = [part for value in sets for part in ("--set", value)]
        command = [sys.executable, "-m", "compressctl.cli.main", "apply", str(RECIPE), "--output", str(output)]
        done = subprocess.run([*command, "--measure", "quick", *options], check=False, capture_output=True, text=True)
        if done.returncode not in (0, 1):
            raise SystemExit(done.stderr)
        exported = output / "artifacts" / "onnxruntime"
        files.setdefault("float", exported / "baseline" / "model.onnx")
        files[way] = exported / "model.onnx"
    return files


def _measure(files: dict[str, Path]) -> dict[str, Any]:
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
        body = onnx.load(path)
        rows.append(
            {
                "file": name,
                "top1": float((predictions.outputs.argmax(axis=1) == predictions.labels).mean() * 100),
                "parameters": sum(node.parameters for node in costs(body)),
                "macs": count_macs(body).exact,
                "bytes": path.stat().st_size,
                "p50_ms": run.latency.p50_ms,
                "speedup": run.speed.ratio if run.speed else 1.0,
                "interval": [run.speed.low, run.speed.high] if run.speed else None,
            }
        )
    return {"cpu": this_machine().cpu, "rows": rows}


def _table(found: dict[str, Any]) -> str:
    whole = found["rows"][0]
    lines = [
        found["cpu"],
        "",
        "| ranks | top-1 | parameters | fewer | p50, 1 thread | speed against float (95 % interval) |",
        "|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        interval = f" ({row['interval'][0]:.2f} to {row['interval'][1]:.2f})" if row["interval"] else ""
        lines.append(
            f"| {row['file']} | {row['top1']:.2f} % | {row['parameters'] / 1e3:,.0f} thousand "
            f"| {whole['parameters'] / row['parameters']:.2f}x | {row['p50_ms']:.3f} ms | {row['speedup']:.2f}x{interval} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
