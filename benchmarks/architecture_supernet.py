"""Subnetworks of one supernet beside the same networks trained alone, and beside those found without a supernet: ResNet-20 (JPEG CIFAR), or a vision transformer of 196 tokens (Fashion-MNIST).

    python benchmarks/architecture_supernet.py {resnet20,vit} [--point supernet family alone sensitivity timed replacements] [--shares 0.7 0.55 ...] [--epochs 10] [--folder FOLDER]

COMPRESSCTL_DATA names the folder with ResNet-20's data, COMPRESSCTL_FASHION the one that train_vit.py wrote (benchmarks/README.md). Shares are of the multiply-accumulates. The transformer's
subnetworks have fewer channels, heads, blocks and tokens, and learn from 20,000 images.
supernet: one training of `search.supernet`, then for each share a search and a short training of what it found. family: the same, but that each is searched in the next
wider one as it came out of its short training. alone: each of these networks (--of supernet or family) cut out of the original and trained by it for all epochs. sensitivity: `search.architecture` without a supernet, trained as long. timed: the same within the latency
of the network that was found from the supernet. replacements: cheaper layers of `search.replacements`, trained as long.
Every network is one `compressctl apply`, which goes on where it was stopped; what earlier ones trained comes from the cache. Scores are the float
files' on all test images; minutes are those of training, searching apart. Exits with 1 where the supernet's networks lose more than 0.3 points
on average, or one more than a point, or where they were trained for over half of the minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from finished import is_finished

ROOT = Path(__file__).parent.parent
POINTS = ("supernet", "family", "alone", "sensitivity", "timed", "replacements")
_ANY, _ALL = 0.01, 1000
"""As min_keep and blocks where a network is spelled out."""


@dataclass(frozen=True)
class Network:
    """recipe: whose model, data and target these are. rates: of a whole training, of the supernet and of the short one behind it. needs: the variable that names its data.
    data: beside the recipe's."""

    recipe: str
    shares: tuple[float, ...]
    epochs: int
    supernet_epochs: int
    finetune_epochs: int
    training: Mapping[str, Any]
    rates: tuple[float, float, float]
    space: Mapping[str, Any]
    needs: str
    data: Mapping[str, Any] = field(default_factory=dict)


NETWORKS = {
    "resnet20": Network(
        "prune-resnet20.yaml",
        (0.7, 0.55, 0.42, 0.3, 0.2),
        10,
        1,
        4,
        {"augment": {"crop_padding": 4, "horizontal_flip": True}, "precision": "float32"},
        (0.05, 0.01, 0.03),
        {},
        "COMPRESSCTL_DATA",
    ),
    "vit": Network(
        "tokens-vit.yaml",
        (0.6, 0.4, 0.25),
        10,
        1,
        3,
        {"optimizer": "adamw"},
        (0.002, 0.002, 0.001),
        {"tokens": "prune"},
        "COMPRESSCTL_FASHION",
        {"train": 20_000},
    ),
}
_MOST_MEAN, _MOST_ONE, _MOST_TIME = 0.3, 1.0, 0.5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=list(NETWORKS))
    parser.add_argument("--point", nargs="*", choices=POINTS, default=list(POINTS))
    parser.add_argument("--shares", nargs="*", type=float)
    parser.add_argument("--epochs", type=int, help="of a network that is trained alone")
    parser.add_argument("--supernet-epochs", type=int)
    parser.add_argument("--finetune-epochs", type=int)
    parser.add_argument(
        "--of", choices=("supernet", "family"), default="family", help="whose networks are trained alone"
    )
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    network = NETWORKS[asked.network]
    for name in ("shares", "epochs", "supernet_epochs", "finetune_epochs"):
        if getattr(asked, name) is None:
            setattr(asked, name, getattr(network, name))
    asked.folder = asked.folder or ROOT / "build" / "architecture" / asked.network
    if network.needs not in os.environ:
        parser.error(f"set {network.needs} to the folder with the data; see benchmarks/README.md")
    print(
        "| share | point | multiply-accumulates | parameters | accuracy | speed against float | minutes of training | of searching |\n|---|---|---|---|---|---|---|---|"
    )
    found = {(share, point): _row(share, point, asked) for point in asked.point for share in asked.shares}
    return _told(found, asked)


def _row(share: float, point: str, asked: argparse.Namespace) -> dict[str, Any]:
    output = asked.folder.resolve() / f"{point}-{share}"
    report = output / "report.json"
    if not is_finished(output):
        output.mkdir(parents=True, exist_ok=True)
        recipe = output.parent / f"{output.name}.recipe.json"
        recipe.write_text(json.dumps(_recipe(_stages(share, point, asked), asked.network), indent=1))
        subprocess.run(
            [sys.executable, "-m", "compressctl", "apply", str(recipe), "--output", str(output), "--measure", "headline"],
            cwd=ROOT, stdout=sys.stderr, check=True,
        )  # fmt: skip
    document = json.loads(report.read_text())
    part, stages = document["backends"][0], {stage["id"]: stage for stage in document["stages"]}
    found = part["compressed"]
    search = next(stage for stage in reversed(document["stages"]) if stage["id"].startswith("found"))
    own = (stages["taught"]["facts"] if "taught" in stages else search["facts"]["finetune"])["seconds"]
    searching = search["seconds"] - (0.0 if "taught" in stages else own)
    supernet = stages["supernet"]["facts"]["seconds"] if "supernet" in stages else 0.0
    print(
        f"| {share} | {point} | {found['macs'] / 1e6:.1f} M | {found['parameters'] / 1e3:.0f} k | {found['score']['value']:.2f} % "
        f"| {found['speed']['ratio']:.2f}x | {own / 60:.1f} | {searching / 60:.1f} |",
        flush=True,
    )
    return {
        "score": found["score"]["value"],
        "minutes": own / 60,
        "supernet": supernet / 60,
        "searching": searching / 60,
    }


def _stages(share: float, point: str, asked: argparse.Namespace) -> list[dict[str, Any]]:
    network = NETWORKS[asked.network]
    space = {"min_keep": 0.25, "round_to": 8, **network.space}
    training, (rate, supernet_rate, short_rate) = {"teacher": "original", **network.training}, network.rates
    whole = {**training, "epochs": asked.epochs, "learning_rate": rate}
    search = {"use": "search.architecture", **space}
    if point in ("supernet", "family"):
        learns = {**training, "epochs": asked.supernet_epochs, "learning_rate": supernet_rate, "subnetworks": 1}
        short = {**training, "epochs": asked.finetune_epochs, "learning_rate": short_rate}
        found = [
            {"id": f"found-{step}", **search, "at_most": {"macs": round(less, 4)}, "finetune": short}
            for step, less in enumerate(_steps(share, point, asked), 1)
        ]
        return [{"id": "supernet", "use": "search.supernet", **space, **learns}, *found]
    if point in ("sensitivity", "timed"):
        most = {"latency": round(1 / _speed(share, asked), 3)} if point == "timed" else {"macs": share}
        found = {"id": "found", **search, "at_most": most, "method": "sensitivity"}
        return [found, {"id": "taught", "use": "distill.logits", **whole}]
    if point == "replacements":
        cheaper = {"id": "found", "use": "search.replacements", "at_most": {"macs": share}}
        return [cheaper, {"id": "taught", "use": "distill.logits", **whole}]
    spelt = {**search, "architecture": _found(share, asked), "min_keep": _ANY, "blocks": _ALL}
    return [{"id": "found", **spelt}, {"id": "taught", "use": "distill.logits", **whole}]


def _steps(share: float, point: str, asked: argparse.Namespace) -> list[float]:
    """What each search may take of the network that it is given."""
    shares = [share] if point == "supernet" else sorted((one for one in asked.shares if one >= share), reverse=True)
    return [less / more for more, less in zip([1.0, *shares], shares, strict=False)]


def _speed(share: float, asked: argparse.Namespace) -> float:
    """How many times as fast as the original the network is that was found from the supernet."""
    speed: float = _report(share, asked)["backends"][0]["compressed"]["speed"]["ratio"]
    return speed


def _report(share: float, asked: argparse.Namespace) -> dict[str, Any]:
    report = asked.folder.resolve() / f"{asked.of}-{share}" / "report.json"
    if not is_finished(report.parent):
        sys.exit(f"run --point {asked.of} first: its networks are those that are trained alone, and as fast")
    found: dict[str, Any] = json.loads(report.read_text())
    return found


def _found(share: float, asked: argparse.Namespace) -> dict[str, Any]:
    """The network that was found from the supernet, as a subnetwork of the original."""
    architecture: dict[str, Any] = {"without": []}
    for stage in _report(share, asked)["stages"]:
        for kind, named in stage["facts"].get("architecture", {}).items():
            gone = kind == "without"
            architecture[kind] = [*architecture[kind], *named] if gone else {**architecture.get(kind, {}), **named}
    return architecture


def _recipe(stages: list[dict[str, Any]], network: str) -> dict[str, Any]:
    base = yaml.safe_load((ROOT / "recipes" / NETWORKS[network].recipe).read_text())
    model = {**base["model"], "factory": f"{ROOT}/recipes/{base['model']['factory']}"}
    kept = {name: base[name] for name in ("recipe", "seed", "task", "data", "target")}
    kept["data"] = {**base["data"], **NETWORKS[network].data}
    return {**kept, "name": f"architecture-{network}", "model": model, "stages": stages, "export": ["onnxruntime"]}


def _told(found: dict[tuple[float, str], dict[str, Any]], asked: argparse.Namespace) -> int:
    if not {asked.of, "alone"} <= set(asked.point):
        return 0
    apart = [found[share, asked.of]["score"] - found[share, "alone"]["score"] for share in asked.shares]
    # One training for all of them.
    ours = max(found[share, asked.of]["supernet"] for share in asked.shares)
    ours += sum(found[share, asked.of]["minutes"] for share in asked.shares)
    alone = sum(found[share, "alone"]["minutes"] for share in asked.shares)
    searching = sum(found[share, asked.of]["searching"] for share in asked.shares)
    mean = sum(apart) / len(apart)
    print(
        f"\nagainst the same networks trained alone: {mean:+.2f} points on average, {min(apart):+.2f} at worst, trained in {ours / alone:.0%} of the minutes "
        f"({ours:.0f} of {alone:.0f}, and {searching:.0f} of searching)"
    )
    return int(mean < -_MOST_MEAN or min(apart) < -_MOST_ONE or ours > _MOST_TIME * alone)


if __name__ == "__main__":
    sys.exit(main())
