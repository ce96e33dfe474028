"""`compressctl auto` on EfficientNet-Lite0 without training, beside the searches of ONNX Runtime's tools, NNCF and Olive.

    python benchmarks/search_efficientnet.py [--runtime onnxruntime openvino] [--time 20m] [--olive PYTHON] [--folder FOLDER]

COMPRESSCTL_IMAGENET and build/efficientnet_lite0.onnx as README.md says. Of 1,000 images 200 calibrate and 100 choose, for all tools; the other
700 are looked at once, at the end, for every file. `auto --drop 1 --speedup 2.2` (2.45 in OpenVINO) runs for --time; each file of its front is
made by its recipe. search_efficientnet_peers.py then searches as long with each peer: grids of calibration and types (ONNX Runtime), presets,
bias correction and control of accuracy (NNCF), Olive's own search (--olive: an interpreter with olive-ai; left out without). All files of a
runtime are timed in turns on one thread. Files are kept and not made again. Exits with 1 where a figure of the issue is missed: at most four
images lost at the speed asked, five files on the front down to 4 MB, and for each file of a peer one of ours that is no larger, no slower
beyond the interval and, within the paired interval, as accurate.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from finished import is_finished
from search_efficientnet_peers import MODEL

from compressctl.backends import onnxruntime, openvino
from compressctl.core.backend import Artifact
from compressctl.core.data import Dataset
from compressctl.core.errors import CompressctlError
from compressctl.core.machine import this_machine
from compressctl.core.target import Target
from compressctl.measure.latency import compare, operating_point
from compressctl.measure.results import Speedup
from compressctl.measure.samples import Samples
from compressctl.measure.score import predict
from compressctl.recipe.loader import load
from compressctl.sources.load import load_dataset
from compressctl.sources.onnx_file import signature_of

ROOT = Path(__file__).parent.parent
BACKENDS = {"onnxruntime": onnxruntime.BACKEND, "openvino": openvino.BACKEND}
SPEEDUPS = {"onnxruntime": 2.2, "openvino": 2.45}
PEERS = {"onnxruntime": ("onnxruntime", "nncf", "olive"), "openvino": ("nncf",)}
_LOST, _FILES, _SMALLEST = 4, 5, 4.05e6
_RESAMPLES = 2000


@dataclass(frozen=True)
class Found:
    """One file: size in bytes, times as fast as float, and which of the test images are told right, (700,) bool."""

    name: str
    size: int
    speed: Speedup | None
    right: np.ndarray


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtime", nargs="+", choices=list(SPEEDUPS), default=list(SPEEDUPS))
    parser.add_argument("--time", default="20m", help="of each search, ours and the peers'")
    parser.add_argument("--olive", help="a Python interpreter that has olive-ai")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "search" / "efficientnet")
    asked = parser.parse_args()
    if "COMPRESSCTL_IMAGENET" not in os.environ or not MODEL.is_file():
        parser.error("set COMPRESSCTL_IMAGENET and export the network; see benchmarks/README.md")
    logging.disable(logging.WARNING)
    asked.folder.mkdir(parents=True, exist_ok=True)
    recipe = _recipe(asked.folder)
    kept = [_runtime(runtime, recipe, asked) for runtime in asked.runtime]
    return int(not all(kept))


def _recipe(folder: Path) -> Path:
    path = folder / "efficientnet-lite0.yaml"
    data = {
        "source": "image_folder", "path": os.environ["COMPRESSCTL_IMAGENET"], "labels": "prefix", "resize": 256, "center_crop": 224,
        "interpolation": "bicubic", "scale": 1, "mean": [127], "std": [128], "calibration": 200, "validation": 100, "test": 700,
    }  # fmt: skip
    content = {
        "recipe": "compressctl/v1",
        "name": "efficientnet-lite0",
        "task": "classification",
        "model": {"source": "onnx", "path": str(MODEL)},
        "data": data,
        "target": {"device": "cpu", "threads": 1, "batch_size": 1},
    }
    path.write_text(json.dumps(content, indent=1))
    return path


def _runtime(runtime: str, recipe: Path, asked: argparse.Namespace) -> bool:
    folder = asked.folder / runtime
    search = _searched(runtime, recipe, folder, asked.time)
    ours = {f"compressctl, {name}": path for name, path in _front(search, recipe, folder).items()}
    theirs = {}
    for peer in PEERS[runtime]:
        theirs.update({f"{peer}, {name}": path for name, path in _peers(peer, runtime, recipe, folder, asked).items()})
    baseline = next(path for path in folder.glob(f"rebuilt/*/artifacts/{runtime}/baseline/model.*") if _is_graph(path))
    theirs = {name: path for name, path in theirs.items() if _is_run(runtime, name, path)}
    files = {"float": baseline, **ours, **theirs}
    found = {one.name: one for one in _measured(runtime, files, recipe)}
    chosen = found.get(f"compressctl, {search['chosen']}")
    return _told(
        runtime, search, chosen, found["float"], [found[name] for name in ours], [found[name] for name in theirs]
    )


def _searched(runtime: str, recipe: Path, folder: Path, time: str) -> dict[str, Any]:
    output = folder / "auto"
    if not (output / "search.json").is_file():
        _run("auto", str(recipe), "--backend", runtime, "--drop", "1", "--speedup", str(SPEEDUPS[runtime]), "--time", time, "--output", str(output))  # fmt: skip
    found: dict[str, Any] = json.loads((output / "search.json").read_text())
    return found


def _front(search: dict[str, Any], recipe: Path, folder: Path) -> dict[str, Path]:
    """The files of the front and the one that was chosen, each made by its own recipe."""
    made = {}
    runtime = folder.name
    for point in search["points"]:
        if not (point["is_on_front"] or point["name"] == search["chosen"]) or point["recipe_file"] is None:
            continue
        output = folder / "rebuilt" / point["name"]
        if not is_finished(output):
            _run("apply", str(folder / "auto" / point["recipe_file"]), "--output", str(output), "--measure", "untimed")  # fmt: skip
        files = [path for path in (output / "artifacts" / runtime).glob("model.*") if _is_graph(path)]
        if files:
            made[point["name"]] = files[0]
    return made


def _peers(peer: str, runtime: str, recipe: Path, folder: Path, asked: argparse.Namespace) -> dict[str, Path]:
    if peer == "olive" and asked.olive is None:
        print("olive: left out, since --olive names no interpreter that has it", file=sys.stderr)
        return {}
    output = folder / peer
    if not (output / "done").is_file():
        output.mkdir(parents=True, exist_ok=True)
        script = str(Path(__file__).with_name("search_efficientnet_peers.py"))
        interpreter = asked.olive if peer == "olive" else sys.executable
        command = [interpreter, script, peer, runtime, str(recipe), str(output), "--time", asked.time]
        done = subprocess.run(command, stdout=sys.stderr, check=False)
        if done.returncode == 0:
            (output / "done").touch()
    suffix = ".onnx" if runtime == "onnxruntime" else ".xml"
    return {path.stem: path for path in sorted(output.glob(f"*{suffix}"))}


def _is_graph(path: Path) -> bool:
    """Not the weights beside it."""
    return path.suffix in (".onnx", ".xml")


def _is_run(runtime: str, name: str, path: Path) -> bool:
    try:
        session = BACKENDS[runtime].open(Artifact(runtime, path, _parts(path)), Target(runtime, threads=0))
        session.run({"input": np.zeros((1, 3, 224, 224), np.float32)})
    except CompressctlError as error:
        print(f"left out, {runtime} does not run it: {name}: {error.message[:200]}")
        return False
    return True


def _run(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "compressctl", *arguments], cwd=ROOT, stdout=sys.stderr, check=False)


def _measured(runtime: str, files: dict[str, Path], recipe: Path) -> list[Found]:
    loaded = load(recipe, [], [])
    assert loaded.data is not None
    data: Dataset = load_dataset(loaded.data, loaded.base, loaded.seed)
    signature = signature_of(onnx.load(MODEL).graph, MODEL)
    target = Target(runtime, threads=1, batch_size=1)
    artifacts = [Artifact(runtime, path, _parts(path)) for path in files.values()]
    runs = compare(artifacts, [operating_point(target, Samples(signature))], signature, None).points[0]
    found = []
    for name, artifact, run in zip(files, artifacts, runs, strict=True):
        session = BACKENDS[runtime].open(artifact, Target(runtime, threads=0))
        predictions = predict(session, data.split("test"), signature, 50)
        right = predictions.outputs.argmax(axis=1) == np.asarray(predictions.labels)
        found.append(Found(name, sum(part.stat().st_size for part in artifact.files), run.speed, right))
    return found


def _parts(path: Path) -> tuple[Path, ...]:
    return (path, path.with_suffix(".bin")) if path.suffix == ".xml" else (path,)


def _told(
    runtime: str, search: dict[str, Any], chosen: Found | None, original: Found, ours: list[Found], theirs: list[Found]
) -> bool:
    machine = this_machine()
    print(f"\n{runtime}: {machine.cpu}, VNNI {'yes' if machine.has_vnni else 'no'}; `auto` chose {search['chosen']}\n")
    print("| file | right of 700 | size | speed against float | no worse than it in all three |\n|---|---|---|---|---|")
    _row(original, "")
    for one in sorted(ours, key=lambda found: found.size):
        _row(one, "")
    unmatched = []
    for one in sorted(theirs, key=lambda found: found.size):
        better = [mine.name for mine in ours if _is_no_worse(mine, one)]
        unmatched += [] if better else [one.name]
        _row(one, ", ".join(name.removeprefix("compressctl, ") for name in better) or "none of ours")
    print(f"\n{_foretold(search)}")
    met = _is_met(runtime, chosen, original, ours)
    print(
        f"\nwhat was asked: {'met' if all(met.values()) else 'missed: ' + ', '.join(name for name, holds in met.items() if not holds)}"
    )
    print(f"files of peers that none of ours stands against: {', '.join(unmatched) or 'none'}", flush=True)
    return all(met.values()) and not unmatched


def _row(one: Found, matched: str) -> None:
    speed = (
        "the float file"
        if one.speed is None
        else f"{one.speed.ratio:.2f}x ({one.speed.low:.2f} to {one.speed.high:.2f})"
    )
    print(f"| {one.name} | {int(one.right.sum())} | {one.size / 1e6:.2f} MB | {speed} | {matched} |")


def _is_no_worse(mine: Found, other: Found) -> bool:
    """Smaller or as small, not slower beyond both intervals, and not less often right beyond the paired one (bootstrap over images)."""
    if mine.size > other.size or mine.speed is None or other.speed is None or mine.speed.high < other.speed.low:
        return False
    differences = mine.right.astype(float) - other.right
    draws = np.random.default_rng(0).integers(0, len(differences), (_RESAMPLES, len(differences)))
    return bool(np.quantile(differences[draws].mean(axis=1), 0.975) >= 0)


def _is_met(runtime: str, chosen: Found | None, original: Found, ours: list[Found]) -> dict[str, bool]:
    lost = None if chosen is None else int(original.right.sum()) - int(chosen.right.sum())
    return {
        f"at most {_LOST} images lost": lost is not None and lost <= _LOST,
        f"{SPEEDUPS[runtime]}x": chosen is not None
        and chosen.speed is not None
        and chosen.speed.ratio >= SPEEDUPS[runtime],
        f"{_FILES} files, one of 4 MB": len(ours) >= _FILES and min(one.size for one in ours) <= _SMALLEST,
    }


def _foretold(search: dict[str, Any]) -> str:
    """What tables foretold of files before they were made, beside what was measured."""
    points = [one for one in search["points"] if one["predicted"] and one["figures"]]
    times = [
        abs(one["figures"]["speed"]["ratio"] / one["predicted"]["times_faster"] - 1)
        for one in points
        if one["predicted"]["times_faster"] and one["figures"]["speed"]
    ]
    losses = [
        (one["predicted"]["loss"], one["figures"]["loss"]["value"])
        for one in points
        if one["predicted"]["loss"] is not None and one["figures"]["loss"]
    ]
    if not times or len(losses) < 3:
        return f"{len(points)} files were foretold: too few to tell"
    ranks = [np.argsort(np.argsort(values)) for values in zip(*losses, strict=True)]
    return (
        f"{len(points)} files foretold before they were made: median error of time {np.median(times):.1%}, "
        f"rank correlation of losses {np.corrcoef(ranks[0], ranks[1])[0, 1]:.2f}"
    )


if __name__ == "__main__":
    sys.exit(main())
