"""MiniLM from its folder, texts in their own lengths: 8 bits, and fewer layers taught by the whole encoder, beside ONNX Runtime's quantizer.

python benchmarks/minilm_folder.py [--runs build/minilm_folder] [--json FILE]      (COMPRESSCTL_DATA and COMPRESSCTL_MINILM as README.md says)

Each recipe is one `compressctl apply`, whose run is kept and not made again (the shorter encoders are trained, an hour or two on two cores).
The float file is also quantized by `onnxruntime.quantization`, per channel, and in 7 bits where there is no VNNI, as its documentation advises.
All files are timed in turns, each in its own process, on one thread, with one text as long as the shortest tenth, the median and the longest
tenth of the data; nothing is padded for any of them. Scored on STS-B's test file, one text at a time, as it is served.
"""

import argparse
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
from finished import is_finished
from onnxruntime.quantization import quantize_dynamic

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
RECIPES = {
    "8 bits": "minilm-int8.yaml",
    "3 of 6 layers, 8 bits": "minilm-3-layers.yaml",
    "2 of 6 layers, 8 bits": "minilm-2-layers.yaml",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=ROOT / "build" / "minilm_folder")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    asked.runs.mkdir(parents=True, exist_ok=True)
    found = _measured(_files(asked.runs))
    print(_table(found))
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


def _files(runs: Path) -> dict[str, Path]:
    """Every file to compare, the float one first."""
    files: dict[str, Path] = {}
    for name, recipe in RECIPES.items():
        output = runs / Path(recipe).stem
        if not is_finished(output):
            command = [sys.executable, "-m", "compressctl.cli.main", "apply", str(ROOT / "recipes" / recipe)]
            subprocess.run(
                [*command, "--output", str(output), "--measure", "untimed", "--unset", "budget"], check=False
            )
        exported = output / "artifacts" / "onnxruntime"
        files.setdefault("float", exported / "baseline" / "model.onnx")
        files[f"compressctl, {name}"] = exported / "model.onnx"
    has_vnni = this_machine().has_vnni
    theirs = runs / f"theirs-{8 if has_vnni else 7}.onnx"
    files[f"onnxruntime quantize_dynamic, per channel, {8 if has_vnni else 7} bits"] = theirs
    quantize_dynamic(files["float"], theirs, per_channel=True, reduce_range=not has_vnni)
    return files


def _measured(files: dict[str, Path]) -> dict[str, Any]:
    recipe = load(ROOT / "recipes" / "minilm-int8.yaml", [], [])
    assert recipe.data is not None
    data = load_dataset(recipe.data, recipe.base, recipe.seed)
    profile = resolve_profile("auto", this_machine())
    target = Target("onnxruntime", threads=1, batch_size=1, profile=profile)
    signature = signature_of(onnx.load(files["float"]).graph, files["float"])
    samples = Samples(signature, data)
    artifacts = [Artifact("onnxruntime", path, (path,)) for path in files.values()]
    points = [operating_point(target, samples, size) for size in samples.sizes]
    timed = compare(artifacts, points, signature, Events())
    rows = []
    for place, (name, path) in enumerate(files.items()):
        predictions = predict(BACKEND.open(artifacts[place], target), data.split("test"), signature, 1, None)
        assert predictions.labels is not None
        speeds = [runs[place].speed for runs in timed.points]
        rows.append(
            {
                "file": name,
                "bytes": path.stat().st_size,
                "spearman": spearman(predictions.outputs, predictions.labels),
                "p50_ms": [runs[place].latency.p50_ms for runs in timed.points],
                "speed": [None if speed is None else [speed.ratio, speed.low, speed.high] for speed in speeds],
            }
        )
    lengths = [next(iter(samples.call(1, size).inputs.values())).shape[-1] for size in samples.sizes]
    machine = this_machine()
    return {"cpu": machine.cpu, "vnni": machine.has_vnni, "profile": profile, "tokens": lengths, "rows": rows}


def _table(found: dict[str, Any]) -> str:
    lengths = [f"{count} tokens" for count in found["tokens"]]
    lines = [
        f"{found['cpu']}, VNNI {'yes' if found['vnni'] else 'no'}, compressed for {found['profile']}",
        "",
        f"| file | Spearman on STS-B test | size | {' | '.join(f'{words}, times float' for words in lengths)} |",
        f"|---|---|---|{'---|' * len(lengths)}",
    ]
    for row in found["rows"]:
        cells = [
            f"{latency:.2f} ms" if speed is None else "{:.2f}x ({:.2f} to {:.2f})".format(*speed)
            for latency, speed in zip(row["p50_ms"], row["speed"], strict=True)
        ]
        lines.append(f"| {row['file']} | {row['spearman']:.2f} | {row['bytes'] / 1e6:.2f} MB | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
