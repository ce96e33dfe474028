"""ResNet-20 at half the multiply-accumulates: accuracy and real speed of several ways to choose what goes, in one run.

python benchmarks/prune_channels.py [--epochs 10] [--ways 1 2 3 4] [--json FILE]        (COMPRESSCTL_DATA: README.md beside this file)

The recipe recipes/prune-resnet20.yaml is applied through the command line as it is, with plain fine-tuning instead of
distillation, and with the usual one-cut pruning instead of widths that were timed: the group norm of all layers together,
which is what Torch-Pruning does. All exported files are then timed interleaved, each in its own process, on one thread at
batch 1, and scored on the test split through ONNX Runtime. `--epochs 0` shows the speed alone, in minutes;
each way takes some 15 minutes of one core otherwise.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from compressctl.backends.onnxruntime import BACKEND
from compressctl.core.backend import Artifact
from compressctl.core.events import Events
from compressctl.core.machine import this_machine
from compressctl.core.target import Target
from compressctl.graph.cost import count_macs
from compressctl.measure.latency import compare, operating_point
from compressctl.measure.samples import Samples
from compressctl.measure.score import predict
from compressctl.recipe.loader import load
from compressctl.sources.load import load_dataset
from compressctl.sources.onnx_file import signature_of

RECIPE = Path(__file__).parent.parent / "recipes" / "prune-resnet20.yaml"

_LAYERS = "{id: shorter, use: prune.layers, remove: 1, criterion: latency}"
_TIMED = "{id: slim, use: prune.channels, keep: 0.565, scope: measured, overrides: [{match: conv1, keep: 1.0}]}"
_GLOBAL = "{id: slim, use: prune.channels, keep: 0.5, scope: global, round_to: 1}"
_TRAINING = "epochs: %d, learning_rate: 0.05, augment: {crop_padding: 4, horizontal_flip: true}, precision: bfloat16"
_TUNED = "{id: recover, use: finetune, " + _TRAINING + "}"
_TAUGHT = "{id: recover, use: distill.logits, teacher: original, " + _TRAINING + "}"

WAYS = {
    "a block, then timed widths; distilled": (_LAYERS, _TIMED, _TAUGHT),
    "a block, then timed widths; fine-tuned": (_LAYERS, _TIMED, _TUNED),
    "group norm, global, one cut; fine-tuned": (_GLOBAL, _TUNED),
    "group norm, global, one cut; distilled": (_GLOBAL, _TAUGHT),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10, help="of training after the cut; 0 leaves it out")
    numbers = range(1, len(WAYS) + 1)
    said = "; ".join(f"{number}: {way}" for number, way in zip(numbers, WAYS, strict=True))
    parser.add_argument("--ways", type=int, nargs="+", choices=numbers, default=[*numbers], help=said)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    ways = {way: stages for number, (way, stages) in zip(numbers, WAYS.items(), strict=True) if number in asked.ways}
    with tempfile.TemporaryDirectory() as folder:
        found = _measure(_apply(Path(folder), asked.epochs, ways), asked.epochs)
    print(_table(found))
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


def _apply(folder: Path, epochs: int, ways: Mapping[str, Sequence[str]]) -> dict[str, Path]:
    """The recipe as a user runs it, once for each way; the files that were exported, the float one first."""
    files: dict[str, Path] = {}
    for number, (way, stages) in enumerate(ways.items()):
        if not epochs and stages[:-1] in [other[:-1] for other in list(ways.values())[:number]]:
            continue
        used = [stage % epochs if "%d" in stage else stage for stage in stages if epochs or "%d" not in stage]
        output = folder / str(number)
        command = [sys.executable, "-m", "compressctl.cli.main", "apply", str(RECIPE), "--output", str(output)]
        command += ["--measure", "quick", "--set", f"stages=[{', '.join(used)}]", "--unset", "budget"]
        done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
        if done.returncode:
            raise SystemExit(done.returncode)
        exported = output / "artifacts" / "onnxruntime"
        files.setdefault("float", exported / "baseline" / "model.onnx")
        files[way if epochs else way.partition(";")[0]] = exported / "model.onnx"
    return files


def _measure(files: dict[str, Path], epochs: int) -> dict[str, Any]:
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
                "macs": count_macs(onnx.load(path)).exact,
                "bytes": path.stat().st_size,
                "p50_ms": run.latency.p50_ms,
                "speedup": run.speed.ratio if run.speed else 1.0,
                "interval": [run.speed.low, run.speed.high] if run.speed else None,
            }
        )
    return {"cpu": this_machine().cpu, "epochs": epochs, "rows": rows}


def _table(found: dict[str, Any]) -> str:
    whole = found["rows"][0]
    lines = [
        f"{found['cpu']}, {found['epochs']} epochs after the cut",
        "",
        "| what goes | top-1 | points | MACs | fewer | p50, 1 thread | speed against float (95 % interval) |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        interval = f" ({row['interval'][0]:.2f} to {row['interval'][1]:.2f})" if row["interval"] else ""
        lines.append(
            f"| {row['file']} | {row['top1']:.2f} % | {row['top1'] - whole['top1']:+.2f} | {row['macs'] / 1e6:.1f} M "
            f"| {whole['macs'] / row['macs']:.2f}x | {row['p50_ms']:.3f} ms | {row['speedup']:.2f}x{interval} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
