"""A sentence encoder in 8 and 4 bits, beside ONNX Runtime's quantize_dynamic: Spearman on STS-B, size and speed in one run.

python benchmarks/minilm.py [--json FILE]      (COMPRESSCTL_DATA and COMPRESSCTL_MINILM as README.md says)

Both recipes are applied through the command line; their fp32 export is then quantized by `onnxruntime.quantization`, per
channel and in 7 bits, as its documentation advises for processors without VNNI. All files are timed interleaved, each in its
own process, on one thread with one text of 64 tokens, and scored on STS-B's test file, one text at a time.
"""

import argparse
import json
import logging
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from compressctl.backends.onnxruntime import BACKEND
from compressctl.core.backend import Artifact
from compressctl.core.events import Events
from compressctl.core.machine import this_machine
from compressctl.core.target import Target, resolve_profile
from compressctl.measure.latency import compare, operating_point
from compressctl.measure.samples import Samples
from compressctl.measure.score import predict
from compressctl.recipe.loader import load
from compressctl.sources.load import load_dataset
from compressctl.sources.onnx_file import signature_of
from compressctl.tasks.metrics import spearman

ROOT = Path(__file__).parent.parent
RECIPES = {"compressctl, 8 bits": "sentences-int8.yaml", "compressctl, 4 bits": "sentences-int4.yaml"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        found = _benchmark(Path(folder))
    print(_table(found))
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


def _benchmark(folder: Path) -> dict[str, Any]:
    files = _files(folder)
    recipe = load(ROOT / "recipes" / "sentences-int8.yaml", [], [])
    assert recipe.data is not None
    data = load_dataset(recipe.data, recipe.base, recipe.seed)
    profile = resolve_profile("auto", this_machine())
    target = Target("onnxruntime", threads=1, batch_size=1, profile=profile)
    signature = signature_of(onnx.load(files["fp32"]).graph, files["fp32"])
    artifacts = [Artifact("onnxruntime", path, (path,)) for path in files.values()]
    runs = compare(artifacts, [operating_point(target, Samples(signature))], signature, Events()).points[0]
    rows = []
    for (name, path), artifact, run in zip(files.items(), artifacts, runs, strict=True):
        # One text at a time, as it is served: activations that are quantized while the model runs depend on the batch.
        predictions = predict(BACKEND.open(artifact, target), data.split("test"), signature, 1, None)
        assert predictions.labels is not None
        rows.append(
            {
                "file": name,
                "bytes": path.stat().st_size,
                "spearman": spearman(predictions.outputs, predictions.labels),
                "p50_ms": run.latency.p50_ms,
                "speedup": run.speed.ratio if run.speed else 1.0,
                "interval": [run.speed.low, run.speed.high] if run.speed else None,
            }
        )
    return {"cpu": this_machine().cpu, "vnni": this_machine().has_vnni, "profile": profile, "rows": rows}


def _files(folder: Path) -> dict[str, Path]:
    """Every file to compare, the fp32 one first."""
    files: dict[str, Path] = {}
    for name, recipe in RECIPES.items():
        output = folder / Path(recipe).stem
        command = [sys.executable, "-m", "compressctl.cli.main", "apply", str(ROOT / "recipes" / recipe)]
        subprocess.run([*command, "--output", str(output), "--measure", "quick"], check=False)
        exported = output / "artifacts" / "onnxruntime"
        files.setdefault("fp32", exported / "baseline" / "model.onnx")
        files[name] = exported / "model.onnx"
    theirs = files["onnxruntime quantize_dynamic, per channel, 7 bits"] = folder / "theirs.onnx"
    quantize_dynamic(files["fp32"], theirs, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8)
    return files


def _table(found: dict[str, Any]) -> str:
    lines = [
        f"{found['cpu']}, VNNI {'yes' if found['vnni'] else 'no'}, compressed for {found['profile']}",
        "",
        "| file | Spearman on STS-B test | size | p50, 1 thread, 64 tokens | speed against fp32 (95 % interval) |",
        "|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        interval = f" ({row['interval'][0]:.2f} to {row['interval'][1]:.2f})" if row["interval"] else ""
        lines.append(
            f"| {row['file']} | {row['spearman']:.2f} | {row['bytes'] / 1e6:.2f} MB | {row['p50_ms']:.2f} ms "
            f"| {row['speedup']:.2f}x{interval} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
