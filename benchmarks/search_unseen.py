"""`compressctl auto` on networks and data that no search of this project was tried on before, beside recipes of one technique each.

    python benchmarks/search_unseen.py [--models mobile vit dense words] [--part search techniques] [--epochs 6] [--time 1h] [--as-file] [--folder FOLDER]

COMPRESSCTL_FASHION names the folder that train_vit.py wrote (mobile, vit), COMPRESSCTL_DATA the one with MNIST and texts (dense, words; benchmarks/README.md). What the networks are is told by
unseen_networks.py, which trains them in six minutes each where they are not there. The command is the one of search_resnet20.py with its defaults: a point may be lost, nothing else is asked. Recipes of one
technique train as long as the search does. All figures are of the plain ONNX files, on the test split's 10,000 samples, of which `auto` leaves 2,000 to choose by where the network was trained on
all others. Each run goes on where it was stopped. Exits with 1 where a recipe that keeps the loss gains as much as what the search found: times smaller by times as fast.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finished import is_finished
from unseen_networks import ROOT, UNSEEN, Unseen

_DROP = 1.0
_PARTS = ("search", "techniques")
_BATCH = 128


@dataclass(frozen=True)
class Row:
    name: str
    lost: float
    size: int
    smaller: float
    speed: dict[str, Any]

    def line(self) -> str:
        speed = f"{self.speed['ratio']:.2f}x ({self.speed['low']:.2f} to {self.speed['high']:.2f})"
        return f"{self.name} | {self.lost:.2f} points | {self.size / 1e3:.0f} kB, {self.smaller:.2f}x smaller | {speed}"

    @property
    def gain(self) -> float:
        return self.smaller * float(self.speed["ratio"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", choices=list(UNSEEN), default=list(UNSEEN))
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--time", default="1h", help="of each search")
    parser.add_argument(
        "--as-file",
        action="store_true",
        help="an ONNX file of each in its place, as torch's own exporter writes it: the search alone",
    )
    parser.add_argument("--part", nargs="*", choices=_PARTS, default=list(_PARTS))
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "search" / "unseen")
    asked = parser.parse_args()
    try:
        for name in asked.models:
            UNSEEN[name].prepare()
    except KeyError as error:
        parser.error(f"set {error.args[0]}; see benchmarks/README.md")
    if asked.as_file:
        asked.part = ["search"]
    print("| network | by | lost | file | speed against float |\n|---|---|---|---|---|")
    kept = [_network(name, asked) for name in asked.models]
    return int(not all(kept))


def _network(name: str, asked: argparse.Namespace) -> bool:
    network, folder = UNSEEN[name], asked.folder.resolve() / (f"{name}-file" if asked.as_file else name)
    folder.mkdir(parents=True, exist_ok=True)
    found = _searched(name, folder, network, asked) if "search" in asked.part else None
    techniques = _techniques(network, asked.epochs) if "techniques" in asked.part else {}
    rows = [_single(name, one, stages, folder, network) for one, stages in techniques.items()]
    best = max((row.gain for row in rows if row is not None and row.lost <= _DROP), default=0.0)
    return found is not None and found.lost <= _DROP and found.gain > best


def _recipe(network: Unseen, stages: list[dict[str, Any]], *, as_file: bool = False) -> dict[str, Any]:
    return {
        "recipe": "compressctl/v1",
        "name": "unseen",
        "task": "classification",
        **network.recipe(as_file=as_file),
        "target": {"backend": "onnxruntime", "threads": 1, "batch_size": 1},
        "stages": stages,
        "export": [{"backend": "onnxruntime", "storage": "compressed"}],
    }


def _techniques(network: Unseen, epochs: int) -> dict[str, list[dict[str, Any]]]:
    training = {"epochs": epochs, "optimizer": "adamw", "learning_rate": network.rate, "batch_size": _BATCH}
    taught = {"id": "taught", "use": "distill.logits", "teacher": "original", **training}
    rounded = {**training, "teacher": "original", "learning_rate": network.rate / 10}
    return {
        "8 bits": [{"id": "int8", "use": "quantize.static"}],
        "4-bit weights, 8-bit activations": [{"id": "w4a8", "use": "quantize.static", "weights": "int4"}],
        "weights alone in 4 bits": [{"id": "four", "use": "quantize.weights", "bits": 4, "method": "hqq"}],
        "4-bit weights, trained": [{"id": "w4a8", "use": "quantize.qat", "weights": "int4", **rounded}],
        "half of the arithmetic": [{"id": "slim", "use": "prune.channels", "keep": 0.5, "of": "macs"}, taught],
        "a quarter of the arithmetic": [{"id": "slim", "use": "prune.channels", "keep": 0.25, "of": "macs"}, taught],
        "15 % of the arithmetic": [{"id": "slim", "use": "prune.channels", "keep": 0.15, "of": "macs"}, taught],
        "low rank": [{"id": "thin", "use": "factorize.svd", "rank": {"ratio": 0.5}}, taught],
    }


def _single(name: str, technique: str, stages: list[dict[str, Any]], folder: Path, network: Unseen) -> Row | None:
    recipe, output = folder / f"{technique}.json", folder / technique
    recipe.write_text(json.dumps(_recipe(network, stages), indent=1))
    if not is_finished(output):
        _run("apply", str(recipe), "--output", str(output), "--measure", "headline")
    part = json.loads((output / "report.json").read_text())["backends"][0]
    found, base = part["compressed"], part["baseline"]
    row = Row(
        technique,
        base["score"]["value"] - found["score"]["value"],
        found["total_bytes"],
        base["total_bytes"] / found["total_bytes"],
        found["speed"],
    )
    print(f"| {name} | {row.line()} |", flush=True)
    return row


def _searched(name: str, folder: Path, network: Unseen, asked: argparse.Namespace) -> Row | None:
    recipe, output = folder / "network.json", folder / "auto"
    stages = [{"id": "int8", "use": "quantize.static"}]
    recipe.write_text(json.dumps(_recipe(network, stages, as_file=asked.as_file), indent=1))
    training = (f"epochs={asked.epochs}", "optimizer=adamw", f"learning_rate={network.rate}", f"batch_size={_BATCH}")
    if not _is_done(output / "search.json"):
        _run(
            "auto", str(recipe), "--drop", str(_DROP), *(part for value in training for part in ("--train", value)),
            "--time", asked.time, "--output", str(output),
        )  # fmt: skip
    search = json.loads((output / "search.json").read_text())
    chosen = next((one for one in search["points"] if one["name"] == search["chosen"]), None)
    if chosen is None or chosen["confirmed"] is None:
        print(f"| {name} | auto | {' '.join(search['summary'])} | | |", flush=True)
        return None
    found = chosen["confirmed"]
    row = Row(f"auto: {chosen['name']}, of {len(search['points'])}", found["loss"]["value"], found["total_bytes"], found["smaller"], found["speed"])  # fmt: skip
    print(f"| {name} | {row.line()} |", flush=True)
    return row


def _is_done(search: Path) -> bool:
    return search.is_file() and json.loads(search.read_text())["status"] != "interrupted"


def _run(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "compressctl", *arguments], cwd=ROOT, stdout=sys.stderr, check=False)


if __name__ == "__main__":
    sys.exit(main())
