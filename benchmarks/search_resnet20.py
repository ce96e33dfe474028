"""`compressctl auto` on ResNet-20 (JPEG CIFAR) beside the recipe that people made for it, with as many epochs of training.

    python benchmarks/search_resnet20.py [--point by-hand auto high extreme] [--time 4h] [--folder FOLDER]

COMPRESSCTL_DATA names the folder with the data (benchmarks/README.md). By hand: recipes/small-resnet20.yaml. `auto` is asked for a file that is 8x smaller
and faster than that recipe's on this machine, as 3.3x is than its 3.25x with VNNI, with at most a point lost; `high` and `extreme` are the usual scale (8x and 4x within 3 points, 16x and 8x
within 8). All train ten epochs with the rate and the augmentation of the recipe by hand. Each point is one command that goes on where it was stopped; sizes and speeds are of the plain ONNX file, the size in transport beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from finished import is_finished

ROOT = Path(__file__).parent.parent
_MODEL = "recipes/prune-resnet20.yaml"
_TRAINING = ("epochs=10", "learning_rate=0.05", "augment={crop_padding: 4, horizontal_flip: true}")
_BY_HAND = 3.25
"""Times as fast as float, on a processor with VNNI."""

_FASTER_THAN_BY_HAND = 3.3 / _BY_HAND
POINTS = {
    "by-hand": (),
    "auto": ("--drop", "1", "--smaller", "8"),
    "high": ("--level", "high"),
    "extreme": ("--level", "extreme"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--point", nargs="*", choices=list(POINTS), default=list(POINTS))
    parser.add_argument("--time", default="4h", help="of each search")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "search" / "resnet20")
    asked = parser.parse_args()
    if "COMPRESSCTL_DATA" not in os.environ:
        parser.error("set COMPRESSCTL_DATA to the folder with the data; see benchmarks/README.md")
    print(
        "| point | lost on 10,000 images | file | in transport | speed against float | kept what was asked | recipe, and how many were tried |"
    )
    print("|---|---|---|---|---|---|---|")
    kept = [
        _by_hand(asked.folder) if point == "by-hand" else _auto(point, asked.folder, asked.time)
        for point in asked.point
    ]
    return int(not all(kept))


def _by_hand(folder: Path) -> bool:
    output = folder / "by-hand"
    if not is_finished(output):
        _run("apply", "recipes/small-resnet20.yaml", "--output", str(output), "--measure", "headline")
    part = json.loads((output / "report.json").read_text())["backends"][0]
    found, base = part["compressed"], part["baseline"]
    lost = base["score"]["value"] - found["score"]["value"]
    smaller = base["total_bytes"] / found["total_bytes"]
    _row(
        "by hand",
        lost,
        found["total_bytes"],
        smaller,
        found["transport_bytes"],
        found["speed"],
        "",
        "small-resnet20.yaml",
    )
    return True


def _speed_by_hand(folder: Path) -> float:
    """Times as fast as float, on this machine: what INT8 brings is not the same with VNNI and without."""
    report = folder / "by-hand" / "report.json"
    if not is_finished(report.parent):
        print(f"--point by-hand was not run here: taken to be {_BY_HAND}x as fast as float", file=sys.stderr)
        return _BY_HAND
    return float(json.loads(report.read_text())["backends"][0]["compressed"]["speed"]["ratio"])


def _auto(point: str, folder: Path, time: str) -> bool:
    output = folder / point
    training = [part for value in _TRAINING for part in ("--train", value)]
    asked = [
        *POINTS[point],
        *(["--speedup", f"{_FASTER_THAN_BY_HAND * _speed_by_hand(folder):.2f}"] if point == "auto" else []),
    ]
    code = _run("auto", _MODEL, *asked, *training, "--time", time, "--output", str(output))
    search = json.loads((output / "search.json").read_text())
    chosen = next((one for one in search["points"] if one["name"] == search["chosen"]), None)
    if chosen is None or chosen["confirmed"] is None:
        print(f"| {point} | | | | | no | {' '.join(search['summary'])} |")
        return False
    found = chosen["confirmed"]
    recipe = f"{chosen['name']}, of {len(search['points'])}, and {len(search['shaped'])} widths"
    _row(
        point, found["loss"]["value"], found["total_bytes"], found["smaller"], found["transport_bytes"], found["speed"],
        "yes" if code == 0 else f"no: {', '.join(search['missed']) or 'none does'}", recipe,
    )  # fmt: skip
    return code == 0


def _row(
    point: str,
    lost: float,
    size: int,
    smaller: float,
    transport: int,
    speed: dict[str, Any] | None,
    kept: str,
    recipe: str,
) -> None:
    timed = "not timed" if speed is None else f"{speed['ratio']:.2f}x ({speed['low']:.2f} to {speed['high']:.2f})"
    print(
        f"| {point} | {lost:.2f} points | {size / 1e3:.0f} kB, {smaller:.2f}x smaller | {transport / 1e3:.0f} kB | {timed} | {kept} | {recipe} |",
        flush=True,
    )


def _run(*arguments: str) -> int:
    return subprocess.run(
        [sys.executable, "-m", "compressctl", *arguments], cwd=ROOT, stdout=sys.stderr, check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
